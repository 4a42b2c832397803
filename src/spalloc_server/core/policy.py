"""The seam between the scheduler and its policies."""

from __future__ import annotations

from typing import Protocol

from spalloc_server.core.book import Book, Turn, Waiting
from spalloc_server.core.messages import Allocation
from spalloc_server.core.reservation import Reservation
from spalloc_server.core.torus import Planes

__all__ = ["Policy"]


class Policy(Protocol):
    """Decides which waiting jobs start now, and where."""

    def turn(self, book: Book, job: Waiting) -> Turn:
        """A job's place in the line."""
        ...

    def run(self, book: Book, now: float) -> list[tuple[int, Allocation]]:
        """Start what may start. Called when something has changed since the last time."""
        ...

    def places_changed(self) -> None:
        """Machines are not what they were: whoever waits may find a place, or may not have the one that was meant."""
        ...

    def reservation(self, job_id: int) -> Reservation | None:
        """The boards that are reserved for a waiting job."""
        ...

    def reserved(self, machine: str) -> Planes:
        """All boards of a machine that are reserved."""
        ...
