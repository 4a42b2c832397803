"""The order of a pass: who has waited too long, and then who has waited longest for what they need and have used.

Theory of operation. Among jobs of one priority, the *old* ones go first, in order of submission. The others go by
falling *merit*: how long a job has waited, by the effort that it is predicted to take, halved several times for what
its owner has used lately. So a short small job need not wait long, a long large one waits in proportion, and nobody's
many jobs hold up those of others.

An owner's *excess* is their use by that of a typical other owner. Use is what counts of the past (`Past`) and what
the owner's running jobs have used so far. A typical other owner is the mean of all others, weighted by what they have
used: so owners who have hardly used anything do not matter, and nobody gains by spreading jobs over invented names.
The merit is halved for each time that the owner has used what a typical other has, beyond the first, up to
`MAX_HALVINGS` times.

A job can be old once it has waited for `OLD_AFTER` and for as long as all that waits and runs now on its machines would
take them. Of each owner, the one that was submitted first is, unless enough jobs of the owner run that started as old
ones. So everybody's turn comes some time, and yet thousands of one owner's jobs that have all waited for long do not
go before everybody else's.

All this is worked out when a pass begins and does not change while it lasts: so within a line (`lines`) earlier jobs
go first, and a pass that is cut comes to the same as one that is not. To work it out costs as much as there are running
jobs. So where nobody waits when the pass begins, it is worked out only when it is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from functools import cached_property

from spalloc_server.core.model import NO_JOB
from spalloc_server.core.scheduling.lines import Line, Terms
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["ByMerit"]

OLD_AFTER = 28800.0
"""Seconds that a job waits, beyond the time for all that waits and runs, before it counts as old."""

NOBODY = (math.inf, NO_JOB)
"""After the (submit time, number) of every job."""

MAX_BACKLOG = 604800.0
"""Most seconds that count as the time for all that waits and runs: so every job is old some time, whatever comes."""

MAX_HALVINGS = 6.0
"""Most halvings of the merit of an owner's jobs for what the owner has used."""

LEAST_SECONDS = 10.0
"""Jobs that are predicted to run less count as running so long: they are all short."""


class Use:
    """What owners have used, and what their running jobs will probably still use.

    Args:
        queue: who runs, and has used how much.
        now: the time.
    """

    def __init__(self, queue: Queue, now: float) -> None:
        self.by_owner: dict[str, float] = {}
        """By owner who has running jobs, all use in board-seconds."""
        self.left: dict[str, float] = {}
        """By machine, board-seconds that running jobs will probably still take."""
        for job in queue.running.values():
            boards, owner, name = len(job.allocation.boards), job.request.owner, job.allocation.machine
            self.by_owner[owner] = self.by_owner.get(owner, 0.0) + boards * max(0.0, now - job.started_at)
            self.left[name] = self.left.get(name, 0.0) + boards * max(0.0, job.predicted_end(now) - now)
        self.total, self.squares = queue.past.sums(now)
        """Of all owners' use, and of its squares."""
        for owner, running in self.by_owner.items():
            before = queue.past.used(owner, now)
            self.by_owner[owner] = before + running
            self.total += running
            self.squares += (before + running) ** 2 - before**2


class ByMerit:
    """The order as it is now.

    Args:
        queue: who waits, runs, and has used how much.
        now: the time.
        served: owners, each with a priority, of whom enough jobs run that started as old ones.
    """

    def __init__(self, queue: Queue, now: float, served: AbstractSet[tuple[str, int]] = frozenset()) -> None:
        self.now = now
        self._queue = queue
        self._served = served
        self._factors: dict[str, float] = {}

    def work_out(self) -> None:
        """Work it out now, before jobs start or end: from now on it does not change."""
        _ = self._old, self._use

    @cached_property
    def _use(self) -> Use:
        return Use(self._queue, self.now)

    @cached_property
    def _old(self) -> dict[tuple[str, int], int]:
        """By owner and priority, the job that is old."""
        oldest: dict[tuple[str, int], tuple[float, int]] = {}
        for group in self._queue.groups():
            old_before = self.now - OLD_AFTER - self.backlog(group.machines)
            for line in group.lines.values():
                first = line.jobs[0]
                if first.since < old_before:
                    whose = line.request.owner, line.request.priority
                    oldest[whose] = min(oldest.get(whose, NOBODY), (first.since, first.job_id))
        return {whose: job_id for whose, (_, job_id) in oldest.items() if whose not in self._served}

    def is_old(self, job: Waiting) -> bool:
        """Whether a job is old."""
        if job.since >= self.now - OLD_AFTER:
            return False  # whatever waits and runs
        return self._old.get((job.request.owner, job.request.priority)) == job.job_id

    def terms(self, line: Line) -> Terms:
        """What the keys of a line's jobs are worked out from."""
        owner = line.request.owner
        factor = self._factors.get(owner)
        if factor is None:
            factor = self._factors[owner] = math.pow(0.5, min(MAX_HALVINGS, max(0.0, self.excess(owner) - 1)))
        effort = line.weight * max(LEAST_SECONDS, self._queue.past.predict(line.request))
        old = self._old.get((owner, line.request.priority), NO_JOB) if self._old else NO_JOB
        return old, self.now, factor / effort

    def excess(self, owner: str) -> float:
        """An owner's use by that of a typical other owner; infinite where no other has used anything."""
        use = self._use.by_owner.get(owner)
        if use is None:
            use = self._queue.past.used(owner, self.now)
        if use <= 0:
            return 0.0
        others, squares = self._use.total - use, self._use.squares - use**2
        return use * others / squares if others > 0 and squares > 0 else math.inf

    def backlog(self, machines: tuple[str, ...]) -> float:
        """Seconds that these machines would take for all who wait for one of them, and for what runs there."""
        there = [self._queue.machines[name] for name in machines if name in self._queue.machines]
        working = sum(machine.working() for machine in there)
        work = self._queue.queued_work(machines) + sum(self._use.left.get(name, 0.0) for name in machines)
        return min(MAX_BACKLOG, work / working) if working else MAX_BACKLOG
