"""Nothing leaves before its commit, and nothing is lost where a commit fails."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from spalloc_server.application import commits
from spalloc_server.application.commits import Commits, Effects
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, JobState
from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.log.defects import DefectLog
from spalloc_server.storage.journal import Committed
from tests.core.machines import a_machine
from tests.house import PATIENCE
from tests.storage.memory_journal import MemoryJournal


class House:
    def __init__(self) -> None:
        self.controller = Controller()
        self.controller.configure(Configuration([a_machine("m", 2, 2)]))
        self.journal = MemoryJournal(loop=asyncio.get_running_loop())
        self.log: list[tuple[str, object]] = []
        self.ons: list[bool] = []
        self.commits = Commits(self.controller, self.journal, act=self.act)
        self.commits.tell(lambda number, error: self.log.append(("settled", (number, error))))

    def act(self, effects: Effects) -> None:
        self.log += [("switch", switch.job_id) for switch in effects.switches]
        self.ons += [switch.on for switch in effects.switches]
        self.log += [("tell", job_id) for job_id in sorted(effects.jobs)]


@pytest.fixture
async def house() -> House:
    house = House()
    await house.commits.settle()
    house.log.clear()
    return house


async def test_replies_leave_first_and_effects_next_and_both_after_the_commit(house: House) -> None:
    house.journal.held = True
    job_id = house.controller.create_job(owner="me")
    ticket = house.commits.hold()
    house.commits.flush()
    await asyncio.sleep(0)
    assert house.log == []
    house.journal.held = False
    house.journal.commit()
    await house.commits.settle()
    assert house.log == [("settled", (ticket, None)), ("switch", job_id), ("tell", job_id)]


async def test_a_command_that_changes_nothing_waits_for_nothing(house: House) -> None:
    house.controller.get_job_state(1)
    assert house.commits.hold() is None


async def test_a_command_that_finds_its_work_done_waits_for_the_commit_of_who_did_it(house: House) -> None:
    job_id = house.controller.create_job(owner="me")
    await house.commits.settle()
    house.journal.held = True
    house.controller.destroy_job(job_id)
    first = house.commits.hold()
    house.commits.flush()
    house.controller.destroy_job(job_id)
    assert house.commits.hold() == first is not None
    other = house.controller.create_job(owner="me")
    assert house.commits.hold() != first
    house.commits.flush()
    house.controller.destroy_job(job_id)
    assert house.commits.hold() != first, "the last of those that are not settled"
    house.journal.held = False
    house.journal.commit()
    await house.commits.settle()
    house.controller.destroy_job(job_id)
    assert house.commits.hold() is None
    assert house.controller.get_job_state(other).state == JobState.power


async def test_changes_in_one_cycle_of_the_event_loop_are_one_batch(house: House) -> None:
    tickets = set()
    for _ in range(3):
        house.controller.create_job(owner="me")
        tickets.add(house.commits.hold())
    assert len(tickets) == 1
    await asyncio.sleep(0)
    house.controller.create_job(owner="me")
    assert house.commits.hold() not in tickets


async def test_a_commit_that_fails_is_reported_and_its_new_jobs_end(house: House) -> None:
    house.journal.failure = StorageError("the disk is full")
    job_id = house.controller.create_job(owner="me")
    ticket = house.commits.hold()
    await house.commits.settle()
    assert house.log[0] == ("settled", (ticket, "the disk is full"))
    assert house.controller.get_job_state(job_id).state == JobState.destroyed
    assert not [entry for entry in house.log if entry[0] != "settled"], "effects are withheld"


async def test_effects_that_were_withheld_follow_in_order_once_the_disk_recovers(house: House) -> None:
    job_id = house.controller.create_job(owner="me")
    await house.commits.settle()
    house.log.clear()
    house.journal.failure = StorageError("the disk is full")
    house.controller.destroy_job(job_id)
    await house.commits.settle()
    house.journal.failure = None
    other = house.controller.create_job(owner="me")
    await house.commits.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == [("switch", job_id), ("switch", other)]
    assert house.controller.get_job_state(other).state == JobState.power


async def test_power_offs_of_an_emergency_stop_do_not_wait_for_a_disk_that_refuses(house: House) -> None:
    house.controller.create_job(owner="me")
    await house.commits.settle()
    house.log.clear()
    house.ons.clear()
    house.journal.failure = StorageError("the disk is full")
    house.controller.create_job(owner="me")
    house.commits.flush()
    house.controller.emergency_stop(reason="smoke", by="eve")
    await house.commits.settle()
    assert {job_id for kind, job_id in house.log if kind == "switch"} == {0, 1, 2}
    assert not any(house.ons)
    assert not [entry for entry in house.log if entry[0] == "tell"]
    house.log.clear()
    house.journal.failure = None
    house.controller.resume()
    later = house.controller.create_job(owner="me")
    await house.commits.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == []
    assert house.controller.get_job_state(later).state == JobState.queued


async def test_power_offs_of_an_emergency_stop_do_not_wait_for_a_disk_that_hangs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "EMERGENCY_SECONDS", 0.0)
    running = house.controller.create_job(owner="me")
    await house.commits.settle()
    house.log.clear()
    house.ons.clear()
    house.journal.held = True
    house.controller.create_job(owner="me")
    house.commits.flush()
    house.controller.emergency_stop(reason="smoke", by="eve")
    house.commits.flush()
    async with asyncio.timeout(PATIENCE):
        while not house.log:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert running in {job_id for _, job_id in house.log}
    assert {kind for kind, _ in house.log} == {"switch"}, "nobody is told of what is not stored"
    assert not any(house.ons)
    house.log.clear()
    house.journal.held = False
    house.journal.commit()
    await house.commits.settle()
    assert [entry for entry in house.log if entry[0] == "switch"] == [], "it is switched off once"


async def test_once_another_process_has_taken_over_nothing_is_stored_or_done(house: House) -> None:
    assert house.commits.settled()
    house.commits.stop()
    house.controller.create_job(owner="me")
    assert not house.commits.settled()
    house.commits.flush()
    await asyncio.sleep(0)
    assert house.journal.load(max_retired=0).jobs == []
    assert house.log == []


# -------------------------------------------------------------------- outcomes


async def test_an_outcome_is_reported_to_callers_that_ask_before_and_afterwards(house: House) -> None:
    told: list[str | None] = []
    house.controller.create_job(owner="me")
    good = house.commits.hold()
    assert good is not None
    house.commits.when_over(good, told.append)
    assert told == []
    await house.commits.settle()
    house.journal.failure = StorageError("the disk is full")
    house.controller.create_job(owner="me")
    bad = house.commits.hold()
    await house.commits.settle()
    assert bad is not None
    house.commits.when_over(good, told.append)
    house.commits.when_over(bad, told.append)
    assert told == [None, None, "the disk is full"]


async def test_a_commit_is_awaited_until_it_is_durable_or_has_failed(house: House) -> None:
    await house.commits.durable(None)
    house.journal.held = True
    house.controller.create_job(owner="me")
    waiting = asyncio.create_task(house.commits.durable(house.commits.hold()))
    gone = asyncio.create_task(house.commits.durable(house.commits.hold()))
    house.commits.flush()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    gone.cancel()
    house.journal.failure = StorageError("the disk is full")
    house.journal.commit()
    with pytest.raises(StorageError, match="may be gone after a restart: the disk is full"):
        await waiting


async def test_no_caller_waits_for_a_commit_that_another_process_has_to_finish(house: House) -> None:
    house.journal.held = True
    house.controller.create_job(owner="me")
    waiting = asyncio.create_task(house.commits.durable(house.commits.hold()))
    await asyncio.sleep(0)
    house.commits.stop()
    with pytest.raises(StorageError, match="has ended before it was stored"):
        await waiting
    with pytest.raises(StorageError, match="has ended before it was stored"):
        await house.commits.durable(house.commits.hold())


async def test_a_callback_that_raises_does_not_keep_an_outcome_from_others(house: House) -> None:
    told: list[object] = []
    house.commits.tell(lambda number, error: told.append(1 // 0))
    house.commits.tell(lambda number, error: told.append(number))
    house.controller.create_job(owner="me")
    commit = house.commits.hold()
    assert commit is not None
    house.commits.when_over(commit, lambda error: told.append(1 // 0))
    house.commits.when_over(commit, told.append)
    await house.commits.settle()
    assert told == [commit, None]


async def test_what_a_failed_commit_changes_is_stored_though_nobody_asks_for_anything_more(house: House) -> None:
    house.journal.failure = StorageError("full")
    job_id = house.controller.create_job(owner="me")
    commit = house.commits.hold()
    with pytest.raises(StorageError):
        await house.commits.durable(commit)
    house.journal.failure = None
    async with asyncio.timeout(PATIENCE):
        while not house.commits.settled():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    (row,) = house.journal.load(max_retired=10).jobs
    assert (row.job_id, row.reason) == (job_id, "The server could not store this job: full")


async def test_effects_that_raise_are_counted_and_the_next_commit_is_made(house: House) -> None:
    def act(_: Effects) -> None:
        raise ZeroDivisionError

    defects = DefectLog()
    house.commits = Commits(house.controller, house.journal, act=act, defects=defects)
    with structlog.testing.capture_logs():
        for count in (1, 2):
            house.controller.create_job(owner="me")
            await house.commits.durable(house.commits.hold())
            assert defects.count == count


async def test_of_commits_that_have_failed_the_last_are_remembered(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "FAILURES_KEPT", 3)
    house.journal.failure = StorageError("full")
    failed = []
    for number in range(5):
        house.controller.disable_board("m", (0, 0, 0), reason=f"reason {number}", by="eve")
        failed.append(house.commits.hold())
        await house.commits.settle()
    outcomes: list[str | None] = []
    for commit in failed:
        assert commit is not None
        house.commits.when_over(commit, outcomes.append)
    assert outcomes == [None, None, "full", "full", "full"]


async def test_a_row_that_cannot_be_stored_costs_itself_and_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = house.journal.write

    def write_or_raise(changes: Changes, committed: Committed) -> None:
        if bad in changes.jobs and changes.jobs[bad].ended_at is None:
            raise KeyError("row")
        write(changes, committed)

    good, bad = (house.controller.create_job(owner="me") for _ in range(2))
    house.controller.disable_board("m", (1, 1, 2), reason="smoke", by="eve")
    house.controller.drain("m", reason="smoke", by="eve")
    monkeypatch.setattr(house.journal, "write", write_or_raise)
    with structlog.testing.capture_logs() as log:
        while not house.commits.settled():
            await house.commits.settle()
    stored = house.journal.load(max_retired=100)
    assert [(row.job_id, row.ended_at is None) for row in stored.jobs] == [(good, True), (bad, False)]
    assert [(row.x, row.y, row.z) for row in stored.boards] == [(1, 1, 2)]
    assert stored.facts["drained/m"]["reason"] == "smoke"
    assert stored.facts["next_id"] == bad + 1
    assert [line.get("row") for line in log if line["event"] == "a row cannot be stored"] == [f"jobs/{bad}"]
    assert house.controller.job_view(bad).reason == "The server could not store this job: see its log"


@pytest.mark.parametrize("error", [StorageError("no"), RuntimeError("no"), MemoryError(), KeyError("row")])
@pytest.mark.parametrize("times", [1, 2, 1000])
async def test_whatever_the_journal_raises_each_commit_comes_to_an_end(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int
) -> None:
    write = house.journal.write
    raised = 0

    def write_or_raise(changes: Changes, committed: Committed) -> None:
        nonlocal raised
        raised += 1
        if raised <= times:
            raise error
        write(changes, committed)

    monkeypatch.setattr(house.journal, "write", write_or_raise)
    job_id = house.controller.create_job(owner="me")
    waiting = asyncio.create_task(house.commits.durable(house.commits.hold()))
    with structlog.testing.capture_logs() as log:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([waiting])
            while not house.commits.settled():
                await house.commits.settle()
    assert log[0]["event"] == "a batch cannot be stored as a whole"
    if times == 1:
        assert waiting.exception() is None
        assert house.controller.get_job_state(job_id).state == JobState.power
    elif times == 1000:
        assert isinstance(waiting.exception(), StorageError)
        assert house.controller.get_job_state(job_id).state == JobState.destroyed
