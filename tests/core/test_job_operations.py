"""What operators do with jobs: end many at once, hold and release them, give them more time or another priority."""

from __future__ import annotations

import msgspec
import pytest

from spalloc_server.config.options import MAX_SECONDS, Limits, Scheduling
from spalloc_server.controller import Controller
from spalloc_server.core.model.effects import JobEvent
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Note, Snapshot
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine

BY = {"by": "eve"}
WHY = {"reason": "too many", **BY}

policies = pytest.mark.parametrize("policy", ["backfill", "fifo"])


def a_house(policy: str = "backfill") -> House:
    """A machine of three boards, all of which job 1 has."""
    house = House(
        a_machine("m", 1, 1),
        seconds_before_free=0,
        scheduling=Scheduling(policy=policy, max_priority=5),  # type: ignore[arg-type]
    )
    house.create(3, owner="first", keepalive=None)
    house.hardware()
    return house


def queue(house: House) -> list[int]:
    return house.controller.state.scheduler.ordered(house.clock.now)


def free(house: House, job_id: int = 1) -> None:
    """Let the boards of a job go back."""
    house.controller.destroy_job(job_id)
    go_on(house)


def go_on(house: House) -> None:
    """Do at once what is due at once."""
    house.hardware()
    house.after(0)
    house.hardware()
    house.controller.check()


def restart(house: House) -> None:
    stored = msgspec.json.decode(msgspec.json.encode(house.controller.snapshot()), type=Snapshot)
    house.controller = Controller(clock=house.clock)
    house.controller.restore(stored)
    house.configure(a_machine("m", 1, 1), seconds_before_free=0, scheduling=Scheduling(max_priority=5))


def events(house: House) -> list[JobEvent]:
    return house.controller.take().events


# -------------------------------------------------------------------- the end of many


@policies
def test_jobs_are_ended_at_once_and_none_of_them_starts_meanwhile(policy: str) -> None:
    house = a_house(policy)
    others = [house.create(3, owner="flood", keepalive=None) for _ in range(3)]
    bystander = house.create(3, owner="bystander", keepalive=None)
    events(house)
    assert house.controller.kill_jobs([1, *others, 1], **WHY) == [1, *others]
    house.hardware()
    assert not [event for event in events(house) if event.event == "allocated" and event.job_id in others]
    assert house.controller.get_job_state(1).reason == "Ended by eve: too many"
    assert house.state(bystander) == JobState.ready
    house.controller.check()


def test_where_one_of_the_jobs_has_never_been_none_is_ended() -> None:
    house = a_house()
    for unknown in (77, 0, -1):
        with pytest.raises(RequestError, match=f"^there is no live job {unknown}$"):
            house.controller.kill_jobs([1, unknown], **WHY)
    with pytest.raises(RequestError, match="there is no live job 70, 71, 72, 73, 74, 75, 76, 77, 78, 79 and others"):
        house.controller.kill_jobs([*range(70, 90)], **WHY)
    assert house.state(1) == JobState.ready


def test_jobs_that_have_ended_meanwhile_are_left_out_unless_all_have() -> None:
    house = a_house()
    waiting = house.create(3)
    house.controller.destroy_job(waiting)
    assert house.controller.kill_jobs([waiting, 1], **WHY) == [1]
    with pytest.raises(RequestError, match=f"there is no live job {waiting}"):
        house.controller.kill_jobs([waiting], **WHY)


# -------------------------------------------------------------------- on hold


@policies
def test_a_job_on_hold_is_passed_over_and_goes_on_with_its_submit_time(policy: str) -> None:
    house = a_house(policy)
    held = house.create(3, owner="held", keepalive=None)
    house.after(10)
    later = house.create(3, owner="later", keepalive=None)
    assert queue(house) == [held, later]
    assert house.controller.hold_jobs([held], **WHY) == [held]
    assert queue(house) == [later]
    assert house.controller.job_view(later).position == 1
    house.controller.check()
    free(house)
    assert (house.state(held), house.state(later)) == (JobState.queued, JobState.ready)
    last = house.create(3, owner="last", keepalive=None)
    assert house.controller.release_jobs([held], **BY) == [held]
    assert queue(house) == [held, last]
    free(house, later)
    assert (house.state(held), house.state(last)) == (JobState.ready, JobState.queued)


@policies
def test_a_job_on_hold_does_not_start_though_everything_is_free_and_starts_at_its_release(policy: str) -> None:
    house = a_house(policy)
    held = house.create(1, keepalive=None)
    house.controller.hold_jobs([held], **WHY)
    free(house)
    house.after(1_000_000)
    assert house.controller.wake_at() is None
    assert house.state(held) == JobState.queued
    house.controller.release_jobs([held], **BY)
    go_on(house)
    assert house.state(held) == JobState.ready


def test_a_job_on_hold_says_so_by_whom_and_why() -> None:
    house = a_house()
    held = house.create(3, keepalive=None)
    house.clock.now = 1010.0
    revision = house.controller.renew(held, None)
    house.controller.hold_jobs([held], **WHY)
    view = house.controller.job_view(held)
    assert (view.state, view.reason, view.position) == ("queued", "On hold, by eve: too many", None)
    assert view.held == Note("too many", "eve", 1010.0)
    assert next(each for each in house.controller.job_views() if each.job_id == held).held == view.held
    status = house.controller.get_job_state(held)
    assert (status.state, status.power, status.reason) == (JobState.queued, None, "On hold, by eve: too many")
    details = house.controller.job_details(held, 1)
    assert (details.state, details.reason) == (JobState.queued, "On hold, by eve: too many")
    assert house.controller.renew(held, None) > revision, "who has asked is to ask again"
    assert held in house.controller.take().jobs
    house.controller.release_jobs([held], **BY)
    assert house.controller.get_job_state(held).reason is None


def test_a_job_that_is_held_again_is_held_for_the_new_reason_and_one_that_is_not_held_is_not_released() -> None:
    house = a_house()
    held, free_one = house.create(3), house.create(3)
    house.controller.hold_jobs([held], **WHY)
    house.controller.hold_jobs([held], reason="other", by="ann")
    view = house.controller.job_view(held)
    assert view.held is not None
    assert (view.held.reason, view.held.by) == ("other", "ann")
    assert house.controller.release_jobs([held, free_one], **BY) == [held]
    house.controller.check()


def test_the_lease_of_a_job_on_hold_is_renewed_and_runs_out_as_ever() -> None:
    house = a_house()
    kept, lost = house.create(3, keepalive=60), house.create(3, keepalive=60)
    house.controller.hold_jobs([kept, lost], **WHY)
    house.after(50)
    house.controller.job_keepalive(kept)
    house.after(20)
    assert (house.state(kept), house.state(lost)) == (JobState.queued, JobState.destroyed)
    assert house.controller.get_job_state(lost).reason == "Job timed out."
    house.controller.destroy_job(kept, "enough")
    assert house.controller.get_job_state(kept).reason == "Cancelled: enough"
    assert house.controller.state.retired[kept].held is None
    house.controller.check()


def test_a_hold_outlives_restarts_and_so_does_a_release() -> None:
    house = a_house()
    held = house.create(3, keepalive=None)
    house.controller.hold_jobs([held], **WHY)
    restart(house)
    view = house.controller.job_view(held)
    assert view.held == Note("too many", "eve", 1000.0)
    free(house)
    assert house.state(held) == JobState.queued
    house.controller.release_jobs([held], **BY)
    restart(house)
    house.hardware()
    assert house.state(held) == JobState.ready


def test_the_reservation_of_a_job_goes_to_the_next_while_it_is_held() -> None:
    house = House(a_machine("m", 2, 1), seconds_before_free=0)
    for _ in range(2):
        house.create(3, owner="runs", keepalive=None)
    house.hardware()
    large = house.create(6, owner="large", keepalive=None)
    second = house.create(6, owner="second", keepalive=None)
    policy = house.controller.state.scheduler._policy
    assert policy.reservation(large)
    house.controller.hold_jobs([large], **WHY)
    assert not policy.reservation(large)
    assert policy.reservation(second)
    house.controller.release_jobs([large], **BY)
    assert policy.reservation(large)
    assert not policy.reservation(second)


def test_nobody_waits_longer_to_be_old_for_jobs_on_hold_nor_is_refused_for_them() -> None:
    house = a_house()
    house.configure(a_machine("m", 1, 1), seconds_before_free=0, limits=Limits(queued_jobs=2), scheduling=Scheduling())
    scheduler = house.controller.state.scheduler
    many = [house.create(3, keepalive=None) for _ in range(2)]
    with pytest.raises(RequestError, match="the queue holds 2 jobs"):
        house.create(3)
    assert scheduler._queue.queued_work({"m"}) > 0
    house.controller.hold_jobs(many, **WHY)
    assert scheduler._queue.queued_work({"m"}) == 0
    house.create(3)
    house.controller.release_jobs(many, **BY)
    house.controller.check()


def test_only_jobs_that_wait_are_held_all_or_none() -> None:
    house = a_house()
    waiting = house.create(3)
    for job_ids, told in (([waiting, 1], "job 1 has boards already"), ([waiting, 77], "there is no live job 77")):
        with pytest.raises(RequestError, match=told):
            house.controller.hold_jobs(job_ids, **WHY)
        with pytest.raises(RequestError, match=told):
            house.controller.release_jobs(job_ids, **BY)
        with pytest.raises(RequestError, match=told):
            house.controller.set_priority(job_ids, 1, **BY)
    assert house.controller.job_view(waiting).held is None
    assert house.controller.job_view(waiting).priority == 0


def test_a_job_whose_boards_have_failed_is_held_and_then_avoids_their_frame_as_before() -> None:
    house = House(a_machine("m", 1, 1), a_machine("n", 1, 1), seconds_before_free=0)
    house.bad = {("bmp-m-0", number): "no FPGA" for number in range(3)}
    job_id = house.create(3, keepalive=None)
    blocker = house.create(3, keepalive=None)
    house.hardware()
    assert house.controller.state.jobs[job_id].failed_in
    assert house.state(job_id) == JobState.power, "it is waiting again, and does not say so"
    house.controller.hold_jobs([job_id], **WHY)
    free(house, blocker)
    assert house.controller.state.jobs[job_id].state == JobState.queued
    house.controller.release_jobs([job_id], **BY)
    house.hardware()
    assert house.controller.job_view(job_id).machine == "n"
    house.controller.check()


def test_a_job_for_which_there_is_no_machine_any_more_ends_when_it_is_released() -> None:
    house = House(a_machine("m", 1, 1), a_machine("n", 2, 1), seconds_before_free=0)
    house.create(6, keepalive=None)
    held = house.create(6, keepalive=None)
    house.controller.hold_jobs([held], **WHY)
    house.configure(a_machine("m", 1, 1), seconds_before_free=0)
    assert house.state(held) == JobState.queued
    assert house.controller.release_jobs([held], **BY) == [held]
    assert house.controller.get_job_state(held).reason.startswith("Cancelled: No suitable machines available.")  # type: ignore[union-attr]
    house.controller.check()


def test_an_emergency_leaves_a_hold_alone() -> None:
    house = a_house()
    held = house.create(3, keepalive=None)
    house.controller.hold_jobs([held], **WHY)
    house.controller.emergency_stop(reason="smoke", by="eve")
    house.controller.check()
    house.hardware()
    house.controller.resume()
    assert house.state(held) == JobState.queued


# -------------------------------------------------------------------- more time


def a_bounded_job(house: House, seconds: float = 600.0) -> int:
    job_id = house.create(3, keepalive=None, max_runtime=seconds)
    house.hardware()
    return job_id


def bounded_house() -> tuple[House, int]:
    house = House(a_machine("m", 1, 1), seconds_before_free=0)
    return house, a_bounded_job(house)


def ended_at(house: House, job_id: int) -> float | None:
    """When the server ends a job by itself, within an hour."""
    for _ in range(3600):
        house.after(1)
        if house.state(job_id) == JobState.destroyed:
            return house.clock.now
    return None


@pytest.mark.parametrize("before", [0.0, 200.0, 539.0, 541.0, 599.0])
@pytest.mark.parametrize("more", [0.5, 10.0, 59.0, 61.0, 600.0])
def test_a_job_ends_so_much_later_and_its_user_is_warned_in_time(before: float, more: float) -> None:
    house, job_id = bounded_house()
    house.after(before)
    warned = house.controller.get_job_state(job_id).reason is not None
    assert warned == (before > 540)
    assert house.controller.extend_jobs([job_id], more, **BY) == [job_id]
    house.controller.check()
    assert house.controller.job_view(job_id).ends_at == 1600.0 + more
    while house.clock.now < 1600.0 + more - 1:
        house.after(0.5)
        soon = house.clock.now >= 1600.0 + more - 60
        assert (house.controller.get_job_state(job_id).reason is not None) == (soon or (warned and more < 60))
        house.controller.check()
    assert house.state(job_id) == JobState.ready
    house.after(1)
    assert (
        house.controller.get_job_state(job_id).reason == f"The run time of {600 + more:g} s that was asked for is over."
    )


def test_more_time_outlives_a_restart() -> None:
    house, job_id = bounded_house()
    house.controller.extend_jobs([job_id], 600, **BY)
    restart(house)
    assert house.controller.job_view(job_id).max_runtime == 1200.0
    assert ended_at(house, job_id) == 2200.0


def test_a_job_that_waits_or_is_held_has_the_longer_time_from_when_it_is_ready() -> None:
    house = a_house()
    waiting, held = (house.create(3, keepalive=None, max_runtime=100) for _ in range(2))
    house.controller.hold_jobs([held], **WHY)
    house.controller.extend_jobs([waiting, held], 50, **BY)
    house.controller.check()
    free(house)
    assert ended_at(house, waiting) == 1150.0
    house.hardware()
    house.controller.release_jobs([held], **BY)
    house.hardware()
    assert ended_at(house, held) == 1300.0


def test_a_job_without_a_limit_is_told_so_and_no_other_is_extended() -> None:
    house = a_house()
    bounded = house.create(3, max_runtime=100)
    with pytest.raises(RequestError, match="job 1 has no max_runtime: it may run for as long as it is kept alive"):
        house.controller.extend_jobs([bounded, 1], 50, **BY)
    with pytest.raises(RequestError, match="there is no live job 77"):
        house.controller.extend_jobs([bounded, 77], 50, **BY)
    for seconds in (0.0, -50.0, float("nan")):
        with pytest.raises(RequestError, match="give more than 0"):
            house.controller.extend_jobs([bounded], seconds, **BY)
    with pytest.raises(RequestError, match="max_runtime must be at most"):
        house.controller.extend_jobs([bounded], MAX_SECONDS, **BY)
    assert house.controller.job_view(bounded).max_runtime == 100


def test_who_waits_for_a_job_that_has_more_time_is_predicted_to_start_later() -> None:
    house, job_id = bounded_house()
    house.clock.now += 500
    waiting = house.create(3, keepalive=None)
    assert house.controller.job_view(waiting).predicted_start == 1600.0
    house.controller.extend_jobs([job_id], 100, **BY)
    assert house.controller.job_view(waiting).predicted_start == pytest.approx(1650.0)


# -------------------------------------------------------------------- another priority


@policies
def test_another_priority_is_another_place_in_the_queue_at_once(policy: str) -> None:
    house = a_house(policy)
    first, second, third = (house.create(3, owner=name, keepalive=None) for name in "abc")
    assert queue(house) == [first, second, third]
    assert house.controller.set_priority([third], 5, **BY) == [third]
    assert queue(house) == [third, first, second]
    assert house.controller.job_view(third).position == 1
    house.controller.set_priority([first, second], -1, **BY)
    house.controller.set_priority([first], -2, **BY)
    assert queue(house) == [third, second, first]
    house.controller.check()
    free(house)
    assert house.state(third) == JobState.ready
    restart(house)
    assert queue(house) == [second, first]


def test_the_reservation_goes_to_who_is_first_by_the_new_priority() -> None:
    house = House(a_machine("m", 2, 1), seconds_before_free=0, scheduling=Scheduling(max_priority=5))
    for _ in range(2):
        house.create(3, owner="runs", keepalive=None)
    house.hardware()
    first, second = (house.create(6, owner=name, keepalive=None) for name in "ab")
    policy = house.controller.state.scheduler._policy
    assert policy.reservation(first)
    house.controller.set_priority([second], 1, **BY)
    assert not policy.reservation(first)
    assert policy.reservation(second)


def test_a_priority_beyond_what_the_server_allows_is_refused_whoever_gives_it() -> None:
    house = a_house()
    waiting = house.create(3)
    with pytest.raises(RequestError, match="priority 6 is more than this server allows: at most 5"):
        house.controller.set_priority([waiting], 6, **BY)
    assert house.controller.job_view(waiting).priority == 0


def test_a_job_on_hold_has_its_new_priority_when_it_is_released() -> None:
    house = a_house()
    first, held = house.create(3, owner="a"), house.create(3, owner="b")
    house.controller.hold_jobs([held], **WHY)
    house.controller.set_priority([held], 3, **BY)
    assert queue(house) == [first]
    house.controller.release_jobs([held], **BY)
    assert queue(house) == [held, first]
    house.controller.check()


def test_what_operators_do_with_jobs_is_told_with_their_names() -> None:
    house = a_house()
    job_id = house.create(3, max_runtime=100)
    events(house)
    house.controller.hold_jobs([job_id], **WHY)
    house.controller.set_priority([job_id], 2, **BY)
    house.controller.extend_jobs([job_id], 3600, **BY)
    house.controller.release_jobs([job_id], **BY)
    assert [(event.event, event.reason) for event in events(house)] == [
        ("held", "by eve: too many"),
        ("priority", "by eve: 2"),
        ("extended", "by eve: 3600 s more"),
        ("released", "by eve"),
    ]
