"""The logger of all modules: structlog's, of which no call raises; and warnings that no client can flood it with.

Theory of operation. Nothing that only tells may decide. Where a line of the log goes is set up by the program
(`cli.logs`, or an embedding program's own structlog), and there it may fail: the disk is full, the reader of a pipe is
gone, a value cannot be shown. Then the line is lost, and the code that logged it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

__all__ = ["COMPLAINTS", "Complaints", "Logger", "get_logger"]


COMPLAINTS = 20
"""Lines of the log about clients that do wrong, each second."""


class Logger:
    """Logs as structlog is configured at the time of each call. What goes wrong in that is swallowed."""

    def __init__(self, name: str) -> None:
        self._logger: Any = structlog.get_logger(name)

    def info(self, event: str, **values: object) -> None:
        """Log what is good to know."""
        with suppress(Exception):
            self._logger.info(event, **values)

    def warning(self, event: str, **values: object) -> None:
        """Log what an operator should look at."""
        with suppress(Exception):
            self._logger.warning(event, **values)

    def error(self, event: str, **values: object) -> None:
        """Log what an operator must do something about."""
        with suppress(Exception):
            self._logger.error(event, **values)

    def exception(self, event: str, **values: object) -> None:
        """Log an error, with the traceback of the exception that is being handled."""
        with suppress(Exception):
            self._logger.error(event, exc_info=True, **values)  # noqa: LOG014 - the caller handles one


def get_logger(name: str) -> Logger:
    """Return the logger for the module of this name."""
    return Logger(name)


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
