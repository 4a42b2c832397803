"""Sets of triads as bits do what sets of coordinates do; sums over blocks, and what a search costs, are as promised."""

from __future__ import annotations

import random
from itertools import product

import pytest

from spalloc_server.core.placement import topology as topologies, windows as sums
from spalloc_server.core.placement.effort import LEAST_ALLOWANCE, Effort, EffortSpent, allowance
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Planes, Torus, count, origins, overlap, union, without
from spalloc_server.core.placement.windows import Windows, board_counts
from spalloc_server.links import Links

Triads = set[tuple[int, int]]
SIZES = [(1, 1), (1, 3), (2, 1), (2, 2), (3, 4), (5, 2), (4, 4)]


def some(width: int, height: int, seed: int) -> Triads:
    choose = random.Random(seed)
    return {at for at in product(range(width), range(height)) if choose.random() < choose.choice([0.2, 0.5, 0.8])}


def bits(torus: Torus, triads: Triads) -> int:
    return sum(torus.triad(x, y) for x, y in triads)


def triads(torus: Torus, plane: int) -> Triads:
    assert 0 <= plane < 1 << torus.width * torus.height
    return {(at % torus.width, at // torus.width) for at in origins(plane)}


def numbers(torus: Torus, counters: int) -> dict[tuple[int, int], int]:
    """The fields of counters, by triad."""
    size = 8 * torus.wide.field_bytes
    return {
        (x, y): counters >> (y * torus.width + x) * size & (1 << size) - 1
        for x, y in product(range(torus.width), range(torus.height))
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_sets_of_triads_move_around_the_torus(width: int, height: int, seed: int) -> None:
    torus, there = Torus(width, height), some(width, height, seed)
    plane = bits(torus, there)
    assert triads(torus, plane) == there
    assert list(origins(plane)) == sorted(origins(plane))
    for dx, dy in product(range(-width - 1, width + 2), range(-height - 1, height + 2)):
        moved = {((x - dx) % width, (y - dy) % height) for x, y in there}
        assert triads(torus, torus.rolled(plane, dx, dy)) == moved
    for move, (dx, dy) in zip(torus.unit_moves, ((1, 0), (0, 1), (-1, 0), (0, -1)), strict=True):
        assert triads(torus, move(plane)) == {((x + dx) % width, (y + dy) % height) for x, y in there}
    for move, (dx, dy) in zip(torus.fenced_shifts, ((1, 0), (0, 1), (-1, 0), (0, -1)), strict=True):
        inside = {(x + dx, y + dy) for x, y in there if 0 <= x + dx < width and 0 <= y + dy < height}
        assert triads(torus, move(plane) & torus.full) == inside


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_columns_rows_and_windows_are_those_triads(width: int, height: int) -> None:
    torus = Torus(width, height)
    everything = set(product(range(width), range(height)))
    assert (triads(torus, torus.full), torus.size) == (everything, width * height)
    for x in range(width):
        assert triads(torus, torus.column(x)) == {at for at in everything if at[0] == x}
    for y in range(height):
        assert triads(torus, torus.row(y)) == {at for at in everything if at[1] == y}
    for across, up in product(range(1, width + 1), range(1, height + 1)):
        assert triads(torus, torus.window(across, up)) == {at for at in everything if at[0] < across and at[1] < up}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_blocks_that_touch_triads_are_found_and_things_in_blocks_are_counted(
    width: int, height: int, seed: int
) -> None:
    torus, there = Torus(width, height), some(width, height, seed)
    boards = [
        (x, y, z) for x, y in product(range(width), range(height)) for z in range(3) if (x * 7 + y + z + seed) % 3
    ]
    planes = torus.planes(boards)
    assert torus.boards(planes) == tuple(sorted(boards))
    assert count(planes) == len(boards)
    windows = Windows(torus, board_counts(torus, planes))
    for across, up in product(range(1, width + 1), range(1, height + 1)):
        blocks = {
            (x, y): [((x + dx) % width, (y + dy) % height) for dx in range(across) for dy in range(up)]
            for x, y in product(range(width), range(height))
        }
        touching = {origin for origin, block in blocks.items() if not there.isdisjoint(block)}
        assert triads(torus, torus.touching(bits(torus, there), across, up)) == touching
        had = {origin: sum(board[:2] in block for board in boards) for origin, block in blocks.items()}
        assert numbers(torus, windows.sums(across, up)) == had
        assert windows.most(across, up) == max(had.values())
        for things in (0, 1, 3, windows.most(across, up), windows.most(across, up) + 1):
            enough = {origin for origin, number in had.items() if number >= things}
            assert triads(torus, windows.at_least(across, up, things)) == enough


def test_sets_of_boards_are_combined_plane_by_plane() -> None:
    one, other = (0b1100, 0b1010, 0b0001), (0b1010, 0b0110, 0b0001)
    assert union(one, other) == (0b1110, 0b1110, 0b0001)
    assert overlap(one, other) == (0b1000, 0b0010, 0b0001)
    assert without(one, other) == (0b0100, 0b1000, 0)
    assert count(one) == 5


@pytest.mark.parametrize(
    ("width", "height", "field_bytes"), [(104, 105, 2), (105, 105, 4), (1, 10922, 2), (1, 10923, 4)]
)
def test_counters_are_wide_enough_for_all_boards_of_the_machine(width: int, height: int, field_bytes: int) -> None:
    wide = Torus(width, height).wide
    assert wide.field_bytes == field_bytes
    whole = wide.summed(3 * wide.ones, width, 1, 0)
    assert wide.most(wide.summed(whole, height, 0, 1)) == 3 * width * height
    assert wide.at_least(whole, 3 * width) == (1 << width * height) - 1
    assert wide.at_least(whole, 3 * width + 1) == 0


def test_each_triad_has_a_counter_of_its_own() -> None:
    torus = Torus(3, 2)
    assert numbers(torus, torus.wide.one(2, 1) + 5 * torus.wide.one(1, 0)) == {
        **dict.fromkeys(product(range(3), range(2)), 0),
        (2, 1): 1,
        (1, 0): 5,
    }


def test_sums_of_so_many_shapes_are_kept_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    torus = Torus(4, 3)
    monkeypatch.setattr(sums, "MAX_KEPT", 3 * torus.size)
    windows = Windows(torus, board_counts(torus, (torus.full, 0, torus.full)))
    assert not windows.knows(1, 1, 1)
    for shape in ((1, 1), (2, 1), (2, 2)):
        windows.sums(*shape)
        assert windows.knows(*shape, 1)
    assert list(windows._sums) == [(1, 1), (2, 1), (2, 2)]
    windows.sums(3, 3)
    assert list(windows._sums) == [(2, 1), (2, 2), (3, 3)]
    assert windows.most(2, 1) == 4
    windows.sums(1, 1)
    windows.sums(1, 2)
    assert not windows.knows(2, 1, 4), "it may have so many: which have, is to be counted anew"
    assert windows.knows(2, 1, 5), "none has more than four"


# -------------------------------------------------------------------- floods


def test_a_flood_crosses_no_edge_of_its_block_and_no_dead_link() -> None:
    torus = Torus(3, 3)
    whole = Topology(torus, [], [])
    full: Planes = (torus.full, torus.full, torus.full)
    everywhere = whole.flooded((1, 0, 0), full, None, Effort(9))
    assert everywhere == full
    first, second, *_ = whole.layers((1, 0, 0), full, None)
    assert (first, count(second)) == ((1, 0, 0), 7)
    inside = whole.seen(full, (2, 2, 3, 1))
    *_, reached = whole.layers((1, 0, 0), inside, (2, 2, 3, 1))
    assert reached == inside
    dead = [(0, 0, 0, link) for link in Links]
    cut = Topology(torus, [], dead)
    assert list(cut.layers((1, 0, 0), full, None)) == [(1, 0, 0)]
    for link in Links:
        lone = Topology(torus, [], [each for each in dead if each[3] != link])
        assert count(list(lone.layers((1, 0, 0), full, None))[1]) == 2
    assert cut.isolated(full) == (1, 0, 0)
    assert whole.isolated((1, 1, 1)) == (0, 0, 0)


def test_what_is_remembered_of_a_topology_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topologies, "MAX_REMEMBERED", 2)
    topology = Topology(Torus(3, 3), [], [])
    asked: list[int] = []

    def ask(key: int) -> int:
        def find_out() -> int:
            asked.append(key)
            return 10 * key

        return topology.remember((key,), find_out)

    assert [ask(key) for key in (1, 2, 1, 2)] == [10, 20, 10, 20]
    assert asked == [1, 2]
    assert [ask(key) for key in (3, 3, 1)] == [30, 30, 10]
    assert asked == [1, 2, 3, 1]
    for x in range(3):
        topology.reach((x, 0, 1, 1), Effort(9))
        assert len(topology._reach) == (1, 2, 1)[x]


def test_components_are_told_apart_largest_first_and_lone_boards_are_in_none() -> None:
    torus = Torus(8, 1)
    boards = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (3, 0, 0), (3, 0, 1), (6, 0, 2)]
    links = [(x, 0, z, link) for x in range(8) for z in range(3) for link in (Links.north, Links.south)]
    free = FreeBoards(Topology(torus, [], links), torus.planes(boards))
    parts = free._labelled(Effort(8))
    assert [size for size, _ in parts] == sorted((size for size, _ in parts), reverse=True)
    assert sum(size for size, _ in parts) <= len(boards)
    for least in range(1, 5):
        kept = free.connected(least, Effort(8))
        wanted = [planes for size, planes in parts if size >= least]
        if len(wanted) < len(parts):
            together: Planes = (0, 0, 0)
            for planes in wanted:
                together = union(together, planes)
            assert kept.free == together
            assert free.connected(least, Effort(8)) is kept
        else:
            assert kept is free


# -------------------------------------------------------------------- effort


@pytest.mark.parametrize("size", [1, 3, 400, 4000, 10_000])
def test_a_search_may_cost_so_much_and_no_more(size: int) -> None:
    assert allowance(size) == LEAST_ALLOWANCE + size // 3
    layer, shape = 1 + size // 4000, 8 + size // 80
    effort = Effort(size)
    effort.step()
    assert effort.spent == layer
    effort.step(3)
    assert effort.spent == 4 * layer
    effort.shape()
    effort.shape(2)
    assert effort.spent == 4 * layer + 3 * shape
    assert list(effort.layers("ab")) == ["a", "b"]
    assert effort.spent == 6 * layer + 3 * shape
    other = effort.apart()
    other.step(5)
    assert (other.spent, effort.spent) == (5 * layer, 11 * layer + 3 * shape)
    exact = Effort(1)
    ample = []
    for paid in (LEAST_ALLOWANCE // 2, 1, LEAST_ALLOWANCE // 2 - 1):
        exact.step(paid)
        ample.append(exact.ample)
    assert ample == [True, False, False]
    with pytest.raises(EffortSpent):
        exact.step()
    exact = Effort(1)
    exact.step(LEAST_ALLOWANCE - 8)
    exact.shape()
    with pytest.raises(EffortSpent):
        exact.shape()
