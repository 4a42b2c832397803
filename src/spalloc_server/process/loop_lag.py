"""Notices when the event loop stands still, which every client feels.

Theory of operation. A task beats every half `STALL_SECONDS`. A beat that comes so much too late was kept waiting: by
work of the server's own, or because the computer gave the process no time. The processor time that the process has
used meanwhile tells these apart: where it is half of the stall or more, the server was at work, and that is a warning.
Stalls are told in sums, once a minute. A stall that is only half again as long as `STALL_SECONDS` may pass unnoticed,
no longer one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from spalloc_server.log.logger import get_logger

__all__ = ["STALL_SECONDS", "StallDetector"]

STALL_SECONDS = 0.020
"""A delay of the event loop that counts as a stall."""

BEAT_SECONDS = STALL_SECONDS / 2
"""Between looks whether the event loop stands still."""

LOG_SECONDS = 60.0
"""Stalls are summed up for so long, so that a server in trouble has not the trouble of many lines, too."""

OWN_PART: Final = 0.5
"""Processor time, as a part of a stall, from which on it is the server's own."""

log = get_logger(__name__)


class _Stalls:
    """Those that have not been told yet."""

    def __init__(self) -> None:
        self.count = 0
        self._longest = 0.0, 0.0

    def add(self, stalled: float, worked: float) -> None:
        self.count += 1
        self._longest = max(self._longest, (stalled, worked))

    def take(self) -> dict[str, int]:
        """For the log: milliseconds of the longest, those of them at work, and how many there were; then none."""
        (stalled, worked), count = self._longest, self.count
        self.count, self._longest = 0, (0.0, 0.0)
        return {"stalled_ms": round(stalled * 1e3), "cpu_ms": round(worked * 1e3), "stalls": count}


class StallDetector:
    """Watches the event loop that runs it.

    Args:
        clock: monotonic seconds.
        cpu_clock: seconds of processor time of this process.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        self.count = 0
        """Stalls so far."""
        self.longest = 0.0
        """The longest of them in seconds."""
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._beaten, self._cpu = clock(), cpu_clock()
        self._logged = self._beaten
        self._own = _Stalls()
        self._others = _Stalls()

    async def run(self) -> None:
        """Watch until cancelled."""
        self._beaten, self._cpu = self._clock(), self._cpu_clock()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self.beat()

    def beat(self) -> None:
        """Judge the time since the last beat."""
        now, cpu = self._clock(), self._cpu_clock()
        late = now - self._beaten - BEAT_SECONDS
        if late >= STALL_SECONDS:
            self.count += 1
            self.longest = max(self.longest, late)
            worked = cpu - self._cpu
            (self._own if worked >= OWN_PART * late else self._others).add(late, worked)
        if now - self._logged >= LOG_SECONDS:
            if self._own.count:
                log.warning("event loop stalled", **self._own.take())
            if self._others.count:
                log.info("event loop kept waiting by the computer", **self._others.take())
            self._logged = now
        self._beaten, self._cpu = now, cpu
