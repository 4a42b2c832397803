"""How many of some things each block of triads has, for every origin on the torus at once.

Theory of operation. Each triad has a field of 16 bits (32 on very large machines) in one long int: its own number of
things. Adding the int to itself rolled by one column gives the numbers of every two triads side by side, and so on, by
doubling: a window of any size takes about log2(width) + log2(height) additions of ints.

The sums of a shape are kept, and so is the largest of them: whoever asks next whether any block of that shape has
enough is answered without another look at the machine. On a large machine not all shapes' sums can be kept.
"""

from __future__ import annotations

from spalloc_server.core.placement.torus import Planes, Torus

__all__ = ["Windows", "board_counts"]

MAX_KEPT = 1 << 21
"""Triads in the sums that are kept, of all shapes together: 4 MB, since each has 2 bytes (4 on very large machines)."""


class Windows:
    """Sums over blocks of triads. Immutable.

    Args:
        torus: the machine's triads.
        counts: how many things each triad has, as the fields of one int (`core.placement.torus.Counters`).
    """

    def __init__(self, torus: Torus, counts: int) -> None:
        self._torus = torus
        self._counts = counts
        self._columns: dict[int, int] = {}
        self._sums: dict[tuple[int, int], int] = {}
        self._most: dict[tuple[int, int], int] = {}

    def __reduce__(self) -> tuple[type[Windows], tuple[Torus, int]]:
        return Windows, (self._torus, self._counts)  # the rest is worked out again where it is wanted

    def sums(self, width: int, height: int) -> int:
        """Field by field, how many things the block of this size with this origin has."""
        wide = self._torus.wide
        if (width, height) not in self._sums:
            if width not in self._columns:
                self._columns[width] = wide.summed(self._counts, width, 1, 0)
            if self._sums and (1 + len(self._sums)) * self._torus.size > MAX_KEPT:
                del self._sums[next(iter(self._sums))]
            self._sums[width, height] = wide.summed(self._columns[width], height, 0, 1)
        return self._sums[width, height]

    def knows(self, width: int, height: int, things: int) -> bool:
        """Whether `at_least` can answer for blocks of this size without counting again."""
        return (width, height) in self._sums or self._most.get((width, height), things) < things

    def most(self, width: int, height: int) -> int:
        """The largest number of things that a block of this size has anywhere."""
        if (width, height) not in self._most:
            self._most[width, height] = self._torus.wide.most(self.sums(width, height))
        return self._most[width, height]

    def at_least(self, width: int, height: int, things: int) -> int:
        """Origins of the blocks of this size with at least so many things."""
        return self._torus.wide.at_least(self.sums(width, height), things)


def board_counts(torus: Torus, planes: Planes) -> int:
    """Field by field, how many boards of a set each triad has, 0 to 3."""
    a, b, c = planes
    return torus.wide.spread(a ^ b ^ c) + 2 * torus.wide.spread(a & b | b & c | a & c)
