"""Whole blocks: all that works of a rectangle, for requests that want that or must be content with it.

Theory of operation. A rectangle asked for as width by height, a torus, and the answer to a request for n boards that
tolerates dead ones, are blocks whose working boards are all free. The job gets those that the bottom-left board reaches
inside the block; the others, and the dead ones, are no more than the request tolerates.

The boards must span the block (`core.placement.span`). Only where dead boards leave no such choice, not even on the
idle machine, the answer is a block whose far edges are not reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from spalloc_server.core.model import Request
from spalloc_server.core.placement.dead_links import STEPS
from spalloc_server.core.placement.effort import Effort, EffortSpent
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.shapes import Shape, inside, looser_shapes, shapes_for, torus_shapes, wanted_boards
from spalloc_server.core.placement.span import clean_wraps, spans
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Block, Planes, Torus, count, origins, without

__all__ = ["place_whole"]


def place_whole(
    request: Request, free_boards: FreeBoards, effort: Effort, *, spanned: bool = False
) -> tuple[Block, Planes] | None:
    """The smallest whole block for a request, with the boards that it gets; None where none was found.

    Args:
        request: what is asked for.
        free_boards: the boards that may be given.
        effort: what the search may cost.
        spanned: take no block that is not spanned, whatever else there is.

    Raises:
        EffortSpent: the search has cost all that it may.
    """
    topology = free_boards.topology
    shapes, spanning = topology.remember(
        ("whole", request.boards, *request.kind), lambda: _what_there_is(request, topology, effort.apart())
    )
    if spanned and not spanning:
        return None
    return _search(request, free_boards, shapes, effort, spanning=spanning)


def _what_there_is(request: Request, topology: Topology, effort: Effort) -> tuple[Sequence[Shape], bool]:
    """The shapes that serve a request best on the idle machine, and whether blocks that are spanned do."""
    idle = FreeBoards(topology, topology.live)
    for spanning, shapes in product((True, False), _choices(request, topology)):
        try:
            if _search(request, idle, shapes, effort, spanning=spanning):
                return shapes, spanning
        except EffortSpent:
            return shapes, spanning
    return (), True


def _choices(request: Request, topology: Topology) -> Iterator[Sequence[Shape]]:
    torus = topology.torus
    if request.triads is not None:
        fits = min(request.triads) >= 1 and inside(request.triads, (torus.width, torus.height))
        if fits and (not request.require_torus or request.triads == (torus.width, torus.height)):
            yield [request.triads]
    elif request.require_torus:
        yield torus_shapes(wanted_boards(request), torus.width, torus.height, request.min_ratio)
    else:
        what = wanted_boards(request), torus.width, torus.height, request.min_ratio, topology.min_fill
        yield shapes_for(*what)
        yield looser_shapes(*what)


def _search(
    request: Request, free_boards: FreeBoards, shapes: Sequence[Shape], effort: Effort, *, spanning: bool
) -> tuple[Block, Planes] | None:
    full: list[Shape] = []
    for shape in shapes:
        if any(inside(other, shape) for other in full):
            continue  # no block of a shape inside this one has all its working boards free
        effort.shape()
        a, b, c = without(free_boards.topology.live, free_boards.free)
        free_throughout = free_boards.free[0] & ~free_boards.torus.touching(a | b | c, *shape)
        if request.root is not None:
            free_throughout &= _triad(free_boards.torus, *request.root)
        if not free_throughout:
            full.append(shape)
            continue
        for block, likely in _candidates(request, free_boards, shape, free_throughout, effort):
            if not (likely or effort.ample):
                break
            boards = _given(request, free_boards, block, effort, spanning=spanning)
            if boards:
                return block, free_boards.topology.placed(boards, block)
    return None


def _triad(torus: Torus, x: int, y: int) -> int:
    """The set of one triad, or of none where it is outside the machine."""
    return torus.triad(x, y) if 0 <= x < torus.width and 0 <= y < torus.height else 0


def _candidates(
    request: Request, free_boards: FreeBoards, shape: Shape, among: int, effort: Effort
) -> Iterator[tuple[Block, bool]]:
    """Blocks of a shape with origins among these that have enough working boards, and whether they will probably do.

    Those with too many dead links come last: they do only where these lead to boards that are cut off.
    """
    topology, torus = free_boards.topology, free_boards.torus
    if request.max_dead_boards is not None:
        least = max(1, request.asked - request.max_dead_boards)
        among &= topology.windows.at_least(*shape, least)
    later = 0
    if request.max_dead_links is not None and request.max_dead_links < len(free_boards.broken):
        effort.shape(len(STEPS))
        inside_blocks = free_boards.broken.inside(*shape, around=request.require_torus)
        later = among & torus.wide.at_least(inside_blocks, request.max_dead_links + 1)
    for some, likely in ((among & ~later, True), (later, False)):
        for at in origins(some):
            yield (at % torus.width, at // torus.width, *shape), likely


def _given(request: Request, free_boards: FreeBoards, block: Block, effort: Effort, *, spanning: bool) -> Planes | None:
    """The boards of a block that a request gets, seen from its origin; None where they do not suffice."""
    topology = free_boards.topology
    effort.step()
    boards = topology.reach(block, effort)
    given = count(boards)
    if request.max_dead_boards is not None and request.asked - given > request.max_dead_boards:
        return None
    if request.boards is not None and not request.require_torus and given > wanted_boards(request):
        return None
    wraps = clean_wraps(topology, block, boards)
    if request.require_torus and not wraps:
        return None
    if spanning and not spans(topology, block, boards, wraps):
        return None
    if request.max_dead_links is not None and request.max_dead_links < len(free_boards.broken):
        effort.step(free_boards.broken.steps)
        dead = free_boards.broken.among(block, topology.placed(boards, block), around=request.require_torus)
        if len(dead) > request.max_dead_links:
            return None
    return boards
