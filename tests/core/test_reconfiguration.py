"""A reload compares board by board: whose own boards stay goes on, and what was said of a board stays with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.core.placement.layout import connections, dimensions, stopped_links
from tests.core.house import House
from tests.core.machines import a_machine

WIDE = a_machine("m", 8, 2)
"""48 boards: those with x < 4 in frame 0, the others in frame 1."""


def varied(machine: Machine, **changes: Any) -> Machine:
    """The same machine with other values for some fields."""
    parts = {field.name: getattr(machine, field.name) for field in fields(machine)}
    return Machine(**{**parts, **changes})


def shifted(machine: Machine, by: int, width: int, name: str = "m") -> Machine:
    """The same boards `by` triads further to the right, of a machine that is as wide as this, and has no others."""
    every = {(x, y, z) for x in range(width) for y in range(machine.height) for z in range(3)}
    places = {((x + by) % width, y, z): place for (x, y, z), place in machine.board_locations.items()}
    hosts = {((x + by) % width, y, z): host for (x, y, z), host in machine.spinnaker_ips.items()}
    return Machine(
        name, machine.tags, width, machine.height, every - places.keys(), set(), places, machine.bmp_ips, hosts
    )


def ready(house: House, *args: int, **kwargs: Any) -> int:
    job_id = house.create(*args, **kwargs)
    house.hardware()
    assert house.controller.get_job_state(job_id).state == JobState.ready
    return job_id


def lives(house: House, job_id: int) -> bool:
    return house.controller.get_job_state(job_id).state != JobState.destroyed


def told(house: House, job_id: int) -> Any:
    """What a job's user relies on: size, and which chip is at which address."""
    info = house.controller.get_job_machine_info(job_id)
    return info.width, info.height, info.connections


OTHER_BMP = varied(WIDE, bmp_ips={**WIDE.bmp_ips, (0, 1): "bmp-new"})
WIDER = varied(
    a_machine("m", 9, 2),
    board_locations={
        **WIDE.board_locations,
        **{(8, y, z): (1, 0, 3 * y + z) for y in range(2) for z in range(3)},
    },
    bmp_ips={**WIDE.bmp_ips, (1, 0): "bmp-more"},
)
OTHER_HOST = varied(WIDE, spinnaker_ips={**WIDE.spinnaker_ips, (7, 1, 2): "elsewhere"})
RENAMED = varied(WIDE, name="n")
RENUMBERED = varied(
    WIDE,
    board_locations={board: (7, frame + 1, number) for board, (_, frame, number) in WIDE.board_locations.items()},
    bmp_ips={(7, frame + 1): host for (_, frame), host in WIDE.bmp_ips.items()},
)
REWIRED = varied(
    WIDE,
    board_locations={
        **WIDE.board_locations,
        (7, 1, 1): WIDE.board_locations[7, 1, 2],
        (7, 1, 2): WIDE.board_locations[7, 1, 1],
    },
)


@pytest.mark.parametrize(
    ("after", "left", "right"),
    [
        pytest.param(OTHER_BMP, True, False, id="the BMP of a frame has another address"),
        pytest.param(OTHER_HOST, True, False, id="a board has another address"),
        pytest.param(REWIRED, True, False, id="two boards have changed places"),
        pytest.param(RENAMED, True, True, id="the machine has another name"),
        pytest.param(RENUMBERED, True, True, id="cabinets and frames have other numbers"),
        pytest.param(WIDER, True, True, id="a frame is added"),
        pytest.param(shifted(WIDE, 3, 11), True, True, id="a frame is added on the left"),
        pytest.param(shifted(WIDE, 3, 11, "n"), True, True, id="and the machine has another name"),
        pytest.param(shifted(WIDE, 3, 8), True, True, id="coordinates begin elsewhere"),
    ],
)
def test_jobs_end_whose_own_boards_or_frames_change_and_no_others(after: Machine, left: bool, right: bool) -> None:
    house = House(WIDE)
    jobs = {
        ready(house, 0, 0, 0, machine="m"): left,
        ready(house, 2, 1): left,
        ready(house, 7, 1, 2, machine="m"): right,
    }
    before = {job_id: told(house, job_id) for job_id in jobs}
    house.configure(after)
    assert {job_id: lives(house, job_id) for job_id in jobs} == jobs
    for job_id, live in jobs.items():
        if live:
            assert told(house, job_id) == before[job_id]
            assert house.controller.get_job_machine_info(job_id).machine_name == after.name
            house.controller.power_on_job_boards(job_id)
    house.hardware()
    assert all(house.controller.get_job_state(job_id).state == JobState.ready for job_id, live in jobs.items() if live)
    for job_id in jobs:
        house.controller.destroy_job(job_id)
    house.hardware()
    house.after(100)
    house.controller.tick()
    house.controller.check()


def test_a_job_that_goes_around_the_axis_that_grows_ends_and_one_around_the_other_does_not() -> None:
    for size, stays in (((8, 2), False), ((24,), True)):
        house = House(WIDE)
        ring = ready(house, *size, require_torus=True)
        house.configure(WIDER)
        assert lives(house, ring) is stays


def test_a_machine_is_parted_and_joined_again_and_jobs_stay_on_their_boards() -> None:
    left = varied(a_machine("left", 4, 2), bmp_ips={(0, 0): "bmp-m-0"}, spinnaker_ips=_part(0))
    right = varied(a_machine("right", 4, 2), bmp_ips={(0, 0): "bmp-m-1"}, spinnaker_ips=_part(4))
    house = House(WIDE)
    jobs = [ready(house, 0, 0, 0, machine="m"), ready(house, 7, 1, 2, machine="m")]
    across = ready(house, 2, 1)
    for machines in ([left, right], [WIDE], [right, left], [WIDE]):
        house.configure(*machines)
        assert [lives(house, job_id) for job_id in jobs] == [True, True]
    assert lives(house, across)
    assert house.hardware() == []


def _part(x: int) -> dict[tuple[int, int, int], str]:
    return {
        (column, y, z): WIDE.spinnaker_ips[column + x, y, z] for column in range(4) for y in range(2) for z in range(3)
    }


def test_a_power_on_under_way_goes_on_and_its_failures_are_those_of_the_same_boards() -> None:
    house = House(WIDE)
    job_id = house.create(0, 0, 0, machine="m")
    house.waiting = house.asked()
    house.bad["bmp-m-0", 0] = "no power"
    house.configure(RENAMED)
    assert house.controller.get_job_state(job_id).state == JobState.power
    house.hardware()
    (bad,) = [view for view in house.controller.board_views("n") if view.out_of_service]
    assert (bad.x, bad.y, bad.z) == (0, 0, 0)


def test_boards_on_their_way_back_are_given_to_nobody_before_they_are_off_and_have_rested() -> None:
    house = House(a_machine("m", 1, 1))
    job_id = ready(house, 3)
    house.controller.destroy_job(job_id)
    house.waiting = house.asked()
    house.configure(varied(a_machine("m", 1, 1), name="n"))
    waits = house.create(3)
    assert house.controller.get_job_state(waits).state == JobState.queued
    house.hardware()
    assert house.controller.get_job_state(waits).state == JobState.queued
    house.after(31)
    house.controller.tick()
    assert house.controller.get_job_state(waits).state == JobState.power


def closed(house: House) -> set[tuple[str, tuple[int, int, int]]]:
    return {
        (view.machine, (view.x, view.y, view.z))
        for view in house.controller.board_views()
        if view.out_of_service is not None
    }


def disable(house: House, board: tuple[int, int, int], machine: str = "m") -> None:
    house.controller.disable_board(machine, board, reason="smokes", by="op")
    house.controller.check()


def restarted(house: House) -> House:
    """The same after a restart, with all that was stored."""
    after = House()
    after.clock.now = house.clock.now
    controller = Controller(clock=after.clock)
    controller.restore(house.controller.snapshot())
    after.controller = controller
    return after


STEPS: list[Callable[[House], House]] = [lambda house: house, restarted]


@pytest.mark.parametrize("step", STEPS, ids=["running", "restarted"])
def test_a_closed_board_stays_closed_whatever_its_machine_is_called(step: Callable[[House], House]) -> None:
    house = House(WIDE)
    disable(house, (7, 1, 2))
    house = step(house)
    house.configure(RENAMED)
    assert closed(house) == {("n", (7, 1, 2))}
    house = step(house)
    house.configure(shifted(WIDE, 3, 11, "o"))
    assert closed(house) == {("o", (10, 1, 2))}
    house = step(house)
    house.configure()
    house = step(house)
    house.configure(RENUMBERED)
    assert closed(house) == {("m", (7, 1, 2))}
    house = step(house)
    house.controller.enable_board("m", (7, 1, 2))
    house.configure(RENAMED)
    assert closed(house) == set()


@pytest.mark.parametrize("step", STEPS, ids=["running", "restarted"])
def test_other_hardware_under_the_old_name_is_not_closed_and_the_old_is_when_it_comes_back(
    step: Callable[[House], House],
) -> None:
    house = House(WIDE)
    disable(house, (0, 0, 1))
    disable(house, (7, 1, 2))
    house.configure(OTHER_BMP)
    assert closed(house) == {("m", (0, 0, 1))}
    house = step(house)
    house.configure(OTHER_BMP, a_machine("k", 1, 1))
    assert closed(house) == {("m", (0, 0, 1))}
    house = step(house)
    house.configure(RENAMED, varied(a_machine("k", 1, 1), name="m"))
    assert closed(house) == {("n", (0, 0, 1)), ("n", (7, 1, 2))}


def test_boards_that_change_places_keep_what_was_said_of_each() -> None:
    house = House(WIDE)
    disable(house, (7, 1, 1))
    house.configure(REWIRED)
    assert closed(house) == {("m", (7, 1, 2))}
    disable(house, (7, 1, 1))
    house.controller.enable_board("m", (7, 1, 2))
    house.configure(WIDE)
    assert closed(house) == {("m", (7, 1, 2))}


def test_another_spelling_of_a_bmps_host_is_the_same_hardware() -> None:
    house = House(WIDE)
    disable(house, (0, 0, 0))
    house.configure(varied(WIDE, bmp_ips={(0, 0): "BMP-M-0.", (0, 1): "bmp-m-1"}))
    assert closed(house) == {("m", (0, 0, 0))}


def test_quarantine_failures_and_reports_go_with_the_board_too() -> None:
    house = House(WIDE)
    house.controller.report_problem("spinn-m-3-0-0", "no answer", reporter="10.0.0.1")
    house.bad["bmp-m-0", 0] = "no power"
    house.create(0, 0, 0, machine="m", max_runtime=None)
    house.hardware()
    before = [house.controller.board_view("m", board) for board in ((0, 0, 0), (3, 0, 0))]
    house.configure(RENAMED)
    after = [house.controller.board_view("n", board) for board in ((0, 0, 0), (3, 0, 0))]
    assert [(view.failures, view.reports, view.strikes, view.trial_at) for view in before] == [
        (view.failures, view.reports, view.strikes, view.trial_at) for view in after
    ]
    assert before[0].failures
    assert before[1].reports


@pytest.mark.parametrize("step", STEPS, ids=["running", "restarted"])
def test_a_closed_frame_and_a_drained_machine_stay_so_under_another_name(step: Callable[[House], House]) -> None:
    house = House(WIDE)
    house.controller.disable_frame("m", (0, 1), reason="fans", by="op")
    house.controller.drain("m", reason="move", by="op")
    house = step(house)
    house.configure(varied(RENUMBERED, name="n"))
    assert closed(house) == {("n", board) for board in WIDE.frames[0, 1]}
    assert [view.drained is not None for view in house.controller.machine_views()] == [True]
    house = step(house)
    house.configure(varied(a_machine("k", 1, 1), name="m"))
    assert closed(house) == set()
    assert [view.drained is not None for view in house.controller.machine_views()] == [False]
    house.configure(varied(WIDE, name="back"))
    assert closed(house) == {("back", board) for board in WIDE.frames[0, 1]}


def test_a_moved_job_survives_a_restart_though_it_asked_for_the_old_name() -> None:
    house = House(WIDE)
    job_id = ready(house, 7, 1, 2, machine="m")
    house.configure(shifted(WIDE, 3, 11, "n"))
    house = restarted(house)
    assert house.controller.set_aside() == []
    assert lives(house, job_id)
    house.configure(WIDE)
    assert lives(house, job_id)
    assert house.controller.get_job_machine_info(job_id).boards == ((7, 1, 2),)


MACHINES = [
    WIDE,
    OTHER_BMP,
    OTHER_HOST,
    REWIRED,
    RENAMED,
    RENUMBERED,
    WIDER,
    shifted(WIDE, 3, 8),
    shifted(WIDE, 2, 10, "o"),
]
SIZES = [(), (3,), (2, 1), (8, 1), (5,), (24,)]


@given(st.lists(st.sampled_from(SIZES), max_size=6), st.lists(st.sampled_from(MACHINES), max_size=5))
def test_whatever_is_reloaded_a_job_that_lives_has_the_same_hardware_and_the_same_machine(
    sizes: list[tuple[int, ...]], machines: list[Machine]
) -> None:
    house = House(WIDE)
    jobs = {house.create(*size): None for size in sizes}
    house.hardware()
    before: dict[int, Any] = {}
    for machine in machines:
        before = {job_id: facts for job_id in jobs if (facts := _facts(house, job_id))}
        house.configure(machine)
        for job_id, facts in before.items():
            if lives(house, job_id):
                assert _facts(house, job_id) == facts
        house.hardware()
    again = restarted(house)
    assert again.controller.set_aside() == []
    assert {job_id: _facts(again, job_id) for job_id in jobs} == {job_id: _facts(house, job_id) for job_id in jobs}


def _facts(house: House, job_id: int) -> Any:
    """What must stay: which hardware the job has, with which links stopped, and what its user was told."""
    job = house.controller.state.jobs.get(job_id)
    if job is None or job.allocation is None:
        return None
    machine, allocation = house.controller.machines[job.allocation.machine], job.allocation
    at = {board: (machine.bmp_ips[place[:2]], place[2]) for board, place in machine.board_locations.items()}
    stopped = {
        (*at[x, y, z], link) for x, y, z, link in stopped_links(machine, allocation.boards, allocation.stopped or ())
    }
    return {at[board] for board in allocation.boards}, stopped, dimensions(allocation), connections(machine, allocation)


def test_what_is_stored_of_boards_that_are_away_is_read_back_or_set_aside() -> None:
    house = House(WIDE)
    disable(house, (0, 0, 0))
    house.configure()
    facts = house.controller.snapshot().facts
    (name,) = [name for name in facts if name.startswith("board/")]
    assert name == "board/0/bmp-m-0"
    for bad in ({}, {**facts[name], "by": None}, 3):
        controller = Controller()
        (row,) = controller.restore(Snapshot(facts={**facts, name: bad}))
        assert row.key == name or name in row.key
        controller.configure(Configuration([WIDE]))
        controller.check()
