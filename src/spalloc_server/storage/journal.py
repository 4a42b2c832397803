"""The journal: what the server promises its clients is on disk before it promises it.

Theory of operation. Memory is the authority and the disk is its journal. The core's changes come as batches of
whole rows (`Changes`); each batch is written atomically, in the order of the calls, and `committed` is called once
it is durable. `write` never blocks: batches that arrive while a commit is running go together into the next one
(group commit), so that many clients share the price of one sync.

A commit that fails is reported to the batches that were in it, and the journal is *unhealthy* until one succeeds.
Memory has moved on by then, so the rows are not thrown away: the journal keeps the latest of each key and writes
them together with the next attempt, which is the next `write` or `retry`. So the disk catches up by itself as soon
as it can, and a caller that was told of an error knows only that nothing was promised: the rows may still come.

`Journal` is the interface. `SqliteJournal` is the one on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from spalloc_server.core.model import Changes, Snapshot
from spalloc_server.errors import StorageError

__all__ = ["Committed", "Health", "Journal", "OnHealth"]

Committed: TypeAlias = Callable[[StorageError | None], None]
"""Called in the event loop, in the order of the writes: None when durable, else why it is not."""

OnHealth: TypeAlias = Callable[[StorageError | None], None]
"""Called in the event loop when the journal becomes unhealthy (the error) and when it is well again (None)."""


class Journal(Protocol):
    """Where the core's rows are kept. All methods are for the thread of the event loop, except `load`."""

    @property
    def error(self) -> StorageError | None:
        """Why the last commit failed; None while the journal is healthy."""
        ...

    @property
    def owned(self) -> bool:
        """Whether no other process has a part in the right to the state, as the one before has during an upgrade."""
        ...

    def load(self, *, max_retired: int) -> Snapshot:
        """All live jobs, the `max_retired` jobs that ended last, all boards, releases and facts.

        Blocks; meant for the start, before the first write (from any thread).

        Raises:
            DamagedStateError: what is stored cannot be what was written.
            StorageError: it cannot be read.
        """
        ...

    def write(self, changes: Changes, committed: Committed) -> None:
        """Take a copy of `changes`, write it soon, and then call `committed`. Never blocks.

        A row whose `ended_at` is set is history: its job must not come back to life.

        Raises:
            StorageError: a value cannot be stored, or the journal is closed; nothing of the batch is taken.
        """
        ...

    def retry(self) -> None:
        """See whether commits go through, and try again to write what failed to be written; for once a second."""
        ...

    def prune(self, before: float) -> None:
        """Forget the jobs that ended before this time, in small steps and behind all writes. Never blocks."""
        ...

    async def close(self) -> None:
        """Write what is pending, call back, and let go of the file. Harmless when repeated."""
        ...


class Health:
    """Tells callers in their event loop how their batches fared, and notices when that changes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_health: OnHealth | None) -> None:
        self.error: StorageError | None = None
        self._loop = loop
        self._on_health = on_health

    def settle(self, waiting: Iterable[Committed], error: StorageError | None) -> None:
        """Report the end of one commit (in the event loop's thread)."""
        changed = (self.error is None) != (error is None)
        self.error = error
        if changed and self._on_health is not None:
            self._loop.call_soon(self._on_health, error)
        for committed in waiting:  # one call each: what one of them raises does not keep the others waiting
            self._loop.call_soon(committed, error)
