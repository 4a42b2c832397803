"""An allocation seen from its job, and from the hardware.

Theory of operation. A job counts boards and chips from its own origin: the bottom-left board of its block, which is
chip (0, 0). Blocks may lie across the machine's edges, so the difference between a board and the origin is taken modulo
the machine's size. On an axis that the job wraps around (`core.placement.span` decides) it has no overhanging chips.

For the hardware, boards become numbers within frames. The links that leave the job are stopped on the job's own side,
and those between its own boards that its allocation names, from both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from spalloc_server.config.machine import Machine
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
from spalloc_server.core.model import Allocation, FrameWork
from spalloc_server.links import Links

__all__ = [
    "as_told_before",
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


def dimensions(allocation: Allocation) -> tuple[int, int]:
    """(width, height) of the job in chips; a single board is 8 x 8."""
    if allocation.single:
        return _SINGLE
    return triad_dimensions_to_chips(allocation.width, allocation.height, allocation.wraps or WrapAround.none)


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


def stopped_links(machine: Machine, boards: Iterable[Board], own: Iterable[BoardLink] = ()) -> Iterator[BoardLink]:
    """The links of these boards that must not carry traffic: those that leave the set, and some of its own."""
    mine, closed = frozenset(boards), frozenset(own)
    for board in sorted(mine):
        for link in Links:
            other = board_down_link(*board, link, machine.width, machine.height)[:3]
            if other not in mine or (*board, link) in closed:
                yield (*board, link)


def as_told_before(machine: Machine, allocation: Allocation) -> Allocation:
    """Return an allocation from before wraps and stopped links were stored, with what its user saw then.

    Then a job wrapped around an axis where any two of its boards had a link across the machine's edge between them, and
    only dead links between its own boards were stopped.
    """
    boards = {_relative(machine, allocation, board): board for board in allocation.boards}
    wraps, stopped = WrapAround.none, []
    for relative, board in () if allocation.single else boards.items():
        for link in Links:
            *there, wrapped = board_down_link(*relative, link, machine.width, machine.height)
            other = boards.get((there[0], there[1], there[2]))
            if other is None:
                continue
            wraps = WrapAround(wraps | wrapped)
            if (*board, link) in machine.dead_links or (*other, link.opposite) in machine.dead_links:
                stopped.append((*board, link))
    return msgspec.structs.replace(allocation, wraps=wraps, stopped=tuple(sorted(stopped)))


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
