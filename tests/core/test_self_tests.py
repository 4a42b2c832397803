"""Boards that fail are set aside, tried again when idle, and come back, or wait for an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from spalloc_server.config.options import Health, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.boards.records import COUNTED_SECONDS
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, Outcome
from spalloc_server.core.model.rows import BoardRow, Snapshot
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine

BMP = "bmp-m-0"
WHY = {"reason": "fans", "by": "eve"}


def a_house(width: int = 2, *, seconds_before_free: float = 0, **health: Any) -> House:
    return House(
        a_machine("m", width, 1),
        seconds_before_free=seconds_before_free,
        health=Health(**{"quarantine_seconds": 100, **health}),
    )


def records(house: House) -> list[BoardRow]:
    return house.controller.snapshot().boards


def record(house: House) -> BoardRow:
    (row,) = records(house)
    return row


def quarantined(house: House, *numbers: int) -> None:
    """Let boards of the first triad fail until they are set aside."""
    house.bad.update(dict.fromkeys([(BMP, number) for number in numbers], "no FPGA"))
    job_id = house.create(0, 0, min(numbers))
    house.hardware()
    house.controller.destroy_job(job_id)
    house.hardware()


def fails_once(house: House, number: int = 0) -> None:
    """Let a board of the first triad fail one job, which then ends."""
    job_id = house.create(0, 0, number)
    (on,) = house.asked()
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, number, "no FPGA"),)))
    house.controller.destroy_job(job_id)
    house.hardware()


def test_a_board_in_quarantine_is_tried_when_its_time_is_over_and_comes_back_with_a_strike() -> None:
    house = a_house()
    quarantined(house, 0)
    assert house.controller.wake_at() == house.clock.now + 100
    house.bad.clear()
    house.after(99)
    assert not house.asked()
    house.after(1)
    on, off = house.hardware()
    assert (on.job_id, on.on, off.job_id, off.on) == (0, True, 0, False)
    assert [frame.boards for frame in (*on.frames, *off.frames)] == [(0,), (0,)]
    assert len(on.frames[0].stopped) == 6
    row = record(house)
    assert (row.out_of_service, row.by, row.since, row.trial_at, row.strikes) == (None, None, None, None, 1)
    assert len(row.failures) == 1
    assert house.state(house.create(0, 0, 0)) == JobState.power


def test_a_board_under_self_test_is_given_to_nobody_until_it_is_off_and_has_rested() -> None:
    house = a_house(1, seconds_before_free=30)
    quarantined(house, 0)
    house.bad.clear()
    house.after(100)
    (on,) = house.asked()
    job_id = house.create(0, 0, 0, keepalive=None)
    assert house.state(job_id) == JobState.queued
    house.controller.switched(Outcome(on.operation))
    house.controller.check()
    (off,) = house.asked()
    assert house.state(job_id) == JobState.queued
    house.controller.switched(Outcome(off.operation))
    assert house.state(job_id) == JobState.queued
    house.after(30)
    assert house.state(job_id) == JobState.power


def test_watchers_are_notified_of_a_self_test_that_begins() -> None:
    house = a_house()
    quarantined(house, 0)
    house.after(100)
    assert house.changed_machines() == {"m"}


def test_failing_a_self_test_is_a_strike_and_three_strikes_need_an_operator() -> None:
    house = a_house()
    quarantined(house, 0)
    house.after(100)
    assert len(house.hardware()) == 2
    row = record(house)
    assert (row.strikes, row.out_of_service, row.trial_at) == (
        2,
        "failed when it was tried: no FPGA",
        house.clock.now + 100,
    )
    house.after(100)
    assert len(house.hardware()) == 2
    row = record(house)
    assert (row.strikes, row.by, row.trial_at) == (3, "server", None)
    house.bad.clear()
    house.after(10_000)
    assert not house.hardware()
    assert house.controller.wake_at() is None


def test_failures_before_a_self_test_was_passed_count_no_longer() -> None:
    house = a_house(quarantine_after=2)
    fails_once(house)
    assert record(house).out_of_service is None
    fails_once(house)
    assert record(house).out_of_service == "no FPGA"
    house.after(100)
    house.hardware()
    fails_once(house)
    assert (len(record(house).failures), record(house).out_of_service) == (3, None)


def test_failures_of_long_ago_count_no_longer() -> None:
    house = a_house(quarantine_after=2)
    fails_once(house)
    house.after(COUNTED_SECONDS + 1)
    fails_once(house)
    assert record(house).out_of_service is None
    fails_once(house)
    assert record(house).out_of_service == "no FPGA"


def test_a_frame_has_one_trial_at_a_time() -> None:
    house = a_house()
    for number in (0, 1, 2):
        quarantined(house, number)
    house.after(100)
    tried = []
    while switches := house.asked():
        assert len(switches) <= 2
        for switch in switches:
            tried += [switch.frames[0].boards] if switch.on else []
            house.controller.switched(Outcome(switch.operation))
            house.controller.check()
    assert tried == [(0,), (1,), (2,)]


def test_a_self_test_waits_for_a_silent_frame_and_its_silence_is_no_verdict() -> None:
    house = a_house()
    quarantined(house, 0)
    house.frame_changed(BMP, "silent")
    house.after(100)
    assert not house.asked()
    house.frame_changed(BMP, None)
    (on,) = house.asked()
    house.frame_changed(BMP, "silent")
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, 0, "silent", frame_fault=True),)))
    assert record(house).strikes == 1
    (off,) = house.asked()
    house.frame_changed(BMP, None)
    assert not house.asked()  # the power-off comes first
    house.controller.switched(Outcome(off.operation))
    house.hardware()
    house.controller.check()


@pytest.mark.parametrize(
    ("close", "open_again"),
    [
        (lambda core: core.disable_frame("m", (0, 0), **WHY), lambda core: core.enable_frame("m", (0, 0))),
        (lambda core: core.drain("m", **WHY), lambda core: core.undrain("m")),
    ],
)
def test_no_self_test_begins_by_itself_in_what_an_operator_has_closed(
    close: Callable[[Controller], object], open_again: Callable[[Controller], object]
) -> None:
    house = a_house()
    quarantined(house, 0)
    close(house.controller)
    house.after(100)
    assert not house.asked()
    assert house.controller.power_cycle("m", (0, 0, 1)).state == "on trial", "an operator may"
    assert len(house.hardware()) == 2
    open_again(house.controller)
    (on,) = house.asked()
    assert on.frames[0].boards == (0,)


def test_a_board_is_not_switched_on_for_a_self_test_before_it_has_rested() -> None:
    house = a_house(seconds_before_free=300)
    quarantined(house, 0)
    house.after(100)
    assert not house.asked()
    with pytest.raises(RequestError, match="it was on lately, and rests for another 200 s"):
        house.controller.power_cycle("m", (0, 0, 0))
    assert house.controller.wake_at() == house.clock.now + 200
    house.after(200)
    (on,) = house.asked()
    assert (on.on, on.frames[0].boards) == (True, (0,))


def test_a_board_that_has_failed_more_often_than_a_reload_allows_is_out_at_its_next_failure() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=0, health=Health(quarantine_after=5, max_placements=1))
    house.bad["bmp-m-0", 0] = "smoke"

    def fails() -> str | None:
        house.create(0, 0, 0, machine="m", keepalive=None)
        house.hardware()
        return house.controller.board_view("m", (0, 0, 0)).out_of_service

    assert [fails() for _ in range(3)] == [None] * 3
    house.configure(a_machine("m", 1, 1), seconds_before_free=0, health=Health(quarantine_after=2, max_placements=1))
    assert fails() == "smoke"


def test_a_board_may_be_tried_from_the_very_end_of_its_rest_on() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    job_id = house.create(0, 0, 0, machine="m", keepalive=None)
    house.hardware()
    house.controller.destroy_job(job_id)
    house.hardware()
    house.clock.now += 29.0
    with pytest.raises(RequestError, match=r"it was on lately, and rests for another 1 s"):
        house.controller.power_cycle("m", (0, 0, 0))
    house.clock.now += 1.0
    assert house.controller.power_cycle("m", (0, 0, 0)).state == "on trial"


def test_a_self_test_that_failed_by_its_frames_fault_is_done_again_even_if_the_frame_is_back_by_then() -> None:
    house = a_house()
    quarantined(house, 0)
    house.bad.clear()
    house.after(100)
    (on,) = house.asked()
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, 0, "silent", frame_fault=True),)))
    row = record(house)
    assert (row.strikes, row.by, len(row.failures)) == (1, "server", 1)
    assert [switch.on for switch in house.hardware()] == [False, True, False]
    assert record(house).out_of_service is None


def test_a_board_that_fails_is_blamed_although_its_frame_has_fallen_silent_since() -> None:
    house = a_house()
    house.create(0, 0, 0)
    (on,) = house.asked()
    house.frame_changed(BMP, "silent")
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, 0, "no FPGA"),)))
    assert record(house).strikes == 1


def test_no_board_is_blamed_for_its_frame() -> None:
    house = a_house()
    job_id = house.create(3)
    (on,) = house.asked()
    failures = [BoardFailure(BMP, number, "silent", frame_fault=True) for number in on.frames[0].boards]
    house.controller.switched(Outcome(on.operation, tuple(failures)))
    house.hardware()
    assert house.state(job_id) == JobState.ready
    assert house.controller.snapshot().boards == []


def test_a_machine_that_goes_ends_its_self_tests_and_leaves_no_board_on() -> None:
    house = a_house()
    quarantined(house, 0)
    house.after(100)
    (on,) = house.asked()
    house.configure()
    (off,) = house.asked()
    assert on.on
    assert (off.on, off.frames[0].boards) == (False, (0,))
    house.controller.switched(Outcome(off.operation))
    house.controller.check()


def test_quarantine_outlives_a_restart_and_a_self_test_begins_again() -> None:
    house = a_house()
    quarantined(house, 0)
    house.after(100)
    assert len(house.asked()) == 1
    stored = msgspec.json.decode(msgspec.json.encode(house.controller.snapshot()), type=Snapshot)
    house.controller = Controller(clock=house.clock)
    house.controller.restore(stored)
    house.controller.configure(Configuration([a_machine("m", 2, 1)], seconds_before_free=0))
    house.bad.clear()
    assert [switch.on for switch in house.hardware()] == [True, False]
    assert record(house).out_of_service is None


def test_no_job_is_ended_because_boards_are_out_of_service() -> None:
    house = a_house(1)
    job_id = house.create(3, keepalive=None)
    house.bad = {(BMP, 1): "no FPGA"}
    house.hardware()
    assert house.state(house.create(3, max_dead_boards=0, keepalive=None)) == JobState.queued
    house.bad.clear()
    house.after(100)
    house.hardware()
    house.controller.destroy_job(job_id)
    house.hardware()
    assert [job.state for job in house.controller.list_jobs()] == [JobState.ready]


@pytest.mark.parametrize("policy", ["backfill", "fifo"])
def test_a_job_is_placed_again_in_frames_that_have_not_failed_it_if_they_can_serve_it(
    policy: Literal["backfill", "fifo"],
) -> None:
    machines = [a_machine("m", 2, 2), a_machine("n", 2, 2)]
    house = House(*machines, scheduling=Scheduling(policy=policy), seconds_before_free=0)
    house.bad = {("bmp-m-0", number): "no FPGA" for number in range(12)}
    other = house.create(12, machine="n")
    house.hardware()
    job_id = house.create(1)
    house.hardware()
    view = house.controller.job_view(job_id)
    assert (view.machine, view.placements) == (None, 1)
    house.controller.destroy_job(other)
    house.hardware()
    assert house.controller.job_view(job_id).machine == "n"
    assert house.state(job_id) == JobState.ready
    assert house.controller.job_view(job_id).placements == 2


@pytest.mark.parametrize("policy", ["backfill", "fifo"])
def test_a_job_is_placed_again_in_a_frame_that_has_failed_it_where_nothing_else_can_serve_it_any_more(
    policy: Literal["backfill", "fifo"],
) -> None:
    machines = [a_machine("m", 2, 2), a_machine("n", 2, 2)]
    house = House(*machines, scheduling=Scheduling(policy=policy), seconds_before_free=0)
    house.bad = {("bmp-m-0", 0): "no FPGA"}
    house.create(12, machine="n")
    house.hardware()
    job_id = house.create(1)
    house.hardware()
    assert "number 1 of 1 in the queue; it waits for 1 board of 1x1 triads at (0, 0) of n" in str(
        house.controller.job_view(job_id).reason
    )
    house.frame_changed("bmp-n-0", "silent")
    house.hardware()
    assert house.state(job_id) == JobState.ready
    assert house.controller.job_view(job_id).machine == "m"


def test_a_board_fails_no_second_job_before_it_has_passed_a_self_test() -> None:
    house = a_house(3)
    house.bad = {(BMP, number): "no FPGA" for number in (1, 4)}
    failed: list[tuple[int, int]] = []
    for _ in range(30):
        job_id = house.create(2)
        for switch in house.hardware():
            failed += [(number, switch.job_id) for number in (1, 4) if number in switch.frames[0].boards and switch.on]
        assert house.state(job_id) == JobState.ready
        house.controller.destroy_job(job_id)
        house.after(50)
    jobs = [number for number, job_id in failed if job_id]
    assert sorted(jobs) == sorted(set(jobs))
    assert len([job_id for _, job_id in failed if not job_id]) == 2 * len(jobs)
