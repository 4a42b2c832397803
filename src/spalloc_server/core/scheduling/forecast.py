"""When those who wait will probably start: a rehearsal for the first of them, and an estimate for the others.

Theory of operation. A forecast goes through all who wait, in their order, and counts the work before each. That alone
gives an *estimate*: the board-seconds before a job, by the boards of its machines. The first `REHEARSED` jobs are then
put through a `Rehearsal`, which tells when each of them starts, and on whose boards. It has an allowance; whom it does
not reach in that keeps an estimate.

No prediction of a run time is right, so none of a start is: what is told has a spread (`spread`).

A forecast is cut into steps, and paced: it takes a small part of the time. When something has changed, the next one
begins `LEAST_SECONDS` after the beginning of the last, and after a rest of `RESTS` times as long as that took; or else
after `RENEWED_SECONDS`. What is known of a job is replaced only where the difference matters to people, so that whoever
keeps a text about it need not make it anew each time.
"""

from __future__ import annotations

from collections.abc import Callable

from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.placement.effort import STEP
from spalloc_server.core.scheduling.lines import Merge
from spalloc_server.core.scheduling.policy import Policy
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.rehearsal import Rehearsal
from spalloc_server.core.scheduling.spread import Spreads
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["Forecaster"]

REHEARSED = 64
"""The first of those who wait, whose starts are predicted by a rehearsal; for the others only the work before them is
counted."""

ALLOWANCE = 48 * STEP
"""Units of work that one rehearsal may take."""

PACE = 0.03 / STEP
"""Seconds that a forecast pauses for each unit of work: so it takes about a tenth of the time while it lasts."""

LEAST_SECONDS = 1.0
"""From the beginning of one forecast to that of the next, at least."""

RESTS = 4.0
"""The rest after a forecast, by the time that it took: forecasts of 10,000 jobs take a second or two each."""

RENEWED_SECONDS = 60.0
"""After so long a forecast is made anew though nothing has changed, because jobs run longer than was predicted."""

THROUGHPUT = 0.8
"""Part of the working boards that is in use, in estimates."""

NAMED_JOBS = 3
"""Most jobs that are named as those whose boards another gets."""


class Forecaster:
    """Keeps predictions of those who wait.

    Args:
        queue: who waits and runs.
        closed: says in words what keeps jobs from starting on these machines; nothing where none of them is closed.
    """

    def __init__(self, queue: Queue, closed: Callable[[tuple[str, ...]], str]) -> None:
        self.known: dict[int, Forecast] = {}
        """By job, what is predicted; of those that wait no more, too, for a while."""
        self.spreads = Spreads()
        self._queue = queue
        self._closed = closed
        self._why: dict[tuple[str, ...], str] = {}
        """By machines, why nothing starts there."""
        self._stale = True
        self._began = 0.0
        self._resume_at = 0.0
        self._rested_at = 0.0
        self._merge: Merge | None = None
        self._rehearsal: Rehearsal | None = None
        self._allowance = 0
        self._first: dict[int, tuple[int, Waiting, float | None]] = {}
        """The first of those who wait that have not started in the rehearsal: (position, job, estimate)."""
        self._position = 0
        self._before: dict[str, float] = {}
        """By machine, board-seconds that come before the next job there, and its working boards."""
        self._working: dict[str, int] = {}

    @property
    def under_way(self) -> bool:
        """Whether a forecast has begun that is to go on."""
        return bool(self._merge or self._rehearsal)

    def changed(self) -> None:
        """What was predicted is out of date."""
        self._stale = True

    def due(self) -> float | None:
        """When `step` is due; None while nobody waits."""
        if not self._queue.waiting or not self._queue.judged:
            return None
        if self.under_way:
            return self._resume_at
        return max(self._began + LEAST_SECONDS, self._rested_at) if self._stale else self._began + RENEWED_SECONDS

    def step(self, policy: Policy, now: float) -> list[int]:
        """Go on with a forecast, or begin one; return the jobs of whom something else is predicted now."""
        work = self._queue.work
        work.left = STEP
        changed: list[int] = []
        if self._rehearsal is not None:
            spent = self._rehearse(self._rehearsal, now, changed)
        else:
            if self._merge is None:
                self._begin(policy, now)
            self._estimate(policy, now, changed)
            spent = STEP - work.left
        self._resume_at = now + PACE * spent
        if not self.under_way:
            self._rested_at = now + RESTS * (now - self._began)
        return changed

    def forget(self, job_id: int) -> None:
        """A job joins the queue, perhaps again: what was predicted of it before means nothing any more."""
        self.known.pop(job_id, None)
        self.spreads.forget(job_id)

    def drop(self) -> None:
        """Give up the forecast that is under way."""
        self._merge = self._rehearsal = None
        self._stale = False

    def _begin(self, policy: Policy, now: float) -> None:
        queue = self._queue
        self._began, self._stale, self._position, self._first, self._why = now, False, 0, {}, {}
        self._merge = Merge(queue.lines(), policy.order(queue, now))
        if len(self.known) > len(queue.waiting):
            self.known = {job_id: known for job_id, known in self.known.items() if job_id in queue.waiting}
            self.spreads.forget_all_but(queue.waiting)
        self._working = {name: machine.working() for name, machine in queue.machines.items() if not machine.closed}
        self._before = dict.fromkeys(self._working, 0.0)
        for job in queue.running.values():
            if (name := job.allocation.machine) in self._before:
                self._before[name] += len(job.allocation.boards) * max(0.0, job.predicted_end(now) - now)

    def _estimate(self, policy: Policy, now: float, changed: list[int]) -> None:
        """Take those who wait in their order, as many as the step allows, and count the work before each."""
        queue, merge = self._queue, self._merge
        assert merge is not None
        if not merge.gather(queue.work):
            return
        machines = queue.machines.keys()
        while queue.work.left > 0:
            if (job := merge.take(machines)) is None:
                self._merge = None
                self._rehearsal = Rehearsal(queue, policy.fork(), [job for _, job, _ in self._first.values()], now)
                self._allowance = ALLOWANCE
                return
            queue.work.looked()
            self._position += 1
            start = self._count(job, now)
            if self._position <= REHEARSED:
                self._first[job.job_id] = self._position, job, start
            else:
                self._tell(job, self._position, start, now, changed)

    def _count(self, job: Waiting, now: float) -> float | None:
        """When the work before a job will probably be done on its machines, its own being counted from then on."""
        open_ones = [name for name in job.machines if name in self._working]
        boards = sum(self._working[name] for name in open_ones)
        if not boards:
            return None
        start = now + sum(self._before[name] for name in open_ones) / (THROUGHPUT * boards)
        for name in open_ones:
            self._before[name] += job.work * self._working[name] / boards
        return start

    def _rehearse(self, rehearsal: Rehearsal, now: float, changed: list[int]) -> int:
        """Go on with the rehearsal for a step; the work that was."""
        started, spent = rehearsal.step()
        for job_id, start, after in started:
            position, job, _ = self._first.pop(job_id)
            self._tell(job, position, start, now, changed, after)
        self._allowance -= spent
        if rehearsal.over or self._allowance <= 0:
            for position, job, estimate in self._first.values():
                self._tell(job, position, None if rehearsal.over else estimate, now, changed)
            self._rehearsal, self._first = None, {}
        return spent

    def _tell(
        self,
        job: Waiting,
        position: int,
        start: float | None,
        now: float,
        changed: list[int],
        after: tuple[int, ...] | None = None,
    ) -> None:
        """Keep what is predicted of a job, unless it hardly differs from what is known."""
        if job.job_id not in self._queue.waiting:
            return
        queued = len(self._queue.waiting)
        if start is None:
            self.spreads.forget(job.job_id)
            forecast = Forecast(position=position, queued=queued, why=self._why_never(job))
        else:
            working = sum(self._working.get(name, 0) for name in job.machines)
            part, estimated = job.request.asked / max(1, working), after is None
            earliest, start, latest = self.spreads.spread(job.job_id, now, start, part=part, estimated=estimated)
            forecast = Forecast(
                position=position,
                queued=queued,
                earliest=earliest,
                start=start,
                latest=latest,
                estimated=estimated,
                why=_behind(position) if after is None else _after(after),
            )
        if _differs(forecast, self.known.get(job.job_id), now):
            self.known[job.job_id] = forecast
            changed.append(job.job_id)

    def _why_never(self, job: Waiting) -> str:
        if (why := self._why.get(job.machines)) is None:
            named = ", ".join(job.machines)
            why = self._closed(job.machines) or f"too little of {named} is in service for now"
            self._why[job.machines] = why
        return why


def _behind(position: int) -> str:
    return f"{position - 1} others go before it"


def _after(jobs: tuple[int, ...]) -> str:
    if not jobs:
        return "free boards are kept for jobs before it"
    named, more = ", ".join(map(str, jobs[:NAMED_JOBS])), len(jobs) - NAMED_JOBS
    return f"it waits for boards of job{'s' if len(jobs) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}"


def _differs(new: Forecast, old: Forecast | None, now: float) -> bool:
    """Whether people should be told of a change."""
    if old is None or new.estimated != old.estimated or abs(new.position - old.position) * 20 > new.position:
        return True
    if not new.estimated and new.why != old.why:
        return True
    if new.start is None or old.start is None:
        return new.start != old.start
    return abs(new.start - old.start) > max(30.0, 0.1 * (new.start - now))
