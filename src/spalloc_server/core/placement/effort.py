"""How much a search for a place may cost, and how much is done before the event loop goes on to other things.

Theory of operation. The core has no clock, so work is counted, in units of about 5 microseconds of CPU.

Whoever asks for boards decides what is searched for, and whoever has boards decides among which: together they can ask
a question that would take a minute. So each search has an allowance (`Effort`). It is spent by floods, a layer at a
time, and by counting the boards of all blocks of a shape: these two are nearly all that a search does. A search that
has spent it has found nothing: the job waits as one that finds no room, and is tried again when boards come free.

A pass over a long queue is cut into *steps*, each of a bounded amount of work (`Work`); later steps do what is left.
What is done for one job is never cut, so a step can be longer by one placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["STEP", "Effort", "EffortSpent", "Work", "allowance"]

STEP = 480
"""Units of work in one step: some milliseconds."""

SEARCH = 8
"""Units of work that a search is besides its effort."""

START = 16
"""Units of work that starting a job is, apart from its boards."""

BOARD = 3
"""Units of work for each board of a job that starts: its links are looked at, and the hardware gets an order."""

LEAST_ALLOWANCE = 700
"""Units that a search has on the smallest machine; on larger ones a third of the triads more.

One command can lead to three searches: under 20 ms of CPU on 1,200 boards, under 100 ms on 30,000."""

_T = TypeVar("_T")


def allowance(triads: int) -> int:
    """The units that one search may take on a machine of so many triads."""
    return LEAST_ALLOWANCE + triads // 3


class EffortSpent(Exception):
    """A search has spent its allowance."""


class Effort:
    """The allowance of one search.

    Args:
        triads: how many the machine has.
    """

    def __init__(self, triads: int) -> None:
        self._triads = triads
        self._left = self._all = allowance(triads)
        self._apart: list[Effort] = []
        self._half = self._left // 2
        self._layer = 1 + triads // 4000
        self._shape = 8 + triads // 80

    def apart(self) -> Effort:
        """Another full allowance, for a question whose answer is kept; what it costs counts as `spent` here, too."""
        effort = Effort(self._triads)
        self._apart.append(effort)
        return effort

    @property
    def spent(self) -> int:
        """The units that have been spent of this allowance and of those apart."""
        return self._all - self._left + sum(effort.spent for effort in self._apart)

    @property
    def ample(self) -> bool:
        """Whether half of it is left: enough for tries that will probably be in vain."""
        return self._left >= self._half

    def step(self, times: int = 1) -> None:
        """Pay for a layer, or for something as small, so many times.

        Raises:
            EffortSpent: nothing is left.
        """
        self._left -= times * self._layer
        if self._left < 0:
            raise EffortSpent

    def shape(self, times: int = 1) -> None:
        """Pay for counting something in all blocks of a shape; raises as `step`."""
        self._left -= times * self._shape
        if self._left < 0:
            raise EffortSpent

    def layers(self, layers: Iterable[_T]) -> Iterator[_T]:
        """The same layers of a flood, each of them paid for; raises as `step`."""
        for layer in layers:
            self.step()
            yield layer


class Work:
    """What is left of the present step. It is less than nothing where the last job took more than was left."""

    def __init__(self) -> None:
        self.left = STEP

    def looked(self) -> None:
        """Count a waiting job that was looked at: whether it can start, or which machines could serve it."""
        self.left -= 1

    def searched(self, effort: Effort) -> None:
        """Count a search for a place, which had this allowance."""
        self.left -= SEARCH + effort.spent

    def started(self, boards: int) -> None:
        """Count a job that was started on so many boards."""
        self.left -= START + BOARD * boards
