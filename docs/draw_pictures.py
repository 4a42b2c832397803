"""Draws docs/img/*.svg, when run as `.venv/bin/python docs/draw_pictures.py`.

Chips lie as the links between them do: east is to the right, north 120 degrees from it, and north-east in between. So
a board's 48 chips are a hexagon, and three boards side by side are a triad.
"""

from __future__ import annotations

from math import cos, pi, sin, sqrt
from pathlib import Path

from spalloc_server import config_file
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board, Chip, board_to_chip

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "img"
MACHINE = ROOT / "examples" / "simulated-1200.toml"

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""To be told apart by colour-blind people too."""

STYLE = """
text { font: 13px sans-serif; fill: #444; text-anchor: middle }
.free { fill: #888; fill-opacity: .25; stroke: #888 }
.job, .chip { stroke: #222; stroke-width: .5 }
.ethernet { stroke: #000; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .ethernet { stroke: #fff } }
"""

BOARD_ROWS = ((0, 4), (0, 5), (0, 6), (0, 7), (1, 7), (2, 7), (3, 7), (4, 7))
"""First and last chip of each row of a board."""

Point = tuple[float, float]


def place(chip: tuple[float, float]) -> Point:
    """Where a chip is drawn, in widths of a chip; y upwards."""
    x, y = chip
    return x - y / 2, y * sqrt(3) / 2


def hexagon(radius: float, *, pointed: bool) -> str:
    """The definition of a hexagon around the origin, for `copies`."""
    turn = pi / 6 if pointed else 0.0
    corners = [(radius * cos(turn + k * pi / 3), radius * sin(turn + k * pi / 3)) for k in range(6)]
    return f'<defs><path id="h" d="M{"L".join(f"{x:.1f},{y:.1f}" for x, y in corners)}z"/></defs>'


def copies(kind: str, centres: list[Point], fill: str = "") -> str:
    """The hexagon at each of these places."""
    colour = f' fill="{fill}"' if fill else ""
    uses = "".join(f'<use href="#h" x="{x:.1f}" y="{y:.1f}"/>' for x, y in centres)
    return f'<g class="{kind}"{colour}>{uses}</g>'


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    """The whole file."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def chips_of(board: Board) -> list[Chip]:
    """All 48, the Ethernet chip first."""
    east, north = board_to_chip(*board)
    return [(east + x, north + y) for y, (first, last) in enumerate(BOARD_ROWS) for x in range(first, last + 1)]


def triad() -> str:
    """Three boards and their chips."""
    scale, left, bottom = 18.0, 90.0, 262.0

    def at(chip: tuple[float, float]) -> Point:
        x, y = place(chip)
        return left + scale * x, bottom - scale * y

    parts = [hexagon(scale / sqrt(3), pointed=True)]
    for z in range(3):
        ethernet, *others = chips_of((0, 0, z))
        x, y = at((board_to_chip(0, 0, z)[0] + 3.5, board_to_chip(0, 0, z)[1] + 3.5))
        parts += [
            copies("chip", [at(chip) for chip in others], COLOURS[z]),
            copies("ethernet", [at(ethernet)], COLOURS[z]),
            f'<text x="{x:.0f}" y="{y + 5:.0f}" style="fill:#000;font-weight:bold;font-size:17px">(x, y, {z})</text>',
        ]
    title = "A triad: the boards (x, y, 0), (x, y, 1) and (x, y, 2), with 48 chips each"
    note = f'<text x="185" y="{bottom + 25:.0f}">outlined: each board\'s Ethernet chip, bottom left</text>'
    return svg(370, bottom + 40, title, [*parts, note])


def machine() -> str:
    """The million-core machine with some jobs on it, drawn as a rectangle: it wraps around at all four edges."""
    (machine,) = config_file.load(MACHINE).machines
    core = Controller()
    core.machines = {machine.name: machine}
    for sizes in ((200,), (24,), (4, 7), (96,), (1,), (300,)):
        core.create_job(*sizes, owner="picture")
    scale, margin = 3.2, 16.0
    width, height = scale * 12 * machine.width, scale * 12 * machine.height * sqrt(3) / 2
    colour = {board: job.job_id for job in core.list_jobs() for board in job.boards or ()}
    kinds: dict[int, list[Point]] = {}
    for board in machine.live_boards:
        x, y = place((board_to_chip(*board)[0] + 3.5, board_to_chip(*board)[1] + 3.5))
        kinds.setdefault(colour.get(board, 0), []).append((margin + scale * x % width, height - scale * y + margin))
    parts = [
        hexagon(scale * 4 * 0.94, pointed=False),
        *(
            copies("job" if job_id else "free", centres, COLOURS[job_id - 1] if job_id else "")
            for job_id, centres in sorted(kinds.items())
        ),
    ]
    title = f"A machine of {len(machine.live_boards)} boards with six jobs, each in a colour of its own"
    return svg(width + 2 * margin, height + 2 * margin, title, parts)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for draw in (triad, machine):
        (IMAGES / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")
