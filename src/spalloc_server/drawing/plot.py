"""SVG pictures of figures over time: panels one above the other, with axes, units and one legend for all of them.

Theory of operation. A curve is a list of steps: it keeps a value until the next one. Curves are told apart by colour
and by how their lines are broken, so that a picture may be printed in black and white. Marks on an axis are 1, 2 or 5
times a power of ten apart, or as clocks and calendars have it on the axis of time. Lengths are pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

from spalloc_server.log.text import printable

__all__ = ["Curve", "Panel", "plot_svg"]

POINTS: Final = 430
"""Points drawn at most in each curve."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP, LINE = 860, 220, 80, 20, 40, 40, 20
MARKS: Final = 8
"""About so many marks on an axis."""

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6a3d9a", "#000000")
DASHES: Final = ("", "8 3", "2 2", "10 3 2 3", "5 5", "14 4")

_UNITS: Final = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_CLOCK: Final = {
    "days": (1, 2, 5, 7, 14, 28, 91, 182, 364),
    "hours": (1, 2, 3, 6, 12, 24),
    "minutes": (1, 2, 5, 10, 15, 30, 60),
    "seconds": (1, 2, 5, 10, 15, 30, 60),
}
"""How far apart marks of time may be."""

_STYLE = """
text { font: 13px sans-serif; fill: #222 }
.title { font-size: 15px; font-weight: bold }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #ddd }
.axis { fill: none; stroke: #666 }
.curve { fill: none; stroke-width: 1.5 }
.limit { stroke-width: 1; stroke-dasharray: 1 3 }
"""


class Curve(NamedTuple):
    """A figure over time."""

    points: Sequence[tuple[float, float]]
    """(seconds, value), in order of time; a value holds until the next one."""
    limit: float | None = None
    """A value that it cannot exceed, drawn as a line."""


class Panel(NamedTuple):
    """Curves of one kind."""

    title: str
    """What they are, with the unit."""
    curves: Sequence[Curve]


def plot_svg(title: str, names: Sequence[str], panels: Sequence[Panel], *, epoch: bool = False) -> str:
    """A picture of panels over the same time.

    Args:
        title: of the picture.
        names: what is said of the curves in the legend; each panel has one curve for each of them.
        panels: from above to below.
        epoch: whether times are seconds since the Unix epoch, so that the axis has dates; else it begins at 0.
    """
    times = [at for panel in panels for curve in panel.curves for at, _ in curve.points]
    first = min(times, default=0.0)
    length = max(max(times, default=0.0) - first, 1e-9)
    top = TOP + LINE * len(names)
    height = top + len(panels) * (HEIGHT + GAP) + 2 * LINE
    width = LEFT + WIDTH + RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="24">{_text(title)}</text>',
    ]
    for number, name in enumerate(names):
        y = TOP + LINE * (number + 0.5)
        parts.append(f'<path class="curve" {_pen(number)} d="M{LEFT},{y:.0f}h36"/>')
        parts.append(f'<text x="{LEFT + 44}" y="{y + 4:.0f}">{_text(name)}</text>')
    for number, panel in enumerate(panels):
        last = number == len(panels) - 1
        parts += _panel(panel, top + GAP - 8 + number * (HEIGHT + GAP), first, length, epoch=epoch, last=last)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, top: float, first: float, length: float, *, epoch: bool, last: bool) -> list[str]:
    """A frame with its scales, and the curves in it."""
    bottom = top + HEIGHT
    values = [value for curve in panel.curves for _, value in curve.points]
    values += [curve.limit for curve in panel.curves if curve.limit is not None]
    step = _step(max(values, default=0.0) or 1.0)
    highest = step * math.ceil(max(values, default=0.0) / step or 1)
    parts = []
    for mark in range(round(highest / step) + 1):
        y = bottom - HEIGHT * mark * step / highest
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}h{WIDTH}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{mark * step:,.10g}</text>')
    unit, marks = _marks(first, length, epoch=epoch)
    for at, label in marks:
        x = LEFT + WIDTH * at / length
        parts.append(f'<path class="grid" d="M{x:.1f},{top}V{bottom}"/>')
        if last:
            parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 18}">{label}</text>')
    parts.append(f'<rect class="axis" x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}"/>')
    parts.append(f'<text x="{LEFT}" y="{top - 6}">{_text(panel.title)}</text>')
    if last:
        parts.append(f'<text class="middle" x="{LEFT + WIDTH / 2:.0f}" y="{bottom + 38}">{unit}</text>')
    for number, curve in enumerate(panel.curves):
        points = (
            (LEFT + WIDTH * (at - first) / length, bottom - HEIGHT * value / highest)
            for at, value in _few(curve.points)
        )
        parts.append(f'<path class="curve" {_pen(number)} d="{_steps(points)}"/>')
        if curve.limit is not None:
            y = bottom - HEIGHT * curve.limit / highest
            parts.append(f'<path class="limit" stroke="{COLOURS[number % len(COLOURS)]}" d="M{LEFT},{y:.1f}h{WIDTH}"/>')
    return parts


def _pen(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    broken = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{COLOURS[number % len(COLOURS)]}"{broken}'


def _few(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """As many points as can be seen: of more, the means of equally long times."""
    if len(points) <= POINTS:
        return points
    first, number = points[0][0], 0
    each = (points[-1][0] - first) / POINTS
    sums = [0.0] * POINTS
    for (since, value), (until, _) in pairwise(points):
        at = since
        while at < until:
            while number < POINTS - 1 and at >= first + (number + 1) * each:
                number += 1
            end = min(until, first + (number + 1) * each) if number < POINTS - 1 else until
            sums[number] += value * (end - at)
            at = end
    return [(first + number * each, total / each) for number, total in enumerate(sums)] + [points[-1]]


def _steps(points: Iterable[tuple[float, float]]) -> str:
    """The curve that keeps a value until the next one."""
    (x, y), *rest = points
    return f"M{x:.1f},{y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _step(highest: float) -> float:
    """How far apart the marks of values up to this are."""
    rough = highest / MARKS
    power = 10.0 ** math.floor(math.log10(rough))
    return max(1.0, next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999))


def _marks(first: float, length: float, *, epoch: bool) -> tuple[str, list[tuple[float, str]]]:
    """What stands below the axis of time, and its marks: (seconds from its begin, label)."""
    one, unit = next((each for each in _UNITS if length >= 2 * each[0]), _UNITS[-1])
    rough = length / one / MARKS
    step = one * next((each for each in _CLOCK[unit] if each >= rough), math.ceil(rough))
    if not epoch:
        marks = [(number * step, f"{number * step / one:g}") for number in range(int(length / step) + 1)]
        return f"{unit} since the first job was submitted", marks
    midnight = time.mktime((*time.localtime(first)[:3], 0, 0, 0, 0, 0, -1))
    marks = []
    for number in range(math.ceil((first - midnight) / step), int((first + length - midnight) / step) + 1):
        at = midnight + number * step
        noon = 43200 if unit == "days" else 0  # so that the days on which clocks are changed keep their date
        form = "%Y-%m-%d" if unit == "days" else "%d %b %H:%M" if unit == "hours" else "%H:%M:%S"
        marks.append((at - first, time.strftime(form, time.localtime(at + noon))))
    return "local time", marks


def _text(text: str) -> str:
    return escape(printable(text))
