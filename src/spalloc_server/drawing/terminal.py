"""The same picture in a terminal: a machine of 1,200 boards in 80 columns and 31 lines.

Theory of operation. In colour, a board is two characters wide and one line high, and every other column is shifted by
half a line: so each character shows half of one board above half of another, in two colours. Where both halves are of
one job, or alike otherwise, the character has room for its letter or mark, so that jobs are told apart in few colours,
too, and on paper. A job (or a board that cannot be used) for which there is no such place has its letter across its
edge. Without colour, a board is one letter at its cell, and there are twice as many lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters, digits
from typing import Final, NamedTuple, TypeAlias

from rich.color import Color
from rich.style import Style
from rich.text import Text

from spalloc_server.coordinates import Board
from spalloc_server.drawing.hexagons import Cell, Condition, Size, Tile, boards_of, cell, columns_and_rows, job_colours

__all__ = ["CONDITION_COLOURS", "FREE_LETTER", "coloured_map", "job_letters", "plain_map", "sign_style"]

CONDITION_COLOURS = {
    Condition.usable: "#444444",
    Condition.resting: "#9e9e9e",
    Condition.out_of_service: "#ff0000",
    Condition.dead: "#000000",
}
"""Of boards that no job has; all differ in 256 colours."""

FREE_LETTER = "."
_LETTERS = ascii_letters + digits

_BRIGHT: Final = 128
"""On a colour that is brighter (0 to 255), letters are black, on others white."""


class _Look(NamedTuple):
    """How a board looks."""

    letter: str
    colour: str
    board: Board | None = None
    """Itself where each needs a mark; None where one letter does for all boards of a job."""


_Pair: TypeAlias = tuple[_Look | None, _Look | None]
"""The upper and the lower half of a character."""


def coloured_map(size: Size, tiles: Mapping[Board, Tile], *, wide: bool = True) -> Text:
    """A picture in colours, two characters a board, or one where not `wide`."""
    columns, rows = columns_and_rows(size)
    looks = _looks(size, tiles)
    halves: dict[Cell, _Look] = {}
    for board, (column, row) in _cells(size).items():
        halves[column, row] = halves[column, row + 1] = looks[board]
    pairs: dict[Cell, _Pair] = {
        (column, line): (halves.get((column, 2 * line + 1)), halves.get((column, 2 * line)))
        for line in reversed(range(rows // 2 + 1))
        for column in range(columns)
    }
    edges = _edges(pairs) if wide else {}
    text = Text(no_wrap=True)
    for (column, line), pair in pairs.items():
        upper = pair[0]
        if column == 0 and text:
            text.append("\n")
        if upper is not None and _alike(pair):
            text.append(f"{upper.letter} " if wide else upper.letter, sign_style(upper.colour))
        elif (edge := edges.get((column, line))) is not None:
            text.append(*_two_halves(pair, 1))
            text.append(edge.letter, sign_style(edge.colour))
        else:
            text.append(*_two_halves(pair, 2 if wide else 1))
    return text


def _looks(size: Size, tiles: Mapping[Board, Tile]) -> dict[Board, _Look]:
    colours, letters = job_colours(size, tiles), job_letters(tiles)
    looks = {}
    for board in boards_of(size):
        tile = tiles.get(board, Tile())
        if tile.job_id is not None:
            looks[board] = _Look(letters[tile.job_id], colours[tile.job_id])
        elif tile.condition.value:
            looks[board] = _Look(tile.condition.value, CONDITION_COLOURS[tile.condition], board)
        else:
            looks[board] = _Look(" ", CONDITION_COLOURS[tile.condition])
    return looks


def _alike(pair: _Pair) -> bool:
    """Whether both halves look alike, so that there is room for a letter."""
    upper, lower = pair
    return upper is not None and lower is not None and upper[:2] == lower[:2]


def _edges(pairs: Mapping[Cell, _Pair]) -> dict[Cell, _Look]:
    """Where letters are that have no room of their own."""
    named = {look for pair in pairs.values() if _alike(pair) for look in pair}
    places: dict[_Look, list[Cell]] = {}
    for place, pair in pairs.items():
        for look in pair:
            if look is not None and look.letter != " " and look not in named:
                places.setdefault(look, []).append(place)
    # Where there is a board on both sides, if anywhere
    return {min(found, key=lambda place: None in pairs[place]): look for look, found in places.items()}


def sign_style(colour: str) -> Style:
    """A letter on this colour, black or white."""
    red, green, blue = Color.parse(colour).get_truecolor()
    bright = 0.3 * red + 0.6 * green + 0.1 * blue > _BRIGHT
    return Style(color="#000000" if bright else "#ffffff", bgcolor=colour)


def _two_halves(pair: _Pair, width: int) -> tuple[str, Style]:
    upper, lower = (None if look is None else look.colour for look in pair)
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
