"""Strictly first come, first served, a queue for each machine.

Theory of operation. A job stands in the queue of every machine that could serve it, and starts on the first of them,
in order of the machines' priority, where it is at the head and fits. A job that cannot start holds up all later ones
on its own machines, and nobody on others; nor on machines that could not serve it even if they were empty, because of
boards that are out of service. A job of higher priority stands before those of lower.
"""

from __future__ import annotations

from spalloc_server.core.book import Book, Turn, Waiting, first_come
from spalloc_server.core.messages import Allocation
from spalloc_server.core.torus import Planes

__all__ = ["FirstComeFirstServed"]


class FirstComeFirstServed:
    """The strict policy."""

    def turn(self, book: Book, job: Waiting) -> Turn:
        """By priority and age."""
        return first_come(book, job)

    def run(self, book: Book, now: float) -> list[tuple[int, Allocation]]:
        """Start jobs in order, each unless an earlier one waits for the same machine."""
        book.joined()  # nobody is tried as a newcomer here
        started = []
        heads = {name for name, machine in book.machines.items() if not machine.closed}
        for job in book.candidates(heads):
            machines = [name for name in job.machines if name in heads and book.machines[name].serves_now(job.request)]
            for name in machines:
                if found := book.place(job, name):
                    started.append((job.job_id, book.start(job, name, found, now)))
                    break
            else:
                heads.difference_update(machines)
        return started

    def places_changed(self) -> None:
        """Nothing is remembered of places."""

    def reservation(self, job_id: int) -> None:  # noqa: ARG002 - as other policies
        """None: the head of a queue needs none."""
        return

    def reserved(self, machine: str) -> Planes:  # noqa: ARG002 - as other policies
        """None: nobody goes before the head of a queue."""
        return 0, 0, 0
