"""Maintenance of the journal while the server runs: what happens when the disk refuses, and history that grows old.

Theory of operation. Once a second the journal looks whether its files are still there, and tries again to write what it
could not. While it cannot, clients are refused changes, and once a minute the log says so. As soon as it can, all goes
on. History that is old enough is deleted, by a clock that is believed (`stored_times`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spalloc_server.controller import steady_time
from spalloc_server.core.model import Changes
from spalloc_server.errors import StorageError
from spalloc_server.log.logger import get_logger
from spalloc_server.process.stored_times import FACT, NOTED_SECONDS, StoredTimes
from spalloc_server.storage.journal import Committed, Journal

__all__ = ["JournalMaintenance"]

RETRY_SECONDS = 1.0
"""Between attempts to write while the disk refuses."""

SHARED_SECONDS = 0.05
"""The same after an upgrade, until the process before has ended: from then on nothing but this one guards the state."""

COMPLAIN_SECONDS = 60.0
"""Between lines of the log while the disk refuses."""

PRUNE_SECONDS = 3600.0
"""Between looks for history that is old enough to go."""

log = get_logger(__name__)


class JournalMaintenance:
    """Looks after a journal.

    Args:
        refuse: told why changes must be refused, or None when they need not be any more.
        clock: seconds since the epoch.
        times: say by which time history may be deleted.
    """

    def __init__(
        self,
        refuse: Callable[[str | None], None],
        *,
        clock: Callable[[], float] = steady_time,
        times: StoredTimes | None = None,
    ) -> None:
        self._refuse = refuse
        self._clock = clock
        self.times = times or StoredTimes()
        self._complained = 0.0
        self._pruned = self._noted = 0.0

    def on_health(self, error: StorageError | None) -> None:
        """The journal has become unhealthy, or is well again (None)."""
        if error is None:
            log.warning("state can be written again: nothing was lost")
            self._refuse(None)
        else:
            self._refuse(f"The server cannot store anything at present, so it changes nothing: {error}")
            self._complain(error)

    async def run(self, journal: Journal, history_days: Callable[[], float]) -> None:
        """Look after `journal`, for ever; history older than `history_days()` goes."""
        while True:
            self.look(journal, history_days())
            await asyncio.sleep(RETRY_SECONDS if journal.owned else SHARED_SECONDS)

    def look(self, journal: Journal, history_days: float) -> None:
        """Do what is due; to be called every `RETRY_SECONDS`."""
        now = self._clock()
        believed = self.times.believed()
        if believed is not None and now - self._pruned >= PRUNE_SECONDS:
            self._pruned = now
            journal.prune(believed - history_days * 86400)
        if now - self._noted >= NOTED_SECONDS:
            self.note_time(journal, lambda _: None)
        journal.retry()
        if journal.error is not None and now - self._complained >= COMPLAIN_SECONDS:
            self._complain(journal.error)

    def note_time(self, journal: Journal, committed: Committed) -> None:
        """Have it stored what time it is; then call `committed`."""
        self._noted = self._clock()
        journal.write(Changes(facts={FACT: self.times.fact()}), committed)

    def _complain(self, error: StorageError) -> None:
        self._complained = self._clock()
        log.error("state cannot be written: changes are refused until it can", error=str(error))
