"""`python -m benchmarks queues`: waits and use beside the published server's, on the same traces, in virtual time.

Every trace goes through the published queue and allocator, and through this project's scheduler under both policies.
The figures are computed in the same way from the times at which jobs started. *Useful* is board-seconds asked for, by
boards and the time until the last job has ended. No scheduler whatever could do better than the *bound* on it: jobs
that are submitted late cannot have ended before they have run, and all boards together can do only so much from any
moment on.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.hostile import a_machine
from benchmarks.workload import BOARDS, Trace
from spalloc_server.config.options import Scheduling
from spalloc_server.core.simulation import Simulation
from tests.conformance.environments import published_server

SIDE = 20
"""Width and height of the machine, in triads."""

POLICIES = ("backfill", "fifo")
LOADS = (0.75, 0.9, 1.2)
SEEDS = (1, 2, 3)

LEAST = {"mean wait": 24.0, "wait of jobs of 120 boards and more": 3.2, "useful": 1.42}
"""What `backfill` must come to over all traces: so many times less are its waits, so many times more is useful."""

LONGEST = 1.0
"""Its longest wait in any trace, at most, in longest waits of the published server in the same trace."""


def figures(trace: Trace) -> dict[str, Any]:
    """By server or policy, what the trace came to; and the bound on `useful`."""
    machines = {"m": a_machine(SIDE, SIDE)}
    jobs = trace.trace_jobs()
    told: dict[str, Any] = {"bound": bound(trace)}
    for policy in POLICIES:
        simulation = Simulation(machines, jobs, msgspec.convert({"policy": policy}, Scheduling), 0.0)
        for _ in simulation.run():
            pass
        told[policy] = simulation.figures()
    published = Simulation(machines, jobs, Scheduling(), 0.0)
    published.started = {number: at for number, at in enumerate(_published(trace)) if at is not None}
    told["7.0.0"] = published.figures()
    return told


def _published(trace: Trace) -> list[float | None]:
    """When jobs start on the published server."""
    python = published_server()
    rows = [(at, seconds, boards) for at, seconds, _, boards in trace.rows()]
    script = Path(__file__).with_name("published_queue.py")
    ran = subprocess.run(
        [python, script, str(SIDE), str(SIDE)],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    starts: list[float | None] = json.loads(ran.stdout)
    return starts


def bound(trace: Trace) -> float:
    """What `useful` can be at most."""
    rows = trace.rows()
    first = rows[0][0]
    end = max(at + seconds for at, seconds, _, _ in rows)
    work = 0.0
    for at, seconds, _, boards in reversed(rows):
        work += seconds * boards
        end = max(end, at + work / BOARDS)
    return work / (BOARDS * (end - first))


def mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def main(*, quick: bool = False) -> str | None:
    """Print tables; what misses its bar over all traces, in words, or None."""
    traces = [
        Trace(mix, load, seed)
        for mix in ("lab", "large")
        for load in (LOADS[1:2] if quick else LOADS)
        for seed in (SEEDS[:1] if quick else SEEDS)
    ]
    published_server()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(figures, traces))
    print("| trace | | mean wait s | of 120 boards and more | longest wait s | useful | bound |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for trace, run in zip(traces, runs, strict=True):
        for name in ("7.0.0", *POLICIES):
            one = run[name]
            print(
                f"| {trace.name} | {name} | {one['mean_wait_s']:,.0f} | {one['mean_wait_large_s']:,.0f} | "
                f"{one['max_wait_s']:,.0f} | {one['useful']:.3f} | {run['bound']:.3f} |"
            )
    print()
    missed: list[str] = []
    for name in POLICIES:
        waits, large = (
            mean(run["7.0.0"][key] / run[name][key] for run in runs) for key in ("mean_wait_s", "mean_wait_large_s")
        )
        longest = max(run[name]["max_wait_s"] / run["7.0.0"]["max_wait_s"] for run in runs)
        useful = mean(run[name]["useful"] / run["7.0.0"]["useful"] for run in runs)
        if name == "backfill" and not quick:
            reached = zip(LEAST.items(), (waits, large, useful), strict=True)
            missed += [f"queues: {what}: {is_:.2f} times, bar {bar}" for (what, bar), is_ in reached if is_ < bar]
            if longest > LONGEST:
                missed.append(f"queues: the longest wait is {longest:.2f} of the published server's, bar {LONGEST}")
        print(
            f"{name}, beside 7.0.0 (geometric means): mean wait {waits:.1f} times less, that of jobs of 120 boards and "
            f"more {large:.1f} times less; longest wait at most {longest:.2f} of its; useful {useful:.3f} times as much"
        )
    print(f"the bound on useful is {mean(run['bound'] / run['7.0.0']['useful'] for run in runs):.3f} times 7.0.0's")
    for mix in ("lab", "large"):
        busiest = [run for trace, run in zip(traces, runs, strict=True) if trace.mix == mix and trace.load == LOADS[-1]]
        if busiest:
            print(f"{mix}, load {LOADS[-1]:g}: useful {mean(run['backfill']['useful'] for run in busiest):.3f}")
    return "\n".join(missed) or None


if __name__ == "__main__":
    main()
