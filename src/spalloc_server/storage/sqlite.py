"""The journal on disk: one SQLite database, one thread that writes to it.

Theory of operation. `write` encodes the rows in the caller's thread and puts them into a queue; it takes no lock and
touches no disk. The writer thread takes all that is queued, merges it (the latest of each key wins), commits it in
one transaction with one sync, and hands the outcome to the event loop. What failed to be committed stays with the
thread and goes into the next transaction. A commit costs about as much for one job as for many: so where the last one
was of several, the thread waits shortly for more before the next (`GATHER_SECONDS`). When there is nothing to write and
history is to be pruned, the thread moves a few lines at a time into sums (`accounting`), so that a write never waits
for more than one such step.

Each commit is counted, and so is a state from which commits are missing found out (`commit_count`). Before each commit,
and whenever it is told to `retry`, the thread looks whether the files are still those that it has open (`files`).

Write-ahead logging with `synchronous = FULL`: a commit is durable when it returns, a crash at any moment leaves
exactly the committed transactions, and readers (`storage.history`) never hinder the writer.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import msgspec

from spalloc_server.core.model import Changes, Snapshot
from spalloc_server.errors import StateInUseError, StorageError
from spalloc_server.log.logger import get_logger
from spalloc_server.storage.accounting import prune
from spalloc_server.storage.commit_count import Count, CountFile, missing, read_count
from spalloc_server.storage.files import Lock, OpenFiles, explained
from spalloc_server.storage.journal import Committed, Health, OnHealth
from spalloc_server.storage.reading import ReadRequest, read_snapshot
from spalloc_server.storage.rows import REFUSALS, Rows, encode, take_refused
from spalloc_server.storage.state_file import connect, newest_schema, prepare, reopen, replace, transaction

__all__ = ["SqliteJournal"]

MAX_GROUP = 10_000
"""Batches in one transaction."""

GATHER_SECONDS = 0.0005
"""The wait for more batches before a commit, where the last one was of several jobs."""

PRUNE_ROWS = 500
"""Lines of history that go in one step."""

PRUNE_PAUSE = 0.02
"""Seconds that the disk is left alone between two steps."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: Rows
    committed: Committed | None = None


class SqliteJournal:
    """The journal on disk (see `Journal`). Construct it with `open`."""

    def __init__(
        self,
        path: Path,
        lock: Lock,
        connection: sqlite3.Connection,
        count_file: CountFile,
        seen: Count | None,
        read_request: ReadRequest,
        loop: asyncio.AbstractEventLoop,
        health: Health,
    ) -> None:
        self.lock = lock
        """The right to the state, for a process that is to take over."""
        self._path = path
        self._connection = connection
        self._count_file = count_file
        self._found = stored = read_count(connection, seen)
        seen = seen or Count("")
        self._missing = missing(stored, seen)
        more = {"next_job": max(stored.next_job, seen.next_job), "number": max(stored.number, seen.number)}
        self.count = msgspec.structs.replace(stored, **more)
        """How far the state has come, as of the last commit."""
        self._files = OpenFiles(path)
        self._read_request = read_request
        self._loop = loop
        self._health = health
        self._queue: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._refused: dict[tuple[str, Any], Exception] = {}
        """Rows of the present group that the database refuses."""
        self._crowded = False
        """Whether the last commit was of several jobs."""
        self._prune_before: float | None = None
        self._closing = False
        self._closed = asyncio.Event()
        # A daemon: a disk that hangs must not keep the process from ending when it is told to end at once.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_request: ReadRequest,
        loop: asyncio.AbstractEventLoop,
        on_health: OnHealth | None = None,
        lock: int | None = None,
        left: Count | None = None,
    ) -> SqliteJournal:
        """Open the state at `path`, or begin it there. Blocks; from any thread.

        Args:
            path: the state file.
            read_request: for live jobs whose rows lack their requests, see `storage.reading`.
            loop: where callbacks are called.
            on_health: is told when commits fail, and when they succeed again.
            lock: a right that was handed over (see `Lock`).
            left: how far the process that handed it over has brought the state, where it tells.

        Raises:
            StateInUseError: another server has it.
            NewerStateError: a newer version of this software wrote it; it is untouched.
            DamagedStateError: it is damaged.
            StorageError: it cannot be opened, or is not what was handed over.
        """
        path = path.resolve()
        with ExitStack() as stack, explained(path):
            right = Lock(path, file=lock)
            stack.callback(right.release)
            connection = stack.enter_context(closing(connect(path, read_request)))
            count_file = stack.enter_context(closing(CountFile(path)))
            if not right.lock_state() and lock is None:
                raise StateInUseError(f"the state in {path} is in use by another server")
            seen = left or count_file.seen  # who hands over knows, whatever has become of the file
            journal = cls(path, right, connection, count_file, seen, read_request, loop, Health(loop, on_health))
            if left is not None and (left.state, left.number) != (journal._found.state, journal._found.number):
                raise StorageError(f"the state in {path} is not the one that was handed over")
            stack.pop_all()
        journal._thread.start()
        return journal

    @property
    def error(self) -> StorageError | None:
        """Why the last commit failed; None while the journal is healthy."""
        return self._health.error

    @property
    def owned(self) -> bool:
        """See `Journal.owned`."""
        return self.lock.whole

    def load(self, *, max_retired: int) -> Snapshot:
        """See `Journal.load`."""
        with explained(self._path):
            snapshot = read_snapshot(self._connection, self._read_request, max_retired=max_retired)
        if self._missing is not None:
            snapshot.unreadable.append(self._missing)
        return snapshot

    def highest_id(self) -> int:
        """Return the highest number that a job has had, as far as is known; 0 for none."""
        return self.count.next_job - 1

    def write(self, changes: Changes, committed: Committed) -> None:
        """See `Journal.write`."""
        if self._closing:
            raise StorageError(f"the state in {self._path} is closed")
        self._queue.put(_Batch(encode(changes), committed))

    def retry(self) -> None:
        """See `Journal.retry`."""
        self._queue.put(_Batch(Rows()))

    def prune(self, before: float) -> None:
        """See `Journal.prune`."""
        self._prune_before = before
        self._queue.put(_Batch(Rows()))

    def stop_pruning(self) -> None:
        """Delete no more history until `prune` is called again: another process may be about to write."""
        self._prune_before = None

    async def close(self) -> None:
        """See `Journal.close`."""
        self._closing = True
        self._queue.put(_Batch(Rows()))
        await self._closed.wait()

    def reclaim(self, snapshot: Callable[[], Snapshot]) -> Path | None:
        """Go on with the state after another process, which shared the right to it, has failed to take over.

        Where that has brought the state to a newer schema, it is set aside, and a new one begins with `snapshot()`.

        Returns:
            The name under which it was set aside; None where it was not.

        Raises:
            StorageError: that could not be done. The server can go on with what there is, as with a disk that refuses.
        """
        self.lock.sign()
        with explained(self._path):
            (schema,) = self._connection.execute("PRAGMA user_version").fetchone()
            if schema == newest_schema():
                return None
            fresh = prepare(
                self._path, _as_changes(snapshot()), self.count
            )  # whole, before anything is given up for it
            self._connection.close()
            try:
                return replace(self._path, fresh)
            finally:
                self._connection = reopen(self._path)
                self.lock.lock_state()
                self._files = OpenFiles(self._path)

    def _run(self) -> None:
        """The writer thread."""
        pending = Rows()
        while not (self._closing and self._queue.empty()):
            group = self._next_group()
            for batch in group:
                pending.update(batch.rows)
            if group:
                error = self._commit(pending)
                if error is None:
                    pending = Rows()
                waiting = [told for batch in group if (told := self._outcome_of(batch)) is not None]
                self._refused.clear()
                self._call(self._health.settle, waiting, error)
            elif self._prune_before is not None:
                self._prune_step(self._prune_before)
        with suppress(sqlite3.Error):  # all that counts has been committed
            self._connection.close()
        self._count_file.close()
        self.lock.release()
        self._call(self._closed.set)

    def _next_group(self) -> Sequence[_Batch]:
        """All batches that are waiting, at least one; or none, when it is time to prune."""
        group: list[_Batch] = []
        with suppress(queue.Empty):
            group.append(self._queue.get(timeout=None if self._prune_before is None else PRUNE_PAUSE))
            if self._crowded:
                sleep(GATHER_SECONDS)
            while len(group) < MAX_GROUP:
                group.append(self._queue.get_nowait())
        return group

    def _commit(self, rows: Rows) -> StorageError | None:
        try:
            with explained(self._path):
                self._files.check()
                if self.lock.keep():
                    _log.warning("the lock file was removed: it is there again", state=str(self._path))
                if rows:
                    self._store(rows)
        except StorageError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - a writer that dies would leave every caller waiting for ever
            return StorageError(f"the state in {self._path} cannot be written: {exc!r}")
        return None

    def _store(self, rows: Rows) -> None:
        count = self.count.after(rows.jobs)
        try:
            with transaction(self._connection):
                rows.store(self._connection)
                count.store(self._connection)
        except REFUSALS:
            with _tried(self._connection):
                refused = take_refused(rows, self._connection)
            if not refused:
                raise
            self._refused |= refused
            for (table, key), error in refused.items():
                _log.error("the database refuses a row: it is not stored", table=table, key=key, error=repr(error))
            self._store(rows)
            return
        self._files.accept()
        self.count, self._crowded = count, len(rows.jobs) > 1
        self._count_file.write(count)

    def _outcome_of(self, batch: _Batch) -> Committed | None:
        """What to call for a batch once its commit is over: of a row that was refused it is told that."""
        if batch.committed is None or not batch.rows.has_any(self._refused):
            return batch.committed
        return partial(_not_stored, batch.committed)

    def _prune_step(self, before: float) -> None:
        try:
            self._files.check()
            with explained(self._path), transaction(self._connection):
                deleted = prune(self._connection, before, PRUNE_ROWS)
            self._files.accept()
        except Exception as exc:  # noqa: BLE001 - a writer that dies would leave every caller waiting for ever
            _log.warning("history was not pruned", error=str(exc))
            deleted = 0
        if deleted < PRUNE_ROWS and self._prune_before == before:
            self._prune_before = None

    def _call(self, function: object, *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]


@contextmanager
def _tried(connection: sqlite3.Connection) -> Iterator[None]:
    """Nothing of what is done within stays."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _not_stored(committed: Committed, error: StorageError | None) -> None:
    committed(error or StorageError("the database refuses what was to be stored: the server's log tells more"))


def _as_changes(snapshot: Snapshot) -> Changes:
    return Changes(
        jobs={row.job_id: row for row in snapshot.jobs},
        boards={(row.machine, row.x, row.y, row.z): row for row in snapshot.boards},
        releases={row.release_id: row for row in snapshot.releases},
        facts=snapshot.facts,
        users={row.number: row for row in snapshot.users},
        tokens={row.id: row for row in snapshot.tokens},
        sessions={row.id: row for row in snapshot.sessions},
        results={row.number: row for row in snapshot.results},
    )
