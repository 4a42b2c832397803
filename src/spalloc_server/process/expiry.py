"""Timers: calls of the core when something is due, and deadlines for a stop that is in a hurry.

Theory of operation. A timer is set for the next rest or run time that ends, and the next self-test. Leases are judged
in two steps, so that a client is never punished for what the server has not read yet: at the first, the time is noted;
by the second, a moment later, every command that had arrived by then has been read and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from spalloc_server.controller import Controller, steady_time
from spalloc_server.log.defects import DefectLog

__all__ = ["Expiry", "hurried"]

READ_GRACE = 0.1
"""Seconds between noting that leases have run out and ending their jobs, in which commands that wait are read."""

READ_TURNS = 10
"""Turns that all queued clients then have, before a keepalive is judged.

The event loop may have stood still for all of `READ_GRACE`, or be busy: timers precede sockets, and clients whose
commands have arrived may be queued (`frontends.v1.turns`)."""


DEFECT_PAUSE = 1.0
"""Seconds for which timers leave the core alone after a defect."""


async def hurried(work: Coroutine[Any, Any, None], haste: asyncio.Event, seconds: float) -> None:
    """Wait for the end of this work; once `haste` is set, for at most so many seconds."""
    working, hurrying = asyncio.create_task(work), asyncio.create_task(haste.wait())
    await asyncio.wait({working, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait({working}, timeout=seconds)
    for task in (working, hurrying):
        task.cancel()
    for result in await asyncio.gather(working, hurrying, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class Expiry:
    """Calls a core's `tick`, and then `changed`."""

    def __init__(self, controller: Controller, changed: Callable[[], object], defects: DefectLog | None = None) -> None:
        self._controller = controller
        self._changed = changed
        self._defects = defects or DefectLog()
        self._not_before = 0.0
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at: float | None = None
        """What it is set to."""

    def arm(self) -> None:
        """Have the core called when something is due; to be called whenever it may have changed."""
        wake_at: float | None = self._not_before
        with self._defects.contained("a part of the core failed", doing="when time is next to make a difference"):
            wake_at = self._controller.wake_at()
        if wake_at is not None:
            wake_at = max(wake_at, self._not_before)
        if wake_at != self._wake_at:
            self.stop()
            self._wake_at = wake_at
            if wake_at is not None:
                delay = max(0.0, wake_at - steady_time())
                self._wake = asyncio.get_running_loop().call_later(delay, self._ring)

    def stop(self) -> None:
        """Leave the core alone until `arm` is called again."""
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._wake_at = None

    async def judge_leases(self, interval: Callable[[], float], all_have_a_turn: Callable[[], Awaitable[None]]) -> None:
        """End the jobs whose leases run out, looking every so many seconds, for ever.

        Args:
            interval: seconds until the next look.
            all_have_a_turn: returns when all queued clients have been served.
        """
        while True:
            await asyncio.sleep(interval())
            noted = steady_time()
            await asyncio.sleep(READ_GRACE)
            for _ in range(READ_TURNS):
                await all_have_a_turn()
            self._tick(noted)

    def _ring(self) -> None:
        self._wake = self._wake_at = None
        self._tick(0.0)

    def _tick(self, expire_before: float) -> None:
        before = self._defects.count
        with self._defects.contained("a part of the core failed", doing="what is to be done as time passes"):
            self._controller.tick(expire_before)
        if self._defects.count > before or self._controller.defects:
            self._not_before = steady_time() + DEFECT_PAUSE  # lest what fails at once is tried again at once
        self._changed()
