"""A journal in memory: as the one on disk, with commits that a test may hold back or make fail."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from spalloc_server.core.model.rows import (
    BoardRow,
    Changes,
    JobRow,
    ReleaseRow,
    ResultRow,
    SessionRow,
    Snapshot,
    TokenRow,
    UserRow,
)
from spalloc_server.errors import StorageError
from spalloc_server.storage.journal import Committed, Health, OnHealth


class MemoryJournal:
    """A journal that keeps its rows in memory.

    Attributes:
        held: while true nothing is committed except by `commit`.
        failure: while set, every commit fails with it.
        owned: whether no other process has a part in the right to the state.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop, on_health: OnHealth | None = None) -> None:
        self.held = False
        self.owned = True
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
            users=[row for _, row in sorted(stored.users.items()) if row is not None],
            tokens=sorted((row for row in stored.tokens.values() if row is not None), key=lambda row: row.created_at),
            sessions=sorted((row for row in stored.sessions.values() if row is not None), key=lambda row: row.used_at),
            results=[row for _, row in sorted(stored.results.items()) if row is not None],
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
    for table in Changes.__struct_fields__:
        getattr(into, table).update(getattr(changes, table))


def _copy(changes: Changes) -> Changes:
    """What would come back from a disk: rows that have been through JSON, and nothing that JSON cannot hold."""
    try:
        return Changes(
            jobs=_through_json(changes.jobs, dict[int, JobRow]),
            boards={key: _through_json(row, BoardRow | None) for key, row in changes.boards.items()},
            releases=_through_json(changes.releases, dict[int, ReleaseRow | None]),
            facts=_through_json(changes.facts, dict[str, Any]),
            users=_through_json(changes.users, dict[int, UserRow | None]),
            tokens=_through_json(changes.tokens, dict[str, TokenRow | None]),
            sessions=_through_json(changes.sessions, dict[str, SessionRow | None]),
            results=_through_json(changes.results, dict[int, ResultRow | None]),
        )
    except (TypeError, ValueError, OverflowError) as exc:
        raise StorageError(f"a value cannot be stored: {exc}") from exc


def _through_json(value: Any, kind: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value), type=kind)
