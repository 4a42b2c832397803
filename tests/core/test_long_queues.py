"""Long queues cost little at a time: work is counted, not timed, and nobody is overtaken because a pass was cut."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given, settings, strategies as st

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import Scheduling
from spalloc_server.core import deadlines
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import NO_JOB
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement import occupancy
from spalloc_server.core.placement.effort import STEP, Effort
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.scheduling import backfill as policy_backfill, scheduler as schedule
from spalloc_server.core.scheduling.scheduler import Scheduler
from tests.core.house import House
from tests.core.machines import a_machine

Policy = Literal["backfill", "fifo"]
POLICIES: tuple[Policy, ...] = ("backfill", "fifo")


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Iterator[list[Any]]:
    """The calls of a method, as they are made."""
    calls: list[Any] = []
    method = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return method(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        yield calls


class Queue:
    """A scheduler with one machine whose boards are all held at first, and what it has started since."""

    def __init__(self, width: int = 4, height: int = 4, policy: Policy = "backfill") -> None:
        self.scheduler = Scheduler(Scheduling(policy=policy), 0.0)
        self.scheduler.set_machines({"m": a_machine("m", width, height)})
        self.started: dict[int, Allocation] = {}
        self.boards = a_machine("m", width, height).live_boards
        self.scheduler.hold("m", self.boards, NO_JOB)
        self.step()

    def submit(self, job_id: int, **what: Any) -> None:
        self.scheduler.submit(job_id, Request(**{"owner": "me", "tags": DEFAULT_TAGS, **what}), float(job_id))

    def step(self, *, go_on: bool = True) -> list[int]:
        """One step; the jobs that it started, in order."""
        started = self.scheduler.run(1000.0, go_on=go_on)
        self.started.update(started)
        self.scheduler.check()
        return [job_id for job_id, _ in started]

    def steps(self) -> tuple[list[int], int]:
        """All steps that are due at once: the jobs that they started, and how many there were."""
        started = self.step()
        number = 1
        while self.scheduler.pending:
            started += self.step()
            number += 1
            assert number < 10_000, "it never ends"
        return started, number

    def free(self, boards: Sequence[tuple[int, int, int]]) -> None:
        self.scheduler.free("m", boards, rest_until=None, now=1000.0)


def varied(value: int) -> dict[str, dict[str, Any]]:
    """What thousands of jobs can each say in a way of their own, though it comes to the same."""
    return {
        "min_ratio": {"min_ratio": 0.51 + value * 1e-6},
        "max_dead_boards": {"max_dead_boards": 500 + value},
        "max_dead_links": {"max_dead_links": 7 + value},
        "max_runtime": {"max_runtime": 9e6 - value},
        "owner": {"owner": f"owner {value}"},
        "priority": {"priority": -value},
    }


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("what", varied(0))
def test_a_thousand_jobs_that_come_to_the_same_are_placed_like_one(
    what: str, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(policy=policy)
    with counted(monkeypatch, Occupancy, "place") as places:
        for number in range(1, 1001):
            queue.submit(number, boards=24, **varied(number)[what])
        queue.steps()
        queue.free(queue.boards[:20])
        assert queue.steps()[0] == []
    assert len(places) <= 12


def test_a_min_ratio_for_each_of_ten_thousand_jobs_makes_no_more_kinds_than_there_are_ratios_of_sides() -> None:
    queue = Queue(20, 20)
    random_ratio = random.Random(1).random
    kinds = {
        queue.scheduler._queue.kind(Request(owner="me", boards=12, min_ratio=random_ratio())) for _ in range(10_000)
    }
    assert len(kinds) == 128  # the fractions from 1/20 to 1/1 with denominators up to 20, of which there are so many


@pytest.mark.parametrize(
    ("asked", "same", "other"),
    [
        ({"min_ratio": 0.34}, {"min_ratio": 0.5}, {"min_ratio": 0.51}),
        ({"min_ratio": 0.2}, {"min_ratio": 0.25}, {"min_ratio": 0.26}),
        ({"min_ratio": 0.1}, {"min_ratio": 0.0}, {"min_ratio": 0.3}),
        ({"max_dead_boards": 11}, {"max_dead_boards": 10**30}, {"max_dead_boards": 10}),
        ({"max_dead_boards": -5}, {"max_dead_boards": -1}, {"max_dead_boards": 0}),
        ({"max_dead_links": 0}, {"max_dead_links": None}, {"max_dead_links": -1}),
        ({"owner": "a", "priority": 3, "max_runtime": 9.0}, {"owner": "b"}, {"boards": 13}),
    ],
)
def test_requests_are_of_one_kind_where_they_come_to_the_same_and_only_there(
    asked: dict[str, Any], same: dict[str, Any], other: dict[str, Any]
) -> None:
    queue = Queue(4, 4).scheduler._queue
    kinds = [queue.kind(Request(**{"owner": "me", "boards": 12, **what})) for what in (asked, same, other)]
    assert kinds[0] == kinds[1] != kinds[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pass_that_is_cut_starts_whom_one_that_is_not_starts(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_started(step: int) -> tuple[list[int], int]:
        monkeypatch.setattr(schedule, "STEP", step)
        queue = Queue(policy=policy)
        rng = random.Random(5)
        for number in range(1, 200):
            queue.submit(number, boards=rng.choice((2, 3, 5, 24, 60 if policy == "backfill" else 9)[:4]))
        queue.steps()
        queue.free(queue.boards)
        return queue.steps()

    whole, once = all_started(10**9)
    in_parts, often = all_started(16)
    assert (whole, once) == (in_parts, 1)
    assert len(whole) > 5
    assert often > 5


@settings(max_examples=30)
@given(
    policy=st.sampled_from(POLICIES),
    step=st.integers(1, 60),
    jobs=st.lists(st.tuples(st.sampled_from((1, 2, 3, 6, 24)), st.sampled_from("abc"), st.integers(0, 1)), max_size=60),
    freed=st.lists(st.integers(1, 16), max_size=4),
)
def test_any_pass_that_is_cut_starts_whom_one_that_is_not_starts_in_the_same_order(
    policy: Policy, step: int, jobs: list[tuple[int, str, int]], freed: list[int]
) -> None:
    def all_started(step: int) -> list[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schedule, "STEP", step)
            queue, left, started = Queue(policy=policy), 0, []
            for number, (boards, owner, priority) in enumerate(jobs, 1):
                queue.submit(number, boards=boards, owner=owner, priority=priority)
            queue.steps()
            for boards in freed:
                queue.free(queue.boards[left : left + boards])
                left = min(48, left + boards)
                started += queue.steps()[0]
            return started

    assert all_started(step) == all_started(10**9)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_becomes_free_during_a_pass_is_for_those_who_are_first(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_backfill, "RESERVATIONS", 0)
    queue = Queue(policy=policy)
    boards = queue.boards
    queue.submit(1, boards=6, priority=1)
    for number in range(2, 100):
        queue.submit(number, boards=5)
    queue.steps()
    monkeypatch.setattr(schedule, "STEP", 12)
    queue.free(boards[:3])  # too little for anybody
    assert queue.step() == []
    queue.free(boards[3:6])
    started, _ = queue.steps()
    assert started == [1], "those behind it, whom the pass had yet to reach, could have used these boards first"


def test_a_new_job_waits_for_the_pass_over_those_before_it_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_backfill, "RESERVATIONS", 0)
    queue = Queue()
    for number in range(1, 100):
        queue.submit(number, boards=24)
    queue.steps()
    monkeypatch.setattr(schedule, "STEP", 12)
    queue.free(queue.boards[:3])
    assert queue.step(go_on=False) == []
    assert queue.scheduler.pending
    queue.submit(100, boards=1)
    assert queue.step(go_on=False) == [], "only a tick goes on with the pass"
    assert queue.steps()[0] == [100]


def test_a_new_job_for_a_machine_of_which_no_pass_is_under_way_starts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    queue.scheduler.set_machines({"m": a_machine("m", 4, 4), "n": a_machine("n", 4, 4, tags=["other"])})
    for number in range(1, 100):
        queue.submit(number, boards=24)
    queue.steps()
    monkeypatch.setattr(schedule, "STEP", 12)
    queue.free(queue.boards[:3])
    assert queue.step() == []
    queue.submit(100, boards=1, machine="n", tags=frozenset())
    assert queue.step(go_on=False) == [100]
    assert queue.scheduler.pending


def test_a_job_that_joins_before_those_whom_a_pass_has_reached_goes_before_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy_backfill, "RESERVATIONS", 0)
    queue = Queue()
    for number in range(1, 100):
        queue.submit(number, boards=6 if number > 90 else 24, priority=-1 if number > 90 else 0)
    queue.steps()
    monkeypatch.setattr(schedule, "STEP", 12)
    queue.free(queue.boards[:6])
    assert queue.step() == []
    queue.submit(100, boards=6, priority=1)
    assert queue.steps()[0] == [100]


def test_jobs_that_are_left_to_the_next_step_start_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_backfill, "RESERVATIONS", 0)
    queue = Queue()
    queue.free(queue.boards[:9])
    queue.submit(1, boards=3, owner="twice")
    assert queue.steps()[0] == [1]
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "STEP", 1)
        queue.submit(2, boards=48, priority=1)
        queue.submit(3, boards=3, owner="twice")
        assert queue.step(go_on=False) == [], "job 3 is left to the next step"
    queue.submit(4, boards=3)
    assert queue.steps()[0] == [3, 4]


def test_a_reload_looks_at_a_bounded_number_of_jobs_at_a_time_and_in_the_end_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(a_machine("m", 4, 4), a_machine("n", 4, 4))
    house.create(48, machine="m", keepalive=None)
    house.create(48, machine="n", keepalive=None)
    rng = random.Random(2)
    sizes = {
        house.create(boards, keepalive=None, max_dead_boards=0): boards for boards in rng.choices((6, 30, 48), k=300)
    }
    before = house.controller.state.scheduler.ordered(house.clock.now)
    monkeypatch.setattr(schedule, "STEP", 20)
    house.configure(a_machine("m", 4, 4, dead_boards=[(0, 0, 0)]), a_machine("n", 4, 4, dead_boards=[(0, 0, 0)]))
    ended = [sum(house.state(job_id) == JobState.destroyed for job_id in sizes)]
    while (wake_at := house.controller.wake_at()) is not None and wake_at <= house.clock.now:
        house.after(0)
        ended.append(sum(house.state(job_id) == JobState.destroyed for job_id in sizes))
    assert max(after - former for former, after in pairwise(ended)) <= 20
    assert len(ended) > 10
    hopeless = {job_id for job_id, boards in sizes.items() if boards == 48}
    assert ended[-1] == len(hopeless)
    line = house.controller.state.scheduler.ordered(house.clock.now)
    assert line == [job_id for job_id in before if job_id not in hopeless]


@pytest.mark.parametrize("kinds", [1, 9])
def test_the_sizes_that_work_are_looked_for_once_a_kind_and_within_the_step(
    kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(a_machine("m", 4, 4))
    house.create(48, keepalive=None)
    jobs = [house.create(36 - number % kinds, keepalive=None, max_dead_boards=0, min_ratio=1) for number in range(24)]
    work = house.controller.state.scheduler._queue.work
    looked_for: list[int] = []

    def at_great_cost(kind: Request, _free_boards: FreeBoards, _effort: Effort) -> None:
        looked_for.append(kind.asked)
        work.left -= STEP

    monkeypatch.setattr(occupancy, "nearest_size", at_great_cost)
    house.configure(a_machine("m", 4, 4, dead_boards=[(x, 0, z) for x in range(4) for z in range(3)]))
    assert len(looked_for) == 1
    for _ in range(100):
        before = len(looked_for)
        house.after(0)
        assert len(looked_for) <= before + 1
    assert len(looked_for) == kinds
    assert all(house.state(job_id) == JobState.destroyed for job_id in jobs)


def test_a_job_that_is_possible_again_before_it_was_ended_goes_on_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(a_machine("m", 4, 4))
    house.create(48, keepalive=None)
    jobs = [house.create(36 - number, keepalive=None, max_dead_boards=0, min_ratio=1) for number in range(9)]
    work = house.controller.state.scheduler._queue.work

    def at_great_cost(_kind: Request, _free_boards: FreeBoards, _effort: Effort) -> None:
        work.left -= STEP

    with monkeypatch.context() as patch:
        patch.setattr(occupancy, "nearest_size", at_great_cost)
        house.configure(a_machine("m", 4, 4, dead_boards=[(x, 0, z) for x in range(4) for z in range(3)]))
    house.configure(a_machine("m", 4, 4))
    for _ in range(20):
        house.after(0)
    states = sorted(house.state(job_id) for job_id in jobs)
    assert states == 8 * [JobState.queued] + [JobState.destroyed]


def test_jobs_come_go_and_learn_while_a_reload_is_still_looking_at_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(a_machine("m", 2, 2), seconds_before_free=0)
    first = house.create(12, owner="hog", keepalive=None)
    jobs = [house.create(12, keepalive=None) for number in range(40)]
    house.hardware()
    monkeypatch.setattr(schedule, "STEP", 5)
    house.configure(a_machine("m", 2, 2, tags={"default", "new"}), seconds_before_free=0)
    house.controller.destroy_job(jobs[39])
    house.controller.destroy_job(jobs[0])
    house.configure(a_machine("m", 2, 2, tags={"default", "newer"}), seconds_before_free=0)
    late = house.create(12, keepalive=None)
    house.clock.now += 10
    house.controller.destroy_job(first)
    house.hardware()
    for _ in range(100):
        house.after(0)
    assert [job.job_id for job in house.controller.list_jobs() if job.boards] == [jobs[1]]
    assert house.controller.state.scheduler.ordered(house.clock.now) == [
        *jobs[2:39],
        late,
    ]


def test_why_a_job_waits_can_be_told_while_a_reload_is_still_looking_at_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(a_machine("m", 2, 2), a_machine("n", 2, 2))
    house.create(12, machine="m", keepalive=None)
    house.create(12, machine="n", keepalive=None)
    jobs = [house.create(12, keepalive=None) for _ in range(40)]
    lost = house.create(12, machine="m", keepalive=None)
    monkeypatch.setattr(schedule, "STEP", 5)
    house.configure(a_machine("n", 2, 2))
    assert "number 40 of 41 in the queue; it waits for 12 boards" in str(house.controller.job_view(jobs[-1]).reason)
    reason = house.controller.job_view(lost).reason
    assert reason == "number 41 of 41 in the queue; its machines have changed just now"
    for _ in range(50):
        house.after(0)
    assert house.state(lost) == JobState.destroyed
    assert house.state(jobs[-1]) == JobState.queued


def test_a_frame_that_fails_costs_no_more_on_a_larger_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for side in (8, 32):
        machine = a_machine("m", side, side)
        house = House(machine)
        house.create(3 * side * side, keepalive=None)
        house.create(3 * side * side, keepalive=None)
        with (
            counted(monkeypatch, Topology, "__init__") as topologies,
            counted(monkeypatch, Occupancy, "place") as places,
            counted(monkeypatch, type(house.controller.state.boards), "out_of_service") as asked,
        ):
            for bmp in machine.bmp_ips.values():
                house.controller.frame_changed(bmp, "silent")
            assert len(asked) == len(machine.live_boards)
            for bmp in machine.bmp_ips.values():
                house.controller.frame_changed(bmp, None)
            assert house.controller.wake_at() == house.clock.now
            house.after(0)
        assert len(topologies) <= 2, "each is as costly as the machine is large"
        assert len(places) <= 4
        house.controller.check()


@pytest.mark.slow
def test_leases_of_thousands_of_jobs_that_run_out_at_once_end_them_in_steps() -> None:
    house = House(a_machine("m", 1, 1))
    jobs = [house.create(3, keepalive=10) for _ in range(2 * deadlines.MAX_PASSED + 50)]
    house.clock.now += 20
    left = []
    house.controller.tick()
    left.append(len(house.controller.list_jobs()))
    while house.controller.state.leases.behind:
        assert house.controller.wake_at() == house.clock.now
        house.controller.tick(0.0)
        left.append(len(house.controller.list_jobs()))
    house.controller.check()
    assert left == [len(jobs) - deadlines.MAX_PASSED, 50, 0]


def test_many_leases_that_have_been_renewed_are_put_back_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "MAX_LATER", 40)
    house = House(a_machine("m", 1, 1))
    jobs = [house.create(3, keepalive=10) for _ in range(99)]
    house.clock.now += 9
    for job_id in jobs[1:]:
        house.controller.job_keepalive(job_id)
    house.clock.now += 2
    ticks = 0
    while not ticks or house.controller.state.leases.behind:
        house.controller.tick()
        ticks += 1
    assert ticks == 3
    assert [job.job_id for job in house.controller.list_jobs()] == jobs[1:]
    house.controller.check()
