"""No placement is wrong, and none that there is is missed: checked against brute force on small machines.

Whether a job is a machine is judged from outside in `test_jobs_are_machines`; here are the promises of requests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings, strategies as st

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, BoardLink, board_down_link
from spalloc_server.core.model import Request
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import place
from spalloc_server.core.placement.shapes import looser_shapes
from spalloc_server.core.placement.torus import Block
from spalloc_server.links import Links
from tests.core import machine_oracle, oracle
from tests.core.machines import a_machine
from tests.house import ROOT

MOST_DEAD_LINKS = 4
"""Dead links for which brute force tries all choices of boards to leave out."""

FILL = Fraction(2, 3)


def a_request(**what: object) -> Request:
    return Request(owner="someone", **what)  # type: ignore[arg-type]


def placed(machine: Machine, request: Request, busy: Collection[Board] = ()) -> tuple[Block, tuple[Board, ...]] | None:
    occupancy = Occupancy(machine, FILL)
    occupancy.hold([board for board in busy if board not in machine.dead_boards], 1)
    found = place(request, occupancy.free_boards_of(occupancy.free))
    return found and (found[0], occupancy.torus.boards(found[1]))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Machine, frozenset[Board]]:
    """A small machine, a few of its boards and links dead, and some of its boards busy."""
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    board = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 2))
    link: st.SearchStrategy[BoardLink] = st.builds(lambda b, link: (*b, link), board, st.sampled_from(Links))
    machine = a_machine(
        "m",
        width,
        height,
        dead_boards=draw(st.sets(board, max_size=3)),
        dead_links=draw(st.sets(link, max_size=6)),
    )
    return machine, draw(st.frozensets(board, max_size=draw(st.sampled_from([0, 3, 12]))))


requests = st.builds(
    lambda sizes, **rest: a_request(**sizes, **rest),
    st.one_of(
        st.builds(lambda n: {"boards": n}, st.integers(2, 50)),
        st.builds(
            lambda w, h, root: {"triads": (w, h), "root": root},
            st.integers(1, 5),
            st.integers(1, 5),
            st.none() | st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
        ),
    ),
    min_ratio=st.sampled_from([0.0, 0.333, 0.5, 1.0]),
    max_dead_boards=st.sampled_from([None, 0, 1, 5]),
    max_dead_links=st.sampled_from([None, None, 0, 1]),
    require_torus=st.booleans(),
)


@settings(max_examples=150)
@given(situations(), requests)
def test_a_placement_keeps_every_promise(situation: tuple[Machine, frozenset[Board]], request: Request) -> None:
    machine, busy = situation
    found = placed(machine, request, busy)
    if found is None:
        return
    block, boards = found
    free = set(machine.live_boards) - busy
    assert len(set(boards)) == len(boards)
    assert list(boards) == sorted(boards)
    assert set(boards) <= free & oracle.boards_of(machine, block)
    assert (block[0], block[1], 0) in boards
    assert machine_oracle.connected(machine, block, boards) == set(boards)
    assert block in set(machine_oracle.blocks_for(machine, request))
    assert machine_oracle.few_dead_links(machine, request, block, boards)
    wanted = 3 * block[2] * block[3] if request.boards is None else machine_oracle.wanted(request)
    if machine_oracle.is_part(request):
        assert len(boards) <= wanted
    if not machine_oracle.is_part(request) or len(boards) < wanted:  # a whole block
        assert set(boards) == machine_oracle.connected(machine, block, machine.live_boards)
        assert oracle.boards_of(machine, block) & set(machine.live_boards) <= free
        assert request.max_dead_boards is None or request.asked - len(boards) <= request.max_dead_boards
    if request.require_torus:
        assert machine_oracle.rings(machine, block, boards)


@settings(max_examples=150)
@given(situations(), requests)
def test_what_is_refused_brute_force_refuses_too(situation: tuple[Machine, frozenset[Board]], request: Request) -> None:
    machine, busy = situation
    assume(request.max_dead_links is None or len(machine.dead_links) <= MOST_DEAD_LINKS)
    if placed(machine, request, busy) is not None:
        return
    free = set(machine.live_boards) - busy
    if machine_oracle.is_part(request):
        assert not machine_oracle.part(machine, request, free, FILL)
        assert (
            request.max_dead_boards == 0
            or not machine_oracle.whole(machine, request, machine.live_boards, spanned=False)
            or busy
        )
    else:
        assert not machine_oracle.whole(machine, request, free, spanned=True)
        if not (request.require_torus or machine_oracle.whole(machine, request, machine.live_boards, spanned=True)):
            assert not machine_oracle.whole(machine, request, free, spanned=False)


@settings(max_examples=150)
@given(situations(), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from([None, 0, 2]))
def test_where_a_rectangle_may_begin_anywhere_one_of_those_that_begin_at_a_certain_triad_is_given(
    situation: tuple[Machine, frozenset[Board]], triads: tuple[int, int], dead: int | None
) -> None:
    machine, _ = situation
    anywhere = placed(machine, a_request(triads=triads, max_dead_boards=dead))
    rooted = {
        (x, y): placed(machine, a_request(triads=triads, max_dead_boards=dead, root=(x, y)))
        for x in range(machine.width)
        for y in range(machine.height)
    }
    assert all(found is None or found[0] == (*root, *triads) for root, found in rooted.items())
    assert (anywhere is None) == all(found is None for found in rooted.values())
    assert anywhere is None or rooted[anywhere[0][:2]] == anywhere


@pytest.mark.parametrize("dead", [{(2, 0, 1), (2, 1, 1)}, {(0, 1, 2), (1, 1, 2), (2, 1, 2)}], ids=str)
def test_all_that_works_is_given_where_it_goes_around_the_machine_although_its_far_end_is_dead(
    dead: set[Board],
) -> None:
    machine = a_machine("m", 3, 2, dead_boards=dead)
    working = sorted(machine.live_boards)
    found = placed(machine, a_request(boards=len(working)))
    assert found is not None
    block, boards = found
    assert (block[2:], list(boards)) == ((3, 2), working)
    fewer = placed(machine, a_request(boards=len(working) - 1))
    assert fewer is not None
    assert len(fewer[1]) == len(working) - 1
    assert placed(machine, a_request(boards=len(working)), [working[-1]]) is None


def test_a_link_that_is_dead_from_both_ends_is_one_dead_link() -> None:
    both_ends = {(0, 0, 0, Links.north_east), (0, 0, 1, Links.south_west)}
    assert board_down_link(0, 0, 0, Links.north_east, 1, 1)[:3] == (0, 0, 1)
    machine = a_machine("m", 1, 1, dead_links=both_ends)
    assert placed(machine, a_request(boards=3, max_dead_links=1)) is not None
    assert placed(machine, a_request(boards=3, max_dead_links=0)) is None


GIVE_TWICE = """
from tests.core.machines import a_machine
from spalloc_server.core.placement.occupancy import Occupancy
occupancy = Occupancy(a_machine("m", 1, 1))
occupancy.hold([(0, 0, 0)], 1)
occupancy.hold([(0, 0, 0)], 2)
"""


@pytest.mark.parametrize("optimize", ["", "1", "2"])
def test_no_board_is_given_to_two_jobs_where_asserts_are_turned_off_either(optimize: str) -> None:
    command = [sys.executable, "-c", GIVE_TWICE]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONOPTIMIZE": optimize}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "is held already" in done.stderr


def test_rectangles_that_are_not_tight_are_tried_from_the_smallest_on() -> None:
    areas = [width * height for width, height in looser_shapes(40, 12, 10, 0.0, Fraction(1, 1))]
    assert areas == sorted(areas)
    assert len({*areas}) > 10


@pytest.mark.parametrize("board", [(-1, 1, 0), (0, -1, 0), (0, 0, -1), (4, 0, 0), (0, 3, 0), (0, 0, 3)], ids=str)
def test_a_board_outside_the_machine_is_none_of_its_boards(board: Board) -> None:
    assert placed(a_machine("m", 4, 3), a_request(board=board)) is None


def test_what_a_search_costs_is_counted_whatever_is_searched_for() -> None:
    hall = Occupancy(a_machine("m", 4, 4))
    for search in (
        lambda: hall.place(a_request(boards=9), FreeBoards(hall.topology, hall.free)),
        lambda: hall.nearest_size(a_request(boards=1000)),
    ):
        before = hall.work.left
        assert search() is not None
        assert hall.work.left < before
