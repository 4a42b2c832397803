"""Long polls: requests that wait until what they ask about has changed.

Theory of operation. A poll waits for a change, for half a minute, or until its client leaves, whichever comes first; a
framework does not end a handler whose client has left. Then it is answered, by what is so at that time. Whoever comes
when too many wait already is answered at once: clients ask again, so that is a busier way to wait.
"""

from __future__ import annotations

import asyncio

from spalloc_server.frontends.http.answers import Receive
from spalloc_server.frontends.http.asking import Asking

__all__ = ["Polls", "left"]

POLL_SECONDS = 30.0
"""The longest that a request with `wait=true` waits; then it is answered although nothing has changed."""


class Polls:
    """Waits for changes, within `[web] long_polls`.

    Args:
        asking: knows of changes.
    """

    def __init__(self, asking: Asking) -> None:
        self.waiting = 0
        self._asking = asking

    async def wait(self, receive: Receive, key: str, since: int | None = None) -> None:
        """Wait until the revision of `key` is not `since`.

        Args:
            receive: of the request, whose body has been read.
            key: as for `Asking.changed`.
            since: the revision that the request's sender would be told now; None for the one that there is now.
        """
        if self.waiting >= self._asking.settings.web.long_polls:
            return
        self.waiting += 1
        changed = asyncio.ensure_future(self._change(key, since))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait((changed, leaving), timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting -= 1
            leaving.cancel()
            changed.cancel()
        if changed.done() and not changed.cancelled():
            changed.result()

    async def _change(self, key: str, since: int | None) -> None:
        if since is None:  # no revision is -1, so this returns the present one
            since = await self._asking.changed(key, -1, POLL_SECONDS)
        await self._asking.changed(key, since, POLL_SECONDS)


async def left(receive: Receive) -> None:
    """Return when the client has left; the body of its request has been read, or is given up."""
    while (await receive())["type"] != "http.disconnect":
        pass
