"""What makes a job's boards a machine.

Theory of operation. Published tools do not trust the size in an answer: they ask the chips, and the chips work out
their coordinates from the job's first chip over the links that work (SCAMP's rule). Then a side that is a multiple of
12 is taken for one that wraps around, and one of 12 k + 4 for one that does not. So the boards of a block, and the
links that are left running between them, must be such that the chips find just what the job's answer says:

- An axis is said to wrap only where the block spans it and its ring is *clean*: every board given that overhangs
  the edge (z = 1 in the last column, z = 2 in the last row) has a working link across it to another board given, and
  there is at least one link across. The chips that overhang get their coordinates over these links, and so count
  from the other side.
- Otherwise the edge is closed: the links across it between the job's own boards are stopped. Then the boards must reach
  the end of the last column (a board z = 1) and of the last row (z = 2).

All boards given are connected inside the block, without crossing its edges (`Topology.layers`). Sets of boards are seen
from the block's origin.
"""

from __future__ import annotations

from collections.abc import Iterable

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, BoardLink, WrapAround, axes_left, board_down_link, link_to_vector
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Block, Planes, overlap, without
from spalloc_server.links import Links

__all__ = ["clean_wraps", "far_column", "far_row", "own_stopped_links", "spans", "wraps_of"]

_OVERHANGS = {WrapAround.x: 1, WrapAround.y: 2}
"""Which board of a triad overhangs the triad's edge, by the axis."""

_ACROSS = {
    axis: {end: step for end, step in link_to_vector.items() if step[index] == 1}
    for index, axis in enumerate(_OVERHANGS)
}
"""The links that lead from a triad to the next on an axis: (z, link), and what they add to x, y and z."""


def far_column(topology: Topology, block: Block) -> int:
    """The triads of the last column of a block."""
    _, _, width, height = block
    return topology.torus.column(width - 1) & topology.torus.window(width, height)


def far_row(topology: Topology, block: Block) -> int:
    """The triads of the last row of a block."""
    _, _, width, height = block
    return topology.torus.row(height - 1) & topology.torus.window(width, height)


def spans(topology: Topology, block: Block, boards: Planes, wraps: WrapAround = WrapAround.none) -> bool:
    """Whether boards reach the end of a block on both axes; where one wraps, that is before the overhang."""
    a, b, c = boards
    column, row = far_column(topology, block), far_row(topology, block)
    at_right = (b | c if wraps & WrapAround.x else b) & column
    at_top = (b | c if wraps & WrapAround.y else c) & row
    return bool(a & 1 and at_right and at_top)


def clean_wraps(topology: Topology, block: Block, boards: Planes) -> WrapAround:
    """The axes on which a block's ring is clean, where all its boards that can be had are given.

    Both where both are clean together; else the one that is clean while the other is closed, x before y.
    """
    _, _, width, height = block
    torus = topology.torus
    spanned = WrapAround((width == torus.width) * WrapAround.x | (height == torus.height) * WrapAround.y)
    for wraps in (WrapAround.both, WrapAround.x, WrapAround.y):
        if wraps & spanned == wraps and _is_clean(topology, block, boards, wraps):
            return wraps
    return WrapAround.none


def _is_clean(topology: Topology, block: Block, boards: Planes, wraps: WrapAround) -> bool:
    """Whether the boards of a block go around it on these axes, while the other axis is closed."""
    if not spans(topology, block, boards, wraps):
        return False
    column, row = far_column(topology, block), far_row(topology, block)
    return all(
        _goes_around(topology, block, boards, axis, edge, closed=0 if wraps & other else others_edge)
        for axis, edge, other, others_edge in (
            (WrapAround.x, column, WrapAround.y, row),
            (WrapAround.y, row, WrapAround.x, column),
        )
        if wraps & axis
    )


def _goes_around(topology: Topology, block: Block, boards: Planes, axis: WrapAround, edge: int, *, closed: int) -> bool:
    """Whether links lead across an edge, from every board that overhangs it too; none that also crosses `closed`."""
    x, y, _, _ = block
    rolled = topology.torus.rolled
    lone, joined = boards[_OVERHANGS[axis]] & edge, 0
    for (z, link), (dx, dy, dz) in _ACROSS[axis].items():
        works = ~rolled(topology.cut.get((z, link), 0), x, y)
        if dx and dy:
            works &= ~closed
        across = boards[z] & edge & rolled(boards[z + dz], dx, dy) & works
        joined |= across
        if z == _OVERHANGS[axis]:
            lone &= ~across
    return bool(joined and not lone)


def wraps_of(topology: Topology, block: Block, boards: Planes) -> WrapAround:
    """Return the axes on which a job with these boards of a block wraps.

    A job that does not get all that the block's bottom-left board reaches wraps on none.
    """
    torus = topology.torus
    if block[2] < torus.width and block[3] < torus.height:
        return WrapAround.none
    seen = topology.seen(boards, block)
    others = without(topology.seen(topology.live, block), seen)
    if any(overlap(topology.neighbours(block)(seen), others)):
        return WrapAround.none
    return clean_wraps(topology, block, seen)


def own_stopped_links(
    machine: Machine, block: Block, boards: Iterable[Board], wraps: WrapAround
) -> tuple[BoardLink, ...]:
    """The links between a job's own boards that are stopped, from both ends: dead ones, and those over closed edges.

    Args:
        machine: the machine, with its dead links.
        block: the job's block.
        boards: all of the job's boards, on the machine.
        wraps: the axes on which the job wraps.
    """
    mine, closed = frozenset(boards), ~wraps
    return tuple(
        (*board, link)
        for board in sorted(mine)
        for link in Links
        if (other := board_down_link(*board, link, machine.width, machine.height)[:3]) in mine
        and (
            (*board, link) in machine.dead_links
            or (*other, link.opposite) in machine.dead_links
            or edges_crossed(machine, block, board, link) & closed
        )
    )


def edges_crossed(machine: Machine, block: Block, board: Board, link: Links) -> WrapAround:
    """The axes on which a link of a board in a block crosses the block's own edge."""
    x, y, width, height = block
    dx, dy, _ = link_to_vector[board[2], link]
    column, row = (board[0] - x) % machine.width + dx, (board[1] - y) % machine.height + dy
    return axes_left(column, row, width, height)
