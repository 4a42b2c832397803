"""When a job that waits will probably start, and why it waits: what is told of it before it has boards."""

from __future__ import annotations

import msgspec

__all__ = ["Forecast"]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted of a job that waits. Times are seconds since the epoch."""

    position: int
    """Its place in the queue, from 1."""
    queued: int
    """How many wait, itself included."""
    earliest: float | None = None
    """It will probably not start before; about one job in twenty does."""
    start: float | None = None
    """When it will probably start. None, as both others, where nothing can be predicted: its machines are closed, or
    too little of them is in service."""
    latest: float | None = None
    """It will probably start by then; about one job in ten does not."""
    estimated: bool = False
    """It is so far back that only the work before it was counted, so the spread is wide."""
    why: str
    """Why it waits, in words."""
