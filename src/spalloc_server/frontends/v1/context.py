"""What all connections share: the parts of the service, and what clients have not read yet, of all of them together.

Theory of operation. A connection knows `Context`, and neither the service that wires it nor the acceptor that makes
connections.

Each client's own bound is kept by its connection (`frontends.v1.outgoing`). Thousands of clients within theirs could
still fill the memory. So each connection tells `Backlog` how much is kept for it; where that comes to more than
`unsent_bytes`, clients that have left much unread for long are disconnected, until it is enough.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from spalloc_server.config.options import Access, Limits
from spalloc_server.frontends.v1.door import Door
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import Complaints

__all__ = ["Backlog", "Context", "Reader", "Waiting"]


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


class Waiting(Protocol):
    """A connection that waits for a commit."""

    def release(self, commit: int, error: bytes | None) -> None:
        """Send the replies that waited for `commit`, or for an earlier one, and go on answering.

        Args:
            commit: the one that is over.
            error: the line that takes their place where it failed.
        """


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What connections need of each other and of the server."""

    door: Door
    limits: Limits
    """What clients may take; may be assigned anew."""
    access: Access = field(default_factory=Access)
    """Who may connect; may be assigned anew."""
    loop: asyncio.AbstractEventLoop
    turns: Turns
    backlog: Backlog
    complaints: Complaints
    defects: DefectLog
    waiting: deque[tuple[int, Waiting]] = field(default_factory=deque)
    """Who waits for which commit, in the order of the commits."""
    frozen: bool = False
    """Whether connections wait, so that they can be handed over."""
