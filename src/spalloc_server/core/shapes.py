"""Which rectangles of triads serve a request.

Theory of operation. For n boards every width has one useful height: the least that holds n boards. A rectangle that
is larger than another useful one in both directions is left out, unless only it is square enough. They are tried
from the smallest area up, and among equal areas from the squarest, because short ways between boards are worth
having and a square leaves the least edge behind.
"""

from __future__ import annotations

import math
from functools import lru_cache

from spalloc_server.core.messages import Request
from spalloc_server.core.topology import BOARDS_PER_TRIAD

__all__ = ["Shape", "growing_shapes", "shapes"]

Shape = tuple[int, int]
"""(width, height) in triads."""


def shapes(request: Request, width: int, height: int) -> tuple[Shape, ...]:
    """Shapes that could serve a request on a machine of this size in triads, best first; empty where none fits."""
    if request.triads is not None:
        across, up = request.triads
        fits = 1 <= across <= width and 1 <= up <= height
        whole = (across, up) == (width, height)
        return ((across, up),) if fits and (whole or not request.require_torus) else ()
    assert request.boards is not None
    return _for_boards(request.boards, width, height, request.min_ratio, request.require_torus)


@lru_cache(maxsize=4096)
def _for_boards(boards: int, width: int, height: int, min_ratio: float, torus: bool) -> tuple[Shape, ...]:
    triads = -(-boards // BOARDS_PER_TRIAD)
    found = set()
    for across in range(1, width + 1):
        up = _least_other_side(across, triads, min_ratio)
        if 1 <= up <= height and min(across, up) >= min_ratio * max(across, up):
            found.add((across, up))
    for up in range(1, height + 1):
        across = _least_other_side(up, triads, min_ratio)
        if 1 <= across <= width and min(across, up) >= min_ratio * max(across, up):
            found.add((across, up))
    if torus:
        found = {shape for shape in found if shape[0] == width or shape[1] == height}
    useful = [
        shape
        for shape in found
        if not any(other != shape and other[0] <= shape[0] and other[1] <= shape[1] for other in found)
    ]
    return tuple(sorted(useful, key=lambda shape: (shape[0] * shape[1], abs(shape[0] - shape[1]), shape)))


def _least_other_side(side: int, triads: int, min_ratio: float) -> int:
    """The shortest other side of a rectangle that holds so many triads and is not too flat."""
    return max(-(-triads // side), math.ceil(side * min_ratio))


@lru_cache(maxsize=4096)
def growing_shapes(boards: int, width: int, height: int, min_ratio: float) -> tuple[Shape, ...]:
    """Shapes for so many boards or more, each inside the next, up to one that has all that are square enough inside."""
    widest = width if min_ratio * width <= height else int(height / min_ratio)
    highest = height if min_ratio * height <= width else int(width / min_ratio)
    across = up = 1
    found = []
    while True:
        square_enough = min(across, up) >= min_ratio * max(across, up)
        if across * up * BOARDS_PER_TRIAD >= boards and square_enough:
            found.append((across, up))
        if across < widest and (across <= up or up == highest):
            across += 1
        elif up < highest:
            up += 1
        else:
            return tuple(found)
