"""An allocation seen from its job, and from the hardware.

Theory of operation. A job counts boards and chips from its own origin: the bottom-left board of its block, which is
chip (0, 0). Blocks may lie across the machine's edges, so the difference between a board and the origin is taken modulo
the machine's size; after that a block never has a seam unless it spans a whole axis of the machine. Then the job wraps
around on that axis, and has no overhanging chips there.

For the hardware, boards become numbers within frames. The links that leave the job are stopped on the job's own side,
and so are both ends of a dead link between two of its boards: what comes over a dead link is noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import (
    BOARD_CHIPS,
    Board,
    BoardLink,
    Chip,
    WrapAround,
    board_down_link,
    board_to_chip,
    triad_dimensions_to_chips,
)
from spalloc_server.core.messages import Allocation, FrameWork
from spalloc_server.links import Links

__all__ = [
    "connections",
    "dimensions",
    "ethernet_chip",
    "frame_work",
    "machine_chip",
    "machine_chips",
    "stopped_links",
]

_SINGLE = (BOARD_CHIPS, BOARD_CHIPS)


def _relative(machine: Machine, allocation: Allocation, board: Board) -> Board:
    """The board, counted from the job's origin."""
    x, y, z = board
    if allocation.single:
        return 0, 0, 0
    return (x - allocation.x) % machine.width, (y - allocation.y) % machine.height, z


def ethernet_chip(machine: Machine, allocation: Allocation, board: Board) -> Chip:
    """The board's Ethernet chip as the job counts chips."""
    return board_to_chip(*_relative(machine, allocation, board))


def dimensions(machine: Machine, allocation: Allocation) -> tuple[int, int]:
    """(width, height) of the job in chips; a single board is 8 x 8."""
    if allocation.single:
        return _SINGLE
    boards = {_relative(machine, allocation, board) for board in allocation.boards}
    torus = WrapAround.none
    for board in boards:
        for link in Links:
            *neighbour, wrapped = board_down_link(*board, link, machine.width, machine.height)
            if wrapped and tuple(neighbour) in boards:
                torus = WrapAround(torus | wrapped)
    return triad_dimensions_to_chips(allocation.width, allocation.height, torus)


def connections(machine: Machine, allocation: Allocation) -> list[tuple[Chip, str]]:
    """[(Ethernet chip as the job counts, host)] of every board, the origin's first."""
    return sorted(
        (ethernet_chip(machine, allocation, board), machine.spinnaker_ips[board]) for board in allocation.boards
    )


def machine_chip(machine: Machine, allocation: Allocation, chip: Chip) -> Chip:
    """The chip of the machine that the job counts as `chip`; wraps around the machine."""
    x, y = board_to_chip(*(allocation.boards[0] if allocation.single else (allocation.x, allocation.y, 0)))
    width, height = machine_chips(machine)
    return (chip[0] + x) % width, (chip[1] + y) % height


def machine_chips(machine: Machine) -> tuple[int, int]:
    """(width, height) of the machine in chips, as the torus that it is."""
    return triad_dimensions_to_chips(machine.width, machine.height, WrapAround.both)


def stopped_links(machine: Machine, boards: Iterable[Board]) -> Iterator[BoardLink]:
    """The links of these boards that must not carry traffic: those that leave the set, and the dead ones."""
    mine = frozenset(boards)
    for board in sorted(mine):
        for link in Links:
            *neighbour, _ = board_down_link(*board, link, machine.width, machine.height)
            x, y, z = neighbour
            dead = (*board, link) in machine.dead_links or (x, y, z, link.opposite) in machine.dead_links
            if dead or (x, y, z) not in mine:
                yield (*board, link)


def frame_work(machine: Machine, boards: Sequence[Board], stopped: Iterable[BoardLink] = ()) -> tuple[FrameWork, ...]:
    """The same boards and links, frame by frame, in the terms of the frames' BMPs."""
    numbers: dict[str, list[int]] = {}
    links: dict[str, list[tuple[int, Links]]] = {}
    for board in boards:
        cabinet, frame, number = machine.board_locations[board]
        numbers.setdefault(machine.bmp_ips[cabinet, frame], []).append(number)
    for x, y, z, link in stopped:
        cabinet, frame, number = machine.board_locations[x, y, z]
        links.setdefault(machine.bmp_ips[cabinet, frame], []).append((number, link))
    return tuple(
        FrameWork(bmp, tuple(sorted(numbers[bmp])), tuple(sorted(links.get(bmp, ())))) for bmp in sorted(numbers)
    )
