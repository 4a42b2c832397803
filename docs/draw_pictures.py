"""Draws docs/img/*.svg with the package's own drawing code: `.venv/bin/python docs/draw_pictures.py`.

A test compares the pictures with what this gives.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

from spalloc_server.cli.simulate import configuration_of, plot, runs_of
from spalloc_server.config import load as config_file
from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.coordinates import Board
from spalloc_server.core.model import Request
from spalloc_server.core.simulation import Simulation, TraceJob
from spalloc_server.drawing.hexagons import Condition, Tile, boards_of
from spalloc_server.drawing.svg import machine_svg, triad_svg

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "img"

JOBS = 480
SIZES = (1, 3, 3, 12, 24, 24, 48, 120, 240)
TRUE_REST = 120.0
"""Seconds that boards rested in truth; the simulation has them rest 30."""


def machine() -> str:
    """The million-core machine with six jobs, some of which lie across its edges."""
    (machine,) = config_file.load(ROOT / "examples" / "simulated-1200.toml").machines
    blocks = [(2, 1, 8, 9), (12, 3, 2, 4), (17, 12, 4, 7), (6, 12, 6, 6), (12, 0, 1, 1), (13, 17, 12, 3)]
    return machine_svg(machine.name, (machine.width, machine.height), _jobs(machine, blocks))


def frame() -> str:
    """A frame of 24 boards with two jobs, and a board of each kind that cannot be used."""
    (machine,) = config_file.load(ROOT / "examples" / "simulated-24.toml").machines
    conditions = {(3, 1, 2): Condition.dead, (3, 0, 1): Condition.out_of_service, (2, 1, 0): Condition.resting}
    marked = {board: Tile(condition=condition) for board, condition in conditions.items()}
    jobs = _jobs(machine, [(0, 0, 2, 1), (0, 1, 1, 1)])
    tiles = {**marked, **{board: replace(tile, text=str(tile.job_id)) for board, tile in jobs.items()}}
    legend = {1: "1: retina, 6 boards", 2: "2: cochlea, 3 boards"}
    return machine_svg(machine.name, (machine.width, machine.height), tiles, legend, when="2026-11-02 09:30:00")


def coordinates() -> str:
    """A frame of 24 boards with the coordinates of each: its triads in two colours, in turn."""
    size = 4, 2
    tiles = {(x, y, z): Tile(job_id=1 + (x + y) % 2, text=f"{x},{y},{z}") for x, y, z in boards_of(size)}
    return machine_svg("coordinates", size, tiles)


def simulated() -> str:
    """The trace on 1,200 boards, and with 240 more."""
    jobs = a_trace()
    runs = [*runs_of({size: configuration_of(size) for size in ("20x20", "20x20+10x8")}, (), jobs, None)]
    for run in runs:
        deque(run.simulation.run(), 0)
    return plot(runs, epoch=False)


def a_trace() -> list[TraceJob]:
    """Jobs of a day that come faster than 1,200 boards can serve; they waited as where boards rest long."""
    chance, jobs, submit = Random(4), [], 0.0
    for number in range(JOBS):
        submit += chance.expovariate(1 / 160)
        request = Request(owner=f"user {number % 7}", boards=chance.choice(SIZES), tags=DEFAULT_TAGS)
        jobs.append(TraceJob(round(submit), round(chance.expovariate(1 / 3600)), request))
    (machine,) = configuration_of("20x20").machines
    truth = Simulation({machine.name: machine}, jobs, Scheduling(), TRUE_REST)
    deque(truth.run(), 0)
    return [replace(job, waited=truth.started[number] - job.submit) for number, job in enumerate(jobs)]


def trace_text() -> str:
    """The same as CSV."""
    rows = [
        f"{job.submit},{job.duration},{job.request.owner},{job.request.boards},{job.submit + (job.waited or 0)}"
        for job in a_trace()
    ]
    return "\n".join(["submit_s,duration_s,owner,request,start_s", *rows, ""])


def _jobs(machine: Machine, blocks: list[tuple[int, int, int, int]]) -> dict[Board, Tile]:
    """Jobs that have these blocks of triads: (x, y, width, height)."""
    return {
        ((x + i) % machine.width, (y + j) % machine.height, z): Tile(job_id)
        for job_id, (x, y, width, height) in enumerate(blocks, 1)
        for i, j, z in product(range(width), range(height), range(3))
    }


PICTURES = {"triad.svg": triad_svg, "machine.svg": machine, "frame.svg": frame, "coordinates.svg": coordinates}
PICTURES["simulated.svg"] = simulated

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
