"""Boards that may be given, and what the search for places wants to know of them.

Theory of operation. How many free boards a block has is known for every origin at once: each triad has a field of 16
bits in one long int, at first with its own number of free boards (0 to 3). Adding the int to itself rolled by one
column gives the numbers of every two triads side by side, and so on, by doubling: a window of any size takes about
log2(width) + log2(height) additions of ints. A constant added to every field then moves those with enough boards into
the field's top bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from spalloc_server.core.topology import Topology
from spalloc_server.core.torus import Planes, count, union, without

__all__ = ["Ground"]


class Ground:
    """Boards that may be given now, or at some time, on a machine. Immutable.

    Args:
        topology: the machine's working boards and links.
        free: the boards that may be given, all of them working ones.
        lately: boards that were used not long ago, whether or not they may be given; others are given first.
    """

    def __init__(self, topology: Topology, free: Planes, lately: Planes = (0, 0, 0)) -> None:
        self.topology = topology
        self.torus = topology.torus
        self.free = free
        self.lately = lately
        self._columns: dict[int, int] = {}
        self._lump: tuple[int, Planes] = (0, (0, 0, 0))
        """The largest connected lump found so far, with its number of boards."""
        self._unknown = free
        """Boards of which it has not been looked yet which lumps they are in."""

    @cached_property
    def size(self) -> int:
        """Number of boards."""
        return count(self.free)

    @cached_property
    def preferred(self) -> tuple[Ground, ...]:
        """It without the boards that were used lately, if there are such, and then it as a whole."""
        rested = without(self.free, self.lately)
        return (self,) if rested == self.free else (Ground(self.topology, rested), self)

    def connected(self, boards: int) -> Ground | None:
        """It without some of its connected lumps that have fewer boards than this; None where all have fewer."""
        while self._lump[0] < boards:
            if count(self._unknown) < boards:
                return None
            z, plane = next((z, plane) for z, plane in enumerate(self._unknown) if plane)
            seed = [0, 0, 0]
            seed[z] = plane & -plane
            everywhere = (0, 0, self.torus.width, self.torus.height)
            lump = self.topology.flooded((seed[0], seed[1], seed[2]), self._unknown, everywhere)
            self._unknown = without(self._unknown, lump)
            self._lump = max(self._lump, (count(lump), lump))
        return Ground(self.topology, union(self._lump[1], self._unknown))

    def origins(self, width: int, height: int, boards: int) -> Iterator[int]:
        """Bit numbers of the origins, rising, of blocks with at least so many boards, the bottom-left one included."""
        wide = self.torus.wide
        enough = (self._sums(width, height) + wide.ones * (wide.top - boards)) & self._corners
        if enough:
            fields = (enough >> wide.top_bit).to_bytes(wide.field_bytes * self.torus.size, "little")
            at = fields.find(1)
            while at >= 0:
                yield at // wide.field_bytes
                at = fields.find(1, at + 1)

    @cached_property
    def _corners(self) -> int:
        """Top bits of the fields of the triads that have their board z = 0."""
        return self.torus.wide.spread(self.free[0]) << self.torus.wide.top_bit

    @cached_property
    def _counts(self) -> int:
        """Field by field, how many boards of each triad are free."""
        wide = self.torus.wide
        a, b, c = self.free
        return wide.spread(a ^ b ^ c) + 2 * wide.spread(a & b | b & c | a & c)

    def _sums(self, width: int, height: int) -> int:
        """Field by field, how many boards the block with this origin has."""
        wide = self.torus.wide
        if width not in self._columns:
            self._columns[width] = wide.summed(self._counts, width, 1, 0)
        return wide.summed(self._columns[width], height, 0, 1)
