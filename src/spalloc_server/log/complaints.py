"""Warnings about clients that do wrong, so many a second: no client can flood the log."""

from __future__ import annotations

import time
from collections.abc import Callable

from spalloc_server.log.logger import get_logger

__all__ = ["COMPLAINTS", "Complaints"]

COMPLAINTS = 20
"""Lines of the log about clients that do wrong, each second."""

log = get_logger(__name__)


class Complaints:
    """Logs what clients do wrong.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = self._count = 0

    def complain(self, event: str, **facts: object) -> None:
        """Log a warning, unless there were `COMPLAINTS` in this second; how many were not logged is logged later."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._count, unlogged = second, 0, self._count - COMPLAINTS
            if unlogged > 0:
                log.warning("more clients did wrong than were logged", more=unlogged)
        self._count += 1
        if self._count <= COMPLAINTS:
            log.warning(event, **facts)
