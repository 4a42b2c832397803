"""What works on a machine, and what is connected with what.

Theory of operation. A `Topology` is a machine's working boards and links, whoever has them. Connectivity is a flood
from some boards, a layer at a time, over sets of bits: one layer moves the whole front at once, and costs about five
microseconds at 1,200 boards. A flood inside a block never crosses the block's edges, not even where the block spans
the machine and so lies beside itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeVar

from spalloc_server.coordinates import Board, BoardLink, board_down_link, link_to_vector
from spalloc_server.core.placement.dead_links import DeadLink, DeadLinks
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.torus import Block, Planes, Torus
from spalloc_server.core.placement.windows import Windows, board_counts
from spalloc_server.links import Links

__all__ = ["Topology"]

_T = TypeVar("_T")


MAX_REMEMBERED = 4096
"""Blocks of which a topology remembers which boards are connected."""

DEFAULT_MIN_FILL = Fraction(2, 3)
"""The share of its rectangle that a job's boards fill, where nobody says otherwise."""


class Topology:
    """A machine's working boards and links. Immutable: when a board goes out of service, another is made.

    Args:
        torus: the machine's triads.
        dead: boards that cannot be given to anybody.
        dead_links: (x, y, z, link) that do not work. A link that is dead in one direction connects nothing.
        min_fill: the least share of its rectangle that a job's boards fill, 0 to 1 (`core.placement.shapes`).
    """

    def __init__(
        self,
        torus: Torus,
        dead: Iterable[Board],
        dead_links: Iterable[BoardLink],
        min_fill: Fraction = DEFAULT_MIN_FILL,
    ) -> None:
        self.torus = torus
        self.min_fill = min_fill
        absent = torus.planes(dead)
        self.live: Planes = (torus.full ^ absent[0], torus.full ^ absent[1], torus.full ^ absent[2])
        self.dead_links = frozenset(dead_links)
        self.blemishes = absent[0] | absent[1] | absent[2]
        """Triads with a dead board or a dead link."""
        self.cut: dict[tuple[int, Links], int] = {}
        """By board z and link, the triads where that link is dead."""
        for x, y, z, link in self.dead_links:
            x2, y2, z2, _ = board_down_link(x, y, z, link, torus.width, torus.height)
            for key, triad in (((z, link), torus.triad(x, y)), ((z2, link.opposite), torus.triad(x2, y2))):
                self.cut[key] = self.cut.get(key, 0) | triad
                self.blemishes |= triad
        self._reach: dict[Block, Planes] = {}
        self._remembered: dict[tuple[object, ...], Any] = {}

    @cached_property
    def windows(self) -> Windows:
        """How many working boards each block has."""
        return Windows(self.torus, board_counts(self.torus, self.live))

    @cached_property
    def broken(self) -> DeadLinks:
        """The dead links between working boards."""
        width, height = self.torus.width, self.torus.height
        found = set()
        for x, y, z, link in self.dead_links:
            one, other = (x, y, z), board_down_link(x, y, z, link, width, height)[:3]
            dx, dy, _ = link_to_vector[z, link]
            if min(dx, dy) < 0 or (dx == dy == 0 and one > other):
                one, other, dx, dy = other, one, -dx, -dy
            found.add(DeadLink(one, other, dx, dy))
        return DeadLinks(self.torus, sorted(found)).between(self.live)

    def seen(self, planes: Planes, block: Block) -> Planes:
        """The boards of a set that are in a block, rolled so that the block's origin is (0, 0)."""
        x, y, width, height = block
        window = self.torus.window(width, height)
        rolled = self.torus.rolled
        a, b, c = planes
        return rolled(a, x, y) & window, rolled(b, x, y) & window, rolled(c, x, y) & window

    def placed(self, planes: Planes, block: Block) -> Planes:
        """A set seen from a block's origin, where it really is: the inverse of `seen`."""
        x, y, _, _ = block
        rolled = self.torus.rolled
        a, b, c = planes
        return rolled(a, -x, -y), rolled(b, -x, -y), rolled(c, -x, -y)

    def reach(self, block: Block, effort: Effort) -> Planes:
        """The working boards of a block that its bottom-left board reaches inside it, seen from its origin."""
        if block not in self._reach:
            if len(self._reach) >= MAX_REMEMBERED:
                self._reach.clear()
            working = self.seen(self.live, block)
            self._reach[block] = self.flooded((working[0] & 1, 0, 0), working, block, effort)
        return self._reach[block]

    def flooded(self, start: Planes, among: Planes, block: Block | None, effort: Effort) -> Planes:
        """All boards that `layers` reaches."""
        *_, reached = (0, 0, 0), *effort.layers(self.layers(start, among, block))
        return reached

    def layers(self, start: Planes, among: Planes, block: Block | None = None) -> Iterator[Planes]:
        """Boards reached from some over working links, in ever more steps.

        Args:
            start: the boards to start from, seen from the block's origin.
            among: the boards that may be used, likewise; those of `start` are among them.
            block: the block, on the machine, whose edges are not crossed; None for the whole torus, without edges.

        Yields:
            The set reached so far, seen from the block's origin; first `start` itself.
        """
        spread = self.neighbours(block)
        fresh = reached = start
        while fresh[0] or fresh[1] or fresh[2]:
            yield reached
            a, b, c = spread(fresh)
            fresh = (a & among[0] & ~reached[0], b & among[1] & ~reached[1], c & among[2] & ~reached[2])
            reached = (reached[0] | fresh[0], reached[1] | fresh[1], reached[2] | fresh[2])

    def remember(self, key: tuple[object, ...], find_out: Callable[[], _T]) -> _T:
        """Return what `find_out` returns about the idle machine, and remember it by a key that names the question."""
        if key not in self._remembered:
            found = find_out()
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return self._remembered[key]  # type: ignore[no-any-return]

    def neighbours(self, block: Block | None) -> Callable[[Planes], Planes]:
        """What gives the neighbours of a set of boards, seen from a block's origin, over working links inside it.

        Some of what it gives may lie outside a block that does not span the machine: the caller's mask takes it away.
        None for the whole torus.
        """
        torus = self.torus
        if block is None:
            cut = self.cut
            right, up, left, down = torus.unit_moves
        else:
            x, y, width, height = block
            window = torus.window(width, height)
            cut = {key: dead for key, plane in self.cut.items() if (dead := torus.rolled(plane, x, y) & window)}
            right, up, left, down = torus.unit_shifts if width < torus.width else torus.fenced_shifts

        def all_links(boards: Planes) -> Planes:
            # The links of `link_to_vector`, those that go to triads in one direction together
            a, b, c = boards
            b_right, c_up, a_down_left = right(b), up(c), down(left(a))
            return (
                b | c | b_right | c_up | up(right(b | c)),
                a | c | a_down_left | c_up | left(a | c),
                a | b | a_down_left | b_right | down(a | b),
            )

        ends = [0, 0, 0]
        for (z, _), dead in cut.items():
            ends[z] |= dead
        across = {-1: left, 0: _stay, 1: right}
        along = {-1: down, 0: _stay, 1: up}

        def working_links(boards: Planes) -> Planes:
            if not (boards[0] & ends[0] or boards[1] & ends[1] or boards[2] & ends[2]):
                return all_links(boards)
            there = [0, 0, 0]
            for (z, link), (dx, dy, dz) in link_to_vector.items():
                there[z + dz] |= along[dy](across[dx](boards[z] & ~cut.get((z, link), 0)))
            return there[0], there[1], there[2]

        return working_links if cut else all_links

    def isolated(self, boards: Planes) -> Planes:
        """Those boards of a set that have no neighbour in it."""
        a, b, c = self.neighbours(None)(boards)
        return boards[0] & ~a, boards[1] & ~b, boards[2] & ~c


def _stay(triads: int) -> int:
    return triads
