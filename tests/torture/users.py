"""Users of a published client, as far as the server sees them: they keep a job alive, watch it, and wait for changes.

`spalloc` 1!7.4.1 keeps a job alive from a process and a connection of its own, for which a closed connection is the
end. Whoever waits for a state asks to be told of the job, looks, and looks again only when something is told: so a
notification that is missed makes them wait for ever.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Self

from tests.house import PATIENCE, Client

READY = 3


class User:
    """One job with its keepalives and its watcher."""

    def __init__(self, keeper: Client, watcher: Client, job_id: int) -> None:
        self.job_id = job_id
        self.longest = 0.0
        """Seconds that the slowest answer took, to a keepalive or to anything else."""
        self._keeper, self._watcher = keeper, watcher
        self._keeping = asyncio.create_task(self._keep())

    @classmethod
    async def arrive(cls, address: tuple[str, int]) -> Self:
        """Connect, get a board, and wait until it is on."""
        keeper, watcher = await Client.connect(address), await Client.connect(address)
        user = cls(keeper, watcher, await watcher.create(1, keepalive=10.0))
        await watcher.call("notify_job", user.job_id)
        await user.until(power=True)
        return user

    async def switch(self, *, on: bool) -> None:
        """Switch the power, and wait until that is done."""
        await self._timed(self._watcher, "power_on_job_boards" if on else "power_off_job_boards")
        await self.until(power=on)

    async def until(self, *, power: bool) -> None:
        """Wait, only by way of notifications, until the job is ready with its boards on or off.

        Raises `TimeoutError` where a notification is missed.
        """
        async with asyncio.timeout(PATIENCE):
            while (status := await self.status())["state"] != READY or status["power"] is not power:
                if not self._watcher.notifications:
                    self._watcher.notifications.append(await self._watcher.line())
                assert self._watcher.notifications.pop(0) == {"jobs_changed": [self.job_id]}

    async def status(self) -> dict[str, Any]:
        return dict(await self._timed(self._watcher, "get_job_state"))

    async def leave(self) -> None:
        """Stop; raises what went wrong with the keepalives."""
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        if not self._keeping.cancelled():
            self._keeping.result()
        await self._keeper.close()
        await self._watcher.close()

    async def _keep(self) -> None:
        await asyncio.sleep(random.uniform(0, 0.3))
        while True:
            await self._timed(self._keeper, "job_keepalive")
            await asyncio.sleep(0.3)

    async def _timed(self, client: Client, command: str) -> Any:
        begun = time.monotonic()
        reply = await client.call(command, self.job_id)
        self.longest = max(self.longest, time.monotonic() - begun)
        return reply
