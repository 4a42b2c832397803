"""`python -m benchmarks policies`: the policy as it is, and what was tried instead, on the same traces.

People work in campaigns: an owner submits a run of jobs alike, of one size, whose run times vary by about a third
around a median of the campaign's own, more of them by day than by night. Two mixes of sizes: `lab` has many single
boards and few large jobs, `large` hardly any single boards. The machine has 1,200 boards, which rest no time.

Each row is one change of the policy. Figures are geometric means over the traces, but for the longest wait.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

from benchmarks.schedule import a_machine
from spalloc_server.configuration import Scheduling
from spalloc_server.core import policy_backfill
from spalloc_server.core.messages import Request
from spalloc_server.core.request import DEFAULT_TAGS
from spalloc_server.core.simulation import Simulation, TraceJob

MIXES = {
    "lab": {1: 50, 3: 15, 6: 10, 12: 8, 24: 7, 48: 5, 120: 3, 300: 1.5, 600: 0.5},
    "large": {3: 15, 12: 20, 24: 20, 60: 17, 120: 16, 300: 8, 600: 3.5, 1200: 0.5},
}
"""{boards: how many of 100 campaigns ask for so many}."""

LOADS = (0.9, 1.2)
"""Board-seconds asked for, by those that there are while jobs come."""

JOBS, OWNERS, BOARDS, DAY = 4000, 40, 1200, 86400.0

VARIANTS: dict[str, tuple[str, dict[str, float]]] = {
    "backfill, as it is": ("backfill", {}),
    "strictly first come, first served (`fifo`)": ("fifo", {}),
    "no reservations: whoever fits goes": ("backfill", {"RESERVATIONS": 0}),
    "two reservations a machine": ("backfill", {"RESERVATIONS": 2}),
    "in order of submission": ("backfill", {"STRETCH": 0.0, "MAX_FAIR_SHARE": 0.0}),
    "large jobs yield a fifth as much": ("backfill", {"STRETCH": 0.004}),
    "large jobs yield five times as much": ("backfill", {"STRETCH": 0.1}),
    "large jobs yield up to 8 hours": ("backfill", {"MAX_YIELD": 28800.0}),
    "no fair share": ("backfill", {"MAX_FAIR_SHARE": 0.0}),
    "2 hours of patience": ("backfill", {"PATIENCE": 7200.0}),
    "no patience: reserved boards are never shared": ("backfill", {"PATIENCE": -1.0}),
    "better boards are looked for in every pass": ("backfill", {"SLIP": float("-inf")}),
}
"""{what is changed: (policy, constants of the policy)}."""


def trace(mix: str, load: float, seed: int, jobs: int) -> list[TraceJob]:
    """So many jobs of a mix."""
    rng = random.Random(f"{mix} {seed}")
    sizes, weights = zip(*MIXES[mix].items(), strict=True)
    campaigns = []
    while sum(len(runs) for *_, runs in campaigns) < jobs:
        base = rng.choices(sizes, weights)[0]
        boards = base if base <= 3 or base == BOARDS else round(base * rng.uniform(0.7, 1.3))
        median = min(7200.0, max(30.0, rng.lognormvariate(6.0, 1.0)))
        runs = [min(14400.0, max(10.0, rng.lognormvariate(math.log(median), 0.35))) for _ in range(rng.randint(1, 25))]
        campaigns.append((f"owner {rng.randrange(OWNERS)}", boards, median, runs))
    span = sum(boards * sum(runs) for _, boards, _, runs in campaigns) / (BOARDS * load)
    made = []
    for owner, boards, median, runs in campaigns:
        at = _by_day(rng, span)
        for seconds in runs:
            made.append(TraceJob(at % span, seconds, Request(owner=owner, boards=boards, tags=DEFAULT_TAGS)))
            at += rng.expovariate(2 / median)
    return made


def _by_day(rng: random.Random, span: float) -> float:
    """A moment of the span; by day (8 to 20) three times as likely as by night."""
    while True:
        at = rng.uniform(0, span)
        if 8 <= at % DAY / 3600 < 20 or rng.random() < 1 / 3:
            return at


def figures(task: tuple[str, str, float, int, int]) -> Mapping[str, Any]:
    """One variant on one trace."""
    variant, mix, load, seed, jobs = task
    policy, constants = VARIANTS[variant]
    before = {name: getattr(policy_backfill, name) for name in constants}
    for name, value in constants.items():
        setattr(policy_backfill, name, value)
    scheduling = msgspec.convert({"policy": policy}, Scheduling)
    simulation = Simulation({"m": a_machine(20, 20)}, trace(mix, load, seed, jobs), scheduling, 0.0)
    for _ in simulation.run():
        pass
    for name, value in before.items():
        setattr(policy_backfill, name, value)
    return simulation.figures()


def _mean(values: list[float | None]) -> float:
    """The geometric mean, of those that there are; a trace may have no large jobs."""
    logarithms = [math.log(max(value, 1.0)) for value in values if value is not None]
    return math.exp(sum(logarithms) / len(logarithms))


def main(*, quick: bool = False) -> None:
    """Print a table."""
    jobs, seeds = (1000, (1,)) if quick else (JOBS, (1, 2))
    traces = [(mix, load, seed, jobs) for mix in MIXES for load in LOADS for seed in seeds]
    tasks = [(variant, *one) for variant in VARIANTS for one in traces]
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
