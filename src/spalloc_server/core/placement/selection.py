"""Which of a block's free boards are given.

Theory of operation. A flood from the block's bottom-left board tells how many links each free board is away from it.
The nearest n are given. They must also reach the end of the last column and of the last row (`core.placement.span`):
where they do not, the shortest ways there are given first, and the nearest boards besides.

Where the two shortest ways together have more than n boards, they must share boards, even if that makes one of them
longer. The fewest boards that join three places (the bottom-left board, some board of the last column, some board of
the last row) are three ways that meet in one board; floods from all three tell which board that is.
"""

from __future__ import annotations

from collections.abc import Sequence

from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.span import clean_wraps, far_column, far_row, spans
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import NOTHING, Block, Planes, count, overlap, union, without

__all__ = ["select"]


def select(topology: Topology, block: Block, among: Planes, boards: int, effort: Effort) -> Planes | None:
    """So many boards of a block that are connected inside it and span it; None where there are none such.

    Args:
        topology: the machine's working boards and links.
        block: the block, on the machine.
        among: the boards that may be given, seen from the block's origin, as is what is returned.
        boards: how many are wanted.
        effort: what the search may cost.
    """
    column, row = far_column(topology, block), far_row(topology, block)
    layers = []
    for reached in effort.layers(topology.layers((among[0] & 1, 0, 0), among, block)):
        layers.append(reached)
        if count(reached) >= boards and reached[1] & column and reached[2] & row:
            break
    else:
        return _all_around(topology, block, layers, boards, effort)
    nearest = _grown(layers, NOTHING, boards)
    if spans(topology, block, nearest):
        return nearest
    ways = NOTHING
    for z, edge in ((1, column), (2, row)):
        distance, there = _first(layers, z, edge)
        ways = union(ways, _way(topology, block, layers[: distance + 1], there, ways))
    if count(ways) > boards:
        fewest = _fewest_boards(topology, block, among, boards, effort)
        if fewest is None:
            return None
        ways = fewest
    return _grown(layers, ways, boards)


def _all_around(
    topology: Topology, block: Block, layers: Sequence[Planes], boards: int, effort: Effort
) -> Planes | None:
    """All boards reached, where they are all that the block has and go all the way around the machine."""
    if not layers or count(layers[-1]) != boards or layers[-1] != topology.reach(block, effort):
        return None
    return layers[-1] if clean_wraps(topology, block, layers[-1]) else None


def _grown(layers: Sequence[Planes], given: Planes, boards: int) -> Planes:
    """So many boards: those given, which are connected with the nearest, and the nearest others."""
    before = given
    for reached in layers:
        grown = union(reached, given)
        if (surplus := count(grown) - boards) >= 0:
            last = list(without(grown, before))
            for z in (2, 1, 0):
                while surplus and last[z]:
                    last[z] ^= 1 << last[z].bit_length() - 1
                    surplus -= 1
            return union(before, (last[0], last[1], last[2]))
        before = grown
    raise AssertionError("fewer boards are reached than are wanted")


def _first(layers: Sequence[Planes], z: int, edge: int) -> tuple[int, Planes]:
    """The distance of the nearest boards z at an edge, and these."""
    for distance, reached in enumerate(layers):
        if reached[z] & edge:
            return distance, tuple(reached[z] & edge if of == z else 0 for of in range(3))  # type: ignore[return-value]
    raise AssertionError("the edge is not reached")


def _way(topology: Topology, block: Block, layers: Sequence[Planes], goal: Planes, preferred: Planes) -> Planes:
    """A shortest way from `goal`, in the last layer, back to the first, over preferred boards if possible."""
    neighbours = topology.neighbours(block)
    here = way = _one(overlap(goal, preferred), goal)
    for index in range(len(layers) - 2, -1, -1):
        before = without(layers[index], layers[index - 1]) if index else layers[0]
        nearer = overlap(neighbours(here), before)
        here = _one(overlap(nearer, preferred), nearer)
        way = union(way, here)
    return way


def _one(*choices: Planes) -> Planes:
    """One board of the first of these sets that has any."""
    for choice in choices:
        for z, plane in enumerate(choice):
            if plane:
                return tuple(plane & -plane if of == z else 0 for of in range(3))  # type: ignore[return-value]
    raise AssertionError("there is no board")


def _fewest_boards(topology: Topology, block: Block, among: Planes, most: int, effort: Effort) -> Planes | None:
    """The fewest boards that join the bottom-left board, the last column and the last row; None if over `most`."""
    column, row = far_column(topology, block), far_row(topology, block)
    starts = (among[0] & 1, 0, 0), (0, among[1] & column, 0), (0, 0, among[2] & row)
    floods = [list(effort.layers(topology.layers(start, among, block))) for start in starts]
    rings = [[without(ring, inner) for inner, ring in zip([NOTHING, *flood], flood, strict=False)] for flood in floods]
    best: tuple[int, tuple[int, ...], Planes] = most, (), NOTHING  # links: one fewer than boards
    for i, first in enumerate(rings[0][:most]):
        for j, second in enumerate(rings[1][: max(0, best[0] - i)]):
            both = overlap(first, second)
            if not any(both):
                continue
            for k, third in enumerate(rings[2][: max(0, best[0] - i - j)]):
                if any(met := overlap(both, third)):
                    best = i + j + k, (i, j, k), met
                    break
    _, distances, met = best
    if not distances:
        return None
    meeting = ways = _one(met)
    for flood, distance in zip(floods, distances, strict=True):
        ways = union(ways, _way(topology, block, [*flood[:distance], union(flood[distance], meeting)], meeting, ways))
    return ways
