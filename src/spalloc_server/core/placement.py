"""Where on a machine a request fits: a complete search of its torus.

Theory of operation. A block serves a request for n boards when n free boards in it, its bottom-left one among them,
are connected by working links inside it. The search knows, for all origins at once, which blocks of a shape have
enough free boards (`Ground.origins`); the candidates are then looked at one by one, in order. A flood from the
bottom-left board tells whether it reaches n, and ends there: the n nearest to it are given, so that the others
stay free for small jobs.

Some blocks have fewer than n working boards, or must be whole (asked for as width by height, or as a torus). Such a
block serves when all its working boards are free, and those that its bottom-left board does not reach, or that are
dead, are no more than the request tolerates.

Where dead links are counted and too many lie between the boards chosen, others are tried: for each dead link in the
block, without the board at the one end, or at the other.

A single board comes from a triad that is broken into already, so that whole triads stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import TypeAlias

from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board, board_down_link, link_to_vector
from spalloc_server.core.ground import Ground
from spalloc_server.core.messages import Request
from spalloc_server.core.shapes import Shape, every_shape, growing_shapes, tight_shapes
from spalloc_server.core.topology import Topology
from spalloc_server.core.torus import Block, Planes, Torus, count, origins, union, without
from spalloc_server.links import Links

__all__ = ["Place", "fewest", "fits", "place"]

Place: TypeAlias = tuple[Block, Planes]
"""A block, and the boards in it that are given."""

MAX_DETOURS = 81
"""Choices of boards to leave out, because of dead links, that are tried in a block: all there are for four links."""


def place(request: Request, ground: Ground) -> Place | None:
    """The best place for a request, or None where there is none at all.

    Args:
        request: what is asked for; whether the machine is one that it may use has been checked already.
        ground: the boards that may be given.
    """
    if request.single:
        return _single(request, ground)
    if min(request.max_dead_boards or 0, request.max_dead_links or 0) < 0:
        return None
    if request.boards is not None and request.boards < 1:
        return None
    torus = ground.torus
    if request.triads is None and not request.require_torus:
        if found := _part(request, ground):
            return found
        if fewest(request, ground.topology) == request.boards:
            return None
    # What a larger block has more of, working boards and ways around the machine, matters to few requests
    which = every_shape if request.require_torus or request.max_dead_boards else tight_shapes
    full: list[Shape] = []
    for shape in which(request, torus.width, torus.height):
        if any(shape[0] >= width and shape[1] >= height for width, height in full):
            continue  # no block of a shape inside this one has all its working boards free
        candidates = _free_throughout(ground, shape)
        if not candidates:
            full.append(shape)
        elif found := next(_with_all_there_is(request, ground, shape, candidates), None):
            return found
    return None


def fewest(request: Request, topology: Topology) -> int:
    """The fewest boards that a place for a request has."""
    if request.boards is None or request.single or request.require_torus:
        return 1
    if not topology.blemishes or request.max_dead_boards == 0:
        return request.boards
    return 1 if request.max_dead_boards is None else max(1, request.boards - request.max_dead_boards)


def fits(request: Request, ground: Ground) -> bool:
    """Whether there is any place for a request: what `place` tells, sooner."""
    if request.boards is None or request.boards < 2 or request.require_torus:
        return place(request, ground) is not None
    large_lump = ground.connected(request.boards)
    largest = growing_shapes(request.boards, ground.torus.width, ground.torus.height, request.min_ratio)[-1:]
    if large_lump and any(True for shape in largest for _ in _with_enough(request, large_lump, shape)):
        return True
    return fewest(request, ground.topology) < request.boards and place(request, ground) is not None


def _part(request: Request, ground: Ground) -> Place | None:
    """The most compact place with as many connected free boards as asked for."""
    assert request.boards is not None
    if request.boards > ground.size:
        return None
    for shape in tight_shapes(request, ground.torus.width, ground.torus.height):
        for preferred in ground.preferred:
            if found := next(_with_enough(request, preferred, shape), None):
                return found
    large_lumps = ground.connected(request.boards)
    if large_lumps is None:
        return None
    looser = growing_shapes(request.boards, ground.torus.width, ground.torus.height, request.min_ratio)
    best = None
    low, high = 0, len(looser) - 1
    while low <= high:
        middle = (low + high) // 2 if best else high
        if found := next(_with_enough(request, large_lumps, looser[middle]), None):
            best, high = found, middle - 1
        elif best is None:
            return None
        else:
            low = middle + 1
    return best


def _single(request: Request, ground: Ground) -> Place | None:
    torus, free = ground.torus, ground.free
    if request.board is not None:
        x, y, z = request.board
        inside = 0 <= x < torus.width and 0 <= y < torus.height and 0 <= z < BOARDS_PER_TRIAD
        if inside and free[z] & torus.triad(x, y):
            return (x, y, 1, 1), torus.planes([request.board])
        return None
    a, b, c = free
    all_three = a & b & c
    two_or_more = a & b | b & c | a & c
    for triads in ((a | b | c) & ~two_or_more, two_or_more & ~all_three, all_three):
        for preferred in ground.preferred:
            a, b, c = preferred.free
            if some := triads & (a | b | c):
                at = next(origins(some))
                z = next(z for z, plane in enumerate(preferred.free) if plane >> at & 1)
                x, y = at % torus.width, at // torus.width
                return (x, y, 1, 1), torus.planes([(x, y, z)])
    return None


def _with_enough(request: Request, ground: Ground, shape: Shape) -> Iterator[Place]:
    """Blocks of a shape that have as many connected free boards as asked for."""
    assert request.boards is not None
    torus, topology, free = ground.torus, ground.topology, ground.free
    width, height = shape
    for at in ground.origins(width, height, request.boards):
        block = (at % torus.width, at // torus.width, width, height)
        if boards := _chosen(request, topology, block, free):
            yield block, boards


def _free_throughout(ground: Ground, shape: Shape) -> int:
    """Origins of the blocks of a shape whose working boards are all free, the bottom-left one being one of them."""
    a, b, c = without(ground.topology.live, ground.free)
    return ground.free[0] & ~ground.torus.touching(a | b | c, *shape)


def _with_all_there_is(request: Request, ground: Ground, shape: Shape, candidates: int) -> Iterator[Place]:
    """Blocks with these origins that lack no more boards than is tolerated."""
    torus, topology = ground.torus, ground.topology
    width, height = shape
    asked = request.boards or BOARDS_PER_TRIAD * width * height
    for at in origins(candidates):
        block = (at % torus.width, at // torus.width, width, height)
        working = topology.reach(block)
        if request.max_dead_boards is not None and asked - count(working) > request.max_dead_boards:
            continue
        boards = topology.placed(working, block)
        if _links_suffice(request, topology, block, boards):
            yield block, boards


def _chosen(request: Request, topology: Topology, block: Block, free: Planes) -> Planes | None:
    """As many connected free boards of a block as asked for, with no more dead links between them than is tolerated."""
    assert request.boards is not None
    boards = _nearest(topology, block, free, request.boards)
    if boards is None or _links_suffice(request, topology, block, boards):
        return boards
    torus = topology.torus
    inside = set(torus.boards(topology.placed(topology.seen(free, block), block)))
    dead = {
        frozenset({(x, y, z), board_down_link(x, y, z, link, torus.width, torus.height)[:3]})
        for x, y, z, link in topology.dead_links
    }
    choices = product(*((None, *sorted(ends)) for ends in dead if ends <= inside))
    for left_out in islice(choices, MAX_DETOURS):
        allowed = without(free, torus.planes(board for board in left_out if board))
        boards = _nearest(topology, block, allowed, request.boards)
        if boards and _links_suffice(request, topology, block, boards):
            return boards
    return None


def _nearest(topology: Topology, block: Block, free: Planes, wanted: int) -> Planes | None:
    """The free boards of a block that are the fewest links from its bottom-left one; None where too few are."""
    here = topology.seen(free, block)
    before: Planes = (0, 0, 0)
    for reached in topology.layers((here[0] & 1, 0, 0), here, block):
        if (surplus := count(reached) - wanted) >= 0:
            last = list(without(reached, before))
            for z in reversed(range(BOARDS_PER_TRIAD)):
                while surplus and last[z]:
                    last[z] ^= 1 << last[z].bit_length() - 1
                    surplus -= 1
            return topology.placed(union(before, (last[0], last[1], last[2])), block)
        before = reached
    return None


def _links_suffice(request: Request, topology: Topology, block: Block, planes: Planes) -> bool:
    """Whether the links between a block's boards are as many, and go as far around, as a request demands."""
    if not request.require_torus and (request.max_dead_links is None or not topology.dead_links):
        return True
    boards = topology.torus.boards(planes)
    if request.require_torus and not _is_torus(topology, block, boards):
        return False
    if request.max_dead_links is None:
        return True
    given = set(boards)
    dead = 0
    for x, y, z, link in topology.dead_links:
        x2, y2, z2, _ = board_down_link(x, y, z, link, topology.torus.width, topology.torus.height)
        if (x, y, z) in given and (x2, y2, z2) in given:
            dead += request.require_torus or not _leaves(topology.torus, block, (x, y, z), link)
    return dead <= request.max_dead_links


def _leaves(torus: Torus, block: Block, board: Board, link: Links) -> bool:
    """Whether a link of a board in a block crosses the block's own edge, even if only to come back around."""
    x, y, width, height = block
    dx, dy, _ = link_to_vector[board[2], link]
    column, row = (board[0] - x) % torus.width + dx, (board[1] - y) % torus.height + dy
    return not (0 <= column < width and 0 <= row < height)


def _is_torus(topology: Topology, block: Block, boards: tuple[Board, ...]) -> bool:
    """Whether a block goes all the way around an axis: at each of its columns, or rows, a working link goes on."""
    torus = topology.torus
    given = set(boards)
    columns: set[int] = set()
    rows: set[int] = set()
    for x, y, z in boards:
        for link in (Links.east, Links.north_east, Links.north):
            x2, y2, z2, _ = board_down_link(x, y, z, link, torus.width, torus.height)
            if (x2, y2, z2) in given and topology.works(x, y, z, link):
                dx, dy, _ = link_to_vector[z, link]
                columns.update({x} if dx > 0 else {x2} if dx < 0 else ())
                rows.update({y} if dy > 0 else {y2} if dy < 0 else ())
    around_x = block[2] == torus.width == len(columns)
    around_y = block[3] == torus.height == len(rows)
    return around_x or around_y
