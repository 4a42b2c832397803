"""Which boards may be given so that they are a machine: found by trying everything, slowly and plainly.

Theory of operation. n boards are a machine when they lie in a block of triads, are connected with its bottom-left board
by working links that do not cross the block's edges, and reach its last column and its last row: only a board z = 1 of
the last column has the rightmost chips of the block, and only a board z = 2 of the last row the uppermost. So a block
serves when enough free boards are connected in it and some n of them touch all three ends. The fewest boards that do
are those on the ways from some board in the middle to the three ends; `smallest_span` tries every middle, and from
there a set can grow board by board up to all that are connected. `some_set` tries all sets instead, to test that.

A block is compact when its boards fill the least share of it that is wanted, or when no other block that the request
allows and the idle machine could give fits into it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from itertools import chain, combinations, product

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, board_down_link, link_to_vector
from spalloc_server.core.model.request import Request
from spalloc_server.links import Links
from tests.core.oracle import BlockAt, boards_of, dead_links_in, goes_around, works

__all__ = [
    "blocks",
    "blocks_for",
    "compact_enough",
    "complete",
    "connected",
    "could_be_placed",
    "few_dead_links",
    "is_part",
    "last",
    "part",
    "rings",
    "serves",
    "shapes",
    "some_set",
    "spans",
    "wanted",
    "whole",
    "whole_blocks",
]

Shape = tuple[int, int]


def wanted(request: Request) -> int:
    """How many boards a request for n gets: two are no machine, so it is three."""
    assert request.boards is not None
    return max(3, request.boards)


def inside(machine: Machine, block: BlockAt, board: Board, link: Links) -> Board | None:
    """The board down a working link of a board in a block; None where the link crosses the block's edge or is dead."""
    x, y, width, height = block
    dx, dy, _ = link_to_vector[board[2], link]
    column, row = (board[0] - x) % machine.width + dx, (board[1] - y) % machine.height + dy
    if not (0 <= column < width and 0 <= row < height and works(machine, board, link)):
        return None
    return board_down_link(*board, link, machine.width, machine.height)[:3]


def distances(machine: Machine, block: BlockAt, usable: Collection[Board], start: set[Board]) -> dict[Board, int]:
    """How many links each board is away from the nearest of some, inside a block and over usable boards."""
    front = [board for board in start if board in usable]
    away = dict.fromkeys(front, 0)
    for board in front:
        for link in Links:
            other = inside(machine, block, board, link)
            if other is not None and other in usable and other not in away:
                away[other] = away[board] + 1
                front.append(other)
    return away


def connected(machine: Machine, block: BlockAt, usable: Collection[Board]) -> set[Board]:
    """Usable boards of a block that its bottom-left one reaches without crossing the block's edges."""
    mine = boards_of(machine, block) & set(usable)
    return set(distances(machine, block, mine, {(block[0], block[1], 0)}))


def last(machine: Machine, block: BlockAt, axis: int) -> set[Board]:
    """The boards of a block that reach its last chips on an axis."""
    end = (block[axis] + block[2 + axis] - 1) % (machine.width, machine.height)[axis]
    return {board for board in boards_of(machine, block) if board[2] == 1 + axis and board[axis] == end}


def complete(machine: Machine, block: BlockAt, boards: Collection[Board]) -> bool:
    """Whether boards reach a block's last column and its last row."""
    return all(last(machine, block, axis) & set(boards) for axis in (0, 1))


def smallest_span(machine: Machine, block: BlockAt, usable: Collection[Board]) -> int | None:
    """The fewest connected usable boards of a block that touch its bottom-left board and both its ends, or None."""
    available = connected(machine, block, usable)
    if not complete(machine, block, available):
        return None
    ends = {(block[0], block[1], 0)}, last(machine, block, 0), last(machine, block, 1)
    ways = [distances(machine, block, available, end) for end in ends]
    return 1 + min(sum(way[middle] for way in ways) for middle in available)


def serves(machine: Machine, block: BlockAt, usable: Collection[Board], boards: int) -> bool:
    """Whether so many usable boards of a block are a machine of its size."""
    if len(connected(machine, block, usable)) < boards:
        return False
    fewest = smallest_span(machine, block, usable)
    return fewest is not None and fewest <= boards


def some_set(machine: Machine, block: BlockAt, usable: Collection[Board], boards: int) -> bool:
    """The same, by trying all sets of so many boards."""
    return any(
        connected(machine, block, chosen) == set(chosen) and complete(machine, block, chosen)
        for chosen in combinations(sorted(boards_of(machine, block) & set(usable)), boards)
    )


def shapes(machine: Machine, request: Request) -> list[Shape]:
    """Every rectangle of triads that a request for n boards allows on a machine."""
    return [
        (width, height)
        for width, height in product(range(1, machine.width + 1), range(1, machine.height + 1))
        if 3 * width * height >= wanted(request) and min(width, height) >= request.min_ratio * max(width, height) - 1e-9
    ]


def blocks(machine: Machine, shape: Shape) -> Iterator[BlockAt]:
    """Every block of a shape."""
    for x, y in product(range(machine.width), range(machine.height)):
        yield x, y, *shape


def compact_enough(machine: Machine, request: Request, shape: Shape, min_fill: Fraction) -> bool:
    """Whether a rectangle is as full as is wanted, or a tightest one on this machine."""
    if wanted(request) >= min_fill * 3 * shape[0] * shape[1]:
        return True
    live = set(machine.live_boards)
    return not any(
        serves(machine, block, live, wanted(request))
        for other in shapes(machine, request)
        if other != shape and other[0] <= shape[0] and other[1] <= shape[1]
        for block in blocks(machine, other)
    )


def could_be_placed(machine: Machine, request: Request, usable: Collection[Board], min_fill: Fraction) -> bool:
    """Whether there is any place for a request for n boards among usable ones.

    That may be a block that goes around the machine, all of whose working boards they are: it reaches no last column
    or row, for it has none.
    """
    exactly = Request(owner="o", boards=wanted(request), min_ratio=request.min_ratio, max_dead_boards=0)
    return whole(machine, exactly, usable, spanned=True) or any(
        compact_enough(machine, request, shape, min_fill)
        and any(serves(machine, block, usable, wanted(request)) for block in blocks(machine, shape))
        for shape in shapes(machine, request)
    )


def whole_blocks(machine: Machine, request: Request, free: Collection[Board]) -> Iterator[tuple[BlockAt, set[Board]]]:
    """Blocks for a request by width and height whose working boards are all free, and what is connected in each."""
    assert request.triads is not None
    asked = 3 * request.triads[0] * request.triads[1]
    for block in blocks(machine, request.triads):
        working = boards_of(machine, block) & set(machine.live_boards)
        reached = connected(machine, block, working)
        if reached and working <= set(free) and asked - len(reached) <= (request.max_dead_boards or 0):
            yield block, reached


def is_part(request: Request) -> bool:
    """Whether a request asks for so many boards, wherever they are in a rectangle."""
    return request.boards is not None and not request.require_torus


def rings(machine: Machine, block: BlockAt, boards: Collection[Board]) -> list[set[int]]:
    """Sets of axes (0 for x, 1 for y) on which the boards of a block go around the machine."""
    return [
        axes
        for axes in ({0, 1}, {0}, {1})
        if all(goes_around(machine, block, boards, axis, other_open=len(axes) == 2) for axis in axes)
    ]


def spans(machine: Machine, block: BlockAt, boards: Collection[Board], around: set[int]) -> bool:
    """Whether boards reach the ends of a block on the axes on which they do not go around the machine."""
    return all(last(machine, block, axis) & set(boards) for axis in {0, 1} - around)


def blocks_for(machine: Machine, request: Request) -> Iterator[BlockAt]:
    """Every block of a shape that a request allows."""
    allowed = shapes(machine, request) if request.triads is None else [request.triads]
    for width, height in allowed:
        spans = (width == machine.width, height == machine.height)
        fits = width <= machine.width and height <= machine.height
        if fits and (not request.require_torus or (all(spans) if request.triads else any(spans))):
            for block in blocks(machine, (width, height)):
                if request.root in (None, block[:2]):
                    yield block


def few_dead_links(machine: Machine, request: Request, block: BlockAt, boards: Collection[Board]) -> bool:
    if request.max_dead_links is None:
        return True
    dead = dead_links_in(machine, block, boards, with_wraps=request.require_torus)
    return dead <= request.max_dead_links


def whole(
    machine: Machine,
    request: Request,
    free: Collection[Board],
    *,
    spanned: bool,
    of: Callable[[Shape], bool] = lambda _shape: True,
) -> bool:
    """Whether there is a whole block for a request, of some of the shapes that it allows."""
    for block in blocks_for(machine, request):
        if not of(block[2:]):
            continue
        boards = connected(machine, block, machine.live_boards)
        ways = rings(machine, block, boards) + ([] if request.require_torus else [set()])
        if (
            boards
            and boards_of(machine, block) & set(machine.live_boards) <= set(free)
            and (request.max_dead_boards is None or request.asked - len(boards) <= request.max_dead_boards)
            and (not is_part(request) or len(boards) <= wanted(request))
            and any(not spanned or spans(machine, block, boards, around) for around in ways)
            and few_dead_links(machine, request, block, boards)
        ):
            return True
    return False


def part(machine: Machine, request: Request, free: Collection[Board], fill: Fraction) -> bool:
    """Whether there are boards for a request that are compact, a machine, and have few dead links between them."""
    ends = {
        board
        for x, y, z, link in machine.dead_links
        for board in ((x, y, z), board_down_link(x, y, z, link, machine.width, machine.height)[:3])
    }
    choices = () if request.max_dead_links is None else ends & set(free)
    for left_out in chain.from_iterable(combinations(sorted(choices), size) for size in range(len(choices) + 1)):
        usable = set(free) - set(left_out)
        for shape in shapes(machine, request):
            if wanted(request) < fill * 3 * shape[0] * shape[1]:
                continue
            for block in blocks(machine, shape):
                available = connected(machine, block, usable)
                if few_dead_links(machine, request, block, available) and serves(
                    machine, block, usable, wanted(request)
                ):
                    return True
    return False
