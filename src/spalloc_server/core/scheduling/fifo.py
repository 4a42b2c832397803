"""Strictly first come, first served, a queue for each machine.

Theory of operation. A job stands in the queue of every machine that could serve it, and starts on the first of them,
in order of the machines' priority, where it is at the head and fits. A job that cannot start holds up all later ones
on its own machines, and nobody on others; nor on machines that could not serve it even if they were empty, because of
boards that are out of service. A job of higher priority stands before those of lower.

A pass that is cut at the end of a step goes on behind the last job that it has reached. What has changed meanwhile is
for another pass, which begins with the first job.
"""

from __future__ import annotations

from spalloc_server.core.model import NO_JOB
from spalloc_server.core.placement.torus import NOTHING, Planes
from spalloc_server.core.scheduling.lines import Line, Merge, Order, Terms
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.waiting import Running

__all__ = ["FirstComeFirstServed"]


class Submission:
    """The order of submission."""

    def terms(self, line: Line) -> Terms:  # noqa: ARG002 - as other orders
        """All jobs are of the same merit, so their submit times decide."""
        return NO_JOB, 0.0, 0.0


class FirstComeFirstServed:
    """The strict policy."""

    def __init__(self) -> None:
        self._pass: tuple[set[str], Merge] | None = None
        """The one under way: machines for which no job that must wait has been reached yet, and who is to be tried."""
        self._again = False

    @property
    def pending(self) -> bool:
        """Whether a pass is under way, or another is to follow."""
        return self._pass is not None or self._again

    def order(self, queue: Queue, now: float) -> Order:  # noqa: ARG002 - as other policies
        """By priority and submit time."""
        return Submission()

    def run(self, queue: Queue, now: float, *, changed: bool) -> None:
        """Start jobs in order, each unless an earlier one waits for the same machine."""
        queue.joined()  # nobody is tried as a newcomer here
        self._again |= changed
        while self.pending and queue.work.left > 0:
            if self._pass is None:
                self._pass = set(queue.machines), Merge(queue.lines(), self.order(queue, now))
                self._again = False
            self._go_on(queue, *self._pass, now)

    def _go_on(self, queue: Queue, heads: set[str], merge: Merge, now: float) -> None:
        """Go on with the pass, to its end or to the end of the step."""
        heads.intersection_update(name for name, machine in queue.machines.items() if not machine.closed)
        if not merge.gather(queue.work):
            return
        while queue.work.left > 0:
            if (job := merge.take(heads)) is None:
                self._pass = None
                return
            queue.tried = job
            queue.work.looked()
            machines = [name for name in job.machines if name in heads and queue.machines[name].serves_now(job.kind)]
            for name in machines:
                if found := queue.place(job, name):
                    queue.start(job, name, found, now)
                    break
            else:
                heads.difference_update(machines)

    def ended(self, queue: Queue, job: Running, now: float) -> None:
        """Nothing: who goes next does not depend on who has ended."""

    def places_changed(self) -> None:
        """Begin the pass again; this policy remembers nothing else of places."""
        self._pass, self._again = None, True

    def fork(self) -> FirstComeFirstServed:
        """Return another: all that this one remembers is how far its pass has come."""
        fork = FirstComeFirstServed()
        fork.places_changed()
        return fork

    def reservation(self, job_id: int) -> None:  # noqa: ARG002 - as other policies
        """None: the head of a queue needs none."""
        return

    def reserved(self, machine: str) -> Planes:  # noqa: ARG002 - as other policies
        """None: nobody goes before the head of a queue."""
        return NOTHING
