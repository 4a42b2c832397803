"""Years of load in seconds: a trace of jobs through the production scheduler, in virtual time.

Theory of operation. Nothing is modelled but the world around the scheduler: users submit their jobs when the trace says
so, each job runs as long as the trace says, boards are switched in no time and then rest. Time jumps from one event to
the next. The scheduler does not know how long a job will run; it predicts that, as on a real machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model import Allocation, Request
from spalloc_server.core.scheduling.scheduler import Scheduler

__all__ = ["LARGE", "Simulation", "TraceJob"]

LARGE: Final = 120
"""Boards from which on a job counts as large: a cabinet."""

SHORT: Final = 60.0
"""Least seconds of a job in the calculation of slowdowns, so that short jobs do not dominate."""


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job of a trace. Times in seconds."""

    submit: float
    duration: float
    request: Request
    waited: float | None = None
    """How long it waited in truth, where that is known."""


@dataclass
class Simulation:
    """One run of a trace.

    Args:
        machines: by name, highest priority first.
        jobs: the trace, in any order.
        scheduling: the policy and its settings.
        cool_down: seconds that boards rest.
    """

    machines: Mapping[str, Machine]
    jobs: Sequence[TraceJob]
    scheduling: Scheduling
    cool_down: float
    started: dict[int, float] = field(default_factory=dict)
    """When each job started, by its number in order of submission."""
    cancelled: set[int] = field(default_factory=set)
    """Jobs that no machine could ever serve."""
    timeline: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, boards asked for by the jobs that run, jobs that wait), after each event."""

    def __post_init__(self) -> None:
        self.jobs = sorted(self.jobs, key=lambda job: job.submit)

    def run(self) -> Iterator[int]:
        """Run it to its end, and yield now and then how many jobs have ended or been cancelled."""
        scheduler = Scheduler(self.scheduling, self.cool_down)
        scheduler.set_machines(self.machines)
        ends: list[tuple[float, int, Allocation]] = []
        arriving = 0
        in_use = waiting = ended = 0
        while True:
            times = [ends[0][0]] if ends else []
            times += [self.jobs[arriving].submit] if arriving < len(self.jobs) else []
            if (wake := scheduler.wake_at()) is not None:
                times.append(wake)
            if not times:
                return
            now = min(times)
            while ends and ends[0][0] <= now:
                _, number, allocation = heapq.heappop(ends)
                scheduler.end(number, now)
                rest_until = now + self.cool_down if self.cool_down else None
                scheduler.free(allocation.machine, allocation.boards, rest_until=rest_until, now=now)
                in_use -= self.jobs[number].request.asked
                ended += 1
            while arriving < len(self.jobs) and self.jobs[arriving].submit <= now:
                if scheduler.refusal(self.jobs[arriving].request):
                    self.cancelled.add(arriving)
                else:
                    scheduler.submit(arriving, self.jobs[arriving].request, now)
                    waiting += 1
                arriving += 1
            for number, allocation in scheduler.run(now):
                self.started[number] = now
                heapq.heappush(ends, (now + self.jobs[number].duration, number, allocation))
                in_use += self.jobs[number].request.asked
                waiting -= 1
            self.timeline.append((now, in_use, waiting))
            self.passed(scheduler, now)
            yield ended + len(self.cancelled)

    def passed(self, scheduler: Scheduler, now: float) -> None:
        """Look at the scheduler after an event; for who measures more."""

    def figures(self) -> dict[str, Any]:
        """Return the results of the run; None for what has no value because no job started."""
        jobs = {number: self.jobs[number] for number in self.started}
        waits = {number: self.started[number] - job.submit for number, job in jobs.items()}
        large = [waits[number] for number, job in jobs.items() if job.request.asked >= LARGE]
        capacity = sum(len(machine.live_boards) for machine in self.machines.values())
        first = min((job.submit for job in self.jobs), default=0.0)
        span = max((job.submit for job in self.jobs), default=0.0) - first
        end = max((self.started[number] + job.duration for number, job in jobs.items()), default=first) - first
        work = sum(job.request.asked * job.duration for job in jobs.values())
        inside = sum(
            job.request.asked * (min(span, at + job.duration - first) - min(span, at - first))
            for job, at in ((job, self.started[number]) for number, job in jobs.items())
        )
        slowdowns = {
            number: max(1.0, (waits[number] + job.duration) / max(job.duration, SHORT)) for number, job in jobs.items()
        }
        return {
            "policy": self.scheduling.policy,
            "jobs": len(self.jobs),
            "started": len(jobs),
            "cancelled": len(self.cancelled),
            "utilisation": _rounded(inside / (capacity * span) if span else None, 4),
            "useful": _rounded(work / (capacity * end) if end else None, 4),
            "makespan_s": _rounded(end, 0),
            **_waits(list(waits.values()), large),
            "mean_slowdown": _rounded(_mean(list(slowdowns.values())), 2),
            "fairness": _rounded(self._fairness(slowdowns), 3),
        }

    def true_waits(self) -> dict[str, float | None]:
        """Return how long the jobs of the trace waited in truth, by the names of `figures`; empty where not known."""
        known = [(job.request.asked, job.waited) for job in self.jobs if job.waited is not None]
        return _waits([wait for _, wait in known], [wait for asked, wait in known if asked >= LARGE]) if known else {}

    def _fairness(self, slowdowns: Mapping[int, float]) -> float | None:
        """Jain's index over the owners' mean slowdowns: 1 where all are alike, 1/owners where one bears it all."""
        owners: dict[str, list[float]] = {}
        for number, slowdown in slowdowns.items():
            owners.setdefault(self.jobs[number].request.owner, []).append(slowdown)
        means = [fmean(each) for each in owners.values()]
        return sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means)) if means else None


def _waits(every: Sequence[float], large: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(every)
    return {
        "mean_wait_s": _rounded(_mean(ordered)),
        "p95_wait_s": _rounded(ordered[int(0.95 * len(ordered))] if ordered else None),
        "max_wait_s": _rounded(ordered[-1] if ordered else None),
        "mean_wait_large_s": _rounded(_mean(large)),
        "max_wait_large_s": _rounded(max(large, default=None)),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
