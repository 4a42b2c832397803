"""Later jobs go ahead where that delays nobody before them: reservations, and backfill in space and time.

Theory of operation. Jobs are tried in order of their turn. The first that cannot start gets a *reservation*: the
boards on which, by the predicted ends of the jobs that run, it can start soonest. A later job may start on boards that
are not reserved, or on reserved ones if it is predicted to end before they are needed.

A turn is the time by which a job is *due*: the later, the more work it is predicted to be, because many small jobs
that wait for a large one wait longer, all together, than a large one that waits for a few small ones; and the later,
the larger its owner's share of the use of late. But never later than `MAX_YIELD` and `MAX_FAIR_SHARE` seconds after it
was submitted, so nobody who comes later than that goes ahead of it.

Predictions can be wrong, and jobs that were to end in time may not. So a job that has had a reservation for `PATIENCE`
seconds and still waits has its boards to itself: its reservation stays where it is, and nobody starts on it any more.
The longest wait follows; docs/scheduling.md tells it.

Where boards have become free, or something else has changed that could let any job start, all who wait for these
machines are tried. Elsewhere only new jobs are, under the reservations that there are; the first that cannot start
gets one. A job is not tried where one that asked for no more and was to end no later has just failed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from functools import reduce
from itertools import chain

from spalloc_server.core.book import Book, Turn, Waiting
from spalloc_server.core.ground import Ground
from spalloc_server.core.messages import Allocation, Kind, Request
from spalloc_server.core.occupancy import Occupancy
from spalloc_server.core.placement import Place, fits, place
from spalloc_server.core.reservation import Reservation, all_free, releases, soonest
from spalloc_server.core.torus import Planes, overlap, union, without

__all__ = ["Backfill"]

STRETCH = 0.02
"""Seconds by which a job is due later for each board-second that it is predicted to take."""

MAX_YIELD = 14400.0
"""Most seconds by which a job is due later because of its size."""

MAX_FAIR_SHARE = 3600.0
"""Seconds by which the job of an owner who has had everything is due later than that of one who has had nothing."""

PATIENCE = 28800.0
"""Seconds after which a job that is next has its reserved boards to itself."""

SLIP = 120.0
"""Seconds by which reserved boards may come later than was thought before others are looked for."""

RESERVATIONS = 1
"""Reservations on each machine."""

NOTHING: Planes = (0, 0, 0)


class Failures:
    """Requests of one kind that found no place: none for as many boards or more that ends as late or later can.

    Only those are kept that tell something: the more boards, the sooner the end.
    """

    def __init__(self) -> None:
        self._boards: list[int] = []
        self._ends: list[float] = []

    def add(self, boards: int, end: float) -> None:
        """A request for so many boards, until then, has failed; `tell` did not say so before."""
        first = last = bisect_left(self._boards, boards)
        while last < len(self._ends) and self._ends[last] >= end:
            last += 1
        self._boards[first:last], self._ends[first:last] = [boards], [end]

    def tell(self, boards: int, end: float) -> bool:
        """Whether a request must fail as well."""
        fewer = bisect_right(self._boards, boards)
        return fewer > 0 and self._ends[fewer - 1] <= end


class Backfill:
    """The policy that keeps a machine full."""

    def __init__(self) -> None:
        self._reserved: dict[str, list[Reservation]] = {}
        self._failed: dict[str, dict[Kind, Failures]] = {}
        """By machine and kind of request, those that found no place since anything became free there."""
        self._before: dict[str, tuple[Occupancy, bool, Planes]] = {}

    def turn(self, book: Book, job: Waiting) -> Turn:
        """By priority and due time."""
        request = job.request
        later = min(MAX_YIELD, STRETCH * request.asked * job.predicted)
        later += MAX_FAIR_SHARE * book.past.share(request.owner, job.since)
        return -request.priority, job.since + later, job.job_id

    def run(self, book: Book, now: float) -> list[tuple[int, Allocation]]:
        """Start what may start."""
        started = []
        everybody = book.connected(self._more_is_free(book))
        before = {one.job_id: one for name in everybody for one in self._reserved.get(name, ())}
        self._reserved = {name: [] if name in everybody else self._reserved[name] for name in book.machines}
        self._failed = {name: {} if name in everybody else self._failed[name] for name in book.machines}
        newcomers = [job for job in book.joined() if everybody.isdisjoint(job.machines)]
        opened = {name for name, machine in book.machines.items() if not machine.closed}
        everybody &= opened
        unreserved = {name for name in opened if len(self._reserved[name]) < RESERVATIONS}
        for job in chain(newcomers, book.candidates(everybody)):
            if found := self._find(book, job, now):
                started.append((job.job_id, book.start(job, *found, now)))
            elif unreserved.isdisjoint(job.machines) or not self._reserve(book, job, now, before.get(job.job_id)):
                continue
            for name in job.machines:
                if len(self._reserved[name]) >= RESERVATIONS:
                    unreserved.discard(name)
                    if not any(book.machines[name].free):
                        everybody.discard(name)
        self._before = {name: (machine, machine.closed, machine.free) for name, machine in book.machines.items()}
        return started

    def places_changed(self) -> None:
        """Try everybody, and look for other boards for those who have some reserved; since when they have, stays."""
        self._before = {}
        self._reserved = {
            name: [replace(reservation, machine="") for reservation in some] for name, some in self._reserved.items()
        }

    def reservation(self, job_id: int) -> Reservation | None:
        """The boards that are reserved for a job."""
        every = (reservation for some in self._reserved.values() for reservation in some)
        return next((reservation for reservation in every if reservation.job_id == job_id), None)

    def reserved(self, machine: str) -> Planes:
        """All boards of a machine that are reserved."""
        return reduce(union, (reservation.boards for reservation in self._reserved.get(machine, ())), NOTHING)

    def _more_is_free(self, book: Book) -> set[str]:
        """Machines where something has changed since the last pass that could let a job start that could not then."""
        if book.machines.keys() != self._before.keys():
            return set(book.machines)
        # What those avoid who are placed again may be all that there is by now
        changed = {name for job in book.avoiding.values() for name in job.machines}
        for name, machine in book.machines.items():
            before, closed, free = self._before[name]
            if (
                before is not machine
                or closed != machine.closed
                or any(without(machine.free, free))
                or any(one.job_id not in book.waiting for one in self._reserved[name])
            ):
                changed.add(name)
        return changed

    def _find(self, book: Book, job: Waiting, now: float) -> tuple[str, Place] | None:
        end = now + job.predicted
        boards = job.request.boards or 1
        for name in job.machines:
            machine = book.machines[name]
            failures = self._failed[name].get(job.kind)
            if machine.closed or (failures and failures.tell(boards, end)):
                continue
            free = machine.free
            for reservation in self._reserved[name]:
                if end > reservation.start or _alone(reservation, now):
                    free = without(free, reservation.boards)
            if found := place(job.request, book.ground(job, name, free)):
                return name, found
            if job.avoid:
                continue  # others may fit where it does not
            self._failed[name].setdefault(job.kind, Failures()).add(boards, end)
        return None

    def _reserve(self, book: Book, job: Waiting, now: float, before: Reservation | None) -> bool:
        """Reserve boards for a job that cannot start now, on the machine on which it can start soonest, if any."""
        best: Reservation | None = None
        for name in job.machines:
            machine = book.machines[name]
            if len(self._reserved[name]) >= RESERVATIONS or not machine.serves_now(job.request):
                continue
            taken = union(self.reserved(name), book.avoided(job, name))
            ends = releases(book, name, now)
            found = None
            if before and before.machine == name and _stands(before, job.request, machine, taken):
                start = all_free(before.boards, ends, now)
                # Looking for better boards takes time, and pays only if these come later than was thought
                if start <= before.promised + SLIP or _alone(before, now):
                    found = replace(before, start=start)
            if found is None and (new := soonest(job.request, machine, ends, taken)):
                found = Reservation(job.job_id, name, new[1], new[0], new[0], before.since if before else now)
            if found and (best is None or found.start < best.start):
                best = found
        if best:
            self._reserved[best.machine].append(best)
        return best is not None


def _stands(reservation: Reservation, request: Request, machine: Occupancy, taken: Planes) -> bool:
    """Whether a job could still have the boards that were reserved for it; some may have died, or be another's."""
    boards = reservation.boards
    if any(overlap(boards, taken)) or any(without(boards, machine.topology.live)):
        return False
    return fits(request, Ground(machine.topology, boards))


def _alone(reservation: Reservation, now: float) -> bool:
    """Whether a job has been next for so long that nobody else may have its boards even for a short time."""
    return now > reservation.since + PATIENCE
