"""Notices when the event loop stands still, which every client feels.

Theory of operation. A task beats every half `STALL_SECONDS`. A beat that comes so much too late was kept waiting: by
work of the server's own, or because the computer gave the process no time. The processor time that the thread has used
meanwhile tells these apart, so both are told. A stall that is only half again as long as `STALL_SECONDS` may pass
unnoticed, no longer one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from spalloc_server.log.logger import get_logger

__all__ = ["STALL_SECONDS", "StallDetector"]

STALL_SECONDS = 0.020
"""A delay of the event loop that counts as a stall."""

BEAT_SECONDS = STALL_SECONDS / 2
"""Between looks whether the event loop stands still."""

LOG_SECONDS = 1.0
"""Between lines of the log about stalls, so that a server in trouble has not that trouble too."""

log = get_logger(__name__)


class StallDetector:
    """Watches the event loop that runs it.

    Args:
        clock: monotonic seconds.
        cpu_clock: seconds of processor time of this thread.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.thread_time
    ) -> None:
        self.count = 0
        """Stalls so far."""
        self.longest = 0.0
        """The longest of them in seconds."""
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._beaten, self._cpu = clock(), cpu_clock()
        self._logged = float("-inf")
        self._untold: list[tuple[float, float]] = []

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
            self._untold.append((late, cpu - self._cpu))
        if self._untold and now - self._logged >= LOG_SECONDS:
            stalled, worked = max(self._untold)
            log.warning(
                "event loop stalled", stalled_ms=round(stalled * 1e3), cpu_ms=round(worked * 1e3), stalls=self.count
            )
            self._untold.clear()
            self._logged = now
        self._beaten, self._cpu = now, cpu
