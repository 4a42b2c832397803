"""Which rectangles of triads a request allows.

Theory of operation. The boards of a job must span its rectangle: with fewer than `least_boards` they cannot reach its
last column and its last row, and with more than three a triad they do not fit. A rectangle is *tight* where no smaller
one lies inside it that could hold as many. Tight rectangles are always allowed; of the others only those that the
boards fill well enough (`min_fill`). The squarest come first, because short ways between boards are worth having and
a square leaves the least edge behind.

Where dead boards leave no room in any of these, not even on the idle machine, larger ones are allowed
(`looser_shapes`); `core.placement.search` takes the smallest that the machine has.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from spalloc_server.coordinates import BOARDS_PER_TRIAD
from spalloc_server.core.model import Request

__all__ = [
    "Shape",
    "as_share",
    "inside",
    "least_boards",
    "looser_shapes",
    "shapes_for",
    "torus_shapes",
    "wanted_boards",
]

Shape = tuple[int, int]
"""(width, height) in triads."""

ROUNDING = 1e-9
"""Ratios within this of each other count as equal."""


def as_share(number: float) -> Fraction:
    """Return the fraction that a decimal number stands for: 0.9 is nine tenths, 0.666667 is two thirds."""
    return Fraction(number).limit_denominator(1_000_000)


def wanted_boards(request: Request) -> int:
    """The boards that a request for n boards gets: two boards are no machine, so they cost a triad."""
    assert request.boards is not None
    return max(BOARDS_PER_TRIAD, request.boards)


def least_boards(shape: Shape) -> int:
    """The fewest boards that connect a rectangle's bottom-left board with its last column and its last row.

    The last column is reached by a board z = 1, and the last row by a board z = 2: only these go up to the end of the
    rectangle. Two boards lead from one column, or row, to the next, and going diagonally serves both.
    """
    return 2 * max(shape) + (shape[0] == shape[1])


def inside(shape: Shape, other: Shape) -> bool:
    """Whether a rectangle lies inside another, or is as large."""
    return shape[0] <= other[0] and shape[1] <= other[1]


@lru_cache(maxsize=4096)
def shapes_for(boards: int, width: int, height: int, min_ratio: float, min_fill: Fraction) -> tuple[Shape, ...]:
    """The rectangles for so many boards on a machine of this size in triads: tight or well filled, best first."""
    tight = _tight(boards, width, height, min_ratio)
    most = int(boards / (BOARDS_PER_TRIAD * min_fill)) if min_fill else width * height
    filled = _between(boards, width, height, min_ratio, most)
    return tuple(sorted({*tight, *filled}, key=_preference))


@lru_cache(maxsize=256)
def looser_shapes(boards: int, width: int, height: int, min_ratio: float, min_fill: Fraction) -> tuple[Shape, ...]:
    """The other rectangles that could hold so many boards, smallest first."""
    rest = {*_between(boards, width, height, min_ratio, width * height)}
    rest.difference_update(shapes_for(boards, width, height, min_ratio, min_fill))
    return tuple(sorted(rest, key=lambda shape: (shape[0] * shape[1], _preference(shape))))


@lru_cache(maxsize=4096)
def torus_shapes(boards: int, width: int, height: int, min_ratio: float) -> tuple[Shape, ...]:
    """The rectangles for at least so many boards that span an axis of the machine, smallest first."""
    spanning = {_shape(width, up) for up in range(1, height + 1)}
    spanning |= {_shape(across, height) for across in range(1, width + 1)}
    allowed = (shape for shape in spanning if _holds(shape, boards) and _square_enough(shape, min_ratio))
    return tuple(sorted(allowed, key=lambda shape: (shape[0] * shape[1], _preference(shape))))


def _tight(boards: int, width: int, height: int, min_ratio: float) -> list[Shape]:
    triads = -(-boards // BOARDS_PER_TRIAD)
    found = set()
    for side in range(1, max(width, height) + 1):
        other = max(-(-triads // side), math.ceil(side * min_ratio - ROUNDING), 1)
        for shape in ((side, other), (other, side)):
            if inside(shape, (width, height)) and _square_enough(shape, min_ratio) and _holds(shape, boards):
                found.add(shape)
    spanned = [shape for shape in found if least_boards(shape) <= boards]
    return [shape for shape in spanned if not any(other != shape and inside(other, shape) for other in spanned)]


def _between(boards: int, width: int, height: int, min_ratio: float, most: int) -> list[Shape]:
    """The rectangles of at most so many triads that so many boards fit into, and span."""
    triads = -(-boards // BOARDS_PER_TRIAD)
    found = []
    for across in range(1, min(width, boards // 2) + 1):
        least = max(-(-triads // across), math.ceil(across * min_ratio - ROUNDING), 1)
        for up in range(least, min(height, most // across) + 1):
            shape = _shape(across, up)
            if not _square_enough(shape, min_ratio):
                break
            if least_boards(shape) <= boards:
                found.append(shape)
    return found


@lru_cache(maxsize=1 << 15)
def _shape(width: int, height: int) -> Shape:
    """A rectangle, the same object each time: answers that are kept share thousands of them."""
    return width, height


def _holds(shape: Shape, boards: int) -> bool:
    return shape[0] * shape[1] * BOARDS_PER_TRIAD >= boards


def _square_enough(shape: Shape, min_ratio: float) -> bool:
    return min(shape) >= min_ratio * max(shape) - ROUNDING


def _preference(shape: Shape) -> tuple[int, int, Shape]:
    return sum(shape), shape[0] * shape[1], shape
