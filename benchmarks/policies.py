"""`python -m benchmarks policies`: the policy as it is, and what was tried instead, on the same traces.

Each row is one change of how jobs are ordered, or of where they are placed. Figures are geometric means over the
traces, but for the longest wait. The machine has 1,200 boards, which rest no time unless the row says so.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import reduce
from itertools import islice
from typing import Any

import msgspec

from benchmarks.hostile import a_machine
from benchmarks.workload import JOBS, Trace
from spalloc_server.config.options import Scheduling
from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement import search as placement
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import Place
from spalloc_server.core.placement.shapes import Shape, shapes_for, wanted_boards
from spalloc_server.core.placement.torus import count, origins, overlap, without
from spalloc_server.core.scheduling.fifo import Submission
from spalloc_server.core.simulation import Simulation

# -- other ways to place jobs

LOOKED_AT = 64
"""Places of one shape among which the most snug is looked for."""

first_with_enough = placement._with_enough  # noqa: SLF001 - what is tried is another one
choose_single = placement._single  # noqa: SLF001


def most_snug(request: Request, free_boards: FreeBoards, shape: Shape, effort: Effort) -> Iterator[Place]:
    """The place of a shape that the fewest free boards are next to."""

    def free_around(place: Place) -> int:
        start = place[1]
        _, around, *_ = (*free_boards.topology.layers(start, free_boards.topology.live), start)
        return count(overlap(without(around, start), free_boards.free))

    if places := list(islice(first_with_enough(request, free_boards, shape, effort), LOOKED_AT)):
        yield min(places, key=free_around)


def whole_triads(request: Request, free_boards: FreeBoards, _effort: Effort) -> Place | None:
    """The first rectangle of free triads, and all boards of it."""
    torus = free_boards.torus
    free = free_boards.free[0] & free_boards.free[1] & free_boards.free[2]
    what = wanted_boards(request), torus.width, torus.height, request.min_ratio, free_boards.topology.min_fill
    for width, height in shapes_for(*what):
        if at := torus.full & ~torus.touching(torus.full ^ free, width, height):
            x, y = (lowest := next(origins(at))) % torus.width, lowest // torus.width
            boards = [
                ((x + right) % torus.width, (y + up) % torus.height, z)
                for right in range(width)
                for up in range(height)
                for z in range(BOARDS_PER_TRIAD)
            ]
            return (x, y, width, height), torus.planes(boards)
    return None


def first_single(request: Request, free_boards: FreeBoards) -> Place | None:
    """A single board from the first triad that has one, broken into or not."""
    free, torus = free_boards.free, free_boards.torus
    if request.board is not None:
        return choose_single(request, free_boards)
    for at in origins(free[0] | free[1] | free[2]):
        x, y = at % torus.width, at // torus.width
        z = next(z for z, plane in enumerate(free) if plane >> at & 1)
        return (x, y, 1, 1), torus.planes([(x, y, z)])
    return None


def like_others(_occupancy: Occupancy, _boards: Collection[Board]) -> None:
    """Remember nothing of boards that were used lately."""


# -- what is tried

REST = 30.0
NOTE_USED_LATELY = "placement.occupancy:Occupancy._note_used_lately"

VARIANTS: dict[str, tuple[str, dict[str, object], float]] = {
    "backfill, as it is": ("backfill", {}, 0.0),
    "strictly first come, first served (`fifo`)": ("fifo", {}, 0.0),
    "no reservations: whoever fits goes": ("backfill", {"scheduling.backfill:RESERVATIONS": 0}, 0.0),
    "two reservations a machine": ("backfill", {"scheduling.backfill:RESERVATIONS": 2}, 0.0),
    "in order of submission": ("backfill", {"scheduling.order:ByMerit.terms": Submission.terms}, 0.0),
    "all owners alike": ("backfill", {"scheduling.order:MAX_HALVINGS": 0.0}, 0.0),
    "jobs are old after 4 hours and the backlog": ("backfill", {"scheduling.order:OLD_AFTER": 14400.0}, 0.0),
    "after 24 hours": ("backfill", {"scheduling.order:OLD_AFTER": 86400.0}, 0.0),
    "nobody is bold": ("backfill", {"scheduling.backfill:BOLD": 1.0}, 0.0),
    "bold without an end": ("backfill", {"scheduling.backfill:BOLD_SLIP": math.inf}, 0.0),
    "bold by a quarter": ("backfill", {"scheduling.backfill:BOLD": 0.25}, 0.0),
    "no relays": ("backfill", {"scheduling.backfill:RELAY_SECONDS": -1.0}, 0.0),
    "2 hours of patience": ("backfill", {"scheduling.backfill:PATIENCE": 7200.0}, 0.0),
    "no patience: reserved boards are never shared": (
        "backfill",
        {"scheduling.backfill:PATIENCE": -1.0, "scheduling.backfill:LAST_PATIENCE": 0.0},
        0.0,
    ),
    "better boards are looked for in every pass": ("backfill", {"scheduling.backfill:SLIP": float("-inf")}, 0.0),
    "predictions that fail are doubled": ("backfill", {"scheduling.waiting:OVERRUN": 1.0}, 0.0),
    "predictions that fail grow by a tenth": ("backfill", {"scheduling.waiting:OVERRUN": 0.1}, 0.0),
    "the most snug place, not the first": ("backfill", {"placement.search:_with_enough": most_snug}, 0.0),
    "whole rectangles of whole triads": ("backfill", {"placement.search:_part": whole_triads}, 0.0),
    "single boards from any triad": ("backfill", {"placement.search:_single": first_single}, 0.0),
    "boards rest for 30 s": ("backfill", {}, REST),
    "the same, and those used lately are as good as others": ("backfill", {NOTE_USED_LATELY: like_others}, REST),
}
"""{what is changed: (policy, {what of the core stands for something else: that}, seconds that boards rest)}."""


@contextmanager
def changed(changes: Mapping[str, object]) -> Iterator[None]:
    """Let names of the core stand for something else meanwhile."""
    before: list[tuple[Any, str, object]] = []
    for name, value in changes.items():
        module_name, _, path = name.partition(":")
        *holders, attribute = path.split(".")
        holder = reduce(getattr, holders, importlib.import_module(f"spalloc_server.core.{module_name}"))
        before.append((holder, attribute, getattr(holder, attribute)))
        setattr(holder, attribute, value)
    try:
        yield
    finally:
        for holder, attribute, value in before:
            setattr(holder, attribute, value)


def figures(task: tuple[str, Trace]) -> Mapping[str, Any]:
    """One variant on one trace."""
    variant, trace = task
    policy, changes, rest = VARIANTS[variant]
    scheduling = msgspec.convert({"policy": policy}, Scheduling)
    simulation = Simulation({"m": a_machine(20, 20)}, trace.trace_jobs(), scheduling, rest)
    with changed(changes):
        for _ in simulation.run():
            pass
    return simulation.figures()


def _mean(values: list[float | None]) -> float:
    """The geometric mean, of those that there are; a trace may have no large jobs."""
    logarithms = [math.log(max(value, 1.0)) for value in values if value is not None]
    return math.exp(sum(logarithms) / len(logarithms))


def main(*, quick: bool = False) -> None:
    """Print a table."""
    jobs, seeds = (1000, (1,)) if quick else (JOBS, (1, 2))
    traces = [Trace(mix, load, seed, jobs) for mix in ("lab", "large") for load in (0.9, 1.2) for seed in seeds]
    tasks = [(variant, trace) for variant in VARIANTS for trace in traces]
    print("| policy | mean wait s | of jobs of 120 boards and more | longest wait s | useful | fairness |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        told = iter(list(pool.map(figures, tasks)))
    for variant in VARIANTS:
        runs = [next(told) for _ in traces]
        wait, large = (_mean([run[name] for run in runs]) for name in ("mean_wait_s", "mean_wait_large_s"))
        longest = max(run["max_wait_s"] for run in runs)
        useful, fairness = (sum(run[name] for run in runs) / len(runs) for name in ("useful", "fairness"))
        print(f"| {variant} | {wait:,.0f} | {large:,.0f} | {longest:,.0f} | {useful:.3f} | {fairness:.2f} |")


if __name__ == "__main__":
    main()
