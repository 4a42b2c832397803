"""`python -m benchmarks flood`, and `interactive`: how one owner's flood bears on others, and how people wait.

Both traces are for 1,200 boards, go through the scheduler in virtual time, and are held to bars.

`flood`: two days. 20 owners ask for 12 boards for about 600 s, which is a load of 0.5 all together; 4 owners ask now
and then for 300 boards for about 1,200 s; at six hours one owner adds 5,000 jobs of 12 boards within 17 minutes.

`interactive`: four days, boards rest for 30 s. Scripts by day that ask for 1 to 3 boards for about a minute, again and
again; a class of 40 at ten o'clock; jobs that are held for days by their keepalive; owners whose jobs crash at once or
take two hours; heavy tails; requests by width and height; large jobs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from statistics import fmean

from benchmarks.hostile import a_machine
from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.request import Request
from spalloc_server.core.simulation import SHORT, Simulation, TraceJob

HOUR, DAY = 3600.0, 86400.0
FLOOD, FLOOD_AT, FLOOD_EVERY = 5000, 6 * HOUR, 0.2
SEEDS = {"flood": 9, "interactive": 5}
BARS: Mapping[str, Mapping[str, float]] = {
    "flood": {
        "small owners' mean slowdown": 2.5,
        "300-board owners' mean wait s": 8000,
        "flooder's mean wait s": 48000,
    },
    "interactive": {"mean wait s": 450, "longest wait s": 170_000},
}
"""The most that each figure may be, with these seeds."""

Row = tuple[float, float, str, "int | tuple[int, int]"]
"""(submitted at, seconds, owner, boards or (width, height))."""


def arrivals(rng: random.Random, mean: float, end: float) -> Iterator[float]:
    """Moments that have nothing to do with each other."""
    at = rng.expovariate(1 / mean)
    while at < end:
        yield at
        at += rng.expovariate(1 / mean)


def flood(seed: int) -> list[Row]:
    """One owner's thousands of jobs among others."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for owner, mean, seconds, boards, owners in (("small", 240.0, 600, 12, 20), ("big", 14400.0, 1200, 300, 4)):
        for number in range(owners):
            rows += [
                (at, seconds * rng.lognormvariate(0, 0.35), f"{owner}{number}", boards)
                for at in arrivals(rng, mean, 2 * DAY)
            ]
    rows += [
        (FLOOD_AT + number * FLOOD_EVERY, 600 * rng.lognormvariate(0, 0.35), "flood", 12) for number in range(FLOOD)
    ]
    return rows


def interactive(seed: int) -> list[Row]:
    """People, rather than a generator."""
    rng = random.Random(seed)
    end = 4 * DAY
    rows: list[Row] = []
    for user in range(15):
        for day in range(4):
            for _ in range(rng.randrange(1, 4)):
                at = day * DAY + rng.uniform(8, 19) * HOUR
                median, boards = rng.lognormvariate(math.log(60), 0.6), rng.choice([1, 1, 1, 2, 3])
                for _ in range(rng.randrange(30, 200)):
                    seconds = median * rng.lognormvariate(0, 0.3)
                    rows.append((at, seconds, f"loop{user}", boards))
                    at += seconds + rng.expovariate(1 / 8)
    for day in range(4):
        for student in range(40):
            at, seconds = day * DAY + 10 * HOUR + rng.uniform(0, 120), rng.lognormvariate(math.log(1200), 0.5)
            rows.append((at, seconds, f"student{student}", rng.choice([1, 1, 2, 3, 6])))
    for holder in range(8):
        at, seconds = rng.uniform(0, DAY), rng.uniform(1.5, 3) * DAY
        rows.append((at, seconds, f"holder{holder % 4}", rng.choice([24, 48, 48, 96, 120])))
    for owner in range(6):
        rows += [
            (at, rng.uniform(10, 40) if rng.random() < 0.5 else rng.uniform(5400, 9000), f"bimodal{owner}", 60)
            for at in arrivals(rng, 4800, end)
        ]
    for owner in range(10):
        rows += [
            (at, min(2 * DAY, 60 * rng.paretovariate(0.9)), f"tail{owner}", rng.choice([3, 12, 24, 48]))
            for at in arrivals(rng, 3000, end)
        ]
    for owner in range(5):
        for at in arrivals(rng, 7200, end):
            seconds = rng.lognormvariate(math.log(1800), 0.7)
            rows.append((at, seconds, f"block{owner}", rng.choice([(2, 2), (4, 4), (6, 6), (8, 8), (4, 8)])))
    for owner in range(4):
        for at in arrivals(rng, 22000, end):
            seconds = rng.lognormvariate(math.log(2400), 0.5)
            rows.append((at, seconds, f"large{owner}", rng.choice([240, 300, 480, 600, 900])))
    return [(at, max(5, seconds), owner, asked) for at, seconds, owner, asked in rows if at < end]


def trace_jobs(rows: list[Row]) -> list[TraceJob]:
    """A trace as the simulator takes it."""
    return [
        TraceJob(
            round(at, 1),
            round(seconds, 1),
            Request(owner=owner, boards=asked, tags=DEFAULT_TAGS)
            if isinstance(asked, int)
            else Request(owner=owner, triads=asked, tags=DEFAULT_TAGS),
        )
        for at, seconds, owner, asked in sorted(rows, key=lambda row: row[0])
    ]


def simulated(rows: list[Row], cool_down: float) -> Simulation:
    """A trace that has been run."""
    simulation = Simulation({"m": a_machine(20, 20)}, trace_jobs(rows), Scheduling(), cool_down)
    for _ in simulation.run():
        pass
    return simulation


def of_flood(seed: int) -> Mapping[str, float]:
    """Figures of a flood."""
    simulation = simulated(flood(seed), 0.0)
    waits: dict[str, list[float]] = {}
    slowdowns: dict[str, list[float]] = {}
    for number, at in simulation.started.items():
        job = simulation.jobs[number]
        waits.setdefault(job.request.owner.rstrip("0123456789"), []).append(at - job.submit)
        slowdown = max(1.0, (at - job.submit + job.duration) / max(job.duration, SHORT))
        slowdowns.setdefault(job.request.owner, []).append(slowdown)
    small = [fmean(each) for owner, each in slowdowns.items() if owner.startswith("small")]
    return {
        "small owners' mean slowdown": fmean(small),
        "300-board owners' mean wait s": fmean(waits["big"]),
        "flooder's mean wait s": fmean(waits["flood"]),
    }


def of_interactive(seed: int) -> Mapping[str, float]:
    """Figures of people."""
    figures = simulated(interactive(seed), 30.0).figures()
    return {"mean wait s": figures["mean_wait_s"], "longest wait s": figures["max_wait_s"]}


def _main(kind: str, figures: Mapping[str, float]) -> str | None:
    over = []
    print("| figure | is | may be |\n| --- | ---: | ---: |")
    for name, figure in figures.items():
        print(f"| {name} | {figure:,.2f} | {BARS[kind][name]:,} |")
        if figure > BARS[kind][name]:
            over.append(f"{kind}: {name} is {figure:,.2f}, where {BARS[kind][name]:,} are allowed")
    return "\n".join(over) or None


def main_flood(*, quick: bool = False) -> str | None:  # noqa: ARG001 - there is one trace
    """Print a table; what is over its bar, in words, or None."""
    return _main("flood", of_flood(SEEDS["flood"]))


def main_interactive(*, quick: bool = False) -> str | None:  # noqa: ARG001 - there is one trace
    """Print a table; what is over its bar, in words, or None."""
    return _main("interactive", of_interactive(SEEDS["interactive"]))
