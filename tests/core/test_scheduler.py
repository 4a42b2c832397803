"""Who goes next, and on which boards: small cases that can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.request import Request
from spalloc_server.core.scheduling import backfill as policy_backfill, order as policy_order
from spalloc_server.core.scheduling.order import ByMerit
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.scheduler import Scheduler
from tests.core.machines import a_machine

HOUR = 3600.0


class Hall:
    """A scheduler with one machine, whose boards rest no time, and the boards of those who run."""

    def __init__(self, machine: Machine | None = None, rest: float = 0.0, **scheduling: Any) -> None:
        self.scheduler = Scheduler(msgspec.convert(scheduling, Scheduling), rest)
        self.scheduler.set_machines({"m": machine or a_machine("m", 4, 4)})
        self.now = 0.0
        self.rest = rest
        self.running: dict[int, Allocation] = {}
        self.last = 0

    def submit(self, boards: int, owner: str = "me", **what: Any) -> int:
        """A job joins the queue, and starts if it may; its number."""
        self.last += 1
        request = Request(owner=owner, boards=boards, tags=DEFAULT_TAGS, **what)
        self.scheduler.submit(self.last, request, self.now)
        self.run()
        return self.last

    def run(self) -> None:
        self.running.update(self.scheduler.run(self.now))
        self.scheduler.check()

    def end(self, job_id: int) -> None:
        allocation = self.running.pop(job_id)
        self.scheduler.end(job_id, self.now)
        self.scheduler.free("m", allocation.boards, rest_until=self.now + self.rest or None, now=self.now)
        self.run()

    def teach(self, owner: str, boards: int, *seconds: float) -> None:
        """Jobs of an owner that ran so long."""
        for ran in seconds:
            job_id = self.submit(boards, owner)
            self.now += ran
            self.end(job_id)

    def predicted_start(self, job_id: int) -> float | None:
        return self.scheduler.explain(job_id, self.now).predicted_start


def test_a_higher_priority_goes_first_under_either_policy() -> None:
    for policy in ("backfill", "fifo"):
        hall = Hall(policy=policy)
        first = hall.submit(48)
        hall.submit(48, priority=0)
        urgent = hall.submit(48, priority=1)
        hall.end(first)
        assert list(hall.running) == [urgent]


def test_those_go_first_whose_owners_used_less() -> None:
    hall = Hall()
    hall.teach("hog", 48, HOUR)
    hall.teach("saint", 48, 60.0)
    first = hall.submit(48)
    hall.submit(48, "hog")
    saint = hall.submit(48, "saint")
    hall.now += 60.0
    hall.end(first)
    assert list(hall.running) == [saint]


def test_what_was_used_long_ago_counts_less() -> None:
    hall = Hall(half_life=HOUR)
    hall.teach("hog", 48, 2 * HOUR)
    hall.now += 10 * HOUR
    hall.teach("saint", 48, HOUR)
    first = hall.submit(48)
    hog = hall.submit(48, "hog")
    hall.submit(48, "saint")
    hall.end(first)
    assert list(hall.running) == [hog]


def order(hall: Hall) -> ByMerit:
    return ByMerit(hall.scheduler._queue, hall.now)


def test_an_owners_excess_is_the_use_by_that_of_a_typical_other_owner() -> None:
    hall = Hall()
    assert order(hall).excess("nobody") == 0
    hall.teach("one", 3, 100.0)
    assert order(hall).excess("one") == math.inf, "no other has used anything"
    hall.teach("two", 6, 100.0)
    hall.teach("three", 12, 100.0)
    at_half_life = order(hall).excess("one"), order(hall).excess("two"), order(hall).excess("three")
    typical = (6**2 + 12**2) / 18, (3**2 + 12**2) / 15, (3**2 + 6**2) / 9
    assert at_half_life == pytest.approx((3 / typical[0], 6 / typical[1], 12 / typical[2]), rel=0.01)


def test_an_order_is_worked_out_before_a_pass_over_anybody_and_otherwise_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    class Use(policy_order.Use):
        def __init__(self, queue: Queue, now: float) -> None:
            super().__init__(queue, now)
            seen.append(len(queue.running))

    monkeypatch.setattr(policy_order, "Use", Use)
    hall = Hall()
    hall.run()
    first, second = hall.submit(24, "one"), hall.submit(24, "two")
    assert seen == [], "it would go through all running jobs"
    assert order(hall).excess("nobody") == 0
    assert seen == [2]
    third = hall.submit(24, "three")
    hall.end(first)
    assert third in hall.running
    assert seen == [2, 1], "as it was before anybody started"
    hall.end(second)
    assert seen == [2, 1]


def test_an_order_is_worked_out_before_newcomers_start_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Hall()
    hall.scheduler.set_machines({"m": a_machine("m", 4, 4), "n": a_machine("n", 1, 1)})
    hall.run()
    first = hall.submit(48, "one")
    hall.submit(48, "one")
    seen: list[list[int]] = []
    work_out = ByMerit.work_out

    def worked_out(self: ByMerit) -> None:
        seen.append([*self._queue.running])
        work_out(self)
        assert self._use.by_owner == {}

    monkeypatch.setattr(ByMerit, "work_out", worked_out)
    on_n = Request(owner="two", boards=3, machine="n")
    hall.scheduler.submit(99, on_n, hall.now)
    hall.end(first)
    assert seen == [[]]
    assert set(hall.running) == {2, 99}


def test_what_running_jobs_have_used_so_far_counts() -> None:
    hall = Hall()
    hall.submit(6, "one")
    hall.submit(12, "two")
    assert order(hall).excess("two") == 0
    hall.now += 100.0
    assert order(hall).excess("one") == pytest.approx(0.5)
    assert order(hall).excess("two") == pytest.approx(2.0)


def test_the_backlog_is_all_work_that_waits_and_runs_by_the_boards_that_work() -> None:
    hall = Hall()
    hall.teach("me", 48, 600.0)
    assert order(hall).backlog(("m",)) == 0
    hall.submit(48)
    assert order(hall).backlog(("m",)) == pytest.approx(600.0)
    bounded = Hall()
    bounded.submit(48, max_runtime=60.0)
    bounded.now += 100.0
    assert order(bounded).backlog(("m",)) == 0, "what should have ended takes no more time"
    hall.submit(48)
    hall.now += 60.0
    assert order(hall).backlog(("m",)) == pytest.approx(540.0 + 600.0)


def test_names_that_are_invented_do_not_make_anybody_use_less() -> None:
    hall = Hall()
    hall.teach("one", 12, 1000.0)
    hall.teach("two", 12, 1000.0)
    before = order(hall).excess("one")
    for number in range(50):
        hall.teach(f"invented {number}", 1, 1.0)
    assert order(hall).excess("one") == pytest.approx(before, rel=0.05)


def test_a_job_that_was_to_end_in_time_may_use_reserved_boards_and_others_may_not() -> None:
    hall = Hall()
    hall.teach("short", 12, 60.0, 60.0)
    hall.teach("long", 12, 3 * HOUR, 3 * HOUR)
    hall.teach("middle", 36, HOUR, HOUR)
    hall.submit(36, "middle")
    large = hall.submit(48, "large")
    assert hall.predicted_start(large) == pytest.approx(hall.now + HOUR)
    assert hall.submit(12, "long") not in hall.running
    assert hall.submit(12, "short") in hall.running


def test_the_first_that_cannot_start_has_a_reservation_at_once() -> None:
    hall = Hall()
    hall.teach("long", 36, 4 * HOUR)
    hall.teach("short", 12, 600.0)
    short = hall.submit(12, "short")
    large = hall.submit(48, "large")
    assert hall.submit(36, "long") not in hall.running
    hall.end(short)
    assert list(hall.running) == [large]


def test_the_last_two_jobs_of_the_same_size_predict_the_next() -> None:
    hall = Hall()
    hall.teach("me", 48, 10.0, 100.0, 300.0)
    hall.teach("me", 3, 5000.0)
    hall.submit(48)
    waiting = hall.submit(48)
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 200.0)


def test_somebody_new_is_predicted_from_everybodys_jobs() -> None:
    hall = Hall()
    hall.teach("one", 48, 100.0)
    hall.teach("other", 3, 300.0)
    hall.submit(48, "new")
    waiting = hall.submit(48, "newer")
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 200.0)


def test_a_job_that_runs_longer_than_predicted_is_expected_to_run_on_for_a_part_of_that() -> None:
    hall = Hall()
    hall.teach("me", 48, 100.0)
    hall.submit(48)
    waiting = hall.submit(48)
    hall.now += 1000.0
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 300.0)


def test_no_job_is_predicted_to_run_longer_than_it_may() -> None:
    hall = Hall()
    hall.teach("me", 48, 1000.0)
    hall.submit(48, max_runtime=400.0)
    waiting = hall.submit(48)
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 400.0)
    hall.now += 390.0
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 10.0)


def test_a_large_job_yields_to_a_small_one_that_came_later() -> None:
    hall = Hall()
    hall.teach("me", 48, 1000.0)
    hall.teach("you", 1, 10.0)
    first = hall.submit(48, "first")
    large = hall.submit(48)
    hall.now += 60.0
    small = hall.submit(1, "you")
    hall.now += 60.0
    hall.end(first)
    assert small in hall.running
    hall.end(small)
    assert large in hall.running


@pytest.mark.parametrize(
    ("since_reserved", "part", "starts"),
    [
        (0.0, 2.1, False),
        (0.0, 1.9, True),  # half of it would end in time
        (14_400.0, 1.9, True),
        (14_401.0, 0.6, False),
        (14_401.0, 0.4, True),  # twice as long would end in time
        (14_400.0 + 86_400.0, 0.4, True),
        (14_401.0 + 86_400.0, 0.0, False),
    ],
)
def test_reserved_boards_are_shared_boldly_at_first_then_carefully_and_after_a_day_more_with_nobody(
    since_reserved: float, part: float, starts: bool
) -> None:
    hall = Hall()
    hall.teach("short", 3, 10_000_000.0)
    hall.teach("me", 24, 1_000_000.0)
    first, last = hall.submit(24), hall.submit(24)
    large = hall.submit(48, "large")
    since = hall.now
    hall.end(first)
    hall.now = since + since_reserved
    left = hall.predicted_start(large)
    assert left is not None
    short = hall.submit(3, "short", max_runtime=max(1.0, part * (left - hall.now)))
    assert (short in hall.running) == starts
    assert last in hall.running


def test_reserved_boards_that_die_are_replaced_by_others_however_long_the_job_has_been_next() -> None:
    hall = Hall()
    small = [hall.submit(12) for _ in range(4)]
    large = hall.submit(24, "large")
    hall.now += policy_backfill.PATIENCE + policy_backfill.LAST_PATIENCE + 1
    hall.end(small[0])
    reserved = hall.scheduler.explain(large, hall.now).waits_for
    assert reserved is not None
    hall.scheduler.set_out_of_service("m", reserved.boards[:1], out=True)
    for job_id in small[1:]:
        hall.end(job_id)
    assert large in hall.running


def test_a_job_for_more_boards_than_work_has_a_reservation_where_it_tolerates_dead_ones() -> None:
    hall = Hall(a_machine("m", 4, 4, dead_boards=[(1, 1, 1)]))
    running = hall.submit(3)
    large = hall.submit(48, "large")
    assert hall.submit(1) not in hall.running or hall.predicted_start(large) is not None
    hall.end(running)
    for job_id in [job_id for job_id in hall.running if job_id != large]:
        hall.end(job_id)
    assert len(hall.running[large].boards) == 47


def test_explain_tells_place_in_line_region_holders_and_start() -> None:
    hall = Hall()
    hall.teach("me", 24, 100.0)
    holders = [hall.submit(24), hall.submit(24)]
    large, behind = hall.submit(48), hall.submit(48)
    told = hall.scheduler.explain(large, hall.now)
    assert (told.position, told.held_by) == (1, tuple(holders))
    assert told.predicted_start == pytest.approx(hall.now + 100.0)
    assert told.waits_for is not None
    assert len(told.waits_for.boards) == 48
    assert told.text == (
        "number 1 of 2 in the queue; it waits for 48 boards of 4x4 triads at (0, 0) of m, held by jobs "
        f"{holders[0]}, {holders[1]}; predicted to start in 100 s"
    )
    assert hall.scheduler.explain(behind, hall.now).position == 2


@pytest.mark.parametrize(
    ("holders", "held"),
    [
        (1, "job 1"),
        (2, "jobs 1, 2"),
        (6, "jobs 1, 2, 3, 4, 5, 6"),
        (7, "jobs 1, 2, 3, 4, 5, 6 and 1 more"),
        (16, "jobs 1, 2, 3, 4, 5, 6 and 10 more"),
    ],
)
def test_explain_names_a_few_of_those_who_hold_the_boards(holders: int, held: str) -> None:
    hall = Hall(a_machine("m", holders, 1))
    for _ in range(holders):
        hall.submit(3)
    told = hall.scheduler.explain(hall.submit(3 * holders), hall.now)
    assert f", held by {held}; predicted to start in 10 min" in told.text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "0 s"),
        (119.0, "119 s"),
        (120.0, "2 min"),
        (600.0, "10 min"),
        (7199.0, "120 min"),
        (7200.0, "2 h"),
        (86400.0, "24 h"),
    ],
)
def test_explain_tells_times_as_people_do(seconds: float, told: str) -> None:
    hall = Hall()
    hall.teach("me", 48, seconds, seconds)
    hall.submit(48)
    assert hall.scheduler.explain(hall.submit(48), hall.now).text.endswith(f"; predicted to start in {told}")


def test_a_job_for_one_board_waits_for_1_board() -> None:
    hall = Hall()
    hall.submit(48)
    text = hall.scheduler.explain(hall.submit(1), hall.now).text
    assert "it waits for 1 board of 1x1 triads at (0, 0) of m, held by job 1" in text


def test_what_cannot_be_had_for_now_is_told_with_what_is_closed() -> None:
    hall = Hall()
    hall.submit(48)
    hall.scheduler.set_out_of_service("m", [(0, 0, 0)], out=True)
    text = hall.scheduler.explain(hall.submit(48, max_dead_boards=0), hall.now).text
    assert text == "number 1 of 1 in the queue; too little of m is in service for now"


@pytest.mark.parametrize("apart", [0.0, 0.3])
def test_of_boards_that_come_free_at_nearly_the_same_time_the_most_compact_are_reserved(apart: float) -> None:
    hall = Hall(a_machine("m", 8, 8))
    hall.teach("campaign", 3, HOUR)
    for _ in range(64):
        hall.submit(3, "campaign")
        hall.now += apart
    waiting = hall.submit(48)
    region = hall.scheduler.explain(waiting, hall.now).waits_for
    assert region is not None
    assert (region.width, region.height) == (4, 4)
    last = max(hall.scheduler._queue.running[job_id].predicted_end(hall.now) for job_id in holders(hall, region))
    assert hall.predicted_start(waiting) == pytest.approx(last)


def test_boards_that_come_free_much_sooner_are_reserved_though_others_are_more_compact() -> None:
    hall = Hall(a_machine("m", 4, 4))
    hall.teach("soon", 12, 600.0)
    hall.teach("late", 12, 700.0)
    row = [hall.submit(3, "soon", max_runtime=600.0) for _ in range(4)]
    for _ in range(12):
        hall.submit(3, "late")
    waiting = hall.submit(12, "other")
    region = hall.scheduler.explain(waiting, hall.now).waits_for
    assert region is not None
    assert holders(hall, region) == {*row}
    assert (region.width, region.height) == (4, 1)
    assert hall.predicted_start(waiting) == pytest.approx(hall.now + 600.0)


def holders(hall: Hall, region: Allocation) -> set[int]:
    """The jobs that have boards of a region."""
    return {job_id for board in region.boards if (job_id := hall.scheduler.holder("m", board)) is not None}


def test_what_was_learnt_survives_a_restart() -> None:
    hall = Hall()
    hall.teach("me", 48, 100.0)
    after = Hall()
    after.scheduler.restore_facts(hall.scheduler.facts())
    after.now = hall.now
    after.submit(48)
    assert after.predicted_start(after.submit(48)) == pytest.approx(after.now + 100.0)


def test_of_rested_boards_those_are_given_first_that_were_used_longest_ago() -> None:
    hall = Hall(rest=30.0)
    hall.teach("me", 1, 10.0)
    hall.now += 30.0
    first = hall.submit(1)
    hall.end(first)
    hall.now += 31.0
    second = hall.submit(3)
    assert hall.running[second].boards == ((1, 0, 0), (1, 0, 1), (1, 0, 2))


def test_rest_is_no_reason_to_wait_for_other_boards() -> None:
    hall = Hall(rest=30.0)
    hall.teach("me", 48, 10.0)
    hall.now += 31.0
    assert hall.submit(48) in hall.running


def ordered(hall: Hall) -> list[int]:
    return hall.scheduler.ordered(hall.now)


def test_jobs_go_by_how_long_they_have_waited_for_what_they_need() -> None:
    hall = Hall()
    hall.teach("short", 3, 100.0)
    hall.teach("long", 3, 1000.0)
    hall.teach("large", 48, 100.0)
    hall.submit(48, "first")
    large, long = hall.submit(48, "large"), hall.submit(3, "long")
    hall.now += 10.0
    short = hall.submit(3, "short")
    hall.now += 1.0
    assert ordered(hall) == [large, long, short], "the last has only just come"
    hall.now += 20.0
    assert ordered(hall) == [short, large, long], "31 s by log2(49), 21 s by 2, and 31 s by 20"


def test_the_merit_is_halved_again_and_again_for_those_who_have_used_more_than_others() -> None:
    hall = Hall()
    for owner in ("one", "two"):
        hall.teach(owner, 48, 100.0)
    hall.teach("three", 48, *[100.0] * 4)
    merit = {}
    hall.submit(48, "first")
    for owner in ("one", "three"):
        job = hall.scheduler._queue.waiting[hall.submit(48, owner)]
        merit[owner] = order(hall).terms(hall.scheduler._queue.line(job))[2]
    excess = order(hall).excess("three")
    assert excess == pytest.approx(4.0, rel=0.1)
    assert merit["three"] / merit["one"] == pytest.approx(0.5 ** (excess - 1))


def test_old_jobs_go_first_in_order_of_submission_and_of_each_owner_one() -> None:
    hall = Hall()
    hall.teach("large", 48, 3000.0)
    hall.teach("small", 1, 10.0)
    hall.submit(48, "first", max_runtime=60.0)
    large = [hall.submit(48, "large") for _ in range(3)]
    other = hall.submit(48, "other")
    backlog = 3 * 3000.0 + 1505.0  # as predicted; what runs should have ended by then
    hall.now += policy_order.OLD_AFTER + backlog - 100.0
    small = hall.submit(1, "small", max_runtime=100.0)
    hall.now += 50.0
    assert ordered(hall)[0] == small
    hall.now += 200.0
    assert ordered(hall)[:3] == [large[0], other, small]


def test_a_job_is_old_by_how_long_it_has_waited_whatever_the_date() -> None:
    hall = Hall()
    hall.now = 40.5 * policy_order.OLD_AFTER
    hall.submit(48, "first", max_runtime=60.0)
    waits = hall.submit(48, "me", max_runtime=60.0)
    job = hall.scheduler._queue.waiting[waits]
    hall.now += policy_order.OLD_AFTER - 1.0
    assert not order(hall).is_old(job)
    hall.now += 200.0
    assert order(hall).is_old(job)


def test_an_owner_of_whom_enough_old_jobs_run_has_no_other_that_is_old() -> None:
    hall = Hall()
    hall.teach("me", 9, 10.0)
    running = [hall.submit(24, "first", max_runtime=10.0), hall.submit(24, "first", max_runtime=10.0)]
    mine = [hall.submit(9, "me") for _ in range(4)]
    hall.submit(48, "last")
    hall.now += policy_order.OLD_AFTER + 1e4
    assert order(hall).is_old(hall.scheduler._queue.waiting[mine[0]])
    hall.scheduler._policy._old_ones = {running[0]: ("me", 0)}  # type: ignore[attr-defined]
    now = hall.scheduler._policy.order(hall.scheduler._queue, hall.now)
    assert not now.is_old(hall.scheduler._queue.waiting[mine[0]])  # type: ignore[attr-defined]


def test_the_next_job_alike_follows_a_large_one_for_an_hour_at_most() -> None:
    hall = Hall()
    hall.teach("other", 24, 10.0)
    first, beside = hall.submit(24, "me"), hall.submit(24, "beside")
    mine = [hall.submit(24, "me") for _ in range(3)]
    others = [hall.submit(24, "other") for _ in range(3)]
    hall.now += 1000.0
    assert ordered(hall)[0] == others[0]
    hall.end(first)
    assert mine[0] in hall.running
    hall.now += 2000.0
    hall.end(mine[0])
    assert mine[1] in hall.running, "the hour began when the first of them ended"
    hall.now += 2000.0
    hall.end(mine[1])
    assert mine[2] not in hall.running
    assert others[0] in hall.running
    assert beside in hall.running


def test_a_small_job_is_followed_by_whoever_is_next() -> None:
    hall = Hall()
    hall.teach("other", 3, 10.0)
    first = hall.submit(3, "me")
    hall.submit(45, "beside")
    mine, other = hall.submit(3, "me"), hall.submit(3, "other")
    hall.now += 1000.0
    hall.end(first)
    assert other in hall.running
    assert mine not in hall.running


@pytest.mark.parametrize(("owner", "starts"), [("little", True), ("much", False)])
def test_those_who_have_used_much_are_not_bold(owner: str, starts: bool) -> None:
    hall = Hall()
    hall.teach("little", 3, 1000.0)
    hall.teach("much", 24, 2000.0, 2000.0)
    hall.teach("other", 24, 1000.0)
    hall.submit(24, "other")
    hall.submit(48, "large")
    hall.now += 300.0
    assert order(hall).excess("much") > policy_backfill.BOLD_EXCESS
    assert (hall.submit(3, owner, max_runtime=1000.0) in hall.running) == starts


@pytest.mark.parametrize(("held_up", "starts"), [(0.0, True), (1000.0, True), (9000.0, False)])
def test_boldness_ends_when_the_reserved_job_has_been_held_up_for_long(held_up: float, starts: bool) -> None:
    hall = Hall()
    hall.teach("short", 3, 10_000.0)
    hall.teach("me", 24, 1000.0)
    hall.submit(24)
    small = hall.submit(1, "small", max_runtime=100.0)
    large = hall.submit(48, "large")
    hall.now += held_up
    hall.end(small)
    left = hall.scheduler.explain(large, hall.now)
    assert left.predicted_start is not None
    seconds = 1.5 * (left.predicted_start - hall.now)
    assert (hall.submit(3, "short", max_runtime=seconds) in hall.running) == starts


@pytest.mark.parametrize(("late", "starts"), [(0.0, True), (0.5, False)])
def test_a_bold_job_may_end_at_the_last_moment_that_is_left_for_it_and_not_later(late: float, starts: bool) -> None:
    hall = Hall()
    hall.teach("me", 24, 1000.0)
    hall.submit(24)
    large = hall.submit(48, "large")
    policy = hall.scheduler._policy
    assert isinstance(policy, policy_backfill.Backfill)
    (left,) = policy._reserved["m"]
    assert (left.job_id, left.start, left.bold_until) == (large, 2000.0, 9000.0)
    request = Request(owner="short", boards=3, tags=DEFAULT_TAGS, max_runtime=1000.0)
    end = hall.now + hall.scheduler._queue.past.predict(request)
    policy._reserved["m"] = [replace(left, start=end - 1.0, bold_until=end - late)]
    assert (hall.submit(3, "short", max_runtime=1000.0) in hall.running) == starts
