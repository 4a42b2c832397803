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

from collections.abc import Collection, Iterator
from fractions import Fraction
from itertools import combinations, product

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import Board, board_down_link, link_to_vector
from spalloc_server.core.messages import Request
from spalloc_server.links import Links
from tests.core.oracle import BlockAt, boards_of, works

__all__ = ["compact_enough", "complete", "connected", "could_be_placed", "shapes", "some_set", "wanted", "whole_blocks"]

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
    """Whether there is any place for a request for n boards among usable ones."""
    return any(
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
