"""Changes are told to who asked, are never missed between two looks, and cost as much as they have listeners."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

import pytest

from spalloc_server.application import subscriptions as module
from spalloc_server.application.commands import SERVER, Key, Kind
from spalloc_server.application.subscriptions import Subscriptions

PATIENCE = 30.0
JOBS, MACHINES = Key(Kind.JOB), Key(Kind.MACHINE)


def job(number: int) -> Key:
    return Key(Kind.JOB, number)


class Recorder:
    def __init__(self) -> None:
        self.heard: list[tuple[str, set[int | str]]] = []

    def hear(self, kind: Kind, names: Collection[int | str]) -> None:
        self.heard.append((kind, set(names)))


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions(first=1000)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_a_listener_hears_of_what_it_asked_for_and_of_nothing_else(
    subscriptions: Subscriptions, recorder: Recorder
) -> None:
    subscriptions.subscribe(recorder, job(1))
    subscriptions.subscribe(recorder, Key(Kind.MACHINE, "m"))
    subscriptions.publish(Kind.JOB, [1, 2])
    subscriptions.publish(Kind.JOB, [2])
    subscriptions.publish(Kind.MACHINE, ["m", "n"])
    subscriptions.publish(Kind.SERVER, [""])
    subscriptions.publish(Kind.JOB, [])
    assert recorder.heard == [("job", {1}), ("machine", {"m"})]


def test_revisions_begin_at_the_time_in_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    assert Subscriptions().revision(JOBS) == 1_700_000_000_123_456


def test_who_listens_to_everything_hears_it_at_once_and_hears_single_names_no_more(
    subscriptions: Subscriptions, recorder: Recorder
) -> None:
    subscriptions.subscribe(recorder, job(1))
    subscriptions.subscribe(recorder, JOBS)
    subscriptions.subscribe(recorder, job(2))
    subscriptions.publish(Kind.JOB, [1, 2, 3])
    assert recorder.heard == [("job", {1, 2, 3})]
    assert subscriptions.subscribed(recorder, Kind.JOB) is None
    assert subscriptions.count(recorder) == 1
    subscriptions.subscribe(recorder, Key(Kind.MACHINE, "m"))
    assert subscriptions.count(recorder) == 2
    subscriptions.unsubscribe(recorder, job(1))
    assert subscriptions.subscribed(recorder, Kind.JOB) is None
    subscriptions.unsubscribe(recorder, JOBS)
    assert subscriptions.subscribed(recorder, Kind.JOB) == ()
    subscriptions.publish(Kind.JOB, [1])
    assert len(recorder.heard) == 1


def test_who_leaves_hears_nothing_more_and_is_forgotten(subscriptions: Subscriptions, recorder: Recorder) -> None:
    other = Recorder()
    for each in (recorder, other):
        subscriptions.subscribe(each, job(1))
        subscriptions.subscribe(each, job(2))
        subscriptions.subscribe(each, MACHINES)
        subscriptions.subscribe(each, SERVER)
    subscriptions.unsubscribe(recorder, job(2))
    subscriptions.unsubscribe(recorder, job(9))
    assert subscriptions.subscribed(recorder, Kind.JOB) == {1}
    subscriptions.forget(recorder)
    for kind, name in ((Kind.JOB, 1), (Kind.MACHINE, "m"), (Kind.SERVER, "")):
        subscriptions.publish(kind, [name])
    assert recorder.heard == []
    assert len(other.heard) == 3
    subscriptions.forget(other)
    assert not any(each.listeners or each.names or each.of_all for each in subscriptions._kinds.values())


def test_the_end_is_published_and_its_listeners_are_then_forgotten(
    subscriptions: Subscriptions, recorder: Recorder
) -> None:
    subscriptions.subscribe(recorder, job(1))
    subscriptions.publish(Kind.JOB, [1], ended=[1])
    assert recorder.heard == [("job", {1})]
    assert subscriptions.subscribed(recorder, Kind.JOB) == set()
    assert not subscriptions._kinds[Kind.JOB].listeners


def test_of_those_that_ended_longest_ago_no_revision_is_kept(
    subscriptions: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENDED", 3)
    for number in range(10):
        subscriptions.publish(Kind.JOB, [number], ended=[number])
    assert set(subscriptions._kinds[Kind.JOB].revisions) == {7, 8, 9}


def test_each_change_gives_what_it_is_about_another_revision(subscriptions: Subscriptions) -> None:
    assert {subscriptions.revision(key) for key in (job(1), JOBS, MACHINES, SERVER)} == {1000}
    seen = set()
    for _ in range(3):
        subscriptions.publish(Kind.JOB, [1])
        seen.add(subscriptions.revision(job(1)))
        assert subscriptions.revision(JOBS) == subscriptions.revision(job(1))
    assert len(seen) == 3
    assert subscriptions.revision(job(2)) == subscriptions.revision(MACHINES) == 1000
    assert Subscriptions().revision(JOBS) > 1_700_000_000_000_000, "no earlier process had it"


async def test_waiting_ends_with_the_change(subscriptions: Subscriptions) -> None:
    for key, kind, name in ((job(1), Kind.JOB, 1), (JOBS, Kind.JOB, 7), (SERVER, Kind.SERVER, "")):
        since = subscriptions.revision(key)
        waiting = asyncio.create_task(subscriptions.wait(key, since, PATIENCE))
        await asyncio.sleep(0)
        subscriptions.publish(Kind.MACHINE, ["m"])
        await asyncio.sleep(0)
        assert not waiting.done()
        subscriptions.publish(kind, [name])
        assert await waiting == subscriptions.revision(key) != since
    assert not any(each.listeners or each.of_all for each in subscriptions._kinds.values())


async def test_a_change_between_look_and_wait_is_not_missed(subscriptions: Subscriptions) -> None:
    since = subscriptions.revision(job(1))
    subscriptions.publish(Kind.JOB, [1])
    assert await subscriptions.wait(job(1), since, PATIENCE) != since
    since = subscriptions.revision(job(1))
    subscriptions.publish(Kind.JOB, [1], ended=[1])
    assert await subscriptions.wait(job(1), since, PATIENCE) != since
    since = subscriptions.revision(job(2))  # which has not changed yet
    subscriptions.publish(Kind.JOB, [2], ended=[2])
    assert await subscriptions.wait(job(2), since, PATIENCE) != since


async def test_a_revision_of_another_process_is_no_reason_to_wait(subscriptions: Subscriptions) -> None:
    for since in (0, 999, 2000):
        assert await subscriptions.wait(MACHINES, since, PATIENCE) == 1000


async def test_waiting_has_a_deadline(subscriptions: Subscriptions) -> None:
    assert await subscriptions.wait(job(1), 1000, 0.0) == 1000
    assert not subscriptions._kinds[Kind.JOB].listeners


def test_a_change_costs_as_much_as_it_has_listeners(subscriptions: Subscriptions) -> None:
    class Counting(Recorder):
        calls = 0

        def hear(self, kind: Kind, names: Collection[int | str]) -> None:
            Counting.calls += 1

    for number in range(10_000):
        subscriptions.subscribe(Counting(), job(number))
    subscriptions.publish(Kind.JOB, [5, 20_000])
    assert Counting.calls == 1
