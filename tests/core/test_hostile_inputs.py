"""The inputs on which placement is measured, and how its floods are counted."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from itertools import islice
from random import Random
from typing import Any

import pytest

from benchmarks.hostile import PATTERNS, Input, a_machine, counting_floods, found_slow, grid
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.effort import Effort, allowance
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.search import nearest_size, place
from spalloc_server.core.placement.shapes import shapes_for
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Torus, count
from spalloc_server.core.placement.windows import MAX_KEPT, Windows


def test_floods_and_their_layers_are_counted_and_only_meanwhile() -> None:
    topology = Topology(Torus(1, 1), (), ())
    with counting_floods() as counted:
        assert count(topology.flooded((1, 0, 0), topology.live, (0, 0, 1, 1), Effort(1))) == 3
        list(topology.layers((1, 0, 0), topology.live, (0, 0, 1, 1)))
    topology.flooded((1, 0, 0), topology.live, (0, 0, 1, 1), Effort(1))
    assert (counted.floods, counted.layers) == (2, 4), "twice: the board itself, then the two others"


@pytest.mark.parametrize(
    ("pattern", "boards"),
    [("empty", 1200), ("checkerboard", 600), ("board by board", 600), ("comb", 630), ("serpentine", 3 * 199)],
)
def test_patterns_leave_so_many_boards_free(pattern: str, boards: int) -> None:
    assert Input("", a_machine(20, 20), Request(owner="me", boards=3), pattern).free_boards().size == boards


@pytest.mark.slow
def test_dead_boards_are_never_free() -> None:
    for given in (*found_slow(), *islice(grid(20, every=400), 15)):
        free_boards = given.free_boards()
        assert not {*free_boards.torus.boards(free_boards.free)} & given.machine.dead_boards


def test_the_grid_has_every_pattern_with_every_number_of_dead_boards() -> None:
    seen = {(given.pattern, len(given.machine.dead_boards)) for given in grid(10, every=50)}
    assert seen == {(pattern, dead) for pattern in PATTERNS for dead in (0, 3, 15)}


SEARCHES = 3
"""A command can lead to so many searches: on what is free, and twice on the idle machine."""


@pytest.mark.parametrize("given", [*found_slow(), *grid(20, every=397)], ids=lambda given: given.name)
def test_no_search_floods_for_more_than_its_allowance(given: Input) -> None:
    free_boards = given.free_boards()
    with counting_floods() as counted:
        place(given.request, free_boards)
    assert counted.layers <= SEARCHES * allowance(free_boards.torus.size)


@pytest.mark.parametrize("what", [{}, {"min_ratio": 0.5, "max_dead_links": 0}, {"require_torus": True}])
def test_a_number_of_boards_that_works_is_looked_for_at_the_cost_of_some_searches(what: dict[str, Any]) -> None:
    random = Random(1)
    boards = [(x, y, z) for x in range(20) for y in range(20) for z in range(3)]
    topology = Topology(Torus(20, 20), random.sample(boards, 540), ())
    with counting_floods() as counted:
        nearest_size(
            Request(owner="me", boards=495, max_dead_boards=1, **what),
            FreeBoards(topology, topology.live),
            Effort(topology.torus.size),
        )
    assert counted.layers <= (1 + 1 + SEARCHES) * allowance(400), "what is allowed, and a last search beyond it"


def test_the_number_of_boards_that_works_may_be_far_from_what_was_asked_for() -> None:
    topology = Topology(Torus(5, 2), (), ())
    square = Request(owner="me", boards=26, min_ratio=1.0)
    assert nearest_size(square, FreeBoards(topology, topology.live), Effort(topology.torus.size)) == 12


def test_one_board_is_a_number_that_works() -> None:
    topology = Topology(Torus(1, 1), [(0, 0, 2)], ())
    request = Request(owner="me", boards=2, max_dead_boards=0)
    assert nearest_size(request, FreeBoards(topology, topology.live), Effort(topology.torus.size)) == 1


@pytest.mark.slow
def test_what_is_kept_of_blocks_is_bounded_and_comes_out_the_same() -> None:
    torus = Torus(100, 100)
    windows = Windows(torus, torus.wide.ones)
    shapes = [(width, height) for width in range(80, 100) for height in range(80, 100)]
    tracemalloc.start()
    try:
        for shape in shapes:
            assert windows.most(*shape) == shape[0] * shape[1]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2.5 * MAX_KEPT, "two bytes for each triad, and the columns besides"
    assert windows.at_least(*shapes[0], 80 * 80) == torus.full
    assert [windows.knows(80, 80, 80 * 80 + more) for more in (0, 1)] == [True, True]
    assert [windows.knows(80, 82, 80 * 82 + more) for more in (0, 1)] == [False, True]


@pytest.mark.slow
def test_the_shapes_that_many_requests_allow_take_little_memory() -> None:
    shapes_for.cache_clear()
    tracemalloc.start()
    try:
        kept = sum(len(shapes_for(boards, 100, 100, 0.0, Fraction(0))) for boards in range(12_000, 12_050))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 30 * kept
