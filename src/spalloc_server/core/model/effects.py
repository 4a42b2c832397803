"""What follows from what the core has done: rows to store, and then what the world must do."""

from __future__ import annotations

import msgspec

from spalloc_server.core.model.events import JobEvent
from spalloc_server.core.model.power import Switch
from spalloc_server.core.model.rows import Changes

__all__ = ["Effects"]


class Effects(msgspec.Struct):
    """What follows from a batch. The changes are stored first; the rest is done once they are durable."""

    changes: Changes
    switches: list[Switch]
    """Power operations, in order."""
    jobs: set[int]
    """Jobs whose watchers are to be told."""
    machines: set[str]
    """Machines whose watchers are to be told."""
    events: list[JobEvent]
    """What happened to jobs, for those who keep a log of it; in order."""
