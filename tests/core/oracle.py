"""Blocks by brute force: slow, plain, and independent of the bit sets that it is to check.

Which sets of boards of a block are a machine: `tests.core.machine_oracle`.
"""

from __future__ import annotations

from collections.abc import Collection

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, board_down_link, link_to_vector
from spalloc_server.links import Links

BlockAt = tuple[int, int, int, int]


def boards_of(machine: Machine, block: BlockAt) -> set[Board]:
    x, y, width, height = block
    return {
        ((x + i) % machine.width, (y + j) % machine.height, z)
        for i in range(width)
        for j in range(height)
        for z in range(3)
    }


def works(machine: Machine, board: Board, link: Links) -> bool:
    x, y, z, _ = board_down_link(*board, link, machine.width, machine.height)
    return not {(*board, link), (x, y, z, link.opposite)} & machine.dead_links


def step_inside(machine: Machine, block: BlockAt, board: Board, link: Links) -> tuple[bool, bool]:
    """Whether a link of a board of a block stays within the block's own columns, and within its rows."""
    x, y, width, height = block
    dx, dy, _ = link_to_vector[board[2], link]
    return 0 <= (board[0] - x) % machine.width + dx < width, 0 <= (board[1] - y) % machine.height + dy < height


def dead_links_in(machine: Machine, block: BlockAt, boards: Collection[Board], *, with_wraps: bool) -> int:
    """Dead links between boards of a block, each counted once; without wraps, those that cross none of its edges."""
    dead = set()
    for x, y, z, link in machine.dead_links:
        other = board_down_link(x, y, z, link, machine.width, machine.height)[:3]
        if {(x, y, z), other} <= set(boards) and (with_wraps or all(step_inside(machine, block, (x, y, z), link))):
            dead.add(frozenset({(x, y, z, link), (*other, link.opposite)}))
    return len(dead)


def goes_around(machine: Machine, block: BlockAt, boards: Collection[Board], axis: int, *, other_open: bool) -> bool:
    """Whether a block's ring is clean: a link leads across an axis' edge, and one from every board that overhangs it.

    Args:
        machine: the machine.
        block: the block.
        boards: the boards of it that are given.
        axis: 0 for x, 1 for y.
        other_open: whether links may cross the other axis' edge as well.
    """
    if (machine.width, machine.height)[axis] != block[2 + axis]:
        return False
    last = (block[axis] + block[2 + axis] - 1) % (machine.width, machine.height)[axis]
    leads = {}
    for board in boards:
        if board[axis] == last:
            leads[board] = any(
                not (inside := step_inside(machine, block, board, link))[axis]
                and link_to_vector[board[2], link][axis] == 1
                and (other_open or inside[1 - axis])
                and board_down_link(*board, link, machine.width, machine.height)[:3] in boards
                and works(machine, board, link)
                for link in Links
            )
    return any(leads.values()) and all(leads[board] for board in leads if board[2] == 1 + axis)
