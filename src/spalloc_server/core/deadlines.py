"""Deadlines of jobs: leases that have run out, and run times that are over.

Theory of operation. Setting a deadline only writes it into the job; the heap may still hold an older, earlier one. When
that one has passed, the job is put back with its real deadline. So a keepalive costs nothing, and a search costs only
as much as there are deadlines in the heap that have passed. Where these are many, as when a client with thousands of
jobs has died, they are taken in steps.

Jobs that have ended stay in the heap until their deadlines pass, which may be in three hundred years. So they are
taken out once they are more than half of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

from spalloc_server.core.job import Job

__all__ = ["Deadlines"]

MAX_PASSED = 200
"""Jobs whose deadlines have passed that are taken in one step."""

MAX_LATER = 4000
"""Jobs that are looked at in one step and whose deadlines have moved to later."""


SPARE = 1000
"""Jobs that have ended and whose deadlines are kept in any case."""


class Deadlines:
    """Deadlines of one kind, which may only move to later.

    Args:
        jobs: the controller's own mapping of live jobs.
        deadline: a job's deadline of this kind, or None where it has none.
    """

    def __init__(self, jobs: Mapping[int, Job], deadline: Callable[[Job], float | None]) -> None:
        self._jobs = jobs
        self._deadline = deadline
        self._heap: list[tuple[float, int]] = []
        self._until = -math.inf

    @property
    def behind(self) -> bool:
        """Whether the last step of `passed` has left some; the next takes these, whatever time it is given."""
        return self._until > -math.inf

    def add(self, job: Job) -> None:
        """Watch a job that is new here, or that `passed` has returned."""
        deadline = self._deadline(job)
        if deadline is not None:
            if len(self._heap) > 2 * len(self._jobs) + SPARE:
                self._heap = [entry for entry in self._heap if entry[1] in self._jobs]
                heapq.heapify(self._heap)
            heapq.heappush(self._heap, (deadline, job.job_id))

    def passed(self, now: float) -> list[Job]:
        """Return the jobs whose deadline has passed at `now`, as many as a step allows, and stop watching them."""
        now, self._until = max(now, self._until), -math.inf
        passed: list[Job] = []
        later = 0
        while self._heap and self._heap[0][0] <= now:
            if len(passed) >= MAX_PASSED or later >= MAX_LATER:
                self._until = now
                break
            job = self._jobs.get(self._heap[0][1])
            deadline = None if job is None else self._deadline(job)
            if job is not None and deadline is not None and deadline > now:
                later += 1
                heapq.heapreplace(self._heap, (deadline, job.job_id))  # in one step, so that none is ever lost
                continue
            heapq.heappop(self._heap)
            if job is not None and deadline is not None:
                passed.append(job)
        return passed

    def first(self) -> float | None:
        """No deadline passes before this time; None where there is none."""
        return self._heap[0][0] if self._heap else None

    def check(self) -> None:
        """Assert that every deadline will be noticed."""
        watched: dict[int, float] = {}
        for time, job_id in self._heap:
            watched[job_id] = min(time, watched.get(job_id, time))
        for job in self._jobs.values():
            deadline = self._deadline(job)
            assert deadline is None or watched[job.job_id] <= deadline, f"job {job.job_id} would be noticed late"
