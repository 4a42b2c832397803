"""Which rectangles of triads serve a request.

Theory of operation. For n boards every width has one least height that holds n boards, and every height one least
width. Those of them that are square enough, and have no other inside them, are the tight shapes (`tight_shapes`):
nothing smaller serves. They are tried from the smallest area up, and among equal areas from the squarest, because
short ways between boards are worth having and a square leaves the least edge behind.

Where none of them finds room, growing shapes may (`growing_shapes`): each is inside the next, from the least square
up to the one that has every other allowed shape inside it. So if the last of them does not serve at any origin, no
rectangle does, and the least one that serves is found by bisection.
"""

from __future__ import annotations

import math
from functools import lru_cache

from spalloc_server.coordinates import BOARDS_PER_TRIAD
from spalloc_server.core.messages import Request

__all__ = ["Shape", "every_shape", "growing_shapes", "tight_shapes"]

Shape = tuple[int, int]
"""(width, height) in triads."""

ROUNDING = 1e-9
"""Ratios within this of each other count as equal."""


def tight_shapes(request: Request, width: int, height: int) -> tuple[Shape, ...]:
    """Shapes with no smaller ones inside them, on a machine of this size in triads; best first."""
    if request.triads is not None:
        across, up = request.triads
        fits = 1 <= across <= width and 1 <= up <= height
        return ((across, up),) if fits and (not request.require_torus or (across, up) == (width, height)) else ()
    assert request.boards is not None
    return _tight(request.boards, width, height, request.min_ratio)


def every_shape(request: Request, width: int, height: int) -> tuple[Shape, ...]:
    """All shapes that a request allows; best first."""
    if request.boards is None:
        return tight_shapes(request, width, height)
    shapes = [
        (across, up)
        for across in range(1, width + 1)
        for up in range(1, height + 1)
        if _allowed((across, up), request.boards, request.min_ratio)
        and (not request.require_torus or across == width or up == height)
    ]
    return tuple(sorted(shapes, key=_preference))


@lru_cache(maxsize=4096)
def growing_shapes(boards: int, width: int, height: int, min_ratio: float) -> tuple[Shape, ...]:
    """Shapes for at least so many boards, each inside the next, up to one that has all allowed ones inside it."""
    widest = width if min_ratio * width <= height else int(height / min_ratio + ROUNDING)
    highest = height if min_ratio * height <= width else int(width / min_ratio + ROUNDING)
    across = up = 1
    found = []
    while True:
        if _allowed((across, up), boards, min_ratio):
            found.append((across, up))
        if across < widest and (across <= up or up == highest):
            across += 1
        elif up < highest:
            up += 1
        else:
            return tuple(found)


@lru_cache(maxsize=4096)
def _tight(boards: int, width: int, height: int, min_ratio: float) -> tuple[Shape, ...]:
    triads = -(-boards // BOARDS_PER_TRIAD)
    found = set()
    for side in range(1, max(width, height) + 1):
        other = max(-(-triads // side), math.ceil(side * min_ratio - ROUNDING))
        for shape in ((side, other), (other, side)):
            if 1 <= shape[0] <= width and 1 <= shape[1] <= height and _allowed(shape, boards, min_ratio):
                found.add(shape)
    tight = [
        shape
        for shape in found
        if not any(other != shape and other[0] <= shape[0] and other[1] <= shape[1] for other in found)
    ]
    return tuple(sorted(tight, key=_preference))


def _allowed(shape: Shape, boards: int, min_ratio: float) -> bool:
    return shape[0] * shape[1] * BOARDS_PER_TRIAD >= boards and min(shape) >= min_ratio * max(shape) - ROUNDING


def _preference(shape: Shape) -> tuple[int, int, Shape]:
    return shape[0] * shape[1], abs(shape[0] - shape[1]), shape
