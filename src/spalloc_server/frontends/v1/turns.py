"""Turns: what clients cause is done in slices, between which the event loop does all else.

Theory of operation. Clients are served as their data arrives, as long as the turn lasts: `TURN_SECONDS` from when the
event loop began its last cycle. After that they are queued, and while any client is queued, so is every new one. The
queue is served in the loop's next cycle, for as long as a turn lasts. So clients that all connect, ask or are notified
at once are served in order, and neither timers nor sockets wait for all of them. (While no client is queued, nothing
notices that the loop begins a cycle; so the first client after the end of a turn begins the next turn.)

Clients that have had a turn and want more, and those that are to be notified, are in a second queue, and each of the
two has half of the time: neither clients that send requests by the thousand nor a change that thousands watch delay a
client that asks a single thing. Clients that leave are in a third queue, behind both: they can wait, and to forget one
costs the loop more than is spent here. From each queue at least one is served in every turn, however long the others
take.

Replies to a crowd leave together, before the event loop waits again (`send`), at most `TURN_CLIENTS` at a time. A
client that reads many finds the next there when it has read the last, while one that is sent by itself must wake its
receiver, which costs as much again as sending it. Replies to one client that asks all by itself leave at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["LEAVING_AT_LEAST", "TURN_CLIENTS", "TURN_LEAVING", "TURN_SECONDS", "Turns"]

TURN_SECONDS = 0.004
"""Time for clients, before timers and all else are served."""

TURN_CLIENTS = 128
"""Clients that replies are sent to in one turn, or a few more."""

TURN_LEAVING = 64
"""Clients that may leave in one turn."""

LEAVING_AT_LEAST = 32
"""Clients that may leave in one turn even where its time is over: as many as are accepted in one."""


class Turns:
    """Whose turn it is.

    Args:
        loop: runs the work.
        clock: seconds, monotonic.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._line: deque[Callable[[], None]] = deque()
        self._more: deque[Callable[[], None]] = deque()
        self._leaving: deque[Callable[[], None]] = deque()
        self._to_send: deque[Callable[[], None]] = deque()
        self._sent: Callable[[], None] | None = None
        self._end = float("-inf")
        self._coming = False

    def over(self) -> bool:
        """Whether a client that asks now must be queued (`put`): others are, or the present turn has ended."""
        if self._line or len(self._to_send) >= TURN_CLIENTS:
            return True
        now = self._clock()
        if now > self._end:
            if self._coming:
                return True
            self._end = now + TURN_SECONDS
            self._come()
        return False

    def ended(self) -> bool:
        """Whether there is no more time in the present turn, or enough clients are answered in it."""
        return self._clock() > self._end or len(self._to_send) >= TURN_CLIENTS

    def put(self, work: Callable[[], None]) -> None:
        """Have `work` done when it is its turn."""
        self._line.append(work)
        self._come()

    async def pass_through(self) -> None:
        """Wait until all clients that are queued now have had a turn."""
        for line in (self.put, self.more):
            reached = asyncio.Event()
            line(reached.set)
            await reached.wait()

    def more(self, work: Callable[[], None]) -> None:
        """Have `work` done when it is its turn, for a client that has just had one, or that has not asked for it."""
        self._more.append(work)
        self._come()

    def leave(self, work: Callable[[], None]) -> None:
        """Have `work`, which takes leave of a client, done when nothing else is to be done."""
        self._leaving.append(work)
        self._come()

    def send(self, work: Callable[[], None]) -> None:
        """Have `work`, which sends replies, done before the event loop waits again; at once if it was the last, too."""
        if work == self._sent:
            work()
        else:
            self._sent = work
            self._to_send.append(work)
            self._come()

    def _come(self) -> None:
        if not self._coming:
            self._coming = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Serve the queues, in a new cycle of the event loop."""
        self._coming = False
        self._end = self._clock() + TURN_SECONDS
        try:
            self._serve()
            self._take_leave()
            for _ in range(min(len(self._to_send), TURN_CLIENTS)):
                self._to_send.popleft()()
        finally:
            if self._line or self._more or self._leaving or self._to_send:
                self._come()

    def _serve(self) -> None:
        first, second = len(self._line), len(self._more)  # who comes back meanwhile does so for the next turn
        first -= self._serve_some(self._line, first, self._end - TURN_SECONDS / 2)
        self._serve_some(self._more, second, self._end)
        if not self.ended():
            self._serve_some(self._line, first, self._end)

    def _serve_some(self, line: deque[Callable[[], None]], most: int, until: float) -> int:
        """Serve at most so many, but at least one, until then; return how many were served."""
        for number in range(most):
            line.popleft()()
            if self._clock() > until or self.ended():
                return number + 1
        return most

    def _take_leave(self) -> None:
        for number in range(min(len(self._leaving), TURN_LEAVING)):
            if number >= LEAVING_AT_LEAST and self.ended():
                return
            self._leaving.popleft()()
