"""Turns: WebSockets that have much to take apart share a little of each cycle of the event loop, account by account.

Theory of operation. Tens of thousands of small frames come in one piece, and any number of WebSockets may have such a
piece at the same time. So what all of them do in one cycle is bounded together, by `TURN_SECONDS`; what is more waits
for the next cycles. There, accounts have their turns one after the other, and of each account its WebSockets: whoever
has many gets no more for that, and a frame of another account waits for one cycle or two. Who comes while there is
time left, and nobody waits, is served at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from time import perf_counter

__all__ = ["Turns"]

TURN_SECONDS = 0.003
"""After so long all others have their turn, before more of what WebSockets' clients have sent is taken apart."""


class Turns:
    """Has work done, a piece at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[str, deque[Callable[[], bool]]] = OrderedDict()
        """By account, that of the next turn first."""
        self._left = 0.0
        """Seconds of this cycle."""
        self._begun = False
        """Whether the next cycle is waited for."""

    def take(self, who: str, work: Callable[[], bool]) -> None:
        """Do a piece of `work` at each call, as long as it returns True: now, and in later cycles."""
        if not self._begun:
            self._begin()
        while not self._waiting and self._left > 0.0:
            if not self._does(work):
                return
        self._waiting.setdefault(who, deque()).append(work)

    def _begin(self) -> None:
        self._begun, self._left = True, TURN_SECONDS
        self._loop.call_soon(self._go_on)

    def _does(self, work: Callable[[], bool]) -> bool:
        begun = perf_counter()
        try:
            return work()
        finally:
            self._left -= perf_counter() - begun

    def _go_on(self) -> None:
        """The next cycle has come."""
        self._begun = False
        if not self._waiting:
            return
        self._begin()
        while self._waiting:
            who, mine = self._waiting.popitem(last=False)
            work = mine.popleft()
            try:
                if self._does(work):
                    mine.append(work)
            finally:
                if mine:
                    self._waiting[who] = mine
            if self._left <= 0.0:
                return
