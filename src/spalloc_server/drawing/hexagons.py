"""Where the boards of a machine are drawn, and in which colours.

Theory of operation. Chips lie as the links between them do: east is to the right, north 120 degrees from it, and
north-east in between. Then a board's 48 chips fill a hexagon with a flat top, and the hexagons of all boards tile the
plane in columns that are shifted by half a hexagon against each other. A place in this tiling is a *cell*: two whole
numbers (column, row) whose sum is even, half a hexagon's height a row. The machine is a torus, so what sticks out on
the left is drawn on the right, and the picture is a rectangle of 2 `width` columns and 3 `height` rows.

A `Tile` says what is known of one board; `svg` and `terminal` draw the same tiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TypeAlias

from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.links import Links

__all__ = ["MEANINGS", "PALETTE", "Cell", "Condition", "Size", "Tile", "boards_of", "cell", "columns_and_rows"]
__all__ += ["job_colours"]

Size: TypeAlias = tuple[int, int]
"""(width, height) of a machine in triads."""

Cell: TypeAlias = tuple[int, int]
"""(column, row) of a hexagon in the tiling; rows count upwards, and a hexagon is two of them high."""

PALETTE = (
    *("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#f0e442", "#882255", "#44aa99", "#999933", "#aa4499"),
    *("#6a3d9a", "#b15928"),
)
"""Colours of jobs, to be told apart by colour-blind people too."""


class Condition(Enum):
    """What is the matter with a board; the value is its mark."""

    usable = ""
    """Free, or in use."""
    resting = "~"
    """On its way back from a job: being switched off, or left alone for a while."""
    out_of_service = "!"
    """In quarantine, or taken out by an operator."""
    dead = "×"  # noqa: RUF001 - it shall look like a cross


MEANINGS = {
    Condition.usable: "free",
    Condition.resting: "resting after a job",
    Condition.out_of_service: "out of service, or in a silent frame",
    Condition.dead: "dead",
}
"""What legends say of boards that no job has."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One board as it is drawn."""

    job_id: int | None = None
    """The job that has it."""
    condition: Condition = Condition.usable
    text: str = ""
    """A few characters that stand on it in a picture, unless it has a mark."""
    title: str = ""
    """What is shown of it where the reader points; nothing where it is empty."""


def cell(board: Board, width: int) -> Cell:
    """Where a board is drawn on a machine of `width` triads."""
    x, y, z = board
    return (2 * x - y + (z == 1)) % (2 * width), 3 * y + z


def boards_of(size: Size) -> Iterator[Board]:
    """All boards of a machine, dead or not."""
    width, height = size
    return product(range(width), range(height), range(3))


def columns_and_rows(size: Size) -> tuple[int, int]:
    """How many columns of hexagons there are, and how many rows of half hexagons; every other column is one higher."""
    width, height = size
    return 2 * width, 3 * height


def job_colours(size: Size, tiles: Mapping[Board, Tile]) -> dict[int, str]:
    """A colour for each job, so that neighbours differ as far as there are colours."""
    neighbours: dict[int, set[int]] = {}
    for board, tile in tiles.items():
        if tile.job_id is not None:
            around = neighbours.setdefault(tile.job_id, set())
            for link in Links:
                x, y, z, _ = board_down_link(*board, link, *size)
                other = tiles[x, y, z].job_id if (x, y, z) in tiles else None
                if other is not None:
                    around.add(other)
    colours: dict[int, str] = {}
    used: Counter[str] = Counter()
    for job_id in sorted(neighbours):
        taken = {colours.get(other) for other in neighbours[job_id]}
        # False before True: a colour that no neighbour has, and of these one that few jobs have.
        colour = min(PALETTE, key=lambda each: (each in taken, used[each]))
        colours[job_id] = colour
        used[colour] += 1
    return colours
