"""Boards that may be given, and what the search for places wants to know of them.

Theory of operation. Which blocks have how many of the boards is known for all origins at once
(`core.placement.windows`). Whether they are connected is not, so a block with enough boards is flooded from its
bottom-left one. Where free boards lie scattered, most such floods would find too few. So at the first that does, the
connected components of all of them are labelled, once, and those with too few boards are left out of every later look.
"""

from __future__ import annotations

from functools import cached_property

from spalloc_server.core.placement.dead_links import DeadLinks
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import NOTHING, Planes, count, union, without
from spalloc_server.core.placement.windows import Windows, board_counts

__all__ = ["FreeBoards"]

MAX_COMPONENTS = 64
"""Components that are labelled one by one; where there are more, the boards of the rest count as one."""


class FreeBoards:
    """Boards that may be given now, or at some time, on a machine. Immutable.

    Args:
        topology: the machine's working boards and links.
        free: the boards that may be given, all of them working ones.
        lately: boards that were used not long ago, whether or not they may be given; others are given first.
    """

    def __init__(self, topology: Topology, free: Planes, lately: Planes = NOTHING) -> None:
        self.topology = topology
        self.torus = topology.torus
        self.free = free
        self.lately = lately
        self._components: list[tuple[int, Planes]] | None = None
        self._reaching: dict[int, FreeBoards] = {}

    @cached_property
    def size(self) -> int:
        """Number of boards."""
        return count(self.free)

    @cached_property
    def windows(self) -> Windows:
        """How many of the boards each block has."""
        return Windows(self.torus, board_counts(self.torus, self.free))

    @cached_property
    def broken(self) -> DeadLinks:
        """The dead links between the boards."""
        return self.topology.broken.between(self.free)

    @cached_property
    def rested(self) -> FreeBoards:
        """It without the boards that were used lately."""
        rested = without(self.free, self.lately)
        return self if rested == self.free else FreeBoards(self.topology, rested)

    def origins(self, width: int, height: int, boards: int) -> int:
        """Origins of the blocks of this size that have so many boards, and some in the corner and at both far ends.

        What spans a block has its bottom-left board, a board z = 1 of the last column and a board z = 2 of the last
        row; where the block goes all the way around the machine, either of the two will do (`core.placement.span`).
        """
        torus = self.torus
        enough = self.windows.at_least(width, height, boards)
        if not enough:
            return 0
        a, b, c = self.free
        columns = torus.touching(b | c if width == torus.width else b, 1, height)
        rows = torus.touching(b | c if height == torus.height else c, width, 1)
        return enough & a & torus.rolled(columns, width - 1, 0) & torus.rolled(rows, 0, height - 1)

    def connected(self, boards: int, effort: Effort) -> FreeBoards:
        """It without the connected components that have fewer boards than this, as far as they are labelled."""
        components = self._labelled(effort)
        enough = [index for index, (size, _) in enumerate(components) if size >= boards]
        if len(enough) == len(components):
            return self
        if len(enough) not in self._reaching:  # components are sorted by size, so their number tells which they are
            planes = NOTHING
            for index in enough:
                planes = union(planes, components[index][1])
            self._reaching[len(enough)] = FreeBoards(self.topology, planes, self.lately)
        return self._reaching[len(enough)]

    def _labelled(self, effort: Effort) -> list[tuple[int, Planes]]:
        """(number of boards, boards) of each component, largest first; lone boards are in none."""
        if self._components is None:
            rest = without(self.free, self.topology.isolated(self.free))
            found: list[tuple[int, Planes]] = []
            while any(rest) and len(found) < MAX_COMPONENTS:
                z, plane = next((z, plane) for z, plane in enumerate(rest) if plane)
                seed = [0, 0, 0]
                seed[z] = plane & -plane
                component = self.topology.flooded((seed[0], seed[1], seed[2]), rest, None, effort)
                rest = without(rest, component)
                found.append((count(component), component))
            if any(rest):
                found.append((count(rest), rest))
            self._components = sorted(found, reverse=True)
        return self._components
