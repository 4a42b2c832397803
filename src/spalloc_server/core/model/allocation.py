"""The piece of a machine that answers a request."""

from __future__ import annotations

import msgspec

from spalloc_server.coordinates import Board, BoardLink, WrapAround

__all__ = ["Allocation"]


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a machine that serves one request.

    For a single board `width` and `height` are 1 and (x, y) is the board's triad. Otherwise the block is `width` x
    `height` triads from the triad (x, y) rightwards and upwards, wrapping over the machine's edges, and board
    (x, y, 0) is always one of `boards`. All of it is decided when the boards are given; no change of the
    configuration changes what a job is.
    """

    machine: str
    x: int
    y: int
    width: int
    height: int
    boards: tuple[Board, ...]
    """The boards handed out, in machine coordinates, sorted; all connected by live links inside the block."""
    single: bool = False
    """Serves a request for one board; then `boards` has that one board, whichever z it is."""
    wraps: WrapAround | None = WrapAround.none
    """The axes on which it wraps, as its user sees them; None in rows from before this was stored."""
    stopped: tuple[BoardLink, ...] | None = ()
    """Links between its own boards that are stopped, from both ends; None likewise."""
