"""Strictly first come, first served, a queue for each machine.

Theory of operation. A job stands in the queue of every machine that could serve it, and starts on the first of them,
in order of the machines' priority, where it is at the head and fits. A job that cannot start holds up all later ones
on its own machines, and nobody on others; nor on machines that could not serve it even if they were empty, because of
boards that are out of service. A job of higher priority stands before those of lower.

A pass that is cut at the end of a step goes on behind the last job that it has reached. What has changed meanwhile is
for another pass, which begins with the first job.
"""

from __future__ import annotations

from spalloc_server.core.placement.torus import NOTHING, Planes
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.waiting import BEFORE_ALL, Key, Waiting

__all__ = ["FirstComeFirstServed"]


class FirstComeFirstServed:
    """The strict policy."""

    def __init__(self) -> None:
        self._heads: set[str] | None = None
        """While a pass is under way, the machines for which no job that must wait has been reached yet."""
        self._reached: Key = BEFORE_ALL
        self._again = False

    @property
    def pending(self) -> bool:
        """Whether a pass is under way, or another is to follow."""
        return self._heads is not None or self._again

    def key(self, queue: Queue, job: Waiting) -> Key:  # noqa: ARG002 - as other policies
        """By priority and age."""
        return -job.request.priority, job.since, job.job_id

    def run(self, queue: Queue, now: float, *, changed: bool) -> None:
        """Start jobs in order, each unless an earlier one waits for the same machine."""
        queue.joined()  # nobody is tried as a newcomer here
        self._again |= changed
        while self.pending and queue.work.left > 0:
            if self._heads is None:
                self._heads, self._reached, self._again = set(queue.machines), BEFORE_ALL, False
            self._go_on(queue, self._heads, now)

    def _go_on(self, queue: Queue, heads: set[str], now: float) -> None:
        """Go on with the pass, to its end or to the end of the step."""
        heads.intersection_update(name for name, machine in queue.machines.items() if not machine.closed)
        for job in queue.candidates(heads, self._reached):
            if queue.work.left <= 0:
                return
            queue.tried = job
            queue.work.looked()
            self._reached = job.key
            machines = [name for name in job.machines if name in heads and queue.machines[name].serves_now(job.kind)]
            for name in machines:
                if found := queue.place(job, name):
                    queue.start(job, name, found, now)
                    break
            else:
                heads.difference_update(machines)
        self._heads = None

    def places_changed(self) -> None:
        """Begin the pass again; this policy remembers nothing else of places."""
        self._heads, self._again = None, True

    def reservation(self, job_id: int) -> None:  # noqa: ARG002 - as other policies
        """None: the head of a queue needs none."""
        return

    def reserved(self, machine: str) -> Planes:  # noqa: ARG002 - as other policies
        """None: nobody goes before the head of a queue."""
        return NOTHING
