"""What happens to jobs, as lines of the server's log: who got which boards when, and why a job has ended.

Theory of operation. A line costs some ten microseconds, and an emergency stop may end ten thousand jobs at once. So at
most `LINES` are written a second; what comes beyond is counted, and told in one line at the end of that second. The job
log (`process.job_log`) has all of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from spalloc_server.core.model import JobEvent
from spalloc_server.log.logger import get_logger

__all__ = ["JobLines"]

LINES = 100
"""Lines of the log about jobs, each second."""

log = get_logger(__name__)


class JobLines:
    """Logs what happens to jobs. In the event loop's thread."""

    def __init__(self) -> None:
        self._left = LINES
        self._more: Counter[str] = Counter()
        self._second: asyncio.TimerHandle | None = None

    def tell(self, events: Iterable[JobEvent]) -> None:
        """Log these, or count them."""
        for event in events:
            if self._second is None:
                self._second = asyncio.get_running_loop().call_later(1.0, self._begin_anew)
            if self._left:
                self._left -= 1
                with suppress(Exception):  # nothing that only tells may decide
                    _tell(event)
            else:
                self._more[event.event] += 1

    def _begin_anew(self) -> None:
        more, self._more = self._more, Counter()
        self._left, self._second = LINES, None
        if more:
            log.info("more happened to jobs than was logged", **more)


def _tell(event: JobEvent) -> None:
    job, owner, machine, boards = event.job_id, event.owner, event.machine, len(event.boards)
    seconds = None if event.seconds is None else round(event.seconds, 1)
    match event.event:
        case "created":
            log.info("job created", job=job, owner=owner, address=event.host)
        case "allocated":
            log.info("job allocated", job=job, owner=owner, machine=machine, boards=boards, seconds=seconds)
        case "ready":
            log.info("job ready", job=job, owner=owner, machine=machine, boards=boards, seconds=seconds)
        case "failed":
            why = event.reason
            log.info("job is placed again", job=job, owner=owner, machine=machine, boards=boards, reason=why)
        case "held" | "released" | "extended" | "priority":
            log.info("job changed by an operator", job=job, owner=owner, what=event.event, reason=event.reason)
        case "destroyed":
            why = event.reason
            log.info("job ended", job=job, owner=owner, machine=machine, boards=boards, reason=why, seconds=seconds)
