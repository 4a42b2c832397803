"""What a policy reads and writes: machines and their boards, who waits and who runs.

Theory of operation. A `Queue` is the scheduler's state without any idea of who should go next. It knows on which
machines a request could ever be served, tries to place a job now, and starts it. A policy says whom to try, and when.

There is one queue for each set of machines that could serve the jobs in it. So a search for candidates for some
machines costs nothing for all the jobs that wait for others.

When machines change, each job's set of machines must be found out anew. A new *generation* of queues begins: the jobs
in the old ones are judged and put into new ones, in order, as many in each step as its work allows.

A job whose boards failed at power-on is placed elsewhere than in their frames, if anything else in service could serve
it: boards of one frame seldom fail alone.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Set as AbstractSet
from itertools import islice
from operator import attrgetter

from spalloc_server.config.machine import Machine
from spalloc_server.core.model import Allocation, Request
from spalloc_server.core.placement.effort import Work
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import Place
from spalloc_server.core.placement.topology import DEFAULT_MIN_FILL
from spalloc_server.core.placement.torus import NOTHING, Planes, without
from spalloc_server.core.scheduling.prediction import Past
from spalloc_server.core.scheduling.request_kinds import kind_of
from spalloc_server.core.scheduling.waiting import BEFORE_ALL, Key, Running, Waiting

__all__ = ["Queue", "allows"]

_key = attrgetter("key")

REPREDICTED = 32
"""How many of an owner's waiting jobs are predicted again when a job of the owner has ended: the first ones."""

MAX_KINDS = 10_000
"""Kinds of request for which the machines that could serve them are remembered."""

CHUNK = 256
"""Waiting jobs that are taken from the front of a queue at once."""


class Queue:
    """Machines, waiting jobs and running jobs.

    Args:
        key_of: the policy's order, until `set_keys` gives another.
    """

    def __init__(self, key_of: Callable[[Queue, Waiting], Key]) -> None:
        self.work = Work()
        """What is left of the present step."""
        self.machines: dict[str, Occupancy] = {}
        """In order of priority, highest first. Change them by `set_machines`."""
        self._suitable: dict[tuple[str | None, frozenset[str], Request], tuple[str, ...]] = {}
        self._side = self._dead_links = 0
        self.waiting: dict[int, Waiting] = {}
        self._queues: dict[tuple[int, tuple[str, ...]], list[Waiting]] = {}
        """Those waiting, by generation and by the machines that could serve them, each queue in order of `key`."""
        self._generation = 0
        """How often machines or keys have changed; jobs of earlier generations have not been judged since."""
        self._keys_since = 0
        """The generation in which keys were last to be worked out anew."""
        self._owned: dict[str, dict[int, None]] = {}
        """Jobs that wait, by owner, each owner's in the order in which they joined."""
        self._joined: dict[int, None] = {}
        self.avoiding: dict[int, Waiting] = {}
        """Those who wait and have something to avoid."""
        self.running: dict[int, Running] = {}
        self.past = Past(half_life=604800.0)
        self.seconds_before_free = 0.0
        self.min_fill = DEFAULT_MIN_FILL
        """Least share of its rectangle that a job's boards fill."""
        self.tried: Waiting | None = None
        """The job that is being looked at: what is raised meanwhile concerns it."""
        self.started: list[tuple[int, Allocation]] = []
        """Jobs that were started, and that the scheduler has not returned to its caller yet."""
        self._hopeless: deque[Waiting] = deque()
        self._key_of = key_of

    @property
    def ordered(self) -> list[Waiting]:
        """All who wait, in order. Costs as much as there are."""
        return list(heapq.merge(*self._queues.values(), key=_key))

    @property
    def judged(self) -> bool:
        """Whether the machines that could serve them are known for all who wait."""
        return not self._hopeless and not self._unjudged()

    def set_machines(self, machines: dict[str, Occupancy]) -> None:
        """Take over machines that have changed; then all jobs are to be judged again."""
        self.machines = machines
        self._suitable.clear()
        self._side = max((max(each.torus.width, each.torus.height) for each in machines.values()), default=0)
        self._dead_links = max((len(each.machine.dead_links) for each in machines.values()), default=0)
        self._begin_generation()

    def set_keys(self, key_of: Callable[[Queue, Waiting], Key]) -> None:
        """Order the jobs anew, by keys that this function returns."""
        self._key_of = key_of
        self._begin_generation()
        self._keys_since = self._generation

    def judge(self) -> None:
        """Find out which machines could serve those who wait, as many as the step allows. See `next_hopeless`."""
        while not self._hopeless and self.work.left > 0 and (unjudged := self._unjudged()):
            place = min(unjudged, key=lambda place: self._queues[place][0].key)
            queue, done = self._queues[place], 0
            try:
                for job in queue[:CHUNK]:
                    if self.work.left <= 0:
                        break
                    self.work.looked()
                    self.tried = job
                    self._judge(job)
                    done += 1
                    if not job.machines:
                        self._hopeless.append(job)
            finally:  # no job is in two queues, whatever was raised
                del queue[:done]
                if not queue:
                    del self._queues[place]
            self.tried = None

    def next_hopeless(self) -> Waiting | None:
        """Take one of those that no machine could serve, as `judge` has found; None where there is none left."""
        while self._hopeless:
            job = self._hopeless.popleft()
            if job.job_id in self.waiting:
                return job
        return None

    def _unjudged(self) -> list[tuple[int, tuple[str, ...]]]:
        """Which queues are of earlier generations."""
        return [place for place in self._queues if place[0] != self._generation]

    def _judge(self, job: Waiting) -> None:
        job.kind = self.kind(job.request)
        job.machines = self.suitable(job.request, job.kind)
        if job.generation < self._keys_since:
            job.key = self._key_now(job)
        self._enqueue(job)

    def _begin_generation(self) -> None:
        self._hopeless = deque()
        self._generation += 1

    def _enqueue(self, job: Waiting) -> None:
        job.generation = self._generation
        insort(self._queues.setdefault((job.generation, job.machines), []), job, key=_key)

    def candidates(self, machines: AbstractSet[str], after: Key = BEFORE_ALL) -> Iterator[Waiting]:
        """Those whom one of `machines` could serve and whose key is after this one, in order. All must be `judged`.

        Costs only as much as is taken. Meanwhile `machines` may shrink, and the job that was yielded last may leave.
        """
        heads = [
            (queue[index].key, place, index)
            for place, queue in self._queues.items()
            if (index := bisect_right(queue, after, key=_key)) < len(queue)
        ]
        heapq.heapify(heads)
        while heads:
            _, place, index = heapq.heappop(heads)
            queue = self._queues[place]
            while index < len(queue) and not machines.isdisjoint(place[1]):
                job = queue[index]
                if heads and heads[0][0] < job.key:
                    heapq.heappush(heads, (job.key, place, index))
                    break
                yield job
                if index < len(queue) and queue[index] is job:
                    index += 1

    def joined(self) -> list[Waiting]:
        """Those who have joined since this was last called and still wait, in order."""
        joined, self._joined = self._joined, {}
        return sorted((self.waiting[job_id] for job_id in joined if job_id in self.waiting), key=_key)

    def connected(self, machines: AbstractSet[str]) -> set[str]:
        """Return `machines`, all machines that share a waiting job with one of these, and so on."""
        found = set(machines)
        while more := {name for _, names in self._queues if not found.isdisjoint(names) for name in names} - found:
            found |= more
        return found

    def join(self, job: Waiting, due: float | None = None) -> None:
        """Put a job into its queue; after a restart, to where it was before, by the time `due` that it had then.

        That time is not needed where the owner's use was counted since the job joined: then it comes out the same.
        """
        if job.job_id in self.waiting or job.job_id in self.running:
            raise RuntimeError(f"job {job.job_id} waits or runs already")
        job.kind = self.kind(job.request)
        self.waiting[job.job_id] = job
        self._owned.setdefault(job.request.owner, {})[job.job_id] = None
        self._joined[job.job_id] = None
        if job.avoid:
            self.avoiding[job.job_id] = job
        job.key = self._key_now(job, None if self.past.counted(job.request.owner, job.since) else due)
        self._enqueue(job)

    def leave(self, job_id: int) -> Waiting:
        """Take a job out of its queue."""
        job = self.waiting.pop(job_id)
        self.avoiding.pop(job_id, None)
        owned = self._owned[job.request.owner]
        del owned[job_id]
        if not owned:
            del self._owned[job.request.owner]
        place = job.generation, job.machines
        queue = self._queues[place]
        del queue[bisect_left(queue, job.key, key=_key)]
        if not queue:
            del self._queues[place]
        return job

    def discard(self, job_id: int) -> None:
        """Take a job out of every part of the queue, after a defect that may have left it in any."""
        for some in (self.waiting, self.avoiding, self.running, self._joined):
            some.pop(job_id, None)
        for place, queue in list(self._queues.items()):
            queue[:] = [job for job in queue if job.job_id != job_id]
            if not queue:
                del self._queues[place]
        for owner, owned in list(self._owned.items()):
            owned.pop(job_id, None)
            if not owned:
                del self._owned[owner]

    def learn(self, job: Running, now: float) -> None:
        """A job is over: predict the owner's other ones anew, as many as there is time for."""
        self.past.learn(job.request, len(job.allocation.boards), now - job.started_at, now)
        for job_id in list(islice(self._owned.get(job.request.owner, ()), REPREDICTED)):
            waiting = self.waiting[job_id]
            queue, key = self._queues[waiting.generation, waiting.machines], self._key_now(waiting)
            # From here on nothing can raise: a job that waits is always in a queue
            del queue[bisect_left(queue, waiting.key, key=_key)]
            waiting.key = key
            insort(queue, waiting, key=_key)
            self._joined[job_id] = None  # it may go before some who have been tried since

    def _key_now(self, job: Waiting, due: float | None = None) -> Key:
        job.predicted = self.past.predict(job.request)
        priority, when, number = self._key_of(self, job)
        return priority, when if due is None else due, number

    def place(self, job: Waiting, machine: str) -> Place | None:
        """Where a job fits on a machine now; None where it does not."""
        occupancy = self.machines[machine]
        return None if occupancy.closed else occupancy.place(job.kind, self.free_boards(job, machine, occupancy.free))

    def free_boards(self, job: Waiting, machine: str, free: Planes) -> FreeBoards:
        """Return the free boards of a machine that a job may be given."""
        occupancy = self.machines[machine]
        return occupancy.free_boards_of(without(free, self.avoided(job, machine)) if job.avoid else free)

    def avoided(self, job: Waiting, machine: str) -> Planes:
        """Boards of a machine that a job is not given, because others that are in service could serve it as well."""
        if not job.avoid:
            return NOTHING
        self.other_machines(job)
        if job.apart is None:
            job.apart = any(self._serves_apart(job, name) for name in job.machines)
        return job.avoid.get(machine, NOTHING) if job.apart else NOTHING

    def other_machines(self, job: Waiting) -> bool:
        """Whether a job's machines have changed since it was last worked out what the job can avoid."""
        there = tuple((self.machines[name].topology, self.machines[name].closed) for name in job.machines)
        if there == job.there:
            return False
        job.there, job.apart = there, None
        return True

    def _serves_apart(self, job: Waiting, machine: str) -> bool:
        occupancy = self.machines[machine]
        apart = without(occupancy.topology.live, job.avoid.get(machine, NOTHING))
        return not occupancy.closed and occupancy.place(job.kind, FreeBoards(occupancy.topology, apart)) is not None

    def start(self, job: Waiting, machine: str, found: Place, now: float) -> None:
        """Give a waiting job a place on a machine."""
        allocation = self.machines[machine].allocation(job.request, found)
        self.work.started(len(allocation.boards))
        self.leave(job.job_id)
        self.run(job.job_id, job.request, allocation, now)
        self.started.append((job.job_id, allocation))

    def run(self, job_id: int, request: Request, allocation: Allocation, since: float) -> None:
        """Note that a job runs, and since when it has had its boards."""
        occupancy = self.machines[allocation.machine]
        occupancy.hold(allocation.boards, job_id)
        planes = occupancy.torus.planes(allocation.boards)
        predicted = self.past.predict(request)
        self.running[job_id] = Running(job_id, request, allocation, since, planes, predicted)

    def kind(self, request: Request) -> Request:
        """A request as far as it bears on where a job is placed (`request_kinds`)."""
        return kind_of(request, self._side, self._dead_links)

    def suitable(self, request: Request, kind: Request | None = None) -> tuple[str, ...]:
        """Names of the machines that could serve a request if they were empty, highest priority first.

        Args:
            request: what is asked for.
            kind: its kind, where that is known already.
        """
        if kind is None:
            kind = self.kind(request)
        key = request.machine, request.tags, kind
        if (names := self._suitable.get(key)) is None:
            if len(self._suitable) >= MAX_KINDS:
                del self._suitable[next(iter(self._suitable))]
            names = self._suitable[key] = tuple(
                name
                for name, occupancy in self.machines.items()
                if allows(request, occupancy.machine) and occupancy.could_serve(kind)
            )
        return names

    def check(self) -> None:
        """Assert that what is kept agrees with itself."""
        assert all(
            job.machines == names and job.generation == generation == self._generation
            for (generation, names), queue in self._queues.items()
            for job in queue
        )
        assert self._owned == {
            owner: {job.job_id: None for job in self.waiting.values() if job.request.owner == owner}
            for owner in self._owned
        }
        assert [job.job_id for job in self.ordered] == [job.job_id for job in sorted(self.waiting.values(), key=_key)]
        assert not self.waiting.keys() & self.running.keys(), "a job both waits and runs"
        for job in self.waiting.values():
            assert job.kind == self.kind(job.request), f"job {job.job_id} is taken for something else"
            assert job.machines == self.suitable(job.request), f"job {job.job_id} waits for the wrong machines"
        for occupancy in self.machines.values():
            occupancy.check()
        for running in self.running.values():
            holders = self.machines[running.allocation.machine].holders
            for board in running.allocation.boards:
                assert holders[board] == running.job_id, f"board {board} of job {running.job_id} is not held for it"


def allows(request: Request, machine: Machine) -> bool:
    """Whether a request allows a machine, by its name or its tags."""
    if request.machine is not None:
        return request.machine == machine.name
    return request.tags <= machine.tags
