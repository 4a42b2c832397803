"""Dead links inside blocks, for requests that tolerate only some.

Theory of operation. A dead link counts where both its boards are given and it does not cross the block's own edges.
Each is noted once, at the left and lower one of its two triads; a block has it inside where it has that triad, not in
its last column (row) if the link leads to the next one. So windows (`core.placement.windows`) count them for all
origins at once.

Of two dead links without a common board at most one end of each may be given, unless they are tolerated. So a block
with m such links, k of them tolerated, loses at least m - k boards: that is known before any search. Which boards to
leave out is then tried, one end of a link or the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from spalloc_server.coordinates import Board
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.torus import Block, Planes, Torus
from spalloc_server.core.placement.windows import Windows

__all__ = ["STEPS", "DeadLink", "DeadLinks", "ways_to_leave_out"]

STEPS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""(dx, dy) from the left and lower triad of a link to the other one."""

LINKS_A_STEP = 8
"""Dead links that are looked at in the time of one layer of a flood."""


class DeadLink(NamedTuple):
    """A dead link between two working boards."""

    one: Board
    """The board whose triad is further to the left and down, modulo the torus."""
    other: Board
    dx: int
    """Columns from the one triad to the other, 0 or 1."""
    dy: int
    """Rows, likewise."""


class DeadLinks:
    """Some dead links of a machine. Immutable."""

    def __init__(self, torus: Torus, links: Iterable[DeadLink]) -> None:
        self._torus = torus
        self._links = tuple(links)

    def __len__(self) -> int:
        return len(self._links)

    @property
    def steps(self) -> int:
        """What it costs to look at all of them (`Effort.step`)."""
        return 1 + len(self._links) // LINKS_A_STEP

    @cached_property
    def matched(self) -> DeadLinks:
        """Some of them of which no two have a common board, and no other can be added."""
        taken: set[Board] = set()
        chosen = []
        for link in self._links:
            if link.one not in taken and link.other not in taken:
                taken.update(link[:2])
                chosen.append(link)
        return self if len(chosen) == len(self._links) else DeadLinks(self._torus, chosen)

    def inside(self, width: int, height: int, *, around: bool = False) -> int:
        """Field by field, how many are inside the block of this size with this origin.

        Args:
            width: triads.
            height: triads.
            around: count those across an edge as well where the block spans the machine, and so lies beside itself.
        """
        total = 0
        for (dx, dy), windows in self._windows.items():
            across = width if around and width == self._torus.width else width - dx
            up = height if around and height == self._torus.height else height - dy
            if across and up:
                total += windows.sums(across, up)
        return total

    def among(self, block: Block, boards: Planes, *, around: bool = False) -> list[DeadLink]:
        """Those between boards of a set that are inside a block.

        Args:
            block: the block on the machine.
            boards: on the machine.
            around: as for `inside`.
        """
        x, y, width, height = block
        torus = self._torus
        width += around and width == torus.width
        height += around and height == torus.height
        return [
            link
            for link in self._links
            if (link.one[0] - x) % torus.width + link.dx < width
            and (link.one[1] - y) % torus.height + link.dy < height
            and _has(torus, boards, link.one)
            and _has(torus, boards, link.other)
        ]

    def between(self, boards: Planes) -> DeadLinks:
        """Those between boards of a set."""
        return DeadLinks(
            self._torus,
            (
                link
                for link in self._links
                if _has(self._torus, boards, link.one) and _has(self._torus, boards, link.other)
            ),
        )

    @cached_property
    def _windows(self) -> dict[tuple[int, int], Windows]:
        wide = self._torus.wide
        counts: dict[tuple[int, int], int] = {}
        for (x, y, _), _, dx, dy in self._links:
            counts[dx, dy] = counts.get((dx, dy), 0) + wide.one(x, y)
        return {step: Windows(self._torus, fields) for step, fields in counts.items()}


def ways_to_leave_out(
    links: list[DeadLink], tolerated: int, spare: int, effort: Effort, left_out: frozenset[Board] = frozenset()
) -> Iterator[frozenset[Board]]:
    """Sets of boards without which no more dead links are left than are tolerated.

    Args:
        links: the dead links.
        tolerated: how many may stay.
        spare: how many boards may be left out.
        effort: what the search may cost.
        left_out: boards that are left out already.
    """
    effort.step()
    rest = [link for link in links if link.one not in left_out and link.other not in left_out]
    if len(rest) <= tolerated:
        yield left_out
        return
    link, *others = rest
    if spare > 0:
        for board in link[:2]:
            yield from ways_to_leave_out(others, tolerated, spare - 1, effort, left_out | {board})
    if tolerated > 0:
        yield from ways_to_leave_out(others, tolerated - 1, spare, effort, left_out)


def _has(torus: Torus, boards: Planes, board: Board) -> bool:
    x, y, z = board
    return bool(boards[z] & torus.triad(x, y))
