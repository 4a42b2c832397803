"""Where boards and chips are: triads, links between boards, and chips of boards.

Theory of operation. A board is a hexagon of 48 chips. Three boards make a *triad*, and triads tile the machine
periodically, 12 by 12 chips each. A board is (x, y, z): the triad's column and row, and which of its three boards.
A board's *Ethernet chip* is its south-west corner. Machines are tori: coordinates wrap at their edges.

Everything here is a closed form or a table derived once from the two facts below (where the three boards of a triad
stand, and which chips a board has). Nothing is searched for.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias

from spalloc_server.links import Links

__all__ = [
    "BOARDS_PER_TRIAD",
    "Board",
    "BoardLink",
    "Chip",
    "Location",
    "WrapAround",
    "axes_left",
    "board_down_link",
    "board_to_chip",
    "chip_to_board",
    "link_to_vector",
    "triad_dimensions_to_chips",
]

Board: TypeAlias = tuple[int, int, int]
"""(x, y, z): triad column, triad row, board 0-2 of the triad."""

BoardLink: TypeAlias = tuple[int, int, int, Links]
"""(x, y, z, link): a board and one of its links."""

Location: TypeAlias = tuple[int, int, int]
"""(cabinet, frame, board), counted from the top right of the machine room's view."""

Chip: TypeAlias = tuple[int, int]
"""(x, y) of a chip."""

BOARDS_PER_TRIAD: Final = 3

CHIPS_PER_TRIAD: Final = 12
"""A triad repeats every 12 chips, in both axes."""

BOARD_CHIPS: Final = 8
"""A board fits into a square of 8 by 8 chips."""

_ETHERNET_CHIPS: tuple[Chip, Chip, Chip] = ((0, 0), (8, 4), (4, 8))
"""South-west chip of boards z = 0, 1, 2 within their triad."""


class WrapAround(IntEnum):
    """Which edges of the machine a step crossed; the two bits are x and y."""

    none = 0
    x = 1
    y = 2
    both = 3


def _on_board(x: int, y: int) -> bool:
    """Whether a board has the chip (x, y), counted from its own Ethernet chip."""
    return 0 <= x < BOARD_CHIPS and 0 <= y < BOARD_CHIPS and -3 <= x - y <= 4


link_to_vector: dict[tuple[int, Links], tuple[int, int, int]] = {
    (0, Links.east): (0, -1, 2),
    (0, Links.north_east): (0, 0, 1),
    (0, Links.north): (0, 0, 2),
    (1, Links.east): (1, 0, -1),
    (1, Links.north_east): (1, 0, 1),
    (1, Links.north): (1, 1, -1),
    (2, Links.east): (0, 0, -1),
    (2, Links.north_east): (1, 1, -2),
    (2, Links.north): (0, 1, -1),
}
"""Step (dx, dy, dz), before wrapping, from a board with this z down this link."""

link_to_vector.update(
    {(z + dz, link.opposite): (-dx, -dy, -dz) for (z, link), (dx, dy, dz) in tuple(link_to_vector.items())}
)


_AXES = ((WrapAround.none, WrapAround.y), (WrapAround.x, WrapAround.both))
"""By whether there is x, and whether there is y. Millions are asked for, and to combine flags is slow."""


def board_down_link(
    x1: int, y1: int, z1: int, link: Links, width: int, height: int
) -> tuple[int, int, int, WrapAround]:
    """The board at the other end of a link, and which edges of the machine lie between.

    Args:
        x1: triad column of the board.
        y1: triad row of the board.
        z1: which board of the triad, 0-2.
        link: the link to go down.
        width: of the machine, in triads.
        height: of the machine, in triads.

    Returns:
        (x, y, z, wrapped).
    """
    dx, dy, dz = link_to_vector[(z1, link)]
    x, y = x1 + dx, y1 + dy
    return x % width, y % height, z1 + dz, axes_left(x, y, width, height)


def axes_left(x: int, y: int, width: int, height: int) -> WrapAround:
    """The axes on which a triad (x, y) lies outside a block of this size whose origin is (0, 0)."""
    return _AXES[not 0 <= x < width][not 0 <= y < height]


def board_to_chip(x: int, y: int, z: int) -> Chip:
    """Chip (x, y) of the machine that is the board's Ethernet chip."""
    ethernet_x, ethernet_y = _ETHERNET_CHIPS[z]
    return CHIPS_PER_TRIAD * x + ethernet_x, CHIPS_PER_TRIAD * y + ethernet_y


def _owners() -> dict[Chip, tuple[int, int, int]]:
    """For each chip of a triad's square: (triad column, triad row, z) of its board; columns and rows are 0 or -1."""
    owners = {}
    for z, (ethernet_x, ethernet_y) in enumerate(_ETHERNET_CHIPS):
        for x in range(BOARD_CHIPS):
            for y in range(BOARD_CHIPS):
                if _on_board(x, y):
                    column, chip_x = divmod(ethernet_x + x, CHIPS_PER_TRIAD)
                    row, chip_y = divmod(ethernet_y + y, CHIPS_PER_TRIAD)
                    owners[(chip_x, chip_y)] = (-column, -row, z)
    return owners


_OWNERS = _owners()


def chip_to_board(x: int, y: int, w: int, h: int) -> Board:
    """The board that a chip is on.

    Args:
        x: chip column, any chip and not only Ethernet ones; wraps around the machine.
        y: chip row, likewise.
        w: width of the machine in chips, a multiple of 12.
        h: height of the machine in chips, a multiple of 12.
    """
    x, y = x % w, y % h
    column, row, z = _OWNERS[(x % CHIPS_PER_TRIAD, y % CHIPS_PER_TRIAD)]
    return (
        (x // CHIPS_PER_TRIAD + column) % (w // CHIPS_PER_TRIAD),
        (y // CHIPS_PER_TRIAD + row) % (h // CHIPS_PER_TRIAD),
        z,
    )


def triad_dimensions_to_chips(w: int, h: int, torus: WrapAround) -> tuple[int, int]:
    """Size in chips of a block of triads: 12 a triad, and 4 more on an axis that does not wrap.

    Args:
        w: triads across.
        h: triads up.
        torus: the axes on which the block's boards wrap around onto themselves.
    """
    overhang = BOARD_CHIPS // 2
    return (
        CHIPS_PER_TRIAD * w + (0 if torus & WrapAround.x else overhang),
        CHIPS_PER_TRIAD * h + (0 if torus & WrapAround.y else overhang),
    )
