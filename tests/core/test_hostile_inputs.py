"""The inputs on which placement is measured, and how its floods are counted."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.hostile import PATTERNS, Input, a_machine, counting_floods, found_slow, grid
from spalloc_server.core.effort import Effort, allowance
from spalloc_server.core.messages import Request
from spalloc_server.core.placement import place
from spalloc_server.core.topology import Topology
from spalloc_server.core.torus import Torus, count


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
    assert Input("", a_machine(20, 20), Request(owner="me", boards=3), pattern).ground().size == boards


def test_dead_boards_are_never_free() -> None:
    for given in (*found_slow(), *islice(grid(20, every=400), 15)):
        ground = given.ground()
        assert not {*ground.torus.boards(ground.free)} & given.machine.dead_boards


def test_the_grid_has_every_pattern_with_every_number_of_dead_boards() -> None:
    seen = {(given.pattern, len(given.machine.dead_boards)) for given in grid(10, every=50)}
    assert seen == {(pattern, dead) for pattern in PATTERNS for dead in (0, 3, 15)}


SEARCHES = 3
"""A command can lead to so many searches: on what is free, and twice on the idle machine."""


@pytest.mark.parametrize("given", [*found_slow(), *grid(20, every=397)], ids=lambda given: given.name)
def test_no_search_floods_for_more_than_its_allowance(given: Input) -> None:
    ground = given.ground()
    with counting_floods() as counted:
        place(given.request, ground)
    assert counted.layers <= SEARCHES * allowance(ground.torus.size)
