"""Sets of triads and boards on a machine's torus, as bits of Python ints.

Theory of operation. A set of triads is one int: bit y * width + x stands for the triad (x, y). A set of boards is
three such ints, one for each z; they are called *planes*. To look at every origin on the torus at once is then to
roll a set and to combine: OR-ing a set of busy triads with itself rolled by one column leaves out the origins of two
free triads side by side. A window of w columns takes about log2(w) such steps, by doubling, and each costs less than
a microsecond at 1,200 boards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board

__all__ = ["NOTHING", "Block", "Planes", "Torus", "count", "origins", "overlap", "union", "without"]

Planes: TypeAlias = tuple[int, int, int]
"""A set of boards: for each z, the triads (x, y) that have it, as bits y * width + x."""

Block: TypeAlias = tuple[int, int, int, int]
"""(x, y, width, height): a block of triads, from (x, y) rightwards and upwards over the machine's edges."""

NOTHING: Planes = (0, 0, 0)
"""No boards."""

_AS_DIGITS = bytes([*b"01", *range(2, 256)])
"""Bytes 0 and 1 as the digits 0 and 1."""

Move: TypeAlias = Callable[[int], int]


def count(planes: Planes) -> int:
    """How many boards a set has."""
    a, b, c = planes
    return a.bit_count() + b.bit_count() + c.bit_count()


def union(one: Planes, other: Planes) -> Planes:
    """The boards of either set."""
    return one[0] | other[0], one[1] | other[1], one[2] | other[2]


def overlap(one: Planes, other: Planes) -> Planes:
    """The boards in both sets."""
    return one[0] & other[0], one[1] & other[1], one[2] & other[2]


def without(one: Planes, other: Planes) -> Planes:
    """The boards of one set that the other has not."""
    return one[0] & ~other[0], one[1] & ~other[1], one[2] & ~other[2]


def origins(triads: int) -> Iterator[int]:
    """Bit numbers of a set of triads, rising."""
    while triads:
        lowest = triads & -triads
        yield lowest.bit_length() - 1
        triads ^= lowest


class Rolling:
    """Ints that have a field of so many bits for each triad of a torus."""

    def __init__(self, width: int, height: int, bits: int) -> None:
        self.width = width
        self.height = height
        self._bits = bits
        self._row = bits * width
        self._all = bits * width * height
        column = sum(1 << y * self._row for y in range(height))
        self._left_of = [column * ((1 << x * bits) - 1) for x in range(width + 1)]
        self.full = self._left_of[width]

    def rolled(self, fields: int, dx: int, dy: int) -> int:
        """What is seen from (dx, dy): the field (x, y) of it is the field (x + dx, y + dy), modulo the torus."""
        dx %= self.width
        if dx:
            stay = self._left_of[self.width - dx]
            by = dx * self._bits
            fields = (fields >> by) & stay | (fields << self._row - by) & (self.full ^ stay)
        down = dy % self.height * self._row
        if down:
            fields = fields >> down | (fields & (1 << down) - 1) << self._all - down
        return fields


class Torus(Rolling):
    """Sets of triads on a torus of `width` by `height` triads: fields of one bit."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height, 1)
        self.size = width * height
        full, around = self.full, self.size - width
        first, last, row = self.column(0), self.column(width - 1), self.row(0)
        self.unit_moves: tuple[Move, Move, Move, Move] = (
            lambda triads: (triads & ~last) << 1 | (triads & last) >> width - 1,
            lambda triads: triads << width & full | triads >> around,
            lambda triads: (triads & ~first) >> 1 | (triads & first) << width - 1,
            lambda triads: triads >> width | (triads & row) << around,
        )
        """Sets moved by one triad: to the right, up, to the left, down; what leaves at an edge comes in opposite."""
        self.unit_shifts: tuple[Move, Move, Move, Move] = (
            lambda triads: triads << 1,
            lambda triads: triads << width,
            lambda triads: triads >> 1,
            lambda triads: triads >> width,
        )
        """The same without the wrapping: for sets inside a block narrower than the machine, to be masked by it."""
        inner = full ^ last
        self.fenced_shifts: tuple[Move, Move, Move, Move] = (
            lambda triads: (triads & inner) << 1,
            lambda triads: triads << width,
            lambda triads: (triads & inner << 1) >> 1,
            lambda triads: triads >> width,
        )
        """The same for blocks as wide as the machine: nothing leaves at one side to come in at the other."""
        self.wide = Counters(width, height)

    def __reduce__(self) -> tuple[type[Torus], tuple[int, int]]:
        return Torus, (self.width, self.height)  # all else follows from these, and functions cannot be pickled

    def column(self, x: int) -> int:
        """The set of the triads (x, any y)."""
        return self._left_of[x + 1] ^ self._left_of[x]

    def row(self, y: int) -> int:
        """The set of the triads (any x, y)."""
        return ((1 << self.width) - 1) << y * self.width

    def triad(self, x: int, y: int) -> int:
        """The set of the one triad (x, y), which must be inside the machine."""
        return 1 << y * self.width + x

    def planes(self, boards: Iterable[Board]) -> Planes:
        """The set of these boards."""
        planes = [0, 0, 0]
        for x, y, z in boards:
            planes[z] |= self.triad(x, y)
        return planes[0], planes[1], planes[2]

    def boards(self, planes: Planes) -> tuple[Board, ...]:
        """The boards of a set, sorted."""
        width = self.width
        return tuple(sorted((at % width, at // width, z) for z, plane in enumerate(planes) for at in origins(plane)))

    def window(self, width: int, height: int) -> int:
        """The set of the triads of a block of this size whose origin is (0, 0)."""
        return self._left_of[width] & (1 << height * self.width) - 1

    def touching(self, triads: int, width: int, height: int) -> int:
        """Origins of the blocks of this size that have at least one of `triads`."""
        for across, size in ((True, width), (False, height)):
            done = 1
            while done < size:
                step = min(done, size - done)
                triads |= self.rolled(triads, step, 0) if across else self.rolled(triads, 0, step)
                done += step
        return triads


class Counters(Rolling):
    """Numbers of boards, one for each triad: fields of `field_bytes` bytes, whose top bit is for comparisons."""

    def __init__(self, width: int, height: int) -> None:
        self.field_bytes = 2 if BOARDS_PER_TRIAD * width * height < 1 << 15 else 4
        self.top_bit = 8 * self.field_bytes - 1
        self.top = 1 << self.top_bit
        super().__init__(width, height, 8 * self.field_bytes)
        self.ones = self.full // (2 * self.top - 1)

    def spread(self, triads: int) -> int:
        """A set of triads as counters: 1 for those in it, else 0."""
        digits = format(triads, f"0{self.width * self.height}b").encode()[::-1]
        fields = bytearray(self.field_bytes * len(digits))
        fields[:: self.field_bytes] = digits
        return int.from_bytes(fields, "little") & self.ones

    def at_least(self, counters: int, number: int) -> int:
        """The set of the triads whose counters are at least this; it and they must be less than the top bit."""
        fields = counters + self.ones * (self.top - number) >> self.top_bit & self.ones
        digits = fields.to_bytes(self.field_bytes * self.width * self.height, "big")[
            self.field_bytes - 1 :: self.field_bytes
        ]
        return int(digits.translate(_AS_DIGITS), 2)

    def most(self, counters: int) -> int:
        """The largest of the counters."""
        fields = counters.to_bytes(self.field_bytes * self.width * self.height, sys.byteorder)
        return max(memoryview(fields).cast("H" if self.field_bytes == 2 else "I"))

    def one(self, x: int, y: int) -> int:
        """1 for the triad (x, y), else 0."""
        return 1 << (y * self.width + x) * 8 * self.field_bytes

    def summed(self, counters: int, times: int, dx: int, dy: int) -> int:
        """For each triad the sum over so many, in steps of (dx, dy), from itself on."""
        total, done = 0, 0
        power, length = counters, 1
        while True:
            if times & length:
                total += self.rolled(power, done * dx, done * dy)
                done += length
            if done == times:
                return total
            power += self.rolled(power, length * dx, length * dy)
            length *= 2
