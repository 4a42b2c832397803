"""A simulation's course as a picture: boards in use and jobs that wait, over time, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spalloc_server.core.simulation import Simulation

__all__ = ["plot"]

WIDTH, HEIGHT, LEFT, TOP, GAP = 960, 200, 70, 30, 50
POINTS: Final = 2000
"""Points drawn at most in each curve."""


def plot(simulation: Simulation) -> str:
    """An SVG document with two panels, one above the other, over the same hours."""
    capacity = sum(len(machine.live_boards) for machine in simulation.machines.values())
    timeline = simulation.timeline[:: max(1, len(simulation.timeline) // POINTS)] or [(0.0, 0, 0)]
    hours = [(at - timeline[0][0]) / 3600 for at, _, _ in timeline]
    panels = (
        ("boards in use", [float(boards) for _, boards, _ in timeline], float(capacity), "#3572b0"),
        (
            "jobs waiting",
            [float(jobs) for _, _, jobs in timeline],
            max(1.0, *(jobs for _, _, jobs in timeline)),
            "#b03535",
        ),
    )
    height = TOP + len(panels) * (HEIGHT + GAP)
    title = f"{simulation.scheduling.policy}: {len(simulation.jobs)} jobs, {capacity} boards"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}">',
        "<style>text {font: 12px sans-serif}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">{title}</text>',
    ]
    for number, (name, values, highest, colour) in enumerate(panels):
        parts += _panel(TOP + number * (HEIGHT + GAP), name, hours, values, highest, colour)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    top: int, title: str, hours: Sequence[float], values: Sequence[float], highest: float, colour: str
) -> list[str]:
    """One panel: a frame, its scales, and a curve of steps."""
    length = max(hours[-1], 1e-9)
    bottom = top + HEIGHT
    points = []
    before = values[0]
    for hour, value in zip(hours, values, strict=True):
        x = LEFT + WIDTH * hour / length
        points += [
            f"{x:.1f},{bottom - HEIGHT * before / highest:.1f}",
            f"{x:.1f},{bottom - HEIGHT * value / highest:.1f}",
        ]
        before = value
    return [
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 8}" y="{top + 12}" text-anchor="end">{highest:.0f}</text>',
        f'<text x="{LEFT - 8}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{bottom + 18}">0 h</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 18}" text-anchor="end">{hours[-1]:.1f} h</text>',
        f'<text x="{LEFT + 8}" y="{top + 16}" fill="{colour}">{title}</text>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"/>',
    ]
