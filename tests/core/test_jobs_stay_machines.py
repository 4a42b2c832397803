"""A job stays what it was told to be: no reload, and no restart, changes a live job's size, chips or links."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import assume, given, settings, strategies as st

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board, BoardLink, WrapAround
from spalloc_server.links import Links
from tests.core.machines import a_machine
from tests.worlds import World

REQUESTS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((4,), {}),
    ((2, 2), {}),
    ((3, 2), {}),
    ((3, 3), {}),
    ((9,), {"require_torus": True}),
    ((13,), {"min_ratio": 0.5}),
]

boards = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))
links: st.SearchStrategy[BoardLink] = st.builds(lambda board, link: (*board, link), boards, st.sampled_from(Links))


def changed(machine: Machine, dead_boards: set[Board], dead_links: set[BoardLink]) -> Machine:
    return a_machine(
        machine.name,
        machine.width,
        machine.height,
        dead_boards=machine.dead_boards | dead_boards,
        dead_links=machine.dead_links | dead_links,
    )


def answers(controller: Controller, job_ids: list[int]) -> list[object]:
    """All that users are told of where their jobs are."""
    told: list[object] = []
    for job_id in job_ids:
        info = controller.get_job_machine_info(job_id)
        told.append(info)
        for x, y, z in info.boards or ():
            told.append(controller.where_is(machine="m", x=x, y=y, z=z))
        told += [
            controller.where_is(job_id=job_id, chip_x=x, chip_y=y) for x in range(0, 40, 3) for y in (0, 5, 13, 38)
        ]
    return told


@st.composite
def busy_worlds(draw: st.DrawFn) -> tuple[World, list[int]]:
    """A 3 x 3 machine on which some jobs have boards."""
    machine = a_machine("m", 3, 3, dead_links=draw(st.sets(links, max_size=draw(st.sampled_from([0, 3])))))
    world = World(machine)
    asked = draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))
    jobs = [world.create(*sizes, **kwargs) for sizes, kwargs in asked]
    return world, [job_id for job_id in jobs if world.boards(job_id)]


@settings(max_examples=60)
@given(busy_worlds(), st.sets(boards, max_size=3), st.sets(links, min_size=1, max_size=20))
def test_a_reload_and_a_restart_leave_the_answers_about_live_jobs_alone(
    situation: tuple[World, list[int]], dead_boards: set[Board], dead_links: set[BoardLink]
) -> None:
    world, job_ids = situation
    assume(job_ids)
    before = answers(world.controller, job_ids)
    world.configure(changed(world.machine, dead_boards, dead_links))
    assert answers(world.controller, job_ids) == before
    again = Controller(clock=lambda: world.now)
    again.restore(world.controller.snapshot())
    assert answers(again, job_ids) == before
    again.configure(Configuration([changed(world.machine, set(), {(0, 0, 0, Links.east)})], seconds_before_free=0))
    assert answers(again, job_ids) == before


@settings(max_examples=60)
@given(busy_worlds(), st.sets(links, min_size=1, max_size=20))
def test_the_links_that_are_stopped_are_the_same_after_a_reload_and_a_reset(
    situation: tuple[World, list[int]], dead_links: set[BoardLink]
) -> None:
    world, job_ids = situation
    assume(job_ids)
    before = {job_id: world.stopped[job_id] for job_id in job_ids}
    world.configure(changed(world.machine, set(), dead_links))
    for job_id in job_ids:
        world.controller.power_on_job_boards(job_id)
    world.stopped.clear()
    world.switch()
    assert {job_id: world.stopped[job_id] for job_id in job_ids} == before


def test_a_job_from_before_wraps_were_stored_goes_on_as_it_was_told_then() -> None:
    machine = a_machine("m", 2, 1)
    world = World(machine)
    job_id = world.create(2, 1)
    snapshot = world.controller.snapshot()
    (row,) = snapshot.jobs
    assert row.allocation is not None
    five = tuple(board for board in row.allocation.boards if board != (1, 0, 2))
    row.allocation = msgspec.structs.replace(row.allocation, boards=five, wraps=None, stopped=None)
    again = Controller(clock=lambda: world.now)
    again.restore(snapshot)
    again.configure(Configuration([changed(machine, set(), {(0, 0, 0, Links.north)})], seconds_before_free=0))
    info = again.get_job_machine_info(job_id)
    assert (info.width, info.height, info.boards) == (24, 12, five)
    again.power_on_job_boards(job_id)
    (switch,) = again.take_switches()
    stopped = {end for frame in switch.frames for end in frame.stopped}
    number = {board: number for board, (_, _, number) in machine.board_locations.items()}
    assert (number[0, 0, 0], Links.north) not in stopped, "the link died after the job had got its boards"
    assert (number[1, 0, 1], Links.west) in stopped, "it leads out of the job"
    stored = again.take_changes().jobs[job_id].allocation
    assert stored is not None
    assert (stored.wraps, stored.stopped) == (WrapAround.both, ())
