"""The order of the queue, and who has been next for how long, outlive restarts and reloads."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from spalloc_server.config.options import Scheduling
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.core.scheduling.reservation import Reservation
from tests.core.house import House
from tests.core.machines import a_machine

OWNERS = [f"owner {number}" for number in range(20)]


def queue(house: House) -> list[int]:
    return house.controller.state.scheduler.ordered(house.clock.now)


def restart(house: House, *, due: float | None = None, **settings: Any) -> None:
    """Go on from what is stored, with the machine and settings that there were."""
    snapshot = msgspec.json.decode(msgspec.json.encode(house.controller.snapshot()), type=Snapshot)
    for row in snapshot.jobs:
        row.due = due
    house.controller = Controller(clock=house.clock)
    house.controller.restore(snapshot)
    house.configure(a_machine("m", 2, 2), **settings)


def a_busy_day(seed: int, **settings: Any) -> House:
    """Many jobs of different owners, of which some have run, some run and some wait; predictions change meanwhile."""
    rng = random.Random(seed)
    house = House(a_machine("m", 2, 2), seconds_before_free=0, **settings)
    house.create(12, owner="predecessor", keepalive=None)
    house.hardware()
    house.clock.now += 40_000
    for _ in range(120):
        house.clock.now += rng.expovariate(1 / 100)
        running = [job.job_id for job in house.controller.list_jobs() if job.boards]
        if running and rng.random() < 0.35:
            house.controller.destroy_job(rng.choice(running))
        else:
            house.create(rng.choice((1, 2, 3, 6, 12)), owner=rng.choice(OWNERS), keepalive=None)
        house.hardware()
    return house


@pytest.mark.parametrize("policy", ["backfill", "fifo"])
@pytest.mark.parametrize("seed", range(4))
def test_a_restart_keeps_the_order_of_the_queue(seed: int, policy: str) -> None:
    scheduling = Scheduling(policy=policy, half_life=86400)  # type: ignore[arg-type]
    house = a_busy_day(seed, scheduling=scheduling)
    before = queue(house)
    assert len(before) > 10
    restart(house, scheduling=scheduling, seconds_before_free=0)
    assert queue(house) == [job_id for job_id in before if house.state(job_id) == JobState.queued]


def test_the_order_counts_what_owners_have_used_since_their_jobs_joined() -> None:
    house = House(a_machine("m", 2, 2), seconds_before_free=0)
    first = house.create(11, owner="hog", keepalive=None)
    house.hardware()
    house.clock.now += 10
    hog, other = (house.create(12, owner=owner, keepalive=None) for owner in ("hog", "other"))
    house.clock.now += 10
    house.controller.destroy_job(first)
    house.hardware()
    assert house.boards(other), "its owner has used nothing"
    assert queue(house) == [hog]


def test_a_place_that_an_older_server_has_stored_is_ignored() -> None:
    house = a_busy_day(1)
    before = queue(house)
    restart(house, due=7.0, seconds_before_free=0)
    assert queue(house) == before
    assert all(row.due is None for row in a_busy_day(1).controller.snapshot().jobs)


@pytest.mark.parametrize("seed", range(4))
def test_a_reload_keeps_the_order_of_the_queue(seed: int) -> None:
    house = a_busy_day(seed)
    before = queue(house)
    house.configure(a_machine("m", 2, 2), seconds_before_free=0)
    house.configure(a_machine("m", 2, 2, tags={"default", "new"}), seconds_before_free=0)
    assert queue(house) == [job_id for job_id in before if house.state(job_id) == JobState.queued]


def test_another_policy_has_another_order_at_once() -> None:
    house = a_busy_day(1)
    house.configure(a_machine("m", 2, 2), scheduling=Scheduling(policy="fifo"), seconds_before_free=0)
    assert queue(house) == sorted(queue(house))


def next_up(house: House, job_id: int) -> Reservation:
    reservation = house.controller.state.scheduler._policy.reservation(job_id)
    assert reservation is not None
    return reservation


def test_who_has_been_next_for_long_is_so_after_a_reload_but_not_on_boards_that_are_dead_now() -> None:
    house = House(a_machine("m", 2, 2))
    first = house.create(3, keepalive=None)
    house.create(6, keepalive=None)
    last = house.create(3, keepalive=None)
    house.hardware()
    waiting = house.create(6, max_dead_boards=0, keepalive=None)
    house.controller.destroy_job(last)
    house.hardware()
    house.after(100)
    since = next_up(house, waiting).since
    house.after(1000)
    house.configure(a_machine("m", 2, 2), max_retired_jobs=7)
    assert next_up(house, waiting).since == since
    held = house.boards(first)
    house.configure(a_machine("m", 2, 2, dead_boards=held))
    assert next_up(house, waiting).since == since
    torus = house.controller.state.scheduler._queue.machines["m"].torus
    assert not held & set(torus.boards(next_up(house, waiting).boards))


def test_a_reload_that_allows_a_job_more_lets_it_start() -> None:
    house = House(a_machine("m", 1, 1), a_machine("n", 1, 1))
    house.create(3, machine="m", keepalive=None)
    house.hardware()
    waiting = house.create(3, tags=["default"], keepalive=None)
    assert house.boards(waiting), "on n"
    other = house.create(3, tags=["default"], keepalive=None)
    house.configure(a_machine("m", 1, 1), a_machine("n", 1, 1), a_machine("o", 1, 1))
    assert house.boards(other)


def test_another_half_life_counts_at_once() -> None:
    house = House(a_machine("m", 2, 2), seconds_before_free=0)

    def use(owner: str, seconds: float) -> None:
        job = house.create(12, owner=owner, keepalive=None)
        house.hardware()
        house.clock.now += seconds
        house.controller.destroy_job(job)
        house.hardware()

    use("long ago", 5000)
    house.clock.now += 40_000
    use("lately", 500)
    house.create(12, owner="other", keepalive=None)
    house.hardware()
    long_ago, lately = (house.create(11, owner=who, keepalive=None, max_runtime=400) for who in ("long ago", "lately"))
    house.clock.now += 100
    assert queue(house) == [lately, long_ago]
    for half_life, order in ((3600.0, [long_ago, lately]), (604800.0, [lately, long_ago])):
        house.configure(a_machine("m", 2, 2), scheduling=Scheduling(half_life=half_life), seconds_before_free=0)
        assert queue(house) == order
