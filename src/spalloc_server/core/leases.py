"""Which jobs have been silent for too long.

Theory of operation. A keepalive only writes the job's new deadline; the heap still holds an older, earlier one. When
that one comes up, the job is put back with its real deadline. So a keepalive costs nothing, and looking for expired
jobs costs only as much as there are deadlines that have come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from spalloc_server.core.job import Job

__all__ = ["Leases"]


class Leases:
    """Deadlines of live jobs; `jobs` is the controller's own mapping of them."""

    def __init__(self, jobs: Mapping[int, Job]) -> None:
        self._jobs = jobs
        self._heap: list[tuple[float, int]] = []

    def add(self, job: Job) -> None:
        """Watch a job that is new here; its later deadlines are read from itself."""
        if job.deadline is not None:
            heapq.heappush(self._heap, (job.deadline, job.job_id))

    def expired(self, now: float) -> Iterator[Job]:
        """Jobs whose deadline has passed at `now`; the caller ends each before it asks for the next."""
        while self._heap and self._heap[0][0] <= now:
            job = self._jobs.get(heapq.heappop(self._heap)[1])
            if job is None or job.deadline is None:
                continue
            if job.deadline <= now:
                yield job
            else:
                self.add(job)

    def next_deadline(self) -> float | None:
        """No job expires before this time; None where none ever will."""
        return self._heap[0][0] if self._heap else None

    def check(self) -> None:
        """Assert that every deadline will be noticed."""
        watched: dict[int, float] = {}
        for time, job_id in self._heap:
            watched[job_id] = min(time, watched.get(job_id, time))
        for job in self._jobs.values():
            if job.deadline is not None:
                assert watched[job.job_id] <= job.deadline, f"job {job.job_id} would expire late"
