"""The same picture in a terminal: a machine of 1,200 boards in 80 columns and 31 lines.

Theory of operation. In colour, a board is two characters wide and one line high, and every other column is shifted by
half a line: so each character shows half of one board above half of another, in two colours. There is no room for
marks, so what cannot be used has a colour of its own. Without colour, a board is one letter at its cell, a letter for
each job, and there are twice as many lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters, digits

from rich.style import Style
from rich.text import Text

from spalloc_server.coordinates import Board
from spalloc_server.drawing.hexagons import Cell, Condition, Size, Tile, boards_of, cell, columns_and_rows, job_colours

__all__ = ["CONDITION_COLOURS", "FREE_LETTER", "coloured_map", "job_letters", "plain_map"]

CONDITION_COLOURS = {
    Condition.usable: "#6c6c6c",
    Condition.resting: "#3c3c5c",
    Condition.out_of_service: "#ff0000",
    Condition.dead: "#000000",
}
"""Of boards that no job has."""

FREE_LETTER = "."
_LETTERS = ascii_letters + digits


def coloured_map(size: Size, tiles: Mapping[Board, Tile], *, wide: bool = True) -> Text:
    """A picture in colours, two characters a board, or one where not `wide`."""
    colours = job_colours(size, tiles)
    columns, rows = columns_and_rows(size)
    halves: dict[Cell, str] = {}
    for board, (column, row) in _cells(size).items():
        tile = tiles.get(board, Tile())
        colour = CONDITION_COLOURS[tile.condition] if tile.job_id is None else colours[tile.job_id]
        halves[column, row] = halves[column, row + 1] = colour
    text = Text(no_wrap=True)
    for line in reversed(range(rows // 2 + 1)):
        for column in range(columns):
            upper, lower = halves.get((column, 2 * line + 1)), halves.get((column, 2 * line))
            text.append(*_two_halves(upper, lower, 2 if wide else 1))
        text.append("\n" if line else "")
    return text


def _two_halves(upper: str | None, lower: str | None, width: int) -> tuple[str, Style]:
    if upper is None and lower is None:
        return " " * width, Style()
    if upper is None:
        return "▄" * width, Style(color=lower)
    return "▀" * width, Style(color=upper, bgcolor=lower)


def plain_map(size: Size, tiles: Mapping[Board, Tile]) -> str:
    """A picture in letters: those of `job_letters`, the marks of conditions, and `.` for a board that is free."""
    letters = job_letters(tiles)
    columns, rows = columns_and_rows(size)
    lines = [[" "] * columns for _ in range(rows)]
    for board, (column, row) in _cells(size).items():
        tile = tiles.get(board, Tile())
        mark = tile.condition.value or FREE_LETTER
        lines[row][column] = mark if tile.job_id is None else letters[tile.job_id]
    return "\n".join("".join(line).rstrip() for line in reversed(lines))


def job_letters(tiles: Mapping[Board, Tile]) -> dict[int, str]:
    """The letter (or digit) by which each job is drawn; they are used again where there are many jobs."""
    jobs = sorted({tile.job_id for tile in tiles.values() if tile.job_id is not None})
    return {job_id: _LETTERS[number % len(_LETTERS)] for number, job_id in enumerate(jobs)}


def _cells(size: Size) -> dict[Board, Cell]:
    return {board: cell(board, size[0]) for board in boards_of(size)}
