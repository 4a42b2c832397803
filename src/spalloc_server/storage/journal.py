"""The journal: what the server promises its clients is on disk before it promises it.

Theory of operation. Memory is the authority and the disk is its journal. The core's changes come as batches of
whole rows (`Changes`); each batch is written atomically, in the order of the calls, and `committed` is called once
it is durable. `write` never blocks: batches that arrive while a commit is running go together into the next one
(group commit), so that many clients share the price of one sync.

A commit that fails is reported to the batches that were in it, and the journal is *unhealthy* until one succeeds.
Memory has moved on by then, so the rows are not thrown away: the journal keeps the latest of each key and writes
them together with the next attempt, which is the next `write` or `retry`. So the disk catches up by itself as soon
as it can, and a caller that was told of an error knows only that nothing was promised: the rows may still come.

`Journal` is the interface. `SqliteJournal` is the one on disk; `MemoryJournal` here is its twin for tests,
with the same semantics and commits that a test may hold back or make fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import msgspec

from spalloc_server.core.model.rows import BoardRow, Changes, JobRow, ReleaseRow, Snapshot
from spalloc_server.errors import StorageError

__all__ = ["Committed", "Health", "Journal", "MemoryJournal", "OnHealth"]

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
        """Try again to write what failed to be written; for once a second while the journal is unhealthy."""
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


class MemoryJournal:
    """A journal that keeps its rows in memory.

    Attributes:
        held: while true nothing is committed except by `commit`.
        failure: while set, every commit fails with it.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop, on_health: OnHealth | None = None) -> None:
        self.held = False
        self.failure: StorageError | None = None
        self._loop = loop
        self._health = Health(loop, on_health)
        self._stored = Changes()
        self._pending = Changes()
        self._waiting: list[Committed] = []
        self._closed = False

    @property
    def error(self) -> StorageError | None:
        """Why the last commit failed; None while the journal is healthy."""
        return self._health.error

    def load(self, *, max_retired: int) -> Snapshot:
        """See `Journal.load`."""
        stored = _copy(self._stored)
        live = [row for row in stored.jobs.values() if row.ended_at is None]
        ended = [(row.ended_at, row.job_id, row) for row in stored.jobs.values() if row.ended_at is not None]
        retired = [row for _, _, row in sorted(ended, reverse=True)[:max_retired]]
        return Snapshot(
            jobs=sorted(live + retired, key=lambda row: row.job_id),
            boards=[row for _, row in sorted(stored.boards.items()) if row is not None],
            releases=[row for _, row in sorted(stored.releases.items()) if row is not None],
            facts={name: value for name, value in stored.facts.items() if value is not None},
        )

    def write(self, changes: Changes, committed: Committed) -> None:
        """See `Journal.write`."""
        if self._closed:
            raise StorageError("the journal is closed")
        _merge(self._pending, _copy(changes))
        self._waiting.append(committed)
        self.retry()

    def retry(self) -> None:
        """See `Journal.retry`."""
        if not self.held:
            self._loop.call_soon(self.commit)

    def commit(self) -> None:
        """Commit all that is pending now, be it held or not."""
        if not self._pending and not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        if self.failure is None:
            _merge(self._stored, self._pending)
            self._pending = Changes()
        self._health.settle(waiting, self.failure)

    def prune(self, before: float) -> None:
        """See `Journal.prune`."""
        old = [k for k, row in self._stored.jobs.items() if row.ended_at is not None and row.ended_at < before]
        for key in old:
            del self._stored.jobs[key]

    async def close(self) -> None:
        """See `Journal.close`."""
        self._closed = True
        self.commit()
        await asyncio.sleep(0)


def _merge(into: Changes, changes: Changes) -> None:
    into.jobs.update(changes.jobs)
    into.boards.update(changes.boards)
    into.releases.update(changes.releases)
    into.facts.update(changes.facts)


def _copy(changes: Changes) -> Changes:
    """What would come back from a disk: rows that have been through JSON, and nothing that JSON cannot hold."""
    try:
        return Changes(
            jobs=_through_json(changes.jobs, dict[int, JobRow]),
            boards={key: _through_json(row, BoardRow | None) for key, row in changes.boards.items()},
            releases=_through_json(changes.releases, dict[int, ReleaseRow | None]),
            facts=_through_json(changes.facts, dict[str, Any]),
        )
    except (TypeError, ValueError, OverflowError) as exc:
        raise StorageError(f"a value cannot be stored: {exc}") from exc


def _through_json(value: Any, kind: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)
