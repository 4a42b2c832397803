"""The sizes and link counts are those that the published server gives for the same blocks."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, strategies as st

from spalloc_server.coordinates import WrapAround, board_down_link, board_to_chip
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.layout import (
    as_told_before,
    connections,
    dimensions,
    frame_work,
    machine_chip,
    stopped_links,
)
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.links import Links
from tests.core.machines import a_machine, triads


def a_block(machine_width: int, machine_height: int, x: int, y: int, width: int, height: int) -> tuple:  # type: ignore[type-arg]
    machine = a_machine("m", machine_width, machine_height)
    occupancy = Occupancy(machine)
    planes = occupancy.torus.planes(triads(x, y, width, height, machine))
    request = Request(owner="someone", triads=(width, height))
    return machine, occupancy.allocation(request, ((x, y, width, height), planes))


@pytest.mark.parametrize(
    ("machine_size", "block", "chips", "boards", "periphery"),
    [
        ((1, 1), (1, 1), (12, 12), 3, 0),
        ((4, 2), (1, 1), (16, 16), 3, 12),
        ((4, 2), (1, 2), (16, 24), 6, 16),
        ((4, 2), (2, 1), (28, 16), 6, 20),
        ((4, 2), (4, 1), (48, 16), 12, 32),
        ((4, 2), (4, 2), (48, 24), 24, 0),
        ((8, 5), (8, 5), (96, 60), 120, 0),
        ((8, 5), (3, 3), (40, 40), 27, 44),
        ((20, 20), (10, 20), (124, 240), 600, 160),
    ],
)
def test_sizes_and_peripheries_of_known_blocks(
    machine_size: tuple[int, int], block: tuple[int, int], chips: tuple[int, int], boards: int, periphery: int
) -> None:
    machine, allocation = a_block(*machine_size, 0, 0, *block)
    assert dimensions(allocation) == chips
    assert len(allocation.boards) == boards
    assert len(list(stopped_links(machine, allocation.boards, allocation.stopped))) == periphery


def test_a_single_board_has_a_size_of_its_own_and_no_live_links() -> None:
    machine = a_machine("m", 4, 2)
    allocation = Allocation(machine="m", x=2, y=1, width=1, height=1, boards=((2, 1, 2),), single=True)
    assert dimensions(allocation) == (8, 8)
    assert connections(machine, allocation) == [((0, 0), "spinn-m-2-1-2")]
    assert list(stopped_links(machine, allocation.boards)) == [(2, 1, 2, link) for link in Links]
    assert machine_chip(machine, allocation, (1, 2)) == (24 + 4 + 1, 12 + 8 + 2)


@given(st.data())
def test_a_block_looks_the_same_to_its_job_wherever_it_lies(data: st.DataObject) -> None:
    machine_width, machine_height = data.draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    width, height = data.draw(st.tuples(st.integers(1, machine_width), st.integers(1, machine_height)))
    x, y = data.draw(st.tuples(st.integers(0, machine_width - 1), st.integers(0, machine_height - 1)))
    machine, there = a_block(machine_width, machine_height, x, y, width, height)
    _, here = a_block(machine_width, machine_height, 0, 0, width, height)
    assert dimensions(there) == dimensions(here)
    assert [chip for chip, _ in connections(machine, there)] == [chip for chip, _ in connections(machine, here)]
    assert len(list(stopped_links(machine, there.boards, there.stopped))) == len(
        list(stopped_links(machine, here.boards, here.stopped))
    )
    assert connections(machine, there)[0] == ((0, 0), machine.spinnaker_ips[x, y, 0])
    assert machine_chip(machine, there, (0, 0)) == board_to_chip(x, y, 0)


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_a_link_is_stopped_exactly_where_it_leaves_the_job(boards: set[tuple[int, int, int]]) -> None:
    machine = a_machine("m", 4, 3)
    stopped = set(stopped_links(machine, boards))
    for board in boards:
        for link in Links:
            *other, _ = board_down_link(*board, link, 4, 3)
            assert ((*board, link) in stopped) == (tuple(other) not in boards)


def test_both_ends_of_a_dead_link_inside_a_job_are_stopped() -> None:
    occupancy = Occupancy(a_machine("m", 2, 2, dead_links={(0, 0, 0, Links.north)}))
    boards = occupancy.torus.planes(triads(0, 0, 2, 2, occupancy.machine))
    allocation = occupancy.allocation(Request(owner="someone", triads=(2, 2)), ((0, 0, 2, 2), boards))
    assert dimensions(allocation) == (24, 24)
    assert set(allocation.stopped or ()) == {(0, 0, 0, Links.north), (0, 0, 2, Links.south)}


def test_a_job_without_all_of_its_block_does_not_wrap_around() -> None:
    occupancy = Occupancy(a_machine("m", 1, 1))
    assert dimensions(occupancy.allocation(Request(owner="me", boards=3), ((0, 0, 1, 1), (1, 1, 1)))) == (12, 12)
    occupancy = Occupancy(a_machine("m", 2, 1))
    allocation = occupancy.allocation(Request(owner="me", boards=5), ((0, 0, 2, 1), (3, 3, 1)))
    assert dimensions(allocation) == (28, 16)
    stopped = set(allocation.stopped or ())
    assert (1, 0, 1, Links.east) in stopped  # over the edge, to a board of the job's own
    assert (0, 0, 0, Links.west) in stopped
    assert (0, 0, 1, Links.east) not in stopped


def test_edges_whose_links_are_dead_do_not_wrap() -> None:
    cut = {(x, y, z, link) for x, y, z, link in product(range(2), [0], range(3), Links)}
    edge = {link for link in cut if board_down_link(*link, 2, 1)[3] & WrapAround.x}
    occupancy = Occupancy(a_machine("m", 2, 1, dead_links=edge))
    whole = occupancy.torus.planes(triads(0, 0, 2, 1, occupancy.machine))
    allocation = occupancy.allocation(Request(owner="me", triads=(2, 1)), ((0, 0, 2, 1), whole))
    assert dimensions(allocation) == (28, 12)


def test_what_was_told_before_wraps_were_stored_is_told_again() -> None:
    machine = a_machine("m", 2, 1, dead_links={(0, 0, 0, Links.north)})
    boards = tuple(board for board in triads(0, 0, 2, 1, machine) if board != (1, 0, 2))
    old = Allocation(machine="m", x=0, y=0, width=2, height=1, boards=boards, wraps=None, stopped=None)
    told = as_told_before(machine, old)
    assert dimensions(told) == (24, 12)
    assert set(told.stopped or ()) == {(0, 0, 0, Links.north), (0, 0, 2, Links.south)}


def test_the_hardware_gets_numbers_within_frames() -> None:
    machine = a_machine("m", 5, 2)
    work = frame_work(machine, [(0, 0, 0), (0, 0, 1), (4, 1, 2)], [(4, 1, 2, Links.north), (4, 1, 2, Links.east)])
    assert [(frame.bmp, frame.boards, frame.stopped) for frame in work] == [
        ("bmp-m-0", (0, 1), ()),
        ("bmp-m-1", (5,), ((5, Links.east), (5, Links.north))),
    ]
