"""What clients have not read yet, of all of them together.

Theory of operation. Each client's own bound is kept by its connection (`frontends.v1.outgoing`). Thousands of clients
within theirs could still fill the memory. So each connection says how much is kept for it; where that comes to more
than `unsent_bytes`, those who keep much of it waiting for long are disconnected, until it is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Protocol

from spalloc_server.log.complaints import Complaints

__all__ = ["Backlog", "Reader"]


class Reader(Hashable, Protocol):
    """A client for whom bytes are kept."""

    @property
    def peer(self) -> str:
        """Its host and port."""

    def abort(self) -> None:
        """Disconnect it at once."""


class Backlog:
    """Counts bytes that are kept for clients.

    Args:
        bound: bytes for all clients together; may be assigned anew.
        complaints: told who is disconnected.
        clock: seconds, monotonic.
    """

    def __init__(self, bound: int, complaints: Complaints, clock: Callable[[], float] = time.monotonic) -> None:
        self.bound = bound
        self.bytes = 0
        """Bytes that are kept now."""
        self._complaints = complaints
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._kept: dict[Reader, tuple[int, float]] = {}
        """How many bytes are kept for a client until it reads them, and since when there are any."""
        self._relieving = False

    def keeps(self, client: Reader, size: int) -> None:
        """Note that so many bytes are kept for `client`, until it has read them or they are stored."""
        before, since = self._kept.pop(client, (0, self._clock()))
        self.bytes += size - before
        if size:
            self._kept[client] = (size, since)
        if self.bytes > self.bound and not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)

    def _relieve(self) -> None:
        """Disconnect clients until little enough is kept: first who keeps the most waiting for longest."""
        self._relieving = False
        now = self._clock()
        while self.bytes > self.bound:
            client = max(self._kept, key=lambda each: self._kept[each][0] * (now - self._kept[each][1]))
            size, _ = self._kept[client]
            reason = f"it has not read {size} bytes, and all clients together more than unsent_bytes allows"
            self._complaints.complain("client disconnected", peer=client.peer, reason=reason)
            self.keeps(client, 0)
            client.abort()
