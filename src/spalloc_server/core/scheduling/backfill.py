"""Later jobs go ahead where that delays nobody before them: reservations, and backfill in space and time.

Theory of operation. Jobs are tried in order of their keys. The first that cannot start gets a *reservation*: the
boards on which, by the predicted ends of the jobs that run, it can start soonest. A later job may start on boards that
are not reserved, or on reserved ones if it is predicted to end before they are needed.

Which order that is, `order` tells. A large job whose owner's next one asks for the same hands its turn on: that one is
tried before all but the old ones (a *relay*), for an hour at most, because its boards have just become free together.

Predictions are wrong as often as not, so a job may also be *bold*: it starts on reserved boards though only half of its
predicted time fits in before they are needed. That is a risk for the reserved job, so there are bounds: it is not taken
for those who have used much, nor after the reserved job has been held up for several times what it was promised at
first. A job that has had a reservation for `PATIENCE` seconds and still waits shares its
boards only with those that would end in half the time, and `LAST_PATIENCE` seconds later with nobody: its reservation
stays where it is. The longest wait follows; docs/scheduling.md tells it.

Where boards have become free, or something else has changed that could let any job start, a *pass* tries all who wait
for these machines. Elsewhere only new jobs are tried, under the reservations that there are; the first that cannot
start gets one. A job is not tried where one of its kind has just failed on the same boards, or on more.

A pass over a long queue is cut into steps, and comes to the same as one that is not. It gives only boards that were
free when it began: what becomes free meanwhile is for the next pass, which begins with those who are first. New jobs
wait for the pass where one is under way or is to follow, and are tried in their turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce

from spalloc_server.core.model import Request
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import Place
from spalloc_server.core.placement.torus import NOTHING, Planes, overlap, union, without
from spalloc_server.core.scheduling.lines import FIRST, Merge
from spalloc_server.core.scheduling.order import ByMerit
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.reservation import Reservation, all_free, releases, soonest
from spalloc_server.core.scheduling.waiting import Running, Waiting

__all__ = ["Backfill"]

BOLD = 0.5
"""A job may start on reserved boards that are needed no sooner than after this part of its predicted time."""

BOLD_EXCESS = 3.0
"""But not so where its owner has used more than so many times what a typical other owner has."""

BOLD_SLIP = 8.0
"""Nor where it would probably end later than after so many times the wait that its job was promised at first."""

PATIENCE = 14400.0
"""Seconds after which a job with a reservation has its reserved boards nearly to itself."""

CAREFUL = 2.0
"""From then on, others may start on boards that are needed no sooner than after this many times the predicted time."""

LAST_PATIENCE = 86400.0
"""Seconds after that until the job has its reserved boards to itself altogether."""

OLD_PART = 0.2
"""Part of a machine that the running jobs of an owner have at least which started as old ones, when no other is old."""

RELAY_PART = 0.2
"""Part of a machine's working boards from which on a job hands its turn to the owner's next one alike."""

RELAY_SECONDS = 3600.0
"""Seconds for which jobs alike follow each other in this way."""

SLIP = 120.0
"""Seconds by which the predicted time of reserved boards may slip before other boards are looked for."""

MAX_FAILURES = 10_000
"""Kinds of request that are remembered as having no place on a machine now."""

RESERVATIONS = 1
"""Reservations on each machine."""


@dataclass(slots=True)
class Pass:
    """A pass over all who wait for some machines."""

    free: dict[str, Planes]
    """By machine, the boards that were free when it began."""
    machines: set[str]
    """Machines that may still have boards to give."""
    merge: Merge
    """Those who are still to be tried."""
    relayed: dict[int, float] = field(default_factory=dict)
    """Jobs that follow one that has ended, and since when jobs alike have followed each other."""


class Backfill:
    """The policy that keeps a machine full."""

    def __init__(self) -> None:
        self._reserved: dict[str, list[Reservation]] = {}
        self._earlier: dict[int, Reservation] = {}
        """By job, reservations from before the pass that is under way."""
        self._failed: dict[str, dict[Request, list[Planes]]] = {}
        """By machine and kind of request, the free boards among which it found no place since the last pass began."""
        self._before: dict[str, tuple[Occupancy, bool, Planes]] = {}
        self._pass: Pass | None = None
        self._changed: set[str] = set()
        """Machines where more is free since the pass that is under way began."""
        self._new: list[int] = []
        """Jobs that are still to be tried, and that no pass will try."""
        self._relays: dict[Request, float] = {}
        """What large jobs asked for that have ended, and since when jobs alike had followed each other."""
        self._chains: dict[int, float] = {}
        """By running job that has followed another, the same."""
        self._old_ones: dict[int, tuple[str, int]] = {}
        """By running job that started as an old one, its owner and priority."""
        self._order: ByMerit | None = None
        """The order of the last pass."""

    @property
    def pending(self) -> bool:
        """Whether a pass is under way, another is to follow, or new jobs are still to be tried."""
        return bool(self._pass or self._changed or self._new)

    def order(self, queue: Queue, now: float) -> ByMerit:
        """By age and merit."""
        parts: dict[tuple[str, int], float] = {}
        for job_id, whose in self._old_ones.items():
            job = queue.running.get(job_id)
            if job and (machine := queue.machines.get(job.allocation.machine)):
                parts[whose] = parts.get(whose, 0.0) + len(job.allocation.boards) / (machine.working() or 1)
        return ByMerit(queue, now, {whose for whose, part in parts.items() if part >= OLD_PART})

    def run(self, queue: Queue, now: float, *, changed: bool) -> None:  # noqa: ARG002 - it finds out by itself
        """Start what may start."""
        self._changed |= self._more_is_free(queue)
        for name in queue.machines:
            self._reserved.setdefault(name, [])
            self._failed.setdefault(name, {})
        under_way = self._under_way(queue, now)
        self._try_new_ones(queue, now)
        while under_way is not None and queue.work.left > 0:
            self._go_on(queue, under_way, now)
            under_way = self._under_way(queue, now)
        queue.tried = None
        self._before = {name: (machine, machine.closed, machine.free) for name, machine in queue.machines.items()}

    def _under_way(self, queue: Queue, now: float) -> Pass | None:
        """Return the pass that is under way, or begin one over all who could use what has become free."""
        if self._pass is not None or not self._changed:
            return self._pass
        everybody = queue.connected(self._changed) & queue.machines.keys()
        self._changed = set()
        for name in everybody:
            self._earlier |= {one.job_id: one for one in self._reserved[name]}
            self._reserved[name], self._failed[name] = [], {}
        self._old_ones = {job_id: whose for job_id, whose in self._old_ones.items() if job_id in queue.running}
        self._order = self.order(queue, now)
        lines = list(queue.lines(everybody))
        if lines:
            self._order.work_out()
        merge = Merge(lines, self._order)
        self._pass = Pass({name: queue.machines[name].free for name in everybody}, set(everybody), merge)
        self._begin_relays(queue, self._pass, now)
        return self._pass

    def _begin_relays(self, queue: Queue, begun: Pass, now: float) -> None:
        """Have those tried first who follow large jobs that have ended."""
        self._chains = {job_id: since for job_id, since in self._chains.items() if job_id in queue.running}
        relays, self._relays = self._relays, {}
        for request, since in relays.items():
            if now - since <= RELAY_SECONDS and (job := queue.next_alike(request)):
                begun.relayed[job.job_id] = since
                begun.merge.add(job, queue.line(job), (-request.priority, FIRST, 0.0, job.since, job.job_id))

    def ended(self, queue: Queue, job: Running, now: float) -> None:
        """A job has ended as it should: the owner's next one alike may go first."""
        since = self._chains.pop(job.job_id, now)
        machine = queue.machines.get(job.allocation.machine)  # which may have gone
        if machine and len(job.allocation.boards) >= RELAY_PART * machine.working():
            self._relays[job.request] = since

    def _try_new_ones(self, queue: Queue, now: float) -> None:
        """Try those who have joined and whom no pass will try; at least one, for its user waits for the answer."""
        awaited = {*(self._pass.free if self._pass else ()), *queue.connected(self._changed)}
        new = [queue.waiting[job_id] for job_id in self._new if job_id in queue.waiting]
        self._new = []
        tried = False
        for job in (*new, *queue.joined()):
            if job.job_id not in queue.waiting:
                continue  # it was there twice, and has started
            if awaited.isdisjoint(job.machines):
                if tried and queue.work.left <= 0:
                    self._new.append(job.job_id)
                else:
                    self._try(queue, job, now)
                    tried = True
            elif self._pass:
                self._pass.merge.add(job, queue.line(job))

    def _go_on(self, queue: Queue, under_way: Pass, now: float) -> None:
        """Go on with a pass, to its end or to the end of the step."""
        under_way.machines -= {name for name in under_way.machines if queue.machines[name].closed}
        if not under_way.merge.gather(queue.work):
            return
        while queue.work.left > 0:
            if (job := under_way.merge.take(under_way.machines)) is None:
                break
            self._try(queue, job, now)
        else:
            return
        self._pass, self._earlier = None, {}

    def _try(self, queue: Queue, job: Waiting, now: float) -> None:
        """Start a job; where that is not possible, reserve boards for it if its machines have no reservation yet."""
        queue.tried = job
        queue.work.looked()
        if found := self._find(queue, job, now):
            queue.start(job, *found, now)
            if self._pass and job.job_id in self._pass.relayed:
                self._chains[job.job_id] = self._pass.relayed[job.job_id]
            if self._order and self._order.is_old(job):
                self._old_ones[job.job_id] = job.request.owner, job.request.priority
        elif not self._unreserved(queue, job) or not self._reserve(queue, job, now):
            return
        if self._pass is not None:
            for name in job.machines:
                if len(self._reserved[name]) >= RESERVATIONS and not any(self._free(queue, name)):
                    self._pass.machines.discard(name)

    def _unreserved(self, queue: Queue, job: Waiting) -> bool:
        """Whether there is a machine on which boards may be reserved for a job."""
        return any(
            not queue.machines[name].closed and len(self._reserved[name]) < RESERVATIONS for name in job.machines
        )

    def _free(self, queue: Queue, machine: str) -> Planes:
        """The boards of a machine that may be given now."""
        free = queue.machines[machine].free
        return overlap(free, self._pass.free[machine]) if self._pass and machine in self._pass.free else free

    def places_changed(self) -> None:
        """Have all jobs tried, and other boards reserved; since when a job has had a reservation is kept."""
        self._earlier |= {one.job_id: one for some in self._reserved.values() for one in some}
        self._earlier = {job_id: replace(one, machine="") for job_id, one in self._earlier.items()}
        self._before, self._reserved, self._failed = {}, {}, {}
        self._pass, self._changed, self._new = None, set(), []

    def fork(self) -> Backfill:
        """Return a copy that begins with a pass over all who wait; it knows who has had a reservation for how long."""
        fork = Backfill()
        fork._earlier = self._earlier | {one.job_id: one for some in self._reserved.values() for one in some}
        fork._chains, fork._old_ones = {**self._chains}, {**self._old_ones}
        return fork

    def reservation(self, job_id: int) -> Reservation | None:
        """The boards that are reserved for a job."""
        every = (reservation for some in self._reserved.values() for reservation in some)
        return next((reservation for reservation in every if reservation.job_id == job_id), None)

    def reserved(self, machine: str) -> Planes:
        """All boards of a machine that are reserved."""
        return reduce(union, (reservation.boards for reservation in self._reserved.get(machine, ())), NOTHING)

    def _more_is_free(self, queue: Queue) -> set[str]:
        """Machines where something has changed since the last pass that could let a job start that could not then."""
        if queue.machines.keys() != self._before.keys():
            self._reserved = {name: self._reserved.get(name, []) for name in queue.machines}
            return set(queue.machines)
        # The boards that jobs avoid may by now be all that is in service
        changed = {name for job in queue.avoiding.values() if queue.other_machines(job) for name in job.machines}
        for name, machine in queue.machines.items():
            before, closed, free = self._before[name]
            if (
                before is not machine
                or closed != machine.closed
                or any(without(machine.free, free))
                or any(one.job_id not in queue.waiting for one in self._reserved[name])
            ):
                changed.add(name)
        return changed

    def _find(self, queue: Queue, job: Waiting, now: float) -> tuple[str, Place] | None:
        predicted = queue.past.predict(job.request)
        for name in job.machines:
            if queue.machines[name].closed:
                continue
            free = self._free(queue, name)
            for reservation in self._reserved[name]:
                if not self._admits(reservation, job, predicted, now):
                    free = without(free, reservation.boards)
            failed = self._failed[name].get(job.kind, ())
            if any(free == more or not any(without(free, more)) for more in failed):
                continue
            if found := queue.machines[name].place(job.kind, queue.free_boards(job, name, free)):
                return name, found
            if job.avoid:
                continue  # others may fit where it does not
            if len(self._failed[name]) >= MAX_FAILURES:
                del self._failed[name][next(iter(self._failed[name]))]
            self._failed[name][job.kind] = [less for less in failed if any(without(less, free))] + [free]
        return None

    def _admits(self, reservation: Reservation, job: Waiting, predicted: float, now: float) -> bool:
        """Whether a job that is predicted to run so long may start on boards that are reserved for another."""
        if _alone(reservation, now):
            return False
        if now > reservation.since + PATIENCE:
            return now + CAREFUL * predicted <= reservation.start
        if now + predicted <= reservation.start:
            return True
        return (
            now + BOLD * predicted <= reservation.start
            and now + predicted <= reservation.bold_until
            and (self._order is None or self._order.excess(job.request.owner) <= BOLD_EXCESS)
        )

    def _reserve(self, queue: Queue, job: Waiting, now: float) -> bool:
        """Reserve boards for a job that cannot start now, on the machine on which it can start soonest, if any."""
        best: Reservation | None = None
        before = self._earlier.get(job.job_id)
        for name in job.machines:
            machine = queue.machines[name]
            if len(self._reserved[name]) >= RESERVATIONS or not machine.serves_now(job.kind):
                continue
            taken = union(self.reserved(name), queue.avoided(job, name))
            ends = releases(queue, name, now)
            found = None
            if before and before.machine == name and _stands(before, job.kind, machine, taken):
                start = all_free(before.boards, ends, now)
                # Looking for better boards takes time, and pays only if these come later than was thought
                if start <= before.promised + SLIP or _alone(before, now):
                    found = replace(before, start=start)
            if found is None and (new := soonest(job.kind, machine, ends, taken, now)):
                start, place = new
                since = before.since if before else now
                until = before.bold_until if before else now + BOLD_SLIP * (start - now)
                found = Reservation(job.job_id, name, place, start, start, since, until)
            if found and (best is None or found.start < best.start):
                best = found
        if best:
            self._reserved[best.machine].append(best)
        return best is not None


def _stands(reservation: Reservation, kind: Request, machine: Occupancy, taken: Planes) -> bool:
    """Whether a job can still have its reserved boards; some may have gone out of service, or to other jobs."""
    boards = reservation.boards
    if any(overlap(boards, taken)) or any(without(boards, machine.topology.live)):
        return False
    return machine.place(kind, FreeBoards(machine.topology, boards)) is not None


def _alone(reservation: Reservation, now: float) -> bool:
    """Whether a job has had a reservation for so long that no other job may use its boards, even for a short time."""
    return now > reservation.since + PATIENCE + LAST_PATIENCE
