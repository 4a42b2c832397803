"""`python -m benchmarks forecasts`: how many jobs start when it was predicted, and what predicting costs.

Traces go through the scheduler in virtual time. Every so often a whole forecast is made, and what it tells of each job
that waits is kept; when the trace is over, it is compared with when the job has started.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.hostile import a_machine
from benchmarks.people import flood, interactive, trace_jobs
from benchmarks.workload import Trace
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.core.simulation import Simulation

SIDE = 20
LOOKS = 300
"""Forecasts that are made over a trace, equally far apart."""


@dataclass
class Seer(Simulation):
    """A simulation in which starts are predicted."""

    said: list[tuple[int, float, Forecast]] = field(default_factory=list)
    """(job, when it was said, what)."""
    steps: list[float] = field(default_factory=list)
    """CPU seconds of each step."""
    next_look: float = 0.0

    def passed(self, scheduler: Scheduler, now: float) -> None:
        """Make a whole forecast, once it is time."""
        if now < self.next_look or not scheduler.queued:
            return
        self.next_look = now + (self.jobs[-1].submit - self.jobs[0].submit) / LOOKS
        if not self.steps:
            scheduler.predict_starts(lambda _: "")
        while not self.steps_over(scheduler, now):
            pass
        for job_id in scheduler.ordered(now):
            if forecast := scheduler.predicted(job_id):
                self.said.append((job_id, now, forecast))

    def steps_over(self, scheduler: Scheduler, now: float) -> bool:
        """Make a step of a forecast; whether that was the last."""
        began = time.process_time()
        scheduler.forecast(now)
        self.steps.append(time.process_time() - began)
        due = scheduler.forecast_at()
        return due is None or due > now + 30


if __name__ == "__main__":
    import pickle
    import sys

    kind, seed = sys.argv[1], int(sys.argv[2])
    from benchmarks.people import trace_jobs

    jobs = (
        trace_jobs({"flood": flood, "interactive": interactive}[kind](seed))
        if kind in ("flood", "interactive")
        else Trace(kind, float(sys.argv[3]), seed).trace_jobs()
    )
    began = time.process_time()
    seer = Seer({"m": a_machine(SIDE, SIDE)}, jobs, Scheduling(), 30.0)
    for _ in seer.run():
        pass
    rows = [
        (
            f.position,
            f.queued,
            f.estimated,
            f.start and f.start - now,
            seer.started[j] - now,
            seer.jobs[j].request.asked,
            now - seer.jobs[j].submit,
        )
        for j, now, f in seer.said
        if j in seer.started
    ]
    pickle.dump(rows, open(f"/tmp/turn-{'-'.join(sys.argv[1:])}.pkl", "wb"))
    s = sorted(seer.steps)
    print(
        kind,
        len(rows),
        "cpu",
        time.process_time() - began,
        "steps",
        len(s),
        sum(s),
        "p50",
        s[len(s) // 2],
        "p99",
        s[int(len(s) * 0.99)],
        "max",
        s[-1],
    )
