"""Which requests are equivalent, so that what is known of one is known of all.

Theory of operation. What placement learns of a request is remembered by its *kind*: the request without the fields that
have no effect on its place, and with its bounds rounded to the nearest that differ in effect. Thousands of jobs whose
bounds all differ are then of few kinds.

- A `min_ratio` matters only by the rectangles that it allows. Their ratios are those of two whole numbers up to a
  machine's side, so it is rounded up to the next of these.
- A block that serves has at least one working board, so it never lacks more than all boards but one.
- More dead links than the machines have are never counted.

Jobs are placed by their kind, not by their request, so rounding never makes a difference between two decisions.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

import msgspec

from spalloc_server.core.model import Request

__all__ = ["kind_of"]

ROUNDING = 1e-9
"""Ratios within this of each other count as equal."""


def kind_of(request: Request, side: int, dead_links: int) -> Request:
    """Return the kind of a request: an equivalent one that is the same for all of its kind.

    Args:
        request: what a job asks for.
        side: the longest side of any machine, in triads.
        dead_links: the most dead links that any machine has.
    """
    ratio, boards, links = 0.0, request.max_dead_boards, request.max_dead_links
    if request.single:
        boards = links = None
    else:
        if request.boards is not None and request.min_ratio * side > 1 + ROUNDING:
            ratios = _ratios(side)
            ratio = ratios[bisect_left(ratios, request.min_ratio - ROUNDING)]
        if boards is not None:
            boards = max(-1, min(boards, request.asked - 1))
        if links is not None:
            links = None if links >= dead_links else max(-1, links)
    return msgspec.structs.replace(
        request,
        owner="",
        machine=None,
        tags=frozenset(),
        min_ratio=ratio,
        max_dead_boards=boards,
        max_dead_links=links,
        max_runtime=None,
        priority=0,
    )


@lru_cache(maxsize=16)
def _ratios(side: int) -> tuple[float, ...]:
    """All ratios of the sides of rectangles up to this side, rising."""
    return tuple(sorted({short / long for long in range(1, side + 1) for short in range(1, long + 1)}))
