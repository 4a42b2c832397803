"""A machine's torus as bit sets: what is there, what is dead, and what is connected with what.

Theory of operation. A set of triads is one Python int: bit y * width + x stands for the triad (x, y). A set of
boards is three such ints, one for each z; they are called *planes*. To look at every origin on the torus at once is
then to roll a set and to combine: AND-ing a set of free triads with itself rolled by one column leaves the origins
of two free triads side by side. A window of w columns takes about log2(w) such steps, by doubling, and each costs
less than a microsecond at 1,200 boards. Busy boards within a window are counted for all origins at once too: in bit
slices (one int for each binary digit of the counts), which saturate just above the count that still matters.

Connectivity is a flood from the block's bottom-left board, a layer at a time, over the same planes, for the few
candidates that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

from spalloc_server.coordinates import Board, BoardLink, board_down_link, link_to_vector
from spalloc_server.links import Links

__all__ = ["BOARDS_PER_TRIAD", "Block", "Ground", "Planes", "Topology", "Torus", "count", "origins", "union", "without"]

Planes: TypeAlias = tuple[int, int, int]
"""A set of boards: for each z, the triads (x, y) that have it, as bits y * width + x."""

Block: TypeAlias = tuple[int, int, int, int]
"""(x, y, width, height): a block of triads, from (x, y) rightwards and upwards over the machine's edges."""

BOARDS_PER_TRIAD = 3


def count(planes: Planes) -> int:
    """How many boards a set has."""
    a, b, c = planes
    return a.bit_count() + b.bit_count() + c.bit_count()


def union(one: Planes, other: Planes) -> Planes:
    """The boards of either set."""
    return one[0] | other[0], one[1] | other[1], one[2] | other[2]


def without(one: Planes, other: Planes) -> Planes:
    """The boards of one set that the other has not."""
    return one[0] & ~other[0], one[1] & ~other[1], one[2] & ~other[2]


def origins(triads: int) -> Iterator[int]:
    """Bit numbers of a set of triads, rising."""
    while triads:
        lowest = triads & -triads
        yield lowest.bit_length() - 1
        triads ^= lowest


class Torus:
    """Sets of triads on a torus of `width` by `height` triads."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.size = width * height
        self.full = (1 << self.size) - 1
        column = sum(1 << y * width for y in range(height))
        self._left_of = [column * ((1 << x) - 1) for x in range(width + 1)]

    def triad(self, x: int, y: int) -> int:
        """The set of the one triad (x, y), which must be inside the machine."""
        return 1 << y * self.width + x

    def planes(self, boards: Iterable[Board]) -> Planes:
        """The set of these boards."""
        planes = [0, 0, 0]
        for x, y, z in boards:
            planes[z] |= self.triad(x, y)
        return planes[0], planes[1], planes[2]

    def boards(self, planes: Sequence[int], x: int = 0, y: int = 0) -> tuple[Board, ...]:
        """The boards of a set, sorted; those of a set that was rolled by (x, y), where they really are."""
        width, height = self.width, self.height
        return tuple(
            sorted(
                ((x + at % width) % width, (y + at // width) % height, z)
                for z, plane in enumerate(planes)
                for at in origins(plane)
            )
        )

    def rolled(self, triads: int, dx: int, dy: int) -> int:
        """The set seen from (dx, dy): bit (x, y) of it is bit (x + dx, y + dy) of `triads`, modulo the torus."""
        dx %= self.width
        if dx:
            stay = self._left_of[self.width - dx]
            triads = (triads >> dx) & stay | (triads << self.width - dx) & (self.full ^ stay)
        down = dy % self.height * self.width
        if down:
            triads = triads >> down | (triads & (1 << down) - 1) << self.size - down
        return triads

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

    def crowded(self, planes: Planes, width: int, height: int, most: int) -> int:
        """Origins of the blocks of this size that have more than `most` of the boards in `planes`."""
        if not most:
            return self.touching(planes[0] | planes[1] | planes[2], width, height)
        digits = most.bit_length()
        a, b, c = planes
        count = [a ^ b ^ c, a & b | c & (a ^ b)]
        over = count[1] if digits == 1 else 0
        counts = (over, count[:digits] + [0] * (digits - 2))
        for across, size in ((True, width), (False, height)):
            counts = self._summed(counts, size, across=across)
        over, slices = counts
        above, equal = 0, self.full
        for digit in reversed(range(digits)):
            if most >> digit & 1:
                equal &= slices[digit]
            else:
                above |= equal & slices[digit]
                equal &= ~slices[digit]
        return over | above

    def _summed(self, counts: tuple[int, list[int]], size: int, *, across: bool) -> tuple[int, list[int]]:
        """Counts of `size` neighbours each, by doubling; the first int has what has overflown the digits."""

        def seen_from(step: int, of: tuple[int, list[int]]) -> tuple[int, list[int]]:
            dx, dy = (step, 0) if across else (0, step)
            return self.rolled(of[0], dx, dy), [self.rolled(digit, dx, dy) for digit in of[1]]

        total, done = None, 0
        power, length = counts, 1
        while True:
            if size & length:
                total = power if total is None else _added(total, seen_from(done, power))
                done += length
            if done == size:
                assert total is not None
                return total
            power = _added(power, seen_from(length, power))
            length *= 2


def _added(a: tuple[int, list[int]], b: tuple[int, list[int]]) -> tuple[int, list[int]]:
    """Sums of two sets of counts in bit slices, lowest digit first."""
    carry = 0
    digits = []
    for one, other in zip(a[1], b[1], strict=True):
        either = one ^ other
        digits.append(either ^ carry)
        carry = one & other | carry & either
    return a[0] | b[0] | carry, digits


class Topology:
    """A machine's working boards and links. Immutable: when a board goes out of service, another is made.

    Args:
        torus: the machine's triads.
        dead: boards that cannot be given to anybody.
        dead_links: (x, y, z, link) that do not work. A link that is dead in one direction connects nothing.
    """

    def __init__(self, torus: Torus, dead: Iterable[Board], dead_links: Iterable[BoardLink]) -> None:
        self.torus = torus
        absent = torus.planes(dead)
        self.live: Planes = (torus.full ^ absent[0], torus.full ^ absent[1], torus.full ^ absent[2])
        self.dead_links = frozenset(dead_links)
        self.blemishes = absent[0] | absent[1] | absent[2]
        """Triads with a dead board or a dead link."""
        self._cut: dict[tuple[int, Links], int] = {}
        for x, y, z, link in self.dead_links:
            x2, y2, z2, _ = board_down_link(x, y, z, link, torus.width, torus.height)
            for key, triad in (((z, link), torus.triad(x, y)), ((z2, link.opposite), torus.triad(x2, y2))):
                self._cut[key] = self._cut.get(key, 0) | triad
                self.blemishes |= triad
        self._shifts = [
            [(z + dz, link, dy * torus.width + dx) for (z, link), (dx, dy, dz) in link_to_vector.items() if z == here]
            for here in range(BOARDS_PER_TRIAD)
        ]
        self._reach: dict[Block, Planes] = {}

    def works(self, x: int, y: int, z: int, link: Links) -> bool:
        """Whether a link works in both directions, as far as the link itself is concerned."""
        return not self._cut.get((z, link), 0) & self.torus.triad(x, y)

    def seen(self, planes: Planes, block: Block) -> Planes:
        """The boards of a set that are in a block, rolled so that the block's origin is (0, 0)."""
        x, y, width, height = block
        window = self.torus.window(width, height)
        rolled = self.torus.rolled
        a, b, c = planes
        return rolled(a, x, y) & window, rolled(b, x, y) & window, rolled(c, x, y) & window

    def reach(self, block: Block) -> Planes:
        """The working boards of a block that its bottom-left board reaches inside it, seen from its origin."""
        if block not in self._reach:
            working = self.seen(self.live, block)
            self._reach[block] = self.flooded((working[0] & 1, 0, 0), working, block)
        return self._reach[block]

    def flooded(self, start: Planes, among: Planes, block: Block) -> Planes:
        """All boards that `layers` reaches."""
        reached = start
        for reached in self.layers(start, among, block):
            pass
        return reached

    def layers(self, start: Planes, among: Planes, block: Block) -> Iterator[Planes]:
        """Boards reached from some over working links inside a block, in ever more steps.

        Args:
            start: the boards to start from, seen from the block's origin.
            among: the boards that may be used, likewise; those of `start` are among them.
            block: the block, on the machine.

        Yields:
            The set reached so far, seen from the block's origin; first `start` itself.
        """
        spread = self._spread(block)
        fresh = reached = start
        while fresh[0] or fresh[1] or fresh[2]:
            yield reached
            a, b, c = spread(fresh)
            fresh = (a & among[0] & ~reached[0], b & among[1] & ~reached[1], c & among[2] & ~reached[2])
            reached = (reached[0] | fresh[0], reached[1] | fresh[1], reached[2] | fresh[2])

    def _spread(self, block: Block) -> Callable[[Planes], Planes]:
        """What gives the neighbours of a set of boards inside a block, all seen from the block's origin.

        A block that spans the torus wraps onto itself. Any other is narrower than the machine, so what leaves
        it at one side by a plain shift lands outside it, where the caller's mask takes it away.
        """
        torus = self.torus
        x, y, width, height = block
        spans = width == torus.width or height == torus.height
        cut = {key: torus.rolled(plane, x, y) for key, plane in self._cut.items()}

        def plain(boards: Planes) -> Planes:
            there = [0, 0, 0]
            for z, links in enumerate(self._shifts):
                for z_there, link, by in links:
                    leaving = boards[z] & ~cut[z, link] if (z, link) in cut else boards[z]
                    there[z_there] |= leaving << by if by >= 0 else leaving >> -by
            return there[0], there[1], there[2]

        def around(boards: Planes) -> Planes:
            there = [0, 0, 0]
            for (z, link), (dx, dy, dz) in link_to_vector.items():
                leaving = boards[z] & ~cut[z, link] if (z, link) in cut else boards[z]
                there[z + dz] |= torus.rolled(leaving, -dx, -dy)
            return there[0], there[1], there[2]

        return around if spans else plain


class Ground:
    """Boards that may be given now, or could be at some time, on a machine; and what follows from them."""

    def __init__(self, topology: Topology, free: Planes) -> None:
        self.topology = topology
        self.torus = topology.torus
        self.free = free

    @cached_property
    def lumps(self) -> list[tuple[int, Planes]]:
        """The free boards in connected lumps, largest first, each with its number of boards."""
        everywhere = (0, 0, self.torus.width, self.torus.height)
        lumps = []
        left = self.free
        while any(left):
            z, plane = next((z, plane) for z, plane in enumerate(left) if plane)
            seed = [0, 0, 0]
            seed[z] = plane & -plane
            lump = self.topology.flooded((seed[0], seed[1], seed[2]), left, everywhere)
            lumps.append((count(lump), lump))
            left = without(left, lump)
        return sorted(lumps, key=lambda lump: -lump[0])
