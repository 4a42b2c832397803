"""`python -m benchmarks forecasts`: how many jobs start when it was predicted, and what predicting costs.

Traces go through the scheduler in virtual time, on 1,200 boards that rest for 30 s. Equally far apart, whole forecasts
are made, and what is then told of each job that waits is kept; when the trace is over, it is compared with when the job
has started. Of each job count the first forecast that it had, and all that it had; `last` are traces that nothing was
chosen by.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from benchmarks.hostile import a_machine
from benchmarks.people import flood, interactive, trace_jobs
from benchmarks.workload import Trace
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.core.simulation import Simulation, TraceJob

SIDE = 20
COOL_DOWN = 30.0
LOOKS = 300
"""Forecasts that are made over a trace."""

MOST_STEP = 0.02
"""Seconds of CPU that no step of a forecast may take but for one in a thousand: then the event loop stands still."""

LEAST_INSIDE = 0.7
"""Part of the forecasts of a trace that must have come true; in a flood of the rehearsed ones, since most of its jobs
are held up by jobs that nobody could have known of."""

Said = tuple[int, float, Forecast]
"""(job, when it was said, what)."""


@dataclass
class Seer(Simulation):
    """A simulation in which starts are predicted."""

    said: list[Said] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """CPU seconds of each step."""
    next_look: float = 0.0

    def passed(self, scheduler: Scheduler, now: float) -> None:
        """Make a whole forecast, once it is time."""
        if not self.steps:
            scheduler.predict_starts(lambda _: "")
        if now < self.next_look or not scheduler.queued:
            return
        self.next_look = now + (self.jobs[-1].submit - self.jobs[0].submit) / LOOKS
        due: float | None = now
        while due is not None and due < now + COOL_DOWN:
            began = time.process_time()
            scheduler.forecast(now)
            self.steps.append(time.process_time() - began)
            due = scheduler.forecast_at()
        for job_id in scheduler.ordered(now):
            if forecast := scheduler.predicted(job_id):
                self.said.append((job_id, now, forecast))

    def inside(self, said: Sequence[Said]) -> float:
        """The part of these that came true."""
        found = [
            forecast.earliest - 1 <= self.started[job_id] <= forecast.latest + 1
            for job_id, _, forecast in said
            if forecast.earliest is not None and forecast.latest is not None and job_id in self.started
        ]
        return sum(found) / max(1, len(found))

    def row(self) -> tuple[int, float, float, float, float, float, float]:
        """Return the figures of a line of the table.

        These are: how many forecasts; the parts that came true of all, of rehearsed ones, of estimates, and of each
        job's first one; the median of how wide they were by how far ahead; CPU seconds that one step of 1,000 exceeds.
        """
        first: dict[int, Said] = {}
        for each in self.said:
            first.setdefault(each[0], each)
        kinds = ([each for each in self.said if each[2].estimated is estimated] for estimated in (False, True))
        widths = sorted(
            (forecast.latest - forecast.earliest) / max(60.0, forecast.start - now)
            for _, now, forecast in self.said
            if forecast.start is not None and forecast.latest is not None and forecast.earliest is not None
        )
        slow = sorted(self.steps)[int(0.999 * len(self.steps))]
        parts = [self.inside(some) for some in (self.said, *kinds, list(first.values()))]
        return len(self.said), parts[0], parts[1], parts[2], parts[3], widths[len(widths) // 2], slow


def seen(trace: str, jobs: Sequence[TraceJob]) -> tuple[str, Seer]:
    """A trace that has been run."""
    seer = Seer({"m": a_machine(SIDE, SIDE)}, jobs, Scheduling(), COOL_DOWN)
    for _ in seer.run():
        pass
    return trace, seer


def traces(*, quick: bool) -> list[tuple[str, list[TraceJob]]]:
    """Each with its name; the last six were not looked at when the way of predicting was chosen."""
    looked_at = [Trace("lab", 0.9, 1), Trace("lab", 1.2, 2), Trace("large", 0.9, 1)]
    others = [Trace("lab", 0.9, 4), Trace("lab", 1.2, 5), Trace("large", 0.9, 6), Trace("large", 1.2, 7)]
    if quick:
        return [(looked_at[0].name, looked_at[0].trace_jobs())]
    named = [(trace.name, trace.trace_jobs()) for trace in looked_at]
    named += [("flood, seed 9", trace_jobs(flood(9))), ("interactive, seed 5", trace_jobs(interactive(5)))]
    named += [(f"{trace.name} (not looked at before)", trace.trace_jobs()) for trace in others]
    named += [("flood, seed 10 (not looked at before)", trace_jobs(flood(10)))]
    return [*named, ("interactive, seed 6 (not looked at before)", trace_jobs(interactive(6)))]


def main(*, quick: bool = False) -> str | None:
    """Print a table; what is worse than it may be."""
    print("| trace | forecasts | came true | rehearsed | estimated | first of a job | width | slow step ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    bad = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, seer in pool.map(seen, *zip(*traces(quick=quick), strict=True)):
            many, *parts, width, slow = seer.row()
            told = " | ".join(f"{part:.2f}" for part in parts)
            print(f"| {name} | {many:,} | {told} | {width:.1f} | {1000 * slow:.1f} |", flush=True)
            if parts[name.startswith("flood")] < LEAST_INSIDE or slow > MOST_STEP:
                bad.append(name)
    return f"too few forecasts came true, or steps were too long: {', '.join(bad)}" if bad else None


if __name__ == "__main__":
    main()
