"""Where on a machine a request fits: a search of its whole torus.

Theory of operation. A job for n boards gets n free boards that are connected inside a rectangle of triads, and span it
(`core.placement.span`). The rectangles that a request allows (`core.placement.shapes`) are tried from the most compact
one on. Which blocks of a shape have enough free boards is known for all origins at once (`core.placement.windows`);
these are flooded one by one from their bottom-left boards, in order. The boards nearest to it are given, so that the
others stay free for small jobs, and among them the shortest ways to the last column and the last row.

A search is complete: where it finds nothing, there is nothing. Only one that has spent its allowance
(`core.placement.effort`) may have missed something.

Where dead links are counted and too many lie between the boards chosen, others are tried: for each dead link that is
too many, without the board at the one end, or at the other.

Whole blocks (asked for as width by height, as a torus, or with dead boards tolerated): `core.placement.whole_blocks`. A
single board comes from a triad that is broken into already, so that whole triads stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from msgspec.structs import replace

from spalloc_server.coordinates import BOARDS_PER_TRIAD
from spalloc_server.core.model import Request
from spalloc_server.core.placement.dead_links import STEPS, ways_to_leave_out
from spalloc_server.core.placement.effort import Effort, EffortSpent, allowance
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.selection import select
from spalloc_server.core.placement.shapes import Shape, inside, looser_shapes, shapes_for, wanted_boards
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Block, Planes, count, origins, without
from spalloc_server.core.placement.whole_blocks import place_whole

__all__ = ["Place", "fewest", "nearest_size", "place"]

LOOK = 8
"""Least units of effort for trying another number of boards, in the search for one to suggest."""

SEARCHES = 1
"""That search ends once it has cost as much as so many searches may."""

Place: TypeAlias = tuple[Block, Planes]
"""A block, and the boards in it that are given."""


def place(request: Request, free_boards: FreeBoards, effort: Effort | None = None) -> Place | None:
    """The best place for a request, or None where none was found.

    Args:
        request: what is asked for; whether the machine is one that it may use has been checked already.
        free_boards: the boards that may be given.
        effort: what the search may cost, where it shares that with others.
    """
    if request.single:
        return _single(request, free_boards)
    if min(request.max_dead_boards or 0, request.max_dead_links or 0) < 0:
        return None
    if request.boards is not None and request.boards < 1:
        return None
    effort = effort or Effort(free_boards.torus.size)
    try:
        if request.boards is None or request.require_torus:
            return place_whole(request, free_boards, effort)
        found = _part(request, free_boards, effort)
        if found is None and _takes_fewer(request, free_boards.topology, effort):
            spanned = _idle_serves(request, free_boards.topology, effort)
            found = place_whole(request, free_boards, effort, spanned=spanned)
    except EffortSpent:
        return None
    return found


def nearest_size(request: Request, free_boards: FreeBoards, effort: Effort) -> int | None:
    """The number of boards nearest to a request's own that has a place, in a request that is the same otherwise.

    The smaller one where two are as near. None where none was found at the cost of some searches.
    """
    assert request.boards is not None
    fewest_boards = 2 if request.require_torus else 1
    with suppress(EffortSpent):
        for distance in range(1, max(request.boards, free_boards.size)):
            for boards in (request.boards - distance, request.boards + distance):
                if not fewest_boards <= boards <= free_boards.size:
                    continue
                effort.step(LOOK)
                if place(replace(request, boards=boards), free_boards, effort.apart()):
                    return boards
                if effort.spent >= SEARCHES * allowance(free_boards.torus.size):
                    return None
    return None


def fewest(request: Request, topology: Topology) -> int:
    """The fewest boards that a place for a request has."""
    if request.boards is None or request.single or request.require_torus:
        return 1
    if not _takes_fewer(request, topology, Effort(topology.torus.size)):
        return wanted_boards(request)
    return 1 if request.max_dead_boards is None else max(1, request.boards - request.max_dead_boards)


def _takes_fewer(request: Request, topology: Topology, effort: Effort) -> bool:
    """Whether a request for n boards is given fewer, since some of a block are dead.

    Those that say how many dead boards they tolerate are. Those that do not say are only where the idle machine has no
    n boards for them: their users count on n boards, and would rather wait.
    """
    if not topology.blemishes or request.max_dead_boards == 0:
        return False
    return request.max_dead_boards is not None or not _idle_serves(request, topology, effort)


def _idle_serves(request: Request, topology: Topology, effort: Effort) -> bool:
    """Whether the idle machine has as many boards as asked for, connected and spanning a rectangle."""

    def find_out() -> bool:
        try:
            return _part(request, FreeBoards(topology, topology.live), effort.apart()) is not None
        except EffortSpent:
            return False

    return topology.remember(("idle", wanted_boards(request), request.min_ratio, request.max_dead_links), find_out)


def _part(request: Request, free_boards: FreeBoards, effort: Effort) -> Place | None:
    """The most compact place with as many connected free boards as asked for."""
    boards, torus, topology = wanted_boards(request), free_boards.torus, free_boards.topology
    if boards > free_boards.size:
        return None
    what = boards, torus.width, torus.height, request.min_ratio, topology.min_fill
    if found := _in_shapes(request, free_boards, shapes_for(*what), effort):
        return found
    if not topology.blemishes:
        return None
    key = "part", boards, request.min_ratio, request.max_dead_links
    looser = topology.remember(key, lambda: _looser_tightest(request, topology, effort.apart()))
    return _in_shapes(request, free_boards, looser, effort)


def _looser_tightest(request: Request, topology: Topology, effort: Effort) -> tuple[Shape, ...]:
    """The tightest rectangles that dead boards leave on the idle machine, as far as `shapes_for` does not have them."""
    torus, idle = topology.torus, FreeBoards(topology, topology.live)
    what = wanted_boards(request), torus.width, torus.height, request.min_ratio, topology.min_fill
    tightest: list[Shape] = []
    with suppress(EffortSpent):
        for shape in sorted({*shapes_for(*what), *looser_shapes(*what)}, key=lambda shape: shape[0] * shape[1]):
            if not any(inside(other, shape) for other in tightest) and _in_shapes(request, idle, [shape], effort):
                tightest.append(shape)
    return tuple(shape for shape in tightest if shape not in shapes_for(*what))


def _in_shapes(request: Request, free_boards: FreeBoards, shapes: Sequence[Shape], effort: Effort) -> Place | None:
    """A place in one of these rectangles, the first that has any."""
    boards = wanted_boards(request)
    if not shapes or free_boards.windows.most(*map(max, zip(*shapes, strict=True))) < boards:
        return None
    for shape in shapes:
        if not free_boards.windows.knows(*shape, boards):
            effort.shape()
        if free_boards.windows.most(*shape) < boards:
            continue
        for some in (free_boards,) if free_boards.rested is free_boards else (free_boards.rested, free_boards):
            if found := next(_with_enough(request, some, shape, effort), None):
                return found
    return None


def _with_enough(request: Request, free_boards: FreeBoards, shape: Shape, effort: Effort) -> Iterator[Place]:
    """Blocks of a shape that have as many connected free boards as asked for."""
    torus, boards = free_boards.torus, wanted_boards(request)
    among = free_boards.origins(*shape, boards)
    later = 0
    tolerated = request.max_dead_links
    if tolerated is not None and tolerated < len(free_boards.broken):
        wide, dead = torus.wide, free_boards.broken
        effort.shape(2 * len(STEPS))
        left = free_boards.windows.sums(*shape) + tolerated * wide.ones - dead.matched.inside(*shape)
        among &= wide.at_least(left, boards)
        later = among & wide.at_least(dead.inside(*shape), tolerated + 1)
    narrowed = False
    for some in (among & ~later, later):
        for at in origins(some):
            if not among >> at & 1:
                continue
            block = (at % torus.width, at // torus.width, *shape)
            effort.step()
            if given := _chosen(request, free_boards, block, effort):
                yield block, given
            elif not narrowed:
                narrowed = True
                among &= free_boards.connected(boards, effort).origins(*shape, boards)


def _chosen(request: Request, free_boards: FreeBoards, block: Block, effort: Effort) -> Planes | None:
    """As many connected free boards of a block as asked for, with no more dead links between them than is tolerated."""
    topology, boards, tolerated = free_boards.topology, wanted_boards(request), request.max_dead_links
    here = topology.seen(free_boards.free, block)
    given = select(topology, block, here, boards, effort)
    if given is None:
        return None
    given = topology.placed(given, block)
    if tolerated is None:
        return given
    effort.step(free_boards.broken.steps)
    if len(free_boards.broken.among(block, given)) <= tolerated:
        return given
    dead = free_boards.broken.among(block, free_boards.free)
    for left_out in ways_to_leave_out(dead, tolerated, count(here) - boards, effort):
        rest = topology.seen(without(free_boards.free, topology.torus.planes(left_out)), block)
        given = select(topology, block, rest, boards, effort)
        effort.step(free_boards.broken.steps)
        if given and len(free_boards.broken.among(block, topology.placed(given, block))) <= tolerated:
            return topology.placed(given, block)
    return None


def _single(request: Request, free_boards: FreeBoards) -> Place | None:
    torus, free = free_boards.torus, free_boards.free
    if request.board is not None:
        x, y, z = request.board
        exists = 0 <= x < torus.width and 0 <= y < torus.height and 0 <= z < BOARDS_PER_TRIAD
        if exists and free[z] & torus.triad(x, y):
            return (x, y, 1, 1), torus.planes([request.board])
        return None
    a, b, c = free
    all_three = a & b & c
    two_or_more = a & b | b & c | a & c
    for triads in ((a | b | c) & ~two_or_more, two_or_more & ~all_three, all_three):
        for preferred in (free_boards.rested, free_boards):
            a, b, c = preferred.free
            if some := triads & (a | b | c):
                at = next(origins(some))
                z = next(z for z, plane in enumerate(preferred.free) if plane >> at & 1)
                x, y = at % torus.width, at // torus.width
                return (x, y, 1, 1), torus.planes([(x, y, z)])
    return None
