"""SVG pictures: a machine with its jobs, and the triad of which machines are made.

Theory of operation. A picture is text without any library: one hexagon is defined, and used once a board (or chip).
Lengths are pixels; y points down. Colours of lines and letters suit a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import cos, pi, sin, sqrt
from typing import Final, NamedTuple, TypeAlias

from spalloc_server.coordinates import BOARD_CHIPS, CHIPS_PER_TRIAD, Board, Chip, board_to_chip, chip_to_board
from spalloc_server.drawing.hexagons import (
    MEANINGS,
    PALETTE,
    Condition,
    Size,
    Tile,
    boards_of,
    cell,
    columns_and_rows,
    job_colours,
)
from spalloc_server.log.text import printable

__all__ = ["machine_svg", "triad_svg"]

RADIUS: Final = 12.8
"""From the centre of a board to its corners."""

MARGIN: Final = 16.0
LINE: Final = 22.0
"""Height of a line of the legend."""
CHARACTER: Final = 7.5
"""Room for a character of the legend; most need less."""
BETWEEN: Final = 40.0
"""From the machine to its legend, with a line in the middle."""
HEADING: Final = 34.0
"""Height of what stands above both."""
LEGEND_LINES: Final = 16
"""For so many there is room beside a small machine, too."""

GAP: Final = 0.94
"""Boards are drawn a little smaller than they are, so that one sees where each ends."""

_STYLE = """
text { font: 13px sans-serif; fill: #444; text-anchor: middle }
text.legend { text-anchor: start }
text.heading { text-anchor: start; font-size: 16px; font-weight: bold }
tspan { font-weight: normal; font-size: 13px }
.between { stroke: #888; stroke-width: .5 }
.free { fill: #888; fill-opacity: .25; stroke: #888 }
.resting { fill: #888; fill-opacity: .5; stroke: #888; stroke-dasharray: 2 2 }
.out_of_service { fill: #f00; fill-opacity: .25; stroke: #d00 }
.dead { fill: none; stroke: #888; stroke-dasharray: 1 3 }
.job, .chip { stroke: #222; stroke-width: .5 }
.ethernet { stroke: #000; stroke-width: 2.5 }
.mark { font-weight: bold; stroke: none; fill-opacity: 1 }
.text { font-size: 8px; stroke: none; fill-opacity: 1 }
.job .text, .job .mark { fill: #000 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .ethernet { stroke: #fff } }
"""

Point: TypeAlias = tuple[float, float]


def machine_svg(
    name: str, size: Size, tiles: Mapping[Board, Tile], legend: Mapping[int, str] | None = None, *, when: str = ""
) -> str:
    """The machine as its hexagons, in the colours of jobs, with the marks of boards that cannot be used.

    Args:
        name: of the machine.
        size: of the machine.
        tiles: what is known of its boards; those left out are free.
        legend: {job: what is said of it beside the picture, below what marks mean}; no legend and no heading where it
            is None.
        when: the time at which it was so, for the heading.
    """
    columns, rows = columns_and_rows(size)
    colours = job_colours(size, tiles)
    title = f"{name}: {size[0]} x {size[1]} triads"
    top = MARGIN if legend is None else MARGIN + HEADING
    width = RADIUS * (1.5 * columns + 0.5) + 2 * MARGIN
    height = RADIUS * sqrt(3) / 2 * (rows + 1) + top + MARGIN
    groups: dict[str, list[str]] = {}
    for board in boards_of(size):
        tile = tiles.get(board, Tile())
        column, row = cell(board, size[0])
        centre = MARGIN + RADIUS * (1.5 * column + 1), height - MARGIN - RADIUS * sqrt(3) / 2 * (row + 1)
        colour = colours[tile.job_id] if tile.job_id is not None else ""
        groups.setdefault(_group(tile, colour), []).append(_board(tile, centre))
    parts = [_hexagon(RADIUS * GAP, pointed=False)]
    parts += [f"<g {group}>{''.join(boards)}</g>" for group, boards in sorted(groups.items())]
    if legend is not None:
        lines = _legend(size, tiles, legend, colours)
        most = max(LEGEND_LINES, int((height - top - MARGIN) / LINE))
        if len(lines) > most:
            lines[most - 1 :] = [_Line("", "", f"and {len(lines) - most + 1} more")]
        height = max(height, LINE * len(lines) + top + MARGIN)
        since = f' <tspan dx="10">{_text(when)}</tspan>' if when else ""
        parts.append(f'<text class="heading" x="{MARGIN}" y="{MARGIN + 10:.1f}">{_text(title)}{since}</text>')
        parts.append(f'<path class="between" d="M{width - MARGIN + BETWEEN / 2:.1f},{top}V{height - MARGIN:.1f}"/>')
        left = width - MARGIN + BETWEEN + RADIUS
        parts += [part for number, line in enumerate(lines) for part in _drawn(line, top + LINE * number, left)]
        width += BETWEEN + 2 * RADIUS + CHARACTER * max(len(title) + 10, *(len(line.text) for line in lines))
    return _document(width, height, title, parts)


def _group(tile: Tile, colour: str) -> str:
    """What the hexagons of all such tiles have in common."""
    return f'class="job" fill="{colour}"' if colour else f'class="{_class(tile.condition)}"'


def _class(condition: Condition) -> str:
    return "free" if condition is Condition.usable else condition.name


def _board(tile: Tile, centre: Point) -> str:
    x, y = centre
    at = f'x="{x:.1f}" y="{y:.1f}"'
    title = f"<title>{_text(tile.title)}</title>" if tile.title else ""
    mark = tile.condition.value
    text = f'<text class="mark" x="{x:.1f}" y="{y + 5:.1f}">{mark}</text>' if mark else ""
    if tile.text and not mark:
        text = f'<text class="text" x="{x:.1f}" y="{y + 3:.1f}">{_text(tile.text)}</text>'
    return (f'<use href="#h" {at}>{title}</use>' if title else f'<use href="#h" {at}/>') + text


class _Line(NamedTuple):
    """A line of the legend."""

    hexagon: str
    """Attributes of the hexagon before it; none where it is empty."""
    mark: str
    text: str


def _legend(
    size: Size, tiles: Mapping[Board, Tile], jobs: Mapping[int, str], colours: Mapping[int, str]
) -> list[_Line]:
    """What marks mean, those that there are, and whose the jobs are."""
    every = (tiles.get(board, Tile()) for board in boards_of(size))
    there = {tile.condition for tile in every if tile.job_id is None or tile.condition.value}
    conditions = [condition for condition in Condition if condition in there]
    return [
        *(_Line(f'class="{_class(one)}"', one.value, MEANINGS[one]) for one in conditions),
        *(
            _Line(f'class="job" fill="{colours[job_id]}"' if job_id in colours else "", "", text)
            for job_id, text in jobs.items()
        ),
    ]


def _drawn(line: _Line, top: float, left: float) -> Iterator[str]:
    y = top + LINE / 2
    if line.hexagon:
        yield f'<use href="#h" {line.hexagon} x="{left:.1f}" y="{y:.1f}"/>'
    if line.mark:
        yield f'<text class="mark" x="{left:.1f}" y="{y + 5:.1f}">{line.mark}</text>'
    yield f'<text class="legend" x="{left + 2 * RADIUS:.1f}" y="{y + 5:.1f}">{_text(line.text)}</text>'


def triad_svg() -> str:
    """Three boards and their chips."""
    scale, left, bottom = 18.0, 90.0, 262.0

    def at(chip: Point) -> Point:
        x, y = chip
        return left + scale * (x - y / 2), bottom - scale * y * sqrt(3) / 2

    parts = [_hexagon(scale / sqrt(3), pointed=True)]
    for z in range(3):
        ethernet, *others = _chips((0, 0, z))
        x, y = at((ethernet[0] + 3.5, ethernet[1] + 3.5))
        name = f'<text x="{x:.0f}" y="{y + 5:.0f}" style="fill:#000;font-weight:bold;font-size:17px">(x, y, {z})</text>'
        parts += [_copies("chip", map(at, others), PALETTE[z]), _copies("ethernet", [at(ethernet)], PALETTE[z]), name]
    title = "A triad: the boards (x, y, 0), (x, y, 1) and (x, y, 2), with 48 chips each"
    note = f'<text x="185" y="{bottom + 25:.0f}">outlined: each board\'s Ethernet chip, bottom left</text>'
    return _document(370, bottom + 40, title, [*parts, note])


def _chips(board: Board) -> list[Chip]:
    """All 48, the Ethernet chip first."""
    east, north = board_to_chip(*board)
    square = [(east + x, north + y) for y in range(BOARD_CHIPS) for x in range(BOARD_CHIPS)]
    beyond = 2 * CHIPS_PER_TRIAD
    return [chip for chip in square if chip_to_board(*chip, beyond, beyond) == board]


def _hexagon(radius: float, *, pointed: bool) -> str:
    """The definition of a hexagon around the origin, with a corner or an edge on top."""
    turn = pi / 6 if pointed else 0.0
    corners = [(radius * cos(turn + k * pi / 3), radius * sin(turn + k * pi / 3)) for k in range(6)]
    return f'<defs><path id="h" d="M{"L".join(f"{x:.1f},{y:.1f}" for x, y in corners)}z"/></defs>'


def _copies(kind: str, centres: Iterable[Point], fill: str) -> str:
    uses = "".join(f'<use href="#h" x="{x:.1f}" y="{y:.1f}"/>' for x, y in centres)
    return f'<g class="{kind}" fill="{fill}">{uses}</g>'


def _text(text: str) -> str:
    """Text as XML has it: XML 1.0 knows no character for most controls, and pictures are to show what there is."""
    return escape(printable(text))


def _document(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<title>{_text(title)}</title>", f"<style>{_STYLE}</style>", *parts, "</svg>\n"])
