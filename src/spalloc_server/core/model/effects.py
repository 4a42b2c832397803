"""What follows from what the core has done: rows to store, what the world must do, and what the job log tells."""

from __future__ import annotations

import msgspec

from spalloc_server.coordinates import Board
from spalloc_server.core.model.power import Switch
from spalloc_server.core.model.rows import Changes

__all__ = ["Effects", "JobEvent"]


class JobEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a log of jobs."""

    time: float
    """Seconds since the Unix epoch."""
    event: str
    """`created`, `allocated`, `power` (asked for by a user), `ready`, `failed` (hardware), or `destroyed`; and of
    operators `held`, `released`, `extended` and `priority`."""
    job_id: int
    owner: str
    host: str | None = None
    """Address that the job was last named from."""
    power: bool | None = None
    """What is asked for, or what the boards are."""
    machine: str | None = None
    boards: tuple[Board, ...] = ()
    reason: str | None = None
    seconds: float | None = None
    """`allocated`: since it was created. `ready`, the first time: since it had boards. `destroyed`: likewise, or, where
    it had none, since it was created."""


class Effects(msgspec.Struct):
    """What follows from a batch. The changes are stored first; the rest is done once they are durable."""

    changes: Changes
    switches: list[Switch]
    """Power operations, in order."""
    jobs: set[int]
    """Jobs whose watchers are to be notified."""
    machines: set[str]
    """Machines whose watchers are to be notified."""
    events: list[JobEvent]
    """What happened to jobs, for those who keep a log of it; in order."""
