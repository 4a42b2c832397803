"""When it is time for what: the core's turns when something can happen by itself, and ends that must not be waited for.

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
"""Turns that all clients in line then have, before a keepalive is judged.

The event loop may have stood still for all of `READ_GRACE`, or be busy: timers precede sockets, and clients whose
commands have arrived may stand in line (`frontends.v1.turns`)."""


DEFECT_PAUSE = 1.0
"""Seconds for which timers leave the core alone after a defect."""


async def hurried(work: Coroutine[Any, Any, None], haste: asyncio.Event, seconds: float) -> None:
    """See this work to its end; from when `haste` is set, for no more than so many seconds."""
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

    def arm(self) -> None:
        """Let the core have its turn when it is time; to be called whenever it may have changed."""
        self.stop()
        wake_at: float | None = self._not_before
        with self._defects.contained("a part of the core failed", doing="when time is next to make a difference"):
            wake_at = self._controller.wake_at()
        if wake_at is not None:
            delay = max(0.0, max(wake_at, self._not_before) - steady_time())
            self._wake = asyncio.get_running_loop().call_later(delay, self._tick, 0.0)

    def stop(self) -> None:
        """Leave the core alone until `arm` is called again."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    async def judge_leases(self, interval: Callable[[], float], all_have_a_turn: Callable[[], Awaitable[None]]) -> None:
        """End the jobs whose leases run out, looking every so many seconds, for ever.

        Args:
            interval: seconds until the next look.
            all_have_a_turn: returns when everybody who stands in line has been served.
        """
        while True:
            await asyncio.sleep(interval())
            noted = steady_time()
            await asyncio.sleep(READ_GRACE)
            for _ in range(READ_TURNS):
                await all_have_a_turn()
            self._tick(noted)

    def _tick(self, expire_before: float) -> None:
        before = self._defects.count
        with self._defects.contained("a part of the core failed", doing="what is to be done as time passes"):
            self._controller.tick(expire_before)
        if self._defects.count > before or self._controller.defects:
            self._not_before = steady_time() + DEFECT_PAUSE  # lest what fails at once is tried again at once
        self._changed()
