"""Maintenance of the journal while the server runs: what happens when the disk refuses, and history that grows old.

Theory of operation. While the disk refuses, clients are refused changes, once a second everything that waits is tried
again, and once a minute the log says so. As soon as it works, all goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spalloc_server.controller import steady_time
from spalloc_server.errors import StorageError
from spalloc_server.log.logger import get_logger
from spalloc_server.storage.journal import Journal

__all__ = ["JournalMaintenance"]

RETRY_SECONDS = 1.0
"""Between attempts to write while the disk refuses."""

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
    """

    def __init__(self, refuse: Callable[[str | None], None], *, clock: Callable[[], float] = steady_time) -> None:
        self._refuse = refuse
        self._clock = clock
        self._complained = 0.0
        self._pruned = 0.0

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
            await asyncio.sleep(RETRY_SECONDS)

    def look(self, journal: Journal, history_days: float) -> None:
        """Do what is due; to be called every `RETRY_SECONDS`."""
        now = self._clock()
        if now - self._pruned >= PRUNE_SECONDS:
            self._pruned = now
            journal.prune(now - history_days * 86400)
        if journal.error is not None:
            journal.retry()
            if now - self._complained >= COMPLAIN_SECONDS:
                self._complain(journal.error)

    def _complain(self, error: StorageError) -> None:
        self._complained = self._clock()
        log.error("state cannot be written: changes are refused until it can", error=str(error))
