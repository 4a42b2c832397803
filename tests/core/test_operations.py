"""What operators close stays closed until they open it; in an emergency everything goes off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec
import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Health
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, Outcome
from spalloc_server.core.model.rows import Note, Snapshot
from spalloc_server.core.model.views import BoardView
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine

BMP = "bmp-m-0"
WHY = {"reason": "smells", "by": "eve"}


def a_house(width: int = 2) -> House:
    return House(a_machine("m", width, 1), seconds_before_free=0)


def board(house: House, x: int = 0, y: int = 0, z: int = 0) -> BoardView:
    return next(view for view in house.controller.board_views("m") if (view.x, view.y, view.z) == (x, y, z))


def restart(house: House) -> None:
    stored = msgspec.json.decode(msgspec.json.encode(house.controller.snapshot()), type=Snapshot)
    house.controller = Controller(clock=house.clock)
    house.controller.restore(stored)
    house.configure(a_machine("m", 2, 1), seconds_before_free=0)


def test_a_disabled_board_is_given_to_nobody_and_says_who_when_and_why() -> None:
    house = a_house()
    view = house.controller.disable_board("m", (0, 0, 0), **WHY)
    assert (view.state, view.out_of_service, view.by, view.since) == ("out of service", "smells", "eve", 1000.0)
    waiting = house.create(0, 0, 0, keepalive=None)
    assert house.state(waiting) == JobState.queued
    house.after(1_000_000)
    assert house.state(waiting) == JobState.queued
    assert house.controller.enable_board("m", (0, 0, 0)).out_of_service is None
    assert house.state(waiting) == JobState.power
    house.controller.check()


def test_a_job_keeps_a_board_that_is_disabled_under_it() -> None:
    house = a_house(1)
    job_id = house.create(3)
    house.hardware()
    view = house.controller.disable_board("m", (0, 0, 0), **WHY)
    assert (view.state, view.job_id, view.out_of_service) == ("in use", job_id, "smells")
    house.controller.destroy_job(job_id)
    assert board(house).state == "switching off"
    house.hardware()
    assert board(house).state == "out of service"


def test_an_operators_word_overrides_the_servers_and_is_not_overridden() -> None:
    house = a_house()
    house.configure(a_machine("m", 2, 1), health=Health(quarantine_seconds=10), seconds_before_free=0)
    house.bad = {(BMP, 0): "no FPGA"}
    house.create(0, 0, 0)
    house.hardware()
    assert (board(house).by, board(house).trial_at) == ("server", 1010.0)
    house.controller.disable_board("m", (0, 0, 0), **WHY)
    house.bad = {}
    house.after(100)
    assert not house.hardware()
    house.controller.power_cycle("m", (0, 0, 0))
    house.hardware()
    assert (board(house).by, board(house).strikes) == ("eve", 1)
    view = house.controller.enable_board("m", (0, 0, 0))
    assert (view.state, view.strikes, view.failures) == ("free", 0, [])


def test_a_disabled_frame_is_out_as_a_whole_and_its_single_boards_stay_out_when_it_returns() -> None:
    house = a_house()
    house.controller.disable_board("m", (0, 0, 1), reason="dead", by="ann")
    views = house.controller.disable_frame("m", (0, 0), **WHY)
    assert {view.state for view in views} == {"out of service"}
    assert house.state(house.create(1, keepalive=None)) == JobState.queued
    (frame,) = house.controller.machine_views()[0].frames
    assert (frame.disabled, frame.silent) == (Note("smells", "eve", 1000.0), None)
    house.controller.enable_frame("m", (0, 0))
    assert board(house, 0, 0, 1).by == "ann"
    assert house.controller.machine_views()[0].out_of_service == 1
    house.controller.check()


def test_a_silent_frame_is_shown_with_its_reason() -> None:
    house = a_house()
    house.controller.frame_changed(BMP, "no answer to 16 requests")
    (view,) = house.controller.machine_views()
    assert (view.frames[0].bmp, view.frames[0].silent) == (BMP, "no answer to 16 requests")
    assert view.boards == {"out of service": 6}


def test_no_job_starts_on_a_drained_machine_and_those_that_run_go_on() -> None:
    house = a_house()
    running = house.create(1, keepalive=None)
    house.hardware()
    house.controller.drain("m", **WHY)
    waiting = house.create(1, keepalive=None)
    assert (house.state(running), house.state(waiting)) == (JobState.ready, JobState.queued)
    assert house.controller.machine_views()[0].drained == Note("smells", "eve", 1000.0)
    house.controller.undrain("m")
    assert house.state(waiting) == JobState.power


def test_jobs_go_to_other_machines_while_one_is_drained() -> None:
    house = House(a_machine("a", 1, 1), a_machine("b", 1, 1))
    house.controller.drain("a", **WHY)
    job_id = house.create(1)
    assert house.controller.get_job_machine_info(job_id).machine_name == "b"


def test_everything_that_was_closed_is_closed_after_a_restart_and_a_reload() -> None:
    house = a_house()
    house.controller.disable_board("m", (1, 0, 0), **WHY)
    house.controller.disable_frame("m", (0, 0), reason="fans", by="ann")
    house.controller.drain("m", **WHY)
    house.controller.emergency_stop(**WHY)
    house.hardware()
    restart(house)
    house.configure()
    house.configure(a_machine("m", 2, 1))
    (view,) = house.controller.machine_views()
    assert view.drained == Note("smells", "eve", 1000.0)
    assert view.frames[0].disabled == Note("fans", "ann", 1000.0)
    assert board(house, 1).by == "eve"
    assert house.controller.stopped == Note("smells", "eve", 1000.0)
    job_id = house.create(1, keepalive=None)
    openings: list[Callable[[], object]] = [
        lambda: house.controller.enable_board("m", (1, 0, 0)),
        lambda: house.controller.enable_frame("m", (0, 0)),
        lambda: house.controller.undrain("m"),
        lambda: house.controller.resume(),
    ]
    for opening in openings:
        assert house.state(job_id) == JobState.queued
        opening()
        house.controller.check()
    assert house.state(job_id) == JobState.power
    restart(house)
    assert (board(house).by, house.controller.machine_views()[0].frames) == (None, [])


def test_an_emergency_stop_switches_every_board_off_and_nothing_on() -> None:
    house = a_house()
    ready = house.create(1, keepalive=None)
    house.hardware()
    coming = house.create(1, keepalive=None)
    house.controller.take_switches()
    house.controller.emergency_stop(**WHY)
    house.controller.check()
    switches = house.controller.take_switches()
    assert not any(switch.on for switch in switches)
    assert sorted(number for switch in switches for frame in switch.frames for number in frame.boards) == list(range(6))
    status = house.controller.get_job_state(ready)
    assert (status.state, status.reason) == (JobState.destroyed, "Emergency stop by eve: smells")
    assert house.state(coming) == JobState.power  # as its user sees it: it only takes longer
    later = house.create(1, keepalive=None)
    house.waiting = switches
    house.hardware()
    house.after(1000)
    assert not house.hardware()
    with pytest.raises(RequestError, match="resume"):
        house.controller.power_cycle("m", (0, 0, 0))
    house.controller.resume()
    house.hardware()
    assert (house.state(coming), house.state(later)) == (JobState.ready, JobState.ready)


def test_an_emergency_stop_switches_dead_boards_off_too_and_they_stay_dead() -> None:
    house = House(a_machine("m", 2, 1, dead_boards={(1, 0, 2)}), seconds_before_free=0)
    house.controller.emergency_stop(**WHY)
    (off,) = house.hardware()
    assert off.frames[0].boards == tuple(range(6))
    house.controller.resume()
    assert house.controller.machine_views()[0].boards == {"dead": 1, "free": 5}


def test_emergency_stops_do_not_count_as_failures_of_the_boards() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=0, health=Health(max_placements=2))
    job_id = house.create(1, keepalive=None)
    for _ in range(3):
        house.controller.emergency_stop(**WHY)
        house.hardware()
        assert house.state(job_id) == JobState.power  # as its user sees it: it only takes longer
        house.controller.resume()
    ((_, _, z),) = house.boards(job_id)
    house.bad = {(BMP, z): "no FPGA"}
    house.hardware()
    assert house.state(job_id) == JobState.ready
    assert house.controller.job_view(job_id).placements == 2


def test_boards_that_nobody_has_are_switched_off_before_anybody_gets_them_and_hold_up_nobody() -> None:
    house = a_house()
    job_id = house.create(1)
    house.asked()
    house.controller.switch_off_unused()
    later = house.create(5)
    assert house.state(later) == JobState.power
    off, on = house.asked()
    assert (off.on, len(off.frames[0].boards), on.on, on.job_id) == (False, 5, True, later)
    house.waiting = [off, on]
    house.hardware()
    assert house.state(later) == JobState.ready
    assert house.controller.snapshot().releases == []
    house.controller.destroy_job(job_id)
    house.controller.check()


def test_a_machine_that_comes_back_waits_for_boards_that_are_being_switched_off_twice() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    house.controller.switch_off_unused()
    house.controller.destroy_job(house.create(3))
    house.configure(seconds_before_free=30)
    house.configure(a_machine("m", 1, 1), seconds_before_free=30)
    waiting = house.create(3, keepalive=None)
    house.hardware()
    assert house.state(waiting) == JobState.queued
    house.after(30)
    assert house.state(waiting) == JobState.power


def test_an_emergency_stop_breaks_a_self_test_off_without_a_verdict() -> None:
    house = a_house()
    house.controller.power_cycle("m", (0, 0, 0))
    assert board(house).state == "on trial"
    house.controller.emergency_stop(**WHY)
    house.controller.check()
    assert [switch.on for switch in house.hardware() if switch.job_id == 0][:2] == [True, False]
    assert (board(house).strikes, board(house).last_trial) == (0, "cut off before its end")


def test_a_job_whose_boards_have_rested_starts_with_an_operators_power_cycle() -> None:
    house = House(a_machine("m", 2, 1), seconds_before_free=50.0)
    first = house.create(0, 0, 0, keepalive=None)
    house.hardware()
    house.controller.destroy_job(first)
    house.hardware()
    waiting = house.create(0, 0, 0, keepalive=None)
    assert house.state(waiting) == JobState.queued
    house.clock.now += 60
    house.controller.power_cycle("m", (1, 0, 0))
    house.controller.check()
    assert house.state(waiting) == JobState.power


def test_power_cycling_puts_a_failing_board_in_quarantine() -> None:
    house = a_house()
    house.bad = {(BMP, 0): "no FPGA"}
    assert house.controller.power_cycle("m", (0, 0, 0)).state == "on trial"
    house.hardware()
    view = board(house)
    assert (view.state, view.out_of_service) == ("out of service", "failed when it was tried: no FPGA")


@pytest.mark.parametrize("disabled", [False, True])
def test_the_verdict_of_a_power_cycle_is_told_whoever_has_closed_the_board(disabled: bool) -> None:
    house = a_house()
    if disabled:
        house.controller.disable_board("m", (0, 0, 0), **WHY)
    verdicts = []
    for bad in ({}, {(BMP, 0): "no FPGA"}):
        house.bad = bad
        assert house.controller.power_cycle("m", (0, 0, 0)).last_trial is None
        house.hardware()
        verdicts.append(house.controller.board_view("m", (0, 0, 0)).last_trial)
    assert verdicts == ["passed", "failed: no FPGA"]


def test_a_power_cycle_in_a_frame_that_falls_silent_is_no_verdict() -> None:
    house = a_house()
    house.controller.power_cycle("m", (0, 0, 0))
    (on,) = house.controller.take_switches()
    house.controller.frame_changed(BMP, "no answer")
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, 0, "no answer", frame_fault=True),)))
    assert board(house).last_trial == "cut off: no answer"


def test_a_machine_that_goes_and_comes_back_has_no_verdicts() -> None:
    house = a_house()
    house.controller.power_cycle("m", (0, 0, 0))
    house.hardware()
    house.configure()
    house.configure(a_machine("m", 2, 1), seconds_before_free=0)
    assert board(house).last_trial is None


def test_a_board_that_a_job_has_is_not_power_cycled_under_it() -> None:
    house = a_house(1)
    job_id = house.create(3)
    with pytest.raises(RequestError, match=f"job {job_id} has it"):
        house.controller.power_cycle("m", (0, 0, 0))


def test_a_killed_jobs_user_is_told_by_whom_and_why() -> None:
    house = a_house()
    job_id = house.create(1)
    house.controller.kill(job_id, **WHY)
    assert house.controller.get_job_state(job_id).reason == "Ended by eve: smells"
    assert house.controller.job_view(job_id).state == "destroyed"


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    controller = a_house().controller
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("no machine 'x'; there are: m", lambda: controller.drain("x", **WHY)),
        ("no machine 'x'", lambda: controller.undrain("x")),
        ("no machine 'x'", lambda: list(controller.board_views("x"))),
        ("m has no board", lambda: controller.disable_board("m", (5, 5, 5), **WHY)),
        ("m has no board", lambda: controller.power_cycle("m", (5, 5, 5))),
        ("no cabinet 3, frame 4", lambda: controller.disable_frame("m", (3, 4), **WHY)),
        ("no live job 7", lambda: controller.kill(7, **WHY)),
        ("no job 7 is known", lambda: controller.job_view(7)),
    ]
    for text, refused in refusals:
        with pytest.raises(RequestError, match=text):
            refused()
    controller.configure(Configuration([a_machine("m", 2, 1, dead_boards={(0, 0, 0)})]))
    with pytest.raises(RequestError, match="dead in the configuration"):
        controller.enable_board("m", (0, 0, 0))


def has_it_ready(house: House, *place: int, owner: str = "me") -> int:
    """A job that has this board ready; the board's last job is over."""
    for job in house.controller.live_jobs():
        house.controller.destroy_job(job)
    house.hardware()
    job_id = house.create(*place, owner=owner, keepalive=None)
    house.hardware()
    assert house.state(job_id) == JobState.ready
    return job_id


def test_two_users_reports_set_a_board_aside_and_a_job_that_has_it_keeps_it() -> None:
    house = a_house()
    has_it_ready(house, 0, 0, 0, owner="ann")
    for _ in range(3):
        house.controller.report_problem("spinn-m-0-0-0", "no chip (3, 3)", reporter="hub")
    assert (board(house).out_of_service, len(board(house).reports)) == (None, 1)
    bob = has_it_ready(house, 0, 0, 0, owner="bob")
    house.controller.report_problem("spinn-m-0-0-0", "it hangs", reporter="lab")
    house.controller.check()
    view = board(house)
    assert (view.state, view.job_id, view.out_of_service) == ("in use", bob, "reported by 2 users, last: it hangs")
    assert [report.owner for report in view.reports] == ["ann", "bob"]
    assert view.strikes == 1


def test_one_address_counts_once_whatever_owners_it_invents_and_verified_users_count_themselves() -> None:
    house = a_house()
    for owner in ("ann", "bob", "eve"):
        has_it_ready(house, 0, 0, 0, owner=owner)
        house.controller.report_problem("spinn-m-0-0-0", "dead", reporter="hub")
    assert board(house).out_of_service is None
    house.controller.enable_board("m", (0, 0, 0))
    for user in ("ann", "ann", "bob"):
        assert board(house).out_of_service is None
        has_it_ready(house, 0, 0, 0)
        house.controller.report_problem("spinn-m-0-0-0", "dead", reporter="hub", user=user)
    assert board(house).out_of_service == "reported by 2 users, last: dead"


def test_only_jobs_that_had_the_board_ready_count_each_once() -> None:
    house = a_house()
    for reporter in ("here", "there"):
        house.controller.report_problem("spinn-m-0-0-0", "no job had it yet", reporter=reporter)
    waiting = house.create(0, 0, 0, keepalive=None)
    house.controller.report_problem("spinn-m-0-0-0", "it is not ready yet", reporter="elsewhere")
    house.hardware()
    for reporter in ("here", "there"):
        house.controller.report_problem("spinn-m-0-0-0", "the same job", reporter=reporter)
    house.controller.destroy_job(waiting)
    house.hardware()
    house.controller.report_problem("spinn-m-0-0-0", "the same job still", reporter="later")
    assert (board(house).out_of_service, len(board(house).reports)) == (None, 4)
    has_it_ready(house, 0, 0, 0)
    house.controller.report_problem("spinn-m-0-0-0", "another job", reporter="here")
    assert board(house).out_of_service == "reported by 2 users, last: another job"


def test_reports_count_only_for_a_while() -> None:
    house = a_house()
    for host in ("here", "there"):
        has_it_ready(house, 0, 0, 0)
        house.controller.report_problem("spinn-m-0-0-0", "dead", reporter=host)
        house.after(10 * 86400)
        assert board(house).out_of_service is None
    has_it_ready(house, 0, 0, 0)
    house.controller.report_problem("spinn-m-0-0-0", "dead", reporter="elsewhere")
    assert board(house).out_of_service is None


@pytest.mark.parametrize(("share", "closed"), [(0.05, 1), (0.34, 2), (1, 6), (0, 0)])
def test_reports_set_aside_no_more_than_a_share_of_a_machine_and_all_are_kept(share: float, closed: int) -> None:
    house = House(a_machine("m", 2, 1), seconds_before_free=0, health=Health(report_share=share))
    places = sorted(house.controller.machines["m"].live_boards)
    for reporter in ("here", "there"):
        for place in places:
            has_it_ready(house, *place)
            house.controller.report_problem("spinn-m-{}-{}-{}".format(*place), "dead", reporter=reporter)
    views = list(house.controller.board_views("m"))
    assert [len(view.reports) for view in views] == [2] * 6
    assert sum(view.out_of_service is not None for view in views) == closed


@pytest.mark.parametrize(
    ("configured", "reported"),
    [
        ("10.11.0.1", "010.011.000.001"),
        ("10.11.0.1", "::ffff:10.11.0.1"),
        ("10.11.0.1", " 10.11.0.1\n"),
        ("2001:db8::1", "2001:0DB8:0:0::1"),
        ("Board-1.Lab", "board-1.lab."),
    ],
)
def test_a_reported_board_is_found_by_any_spelling_of_its_host(configured: str, reported: str) -> None:
    machine = a_machine("m", 1, 1)
    house = House(replace(machine, spinnaker_ips={**machine.spinnaker_ips, (0, 0, 1): configured}))
    house.controller.report_problem(reported, "dead", reporter="here")
    assert [len(view.reports) for view in house.controller.board_views("m")] == [0, 1, 0]


def test_reports_are_kept_short_and_those_of_unknown_boards_are_forgotten() -> None:
    house = a_house()
    house.controller.report_problem("nowhere", "dead", reporter="here")
    assert house.controller.snapshot().boards == []
    house.controller.report_problem("spinn-m-0-0-0", "x" * 10_000, reporter="here")
    assert len(board(house).reports[0].text) == 500


def test_what_a_waiting_job_waits_for_is_told_in_words_and_in_data() -> None:
    house = a_house(1)
    first = house.create(3)
    waiting = house.controller.job_view(house.create(3))
    assert waiting.state == "queued"
    assert "1" in (waiting.reason or "")
    assert (waiting.position, waiting.held_by) == (1, (first,))
    assert waiting.waits_for is not None
    assert waiting.waits_for.boards == ((0, 0, 0), (0, 0, 1), (0, 0, 2))
    assert waiting.predicted_start == 1600.0
    running = house.controller.job_view(first)
    assert (running.position, running.held_by, running.predicted_start) == (None, (), None)


def test_a_switch_that_fails_is_on_record_with_its_time() -> None:
    house = a_house()
    house.create(0, 0, 0)
    (on,) = house.controller.take_switches()
    house.after(5)
    house.controller.switched(Outcome(on.operation, (BoardFailure(BMP, 0, "no FPGA"),)))
    assert board(house).failures == [(1005.0, "no FPGA")]


def test_a_switch_off_that_fails_is_on_record_too() -> None:
    house = a_house()
    job_id = house.create(0, 0, 0)
    house.hardware()
    house.controller.destroy_job(job_id)
    (off,) = house.asked()
    house.after(5)
    house.controller.switched(Outcome(off.operation, (BoardFailure(BMP, 0, "no answer"),)))
    assert [reason for _, reason in board(house).failures] == ["no answer"]


@pytest.mark.parametrize("reserved", [True, False])
def test_a_job_that_waits_is_told_what_is_closed_and_promised_nothing(reserved: bool) -> None:
    closures: list[tuple[Callable[[Controller], object], str]] = [
        (lambda core: core.disable_frame("m", (0, 0), **WHY), "cabinet 0, frame 0 of m is disabled by eve: smells"),
        (lambda core: core.frame_changed(BMP, "no answer"), "cabinet 0, frame 0 of m is out of service: no answer"),
        (lambda core: core.drain("m", **WHY), "m is drained by eve: smells"),
        (
            lambda core: core.emergency_stop(**WHY),
            "nothing starts before the emergency stop by eve is over: smells",
        ),
    ]
    for close, told in closures:
        house = a_house(1)
        if reserved:
            house.create(3)
            house.hardware()
            waiting = house.create(3)
            close(house.controller)
        else:
            close(house.controller)
            waiting = house.create(3)
        view = house.controller.job_view(waiting)
        assert (view.reason or "").endswith(f"; {told}")
        assert " in 0 s" not in (view.reason or "")
        assert view.predicted_start is None


def test_frames_that_are_closed_are_no_reason_for_a_job_that_waits_for_others() -> None:
    house = House(a_machine("m", 4, 4), seconds_before_free=0)
    house.controller.disable_frame("m", (0, 0), **WHY)
    house.create(24)
    waiting = house.controller.job_view(house.create(3))
    assert waiting.predicted_start is not None
    assert "disabled" not in (waiting.reason or "")


def test_what_is_closed_twice_tells_what_was_said_before_and_what_is_opened_tells_what_was_closed() -> None:
    core = a_house().controller
    first, second = Note("smells", "eve", 1000.0), Note("burns", "ann", 1000.0)
    closures: list[tuple[Callable[..., object], Callable[[], object]]] = [
        (partial(core.drain, "m"), partial(core.undrain, "m")),
        (core.emergency_stop, core.resume),
    ]
    for close, open_ in closures:
        assert open_() is None
        assert close(reason="smells", by="eve") is None
        assert close(reason="burns", by="ann") == first
        assert open_() == second
        assert open_() is None


def test_a_board_without_a_place_is_not_counted() -> None:
    core = House(Machine.single_board("m", bmp_ip="bmp", spinnaker_ip="board")).controller
    (view,) = core.machine_views()
    assert view.boards == {"free": 1}
