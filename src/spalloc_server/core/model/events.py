"""What has happened to jobs, as the job log tells it."""

from __future__ import annotations

import msgspec

from spalloc_server.coordinates import Board

__all__ = ["JobEvent"]


class JobEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a log of jobs."""

    time: float
    """Seconds since the Unix epoch."""
    event: str
    """`created`, `allocated`, `power` (asked for by a user), `ready`, `failed` (hardware), or `destroyed`."""
    job_id: int
    owner: str
    host: str | None = None
    """Address that the job was last named from."""
    power: bool | None = None
    """What is asked for, or what the boards are."""
    machine: str | None = None
    boards: tuple[Board, ...] = ()
    reason: str | None = None
