"""The core as its users see it: commands in, changes out, and the hardware's answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Health, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import Outcome
from spalloc_server.core.model.replies import JobMachineInfo, JobStatus
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine


def test_a_job_is_switched_on_at_once_and_ready_when_the_hardware_says_so() -> None:
    house = House(a_machine("m", 2, 2))
    job_id = house.create()
    assert job_id == 1
    assert house.controller.get_job_state(job_id) == JobStatus(JobState.power, True, 60.0, None, 1000.0, None)
    (switch,) = house.hardware()
    assert (switch.job_id, switch.on) == (job_id, True)
    assert len(switch.frames[0].stopped) == 6
    assert house.state(job_id) == JobState.ready


def test_what_a_job_is_told_about_its_boards() -> None:
    house = House(a_machine("m", 4, 2))
    info = house.controller.get_job_machine_info(house.create(4, 2))
    assert (info.width, info.height, info.machine_name) == (48, 24, "m")
    assert info.connections is not None
    assert info.boards is not None
    assert len(info.connections) == len(info.boards) == 24
    assert info.connections[0][0] == (0, 0)


def test_a_job_waits_until_boards_are_off_and_have_rested() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    first = house.create(3)
    house.hardware()
    second = house.create(3, keepalive=None)
    assert house.state(second) == JobState.queued
    assert house.controller.get_job_machine_info(second) == JobMachineInfo()
    house.controller.destroy_job(first, "enough")
    assert house.controller.get_job_state(first) == JobStatus(JobState.destroyed, reason="enough")
    house.after(100)
    assert house.state(second) == JobState.queued, "the power-off is not confirmed"
    (off,) = house.hardware()
    assert not off.on
    house.after(29)
    assert house.state(second) == JobState.queued, "the boards must rest"
    house.after(1)
    assert house.state(second) == JobState.power


def test_an_unknown_job_is_no_error() -> None:
    house = House(a_machine("m", 1, 1))
    assert house.controller.get_job_state(7) == JobStatus(JobState.unknown)
    assert house.controller.get_job_machine_info(7) == JobMachineInfo()
    house.controller.job_keepalive(7)
    house.controller.power_on_job_boards(7)
    house.controller.power_off_job_boards(7)
    house.controller.destroy_job(7)
    assert not house.changed_jobs()


def test_a_job_that_no_machine_could_take_is_cancelled_at_once() -> None:
    house = House(a_machine("m", 2, 2))
    impossible: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((100,), {}),
        ((0,), {}),
        ((1,), {"machine": "x"}),
        ((1,), {"tags": ["x"]}),
        ((5, 5, 5), {}),
        ((3,), {"max_dead_boards": -1}),
        ((1, 1), {"max_dead_links": -1}),
    ]
    for args, kwargs in impossible:
        job_id = house.create(*args, **kwargs)
        status = house.controller.get_job_state(job_id)
        assert status.state == JobState.destroyed
        assert (status.reason or "").startswith("Cancelled: No suitable machines available.")


def test_who_asks_for_a_machine_or_tags_that_there_are_not_is_told_which() -> None:
    house = House(a_machine("m", 2, 2))
    for asked, told in (
        ({"machine": "x"}, "there is no machine 'x'"),
        ({"tags": ["y", "x"]}, "no machine has the tags x, y"),
    ):
        job_id = house.create(1, **asked)
        assert house.controller.get_job_state(job_id).reason == (
            f"Cancelled: No suitable machines available. asked for 1 board; {told}"
        )


def test_a_refused_request_leaves_nothing_behind() -> None:
    house = House(a_machine("m", 2, 2))
    house.controller.take_changes()
    with pytest.raises(RequestError):
        house.create(1.5)
    with pytest.raises(RequestError):
        house.create(1, keepalive="soon")
    assert house.controller.list_jobs() == []
    assert not house.controller.take_changes()
    assert house.create() == 1


def test_a_silent_job_times_out_and_any_command_that_names_it_keeps_it_alive() -> None:
    house = House(a_machine("m", 2, 2))
    silent, kept = house.create(keepalive=10), house.create(keepalive=10)
    eternal, stillborn = house.create(keepalive=None), house.create(keepalive=0)
    house.after(0)
    assert house.state(stillborn) == JobState.destroyed
    for command in (
        house.controller.job_keepalive,
        house.controller.get_job_state,
        house.controller.power_on_job_boards,
    ):
        house.after(9)
        command(kept)
    house.after(9.5)
    assert house.controller.get_job_state(silent) == JobStatus(JobState.destroyed, reason="Job timed out.")
    assert house.state(kept) == JobState.power
    house.after(1e6)
    assert house.state(eternal) == JobState.power


def test_a_lease_that_is_over_from_the_start_is_not_renewed() -> None:
    house = House(a_machine("m", 2, 2))
    job_id = house.create(keepalive=0)
    house.clock.now += 1
    house.controller.job_keepalive(job_id)
    house.controller.tick(expire_before=1000.5)
    assert house.state(job_id) == JobState.destroyed


def test_leases_are_judged_by_the_time_up_to_which_commands_are_known_to_be_read() -> None:
    house = House(a_machine("m", 2, 2))
    job_id = house.create(keepalive=10)
    house.clock.now += 11
    house.controller.tick(expire_before=1009.0)
    assert house.state(job_id) == JobState.power


def test_power_can_be_switched_and_the_last_word_counts() -> None:
    house = House(a_machine("m", 2, 2))
    job_id = house.create(3)
    on = house.controller.take_switches()[0]
    house.controller.power_off_job_boards(job_id)
    off = house.controller.take_switches()[0]
    house.controller.switched(Outcome(on.operation))
    house.controller.check()
    assert house.state(job_id) == JobState.power, "superseded"
    house.controller.switched(Outcome(off.operation))
    assert house.controller.get_job_state(job_id).power is False
    assert house.state(job_id) == JobState.ready
    house.controller.power_on_job_boards(job_id)
    house.hardware()
    assert house.controller.get_job_state(job_id).power is True


def test_power_does_nothing_to_a_job_that_waits() -> None:
    house = House(a_machine("m", 1, 1))
    house.create(3)
    waiting = house.create(3)
    house.controller.power_off_job_boards(waiting)
    house.controller.check()
    status = house.controller.get_job_state(waiting)
    assert (status.state, status.power) == (JobState.queued, None)


def test_boards_that_fail_are_set_aside_and_the_job_gets_others() -> None:
    house = House(a_machine("m", 2, 1))
    house.bad = {("bmp-m-0", number): "no FPGA" for number in range(3)}
    job_id = house.create(3)
    before = house.boards(job_id)
    first = house.controller.take_switches()
    house.waiting = first
    house.hardware()
    assert house.state(job_id) == JobState.ready
    if first[0].frames[0].boards == (0, 1, 2):
        assert house.boards(job_id).isdisjoint(before)
    assert house.boards(job_id) == {(1, 0, 0), (1, 0, 1), (1, 0, 2)}


def test_a_job_that_is_placed_again_reports_that_it_is_being_switched_on() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30, health=Health(quarantine_after=2))
    house.bad = {("bmp-m-0", 1): "no FPGA"}
    job_id = house.create(3)
    house.hardware()
    status = house.controller.get_job_state(job_id)
    assert (status.state, status.power) == (JobState.power, True)
    assert house.controller.get_job_machine_info(job_id) == JobMachineInfo()
    house.bad = {}
    house.after(30)
    house.hardware()
    assert house.state(job_id) == JobState.ready


def test_a_job_ends_with_the_names_of_the_boards_after_too_many_failures() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=0, health=Health(quarantine_after=9, max_placements=2))
    house.bad = {("bmp-m-0", 1): "no FPGA"}
    job_id = house.create(3)
    house.hardware()
    status = house.controller.get_job_state(job_id)
    assert status.state == JobState.destroyed
    assert "2 places" in (status.reason or "")
    assert "(0, 0, 1) of m: no FPGA" in (status.reason or "")


def test_a_job_that_was_ready_ends_where_its_boards_do_not_come_back_rather_than_move_to_others() -> None:
    house = House(a_machine("m", 2, 1))
    job_id = house.create(3)
    house.hardware()
    house.bad = {("bmp-m-0", 1): "no FPGA"}
    house.controller.power_on_job_boards(job_id)
    house.hardware()
    status = house.controller.get_job_state(job_id)
    assert status.state == JobState.destroyed
    assert status.reason == "Machine configuration failed. (0, 0, 1) of m: no FPGA"


def test_a_queued_job_that_became_impossible_is_told_so() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=0)
    house.create(3, keepalive=None)
    waiting = house.create(3, max_dead_boards=0)
    house.configure(a_machine("m", 1, 1, dead_boards={(0, 0, 2)}), seconds_before_free=0)
    status = house.controller.get_job_state(waiting)
    assert status.state == JobState.destroyed
    assert (status.reason or "").startswith("Cancelled: No suitable machines available.")


def test_boards_of_a_silent_frame_are_not_given_to_anybody_until_it_answers() -> None:
    house = House(a_machine("m", 10, 2))
    house.controller.frame_changed("bmp-m-0", "no answer to 4 requests")
    jobs = [house.create(12, keepalive=None) for _ in range(3)]
    assert [house.state(job_id) for job_id in jobs] == [JobState.power, JobState.power, JobState.queued] or [
        house.state(job_id) for job_id in jobs
    ].count(JobState.power) >= 2
    frames = {frame.bmp for switch in house.controller.take_switches() for frame in switch.frames}
    assert "bmp-m-0" not in frames
    house.controller.frame_changed("bmp-m-0", None)
    house.controller.check()
    assert [house.state(job_id) for job_id in jobs] == [JobState.power] * 3


def test_changes_in_place_leave_running_jobs_alone() -> None:
    house = House(a_machine("m", 2, 1))
    job_id = house.create(6)
    house.hardware()
    house.configure(a_machine("m", 2, 1, tags={"new"}, dead_boards={(0, 0, 1)}))
    assert house.state(job_id) == JobState.ready
    assert house.state(house.create(tags=["default"])) == JobState.destroyed


def test_jobs_of_a_machine_that_goes_or_is_rebuilt_are_ended_and_their_boards_switched_off() -> None:
    house = House(a_machine("a", 1, 1), a_machine("b", 1, 1))
    on_a, on_b = house.create(3, machine="a"), house.create(3, machine="b")
    house.hardware()
    house.configure(a_machine("b", 2, 1))
    for job_id in (on_a, on_b):
        assert house.controller.get_job_state(job_id) == JobStatus(JobState.destroyed, reason="Machine removed.")
    assert [(switch.job_id, switch.on) for switch in house.hardware()] == [(on_a, False), (on_b, False)]
    on_all_of_b = house.create(6, machine="b")
    assert house.state(on_all_of_b) == JobState.queued, "some of its boards rest"
    house.after(30)
    assert house.state(on_all_of_b) == JobState.power


def test_boards_that_come_back_under_another_name_go_on_with_their_rest() -> None:
    house = House(a_machine("a", 1, 1), seconds_before_free=30)
    house.controller.destroy_job(house.create(3))
    house.configure(seconds_before_free=30)
    _, off = house.controller.take_switches()
    house.after(100)
    house.configure(renamed("a", "b"), seconds_before_free=30)
    job_id = house.create(3, keepalive=None)
    assert house.state(job_id) == JobState.queued, "they are not known to be off"
    house.controller.switched(Outcome(off.operation))
    house.after(10)
    house.configure(seconds_before_free=30)
    house.configure(renamed("a", "c"), seconds_before_free=30)
    job_id = house.create(3, keepalive=None)
    house.after(19)
    assert house.state(job_id) == JobState.queued, "they rest"
    house.after(1)
    assert house.state(job_id) == JobState.power


def test_boards_rest_through_a_restart_while_no_machine_has_them() -> None:
    house = House(a_machine("a", 1, 1), seconds_before_free=30)
    house.controller.destroy_job(house.create(3))
    house.configure(seconds_before_free=30)
    house.hardware()
    stored = round_trip(house.controller.snapshot())
    house.controller = Controller(clock=house.clock)
    house.controller.restore(stored)
    house.configure(a_machine("a", 1, 1), seconds_before_free=30)
    job_id = house.create(3, keepalive=None)
    house.after(29)
    assert house.state(job_id) == JobState.queued
    house.after(1)
    assert house.state(job_id) == JobState.power


def renamed(old: str, new: str) -> Machine:
    """The machine of one triad with the old name's hardware, and the new name."""
    machine = a_machine(old, 1, 1)
    return Machine(
        new,
        board_locations=dict(machine.board_locations),
        bmp_ips=dict(machine.bmp_ips),
        spinnaker_ips=dict(machine.spinnaker_ips),
    )


def test_the_drain_of_an_empty_configuration_ends_everything() -> None:
    house = House(a_machine("m", 1, 1))
    running, waiting = house.create(3), house.create(3)
    house.configure()
    assert house.controller.get_job_state(running).reason == "Machine removed."
    assert house.state(waiting) == JobState.destroyed
    assert house.controller.list_machines() == []
    assert [switch.on for switch in house.hardware()] == [True, False]


def test_machines_keep_their_order_of_priority() -> None:
    a, b = a_machine("a", 1, 1), a_machine("b", 1, 1)
    house = House(a, b)
    assert house.controller.get_job_machine_info(house.create(3)).machine_name == "a"
    house = House(a, b)
    house.configure(b, a)
    assert [machine.name for machine in house.controller.list_machines()] == ["b", "a"]
    assert house.controller.get_job_machine_info(house.create(3)).machine_name == "b"


def test_watchers_learn_of_every_change() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    assert house.changed_machines() == {"m"}
    first = house.create(3)
    assert (house.changed_jobs(), house.changed_machines()) == ({first}, {"m"})
    house.hardware()
    assert house.changed_jobs() == {first}
    second = house.create(3)
    assert house.changed_jobs() == {second}
    house.controller.destroy_job(first)
    assert (house.changed_jobs(), "m" in house.changed_machines()) == ({first}, True)
    house.hardware()
    assert house.changed_machines() == set(), "that the boards go back was told once"
    house.after(30)
    assert house.changed_jobs() == {second}


def test_retired_jobs_are_remembered_up_to_a_number() -> None:
    house = House(a_machine("m", 1, 1), max_retired_jobs=2)
    jobs = [house.create() for _ in range(3)]
    for job_id in jobs:
        house.controller.destroy_job(job_id, "done")
        house.controller.check()
    assert [house.state(job_id) for job_id in jobs] == [JobState.unknown, JobState.destroyed, JobState.destroyed]


def test_the_list_of_jobs_shows_what_was_asked_for() -> None:
    house = House(a_machine("m", 1, 1))
    job_id = house.create(1, keepalive=None, machine="m", min_ratio=0.5)
    (job,) = house.controller.list_jobs()
    assert (job.job_id, job.args, job.kwargs) == (job_id, [1], {"machine": "m", "min_ratio": 0.5})
    assert (job.owner, job.allocated_machine_name, job.keepalive) == ("me", "m", None)
    assert job.boards is not None
    assert len(job.boards) == 1


def test_where_is_answers_alike_in_every_form_on_every_chip() -> None:
    house = House(a_machine("m", 3, 2), seconds_before_free=0)
    job_id = house.create(2, 2, keepalive=None)
    where = house.controller.where_is
    of_job: set[tuple[int, int]] = set()
    for x in range(36):
        for y in range(24):
            at = where(machine="m", chip_x=x, chip_y=y)
            assert at is not None
            assert at.chip == (x, y)
            board = where(machine="m", **dict(zip("xyz", at.logical, strict=True)))
            place = where(machine="m", **dict(zip(("cabinet", "frame", "board"), at.physical, strict=True)))
            assert board is not None
            assert board == place
            assert board.board_chip == (0, 0)
            across, up = (x - board.chip[0]) % 36, (y - board.chip[1]) % 24
            assert at.board_chip == (across, up)
            assert (board.logical, board.physical, board.job_id) == (at.logical, at.physical, at.job_id)
            if at.job_id is None:
                assert at.job_chip is None
            else:
                assert at.job_chip is not None
                assert where(job_id=job_id, chip_x=at.job_chip[0], chip_y=at.job_chip[1]) == at
                of_job.add(at.job_chip)
    assert len(of_job) == 12 * 48


def test_where_is_answers_in_every_form() -> None:
    house = House(a_machine("m", 4, 2))
    job_id = house.create(2, 2)
    x, y, z = min(house.boards(job_id))
    where = house.controller.where_is(machine="m", x=x, y=y, z=z)
    assert where is not None
    assert (where.job_id, where.job_chip, where.board_chip) == (job_id, (0, 0), (0, 0))
    cabinet, frame, board = where.physical
    assert house.controller.where_is(machine="m", cabinet=cabinet, frame=frame, board=board) == where
    assert house.controller.where_is(machine="m", chip_x=where.chip[0], chip_y=where.chip[1]) == where
    assert house.controller.where_is(job_id=job_id, chip_x=0, chip_y=0) == where
    inside = house.controller.where_is(job_id=job_id, chip_x=9, chip_y=5)
    assert inside is not None
    assert (inside.board_chip, inside.job_chip) == ((1, 1), (9, 5))
    for nowhere in (
        {"machine": "x", "x": 0, "y": 0, "z": 0},
        {"machine": "m", "x": 9, "y": 0, "z": 0},
        {"machine": "m", "cabinet": 9, "frame": 0, "board": 0},
        {"job_id": 99, "chip_x": 0, "chip_y": 0},
        {"job_id": job_id, "chip_x": 0, "chip_y": 4},
    ):
        assert house.controller.where_is(**nowhere) is None
    with pytest.raises(RequestError, match="Invalid arguments"):
        house.controller.where_is(machine="m", x=0, y=0)
    assert house.controller.get_board_position("m", x, y, z) == where.physical
    assert house.controller.get_board_at_position("m", *where.physical) == (x, y, z)
    assert house.controller.get_board_position("x", 0, 0, 0) is None


def round_trip(snapshot: Snapshot) -> Snapshot:
    return msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot)


def test_another_controller_goes_on_where_one_left_off() -> None:
    machine = a_machine("m", 2, 2)
    house = House(machine, seconds_before_free=30)
    ready, switching, gone = house.create(3), house.create(3), house.create(3, keepalive=20)
    house.waiting = [switch for switch in house.controller.take_switches() if switch.job_id != switching]
    late = [switch for switch in house.waiting if switch.job_id == switching]
    assert not late
    for switch in house.waiting:
        house.controller.switched(Outcome(switch.operation))
    house.waiting = []
    resting = house.create(3)
    (on,) = house.controller.take_switches()
    house.controller.switched(Outcome(on.operation))
    house.controller.destroy_job(resting)
    (off,) = house.controller.take_switches()
    house.controller.switched(Outcome(off.operation))
    house.controller.destroy_job(gone, "enough")
    waiting = house.create(12, keepalive=None)

    other = Controller(clock=house.clock)
    other.restore(round_trip(house.controller.snapshot()))
    other.configure(Configuration([machine], seconds_before_free=30))
    other.check()
    for job_id in (ready, switching, gone, resting, waiting):
        assert other.get_job_state(job_id) == house.controller.get_job_state(job_id)
        assert other.get_job_machine_info(job_id) == house.controller.get_job_machine_info(job_id)
    driven = {(switch.job_id, switch.on) for switch in other.take_switches()}
    assert driven == {(switching, True), (gone, False)}, "what was under way is driven to its end"
    assert other.create_job(owner="you") == waiting + 1


def test_a_configuration_that_changed_while_the_server_was_down_is_applied_as_at_a_reload() -> None:
    house = House(a_machine("a", 1, 1), a_machine("b", 1, 1))
    on_a, on_b = house.create(3, machine="a"), house.create(3, machine="b")
    house.hardware()
    other = Controller(clock=house.clock)
    other.restore(round_trip(house.controller.snapshot()))
    other.configure(Configuration([a_machine("b", 1, 1, tags={"new"})]))
    other.check()
    assert other.get_job_state(on_a).reason == "Machine removed."
    assert other.get_job_state(on_b).state == JobState.ready
    (off,) = other.take_switches()
    assert (off.job_id, off.on, off.frames[0].bmp) == (on_a, False, "bmp-a-0")


def test_stored_changes_add_up_to_a_snapshot() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    stored = Snapshot()
    jobs, releases = {}, {}

    def store() -> None:
        changes = house.controller.take_changes()
        jobs.update(changes.jobs)
        releases.update(changes.releases)
        stored.facts.update(changes.facts)

    first = house.create(3)
    store()
    house.hardware()
    house.create(3)
    store()
    house.controller.destroy_job(first)
    store()
    house.hardware()
    store()
    stored.jobs = list(jobs.values())
    stored.releases = [row for row in releases.values() if row is not None]
    snapshot = house.controller.snapshot()
    assert sorted(stored.jobs, key=lambda row: row.job_id) == sorted(snapshot.jobs, key=lambda row: row.job_id)
    assert stored.releases == snapshot.releases
    assert stored.facts == snapshot.facts
    assert not house.controller.take_changes()


def test_a_rest_that_is_over_is_a_change_to_store() -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=30)
    house.controller.destroy_job(house.create(3))
    house.hardware()
    changed = []
    for seconds in (29, 1, 1):
        house.after(seconds)
        changed.append(house.controller.changed)
    assert changed == [False, True, False]


def test_a_priority_is_bounded_by_the_configuration() -> None:
    house = House(a_machine("m", 1, 1), scheduling=Scheduling(max_priority=2))
    assert house.create(priority=2)
    with pytest.raises(RequestError, match="at most 2"):
        house.create(priority=3)


def test_a_job_with_a_bounded_run_time_is_warned_and_then_ended() -> None:
    house = House(a_machine("m", 1, 1))
    bounded, brief = house.create(max_runtime=600, keepalive=None), house.create(max_runtime=10, keepalive=None)
    house.after(50)
    house.hardware()
    assert house.changed_jobs() == {bounded, brief}
    house.after(5)
    assert house.changed_jobs() == {brief}
    assert "in 5 s" in (house.controller.get_job_state(brief).reason or "")
    house.after(5)
    assert house.controller.get_job_state(brief).reason == "The run time of 10 s that was asked for is over."
    house.after(529)
    assert house.controller.get_job_state(bounded).reason is None
    house.changed_jobs()
    wake_at = house.controller.wake_at()
    assert wake_at is not None
    house.after(wake_at - house.clock.now)
    assert "in 60 s" in (house.controller.get_job_state(bounded).reason or "")
    house.after(60)
    assert house.state(bounded) == JobState.destroyed


def test_a_restart_forgets_neither_a_warning_nor_the_end_of_a_run_time() -> None:
    house = House(a_machine("m", 1, 1))
    job_id = house.create(max_runtime=100, keepalive=None)
    house.hardware()
    house.after(60)
    before = house.controller.get_job_state(job_id).reason or ""
    assert "in 40 s" in before
    restarted = Controller(clock=house.clock)
    restarted.restore(house.controller.snapshot())
    assert "in 40 s" in (restarted.get_job_state(job_id).reason or "")
    house.clock.now += 39
    restarted.tick()
    assert restarted.get_job_state(job_id).state == JobState.ready
    house.clock.now += 1
    restarted.tick()
    assert restarted.get_job_state(job_id).reason == "The run time of 100 s that was asked for is over."
