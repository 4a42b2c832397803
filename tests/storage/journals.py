"""Both journals under one roof, so that the same tests hold for both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.storage.journal import Journal, OnHealth
from spalloc_server.storage.rows import Rows
from spalloc_server.storage.sqlite import SqliteJournal
from tests.house import PATIENCE
from tests.storage.memory_journal import MemoryJournal


class Bench(Protocol):
    """A journal, and a hand on what lies under it."""

    journal: Journal

    def held(self) -> AbstractContextManager[None]:
        """While the context lasts no commit goes through."""

    def break_disk(self) -> None:
        """From now on commits fail."""

    def mend_disk(self) -> None:
        """From now on they do not."""

    async def prune(self, before: float) -> None:
        """Prune, to the end."""


class MemoryBench:
    """The twin in memory."""

    def __init__(self, path: Path, on_health: OnHealth | None = None) -> None:
        self._journal = MemoryJournal(loop=asyncio.get_running_loop(), on_health=on_health)
        self.journal: Journal = self._journal

    @contextmanager
    def held(self) -> Iterator[None]:
        self._journal.held = True
        yield
        self._journal.held = False
        self._journal.retry()

    def break_disk(self) -> None:
        self._journal.failure = StorageError("the disk is broken")

    def mend_disk(self) -> None:
        self._journal.failure = None

    async def prune(self, before: float) -> None:
        self._journal.prune(before)


class SqliteBench:
    """The journal on disk."""

    def __init__(self, path: Path, on_health: OnHealth | None = None) -> None:
        self._journal = SqliteJournal.open(
            path, read_request=read_request, loop=asyncio.get_running_loop(), on_health=on_health
        )
        self.journal: Journal = self._journal
        self._free = threading.Event()
        self._free.set()
        self._commit = self._journal._commit
        self._journal._commit = self._commit_when_free  # type: ignore[method-assign]

    def _commit_when_free(self, rows: Rows) -> StorageError | None:
        assert self._free.wait(20)
        return self._commit(rows)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._free.clear()
        yield
        self._free.set()

    def break_disk(self) -> None:
        self._journal._connection.execute("PRAGMA query_only = ON")

    def mend_disk(self) -> None:
        self._journal._connection.execute("PRAGMA query_only = OFF")

    async def prune(self, before: float) -> None:
        await pruned(self._journal, before)


async def stored(journal: Journal, *batches: Changes) -> None:
    """Write batches and wait until the last is durable."""
    outcomes = await written(journal, *batches)
    assert outcomes == [None] * len(batches)


async def written(journal: Journal, *batches: Changes) -> list[StorageError | None]:
    """Write batches and wait for what becomes of them."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[StorageError | None]] = [loop.create_future() for _ in batches]
    for batch, future in zip(batches, futures, strict=True):
        journal.write(batch, future.set_result)
    async with asyncio.timeout(PATIENCE):
        return list(await asyncio.gather(*futures))


async def pruned(journal: SqliteJournal, before: float) -> None:
    """Prune, and wait for the end of it as the writer sees it: a step that finds too little to delete."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    step = journal._prune_step

    def watched(before: float) -> None:
        step(before)
        if journal._prune_before is None:
            loop.call_soon_threadsafe(done.set)

    journal._prune_step = watched  # type: ignore[method-assign]
    journal.prune(before)
    async with asyncio.timeout(PATIENCE):
        await done.wait()
