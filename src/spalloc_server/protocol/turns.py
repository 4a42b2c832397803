"""Turns: what clients cause is done in slices, between which the event loop does all else.

Theory of operation. Clients are served as their data arrives, as long as the turn lasts: `TURN_SECONDS` from when the
event loop last came around. After that they stand in one line, which is taken up in the loop's next turn, as far as the
time of that one goes. So a crowd that arrives, asks or is told something at once is served in order, and neither timers
nor sockets wait for all of it. (Nobody looks at when the loop comes around while nobody stands in line: the first
client after an idle time goes through the line, which costs it microseconds.)

Those who leave have a line of their own, behind the other, and only `TURN_LEAVING` of them go in a turn: they are in no
hurry, and to forget one costs the loop more than is spent here.

Replies to a crowd leave together, before the event loop waits again (`send`). A client that reads many finds the next
there when it has read the last, while one that is sent by itself must wake its receiver, which costs as much again as
sending it. Replies to one client that asks all by itself leave at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["TURN_CLIENTS", "TURN_LEAVING", "TURN_SECONDS", "Turns"]

TURN_SECONDS = 0.004
"""Time for clients before the event loop has its turn."""

TURN_CLIENTS = 128
"""Clients that replies are sent to in one turn, or a few more."""

TURN_LEAVING = 64
"""Clients that may leave in one turn."""


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
        self._leaving: deque[Callable[[], None]] = deque()
        self._to_send: list[Callable[[], None]] = []
        self._sent: Callable[[], None] | None = None
        self._end = float("-inf")
        self._coming = False

    def over(self) -> bool:
        """Whether the present turn is over, so that work should be `put` into the line."""
        return self._clock() > self._end or len(self._to_send) >= TURN_CLIENTS

    def put(self, work: Callable[[], None]) -> None:
        """Have `work` done when it is its turn."""
        self._line.append(work)
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
        """The event loop has come around."""
        self._coming = False
        self._end = self._clock() + TURN_SECONDS
        try:
            for line, most in ((self._line, len(self._line)), (self._leaving, TURN_LEAVING)):
                for _ in range(min(most, len(line))):
                    if self.over():
                        break
                    line.popleft()()
            due, self._to_send = self._to_send, []
            for work in due:
                work()
        finally:
            if self._line or self._leaving or self._to_send:
                self._come()
