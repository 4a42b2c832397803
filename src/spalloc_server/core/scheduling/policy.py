"""The seam between the scheduler and its policies."""

from __future__ import annotations

from typing import Protocol

from spalloc_server.core.placement.torus import Planes
from spalloc_server.core.scheduling.lines import Order
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.reservation import Reservation
from spalloc_server.core.scheduling.waiting import Running

__all__ = ["Policy"]


class Policy(Protocol):
    """Decides which waiting jobs start now, and where."""

    def order(self, queue: Queue, now: float) -> Order:
        """Return the order of a pass that begins now."""

    @property
    def pending(self) -> bool:
        """Whether the last `run` has left something for the next."""

    def run(self, queue: Queue, now: float, *, changed: bool) -> None:
        """Start what may start, as far as the step allows, and go on there with the next call.

        Args:
            queue: who waits, and what is free.
            now: the time.
            changed: whether anything may have changed since the last call.
        """

    def ended(self, queue: Queue, job: Running, now: float) -> None:
        """A running job has ended as its owner wanted."""

    def places_changed(self) -> None:
        """Have all tried again: a waiting job may now have a place, or may have lost the one reserved for it."""

    def fork(self) -> Policy:
        """Return a copy that begins with a pass over all who wait, to run it over a copy of the queue."""

    def reservation(self, job_id: int) -> Reservation | None:
        """The boards that are reserved for a waiting job."""

    def reserved(self, machine: str) -> Planes:
        """All boards of a machine that are reserved."""
