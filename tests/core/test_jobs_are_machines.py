"""Every job is a machine: what its user is told is what SCAMP finds, on any machine, among any other jobs.

Jobs are made as users make them, and judged from outside: by the boards and links that the hardware was told of,
against an independent model of SCAMP's rule (`tests.scamp_rule`), and by brute force (`tests.core.machine_oracle`).
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.coordinates import Board, BoardLink, WrapAround, board_down_link
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.request import Request
from spalloc_server.links import Links
from tests.core import machine_oracle as oracle
from tests.core.machines import a_machine
from tests.core.oracle import BlockAt
from tests.scamp_rule import Job, verdict
from tests.worlds import World

SIZES = st.integers(1, 6)
SMALL = st.integers(1, 3)
FILLS = st.sampled_from([2 / 3, 2 / 3, 0.0, 0.9, 1.0])
RATIOS = st.sampled_from([0.0, 0.0, 0.333, 0.5, 1.0]) | st.floats(0, 1)


@st.composite
def machines(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> Machine:
    """A machine of any size, some of its boards and links dead, perhaps all links over one edge or both."""
    width, height = draw(sizes), draw(sizes)
    board = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 2))
    link: st.SearchStrategy[BoardLink] = st.builds(lambda b, link: (*b, link), board, st.sampled_from(Links))
    dead_links = draw(st.sets(link, max_size=draw(st.sampled_from([0, 0, 2, 8]))))
    cut = draw(st.sampled_from([WrapAround.none, WrapAround.none, WrapAround.x, WrapAround.y, WrapAround.both]))
    for edge in product(range(width), range(height), range(3), Links):
        *_, wrapped = board_down_link(*edge, width, height)
        if wrapped & cut:
            dead_links.add(edge)
    dead_boards = draw(st.sets(board, max_size=draw(st.sampled_from([0, 0, 1, 4]))))
    return a_machine("m", width, height, dead_boards=dead_boards, dead_links=dead_links)


@st.composite
def worlds(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> World:
    """A machine some of whose boards are busy."""
    world = World(draw(machines(sizes)), with_fill(draw(FILLS)))
    live = sorted(world.machine.live_boards)
    busy = draw(st.sets(st.sampled_from(live), max_size=draw(st.sampled_from([0, 2, 12])))) if live else ()
    for board in sorted(busy):
        world.create(*board, machine="m")
    return world


def free_boards(world: World) -> set[Board]:
    jobs = world.controller.list_jobs()
    return set(world.machine.live_boards) - {board for job in jobs for board in job.boards or ()}


def rectangle(job: Job) -> tuple[int, int]:
    """The block that a job was told, in triads."""
    return job.size[0] // 12, job.size[1] // 12


def a_request(boards: int | None = None, triads: tuple[int, int] | None = None, **what: Any) -> Request:
    return Request(owner="someone", boards=boards, triads=triads, **what)


def with_fill(share: float) -> Scheduling:
    """Settings with this `min_fill`, where there is such a setting."""
    setting: dict[str, Any] = {"min_fill": share}
    return Scheduling(**setting if "min_fill" in Scheduling.__struct_fields__ else {})


def min_fill(world: World) -> Fraction:
    """The least share of a rectangle that boards fill, exactly as it was written."""
    return Fraction(getattr(world.scheduling, "min_fill", 2 / 3)).limit_denominator(10_000)


# ---------------------------------------------------------------- what a job gets


@settings(max_examples=100)
@given(worlds(), st.integers(1, 60), RATIOS, st.sampled_from([None, 0, 3]))
def test_a_job_for_some_boards_is_a_machine(
    world: World, boards: int, ratio: float, max_dead_links: int | None
) -> None:
    job = world.job(world.create(boards, min_ratio=ratio, max_dead_boards=0, max_dead_links=max_dead_links))
    if job is None:
        return
    assert verdict(job) == []
    assert len(job.boards) == (boards if boards != 2 else 3)
    if boards > 1:
        width, height = rectangle(job)
        assert min(width, height) >= ratio * max(width, height) - 1e-9


@pytest.mark.parametrize("boards", [0, -1, -(10**9)])
def test_no_number_of_boards_that_is_none_gets_a_torus(boards: int) -> None:
    world = World(a_machine("m", 2, 2))
    job_id = world.create(boards, require_torus=True)
    assert world.controller.get_job_state(job_id).state == JobState.destroyed


@settings(max_examples=100)
@given(worlds(), st.integers(2, 60), RATIOS)
def test_a_job_for_some_boards_gets_all_of_them_or_as_many_as_work(world: World, boards: int, ratio: float) -> None:
    job = world.job(world.create(boards, min_ratio=ratio))
    if job is None:
        return
    request = a_request(boards, min_ratio=ratio)
    if boards == 1 or oracle.could_be_placed(world.machine, request, world.machine.live_boards, Fraction(0)):
        assert len(job.boards) == (boards if boards != 2 else 3), "it could wait for all of them"
        assert verdict(job) == []
    elif len(job.boards) < max(3, boards):
        width, height = rectangle(job)
        assert len(job.boards) < max(3, boards) <= 3 * width * height
        assert world.machine.dead_boards or world.machine.dead_links


@settings(max_examples=100)
@given(worlds(), st.integers(2, 40), RATIOS, st.sampled_from([None, 0]))
def test_a_torus_is_a_machine_that_goes_around(world: World, boards: int, ratio: float, dead: int | None) -> None:
    job = world.job(world.create(boards, require_torus=True, min_ratio=ratio, max_dead_boards=dead))
    if job is None:
        return
    assert verdict(job) == []
    assert any(size % 12 == 0 for size in job.size)
    if dead == 0:
        assert len(job.boards) >= boards


def spanned(machine: Machine, block: BlockAt, boards: set[Board]) -> bool:
    """Whether boards reach all ends of a block at which they do not go around the machine."""
    return oracle.complete(machine, block, boards) or any(
        oracle.spans(machine, block, boards, axes) for axes in oracle.rings(machine, block, boards)
    )


def test_a_rectangle_waits_for_a_machine_where_another_job_has_the_only_one() -> None:
    dead = {(0, 0, 0), (0, 0, 1), (1, 1, 1)}
    world = World(a_machine("m", 5, 2, dead_boards=dead))
    holders = [world.create(*board, machine="m") for board in ((0, 0, 2), (0, 1, 0), (1, 0, 0))]
    waiting = world.create(4, 1, max_dead_boards=100)
    assert world.job(waiting) is None
    assert world.controller.get_job_state(waiting).state == JobState.queued
    for holder in holders:
        world.destroy(holder)
    job = world.job(waiting)
    assert job is not None
    assert verdict(job) == []


@settings(max_examples=100)
@given(worlds(), SIZES, SIZES, st.sampled_from([0, 1, 5, 100]), st.booleans())
def test_a_rectangle_is_a_machine_if_any_is(world: World, width: int, height: int, dead: int, torus: bool) -> None:
    request = a_request(triads=(width, height), max_dead_boards=dead)
    fits = width <= world.machine.width and height <= world.machine.height
    blocks = list(oracle.whole_blocks(world.machine, request, free_boards(world))) if fits else []
    idle = oracle.whole_blocks(world.machine, request, world.machine.live_boards) if fits else ()
    if any(spanned(world.machine, *block) for block in idle):  # it waits for such a block, if none is free
        blocks = [block for block in blocks if spanned(world.machine, *block)]
    job = world.job(world.create(width, height, max_dead_boards=dead, require_torus=torus))
    if job is None:
        assert torus or not blocks, "it waits, or was refused, and there is a place for it"
        return
    assert rectangle(job) == (width, height)
    assert 3 * width * height - len(job.boards) <= dead
    if torus:
        assert any(size % 12 == 0 for size in job.size)
    elif any(oracle.complete(world.machine, block, boards) for block, boards in blocks):
        assert verdict(job) == []


@settings(max_examples=100)
@given(worlds(), st.integers(2, 60), RATIOS)
def test_a_job_fills_its_rectangle_or_has_a_tightest_one(world: World, boards: int, ratio: float) -> None:
    job = world.job(world.create(boards, min_ratio=ratio, max_dead_boards=0))
    if job is None:
        return
    request = a_request(boards, min_ratio=ratio)
    assert oracle.compact_enough(world.machine, request, rectangle(job), min_fill(world))


# ---------------------------------------------------------------- what there is, is found


@settings(max_examples=100)
@given(worlds(SMALL | SIZES), st.integers(2, 40), RATIOS)
def test_what_waits_brute_force_finds_no_place_for(world: World, boards: int, ratio: float) -> None:
    machine, request = world.machine, a_request(boards, min_ratio=ratio)
    free = free_boards(world)
    job_id = world.create(boards, min_ratio=ratio, max_dead_boards=0)
    placeable = oracle.could_be_placed(machine, request, free, min_fill(world))
    assert (world.job(job_id) is not None) == placeable
    if not placeable:
        cancelled = world.controller.get_job_state(job_id).state == JobState.destroyed
        assert cancelled != oracle.could_be_placed(machine, request, machine.live_boards, min_fill(world))


@settings(max_examples=60)
@given(machines(SMALL), st.integers(2, 27), RATIOS, FILLS)
def test_no_job_is_impossible_or_waits_because_it_would_not_be_compact(
    machine: Machine, boards: int, ratio: float, share: float
) -> None:
    request = a_request(boards, min_ratio=ratio)
    possible = oracle.could_be_placed(machine, request, machine.live_boards, Fraction(0))
    world = World(machine, with_fill(share))
    assert (world.job(world.create(boards, min_ratio=ratio, max_dead_boards=0)) is not None) == possible


@settings(max_examples=60)
@given(machines(st.integers(1, 2)), st.data())
def test_the_oracle_finds_what_trying_all_sets_finds(machine: Machine, data: st.DataObject) -> None:
    assume(machine.live_boards)
    live = sorted(machine.live_boards)
    usable = data.draw(st.sets(st.sampled_from(live)))
    shape = data.draw(st.sampled_from(list(product(range(1, machine.width + 1), range(1, machine.height + 1)))))
    block = (data.draw(st.integers(0, machine.width - 1)), data.draw(st.integers(0, machine.height - 1)), *shape)
    for boards in range(3, 13):
        assert oracle.serves(machine, block, usable, boards) == oracle.some_set(machine, block, usable, boards)
