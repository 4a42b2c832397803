"""What a policy reads and writes: machines and their boards, who waits and who runs.

Theory of operation. A `Queue` is the scheduler's state without any idea of who should go next. It knows on which
machines a request could ever be served, tries to place a job now, and starts it. A policy says whom to try, and when.

Jobs wait in lines (`lines`), grouped by the set of machines that could serve them. So a search for candidates for some
machines costs nothing for all the jobs that wait for others.

When machines change, each job's set of machines must be found out anew. A new *generation* of groups begins: the jobs
in the old ones are judged and put into new ones, as many in each step as its work allows.

A job whose boards failed at power-on is placed elsewhere than in their frames, if anything else in service could serve
it: boards of one frame seldom fail alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Set as AbstractSet
from copy import copy

from spalloc_server.config.machine import Machine
from spalloc_server.core.model import Allocation, Request
from spalloc_server.core.placement.effort import Work
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import Place
from spalloc_server.core.placement.topology import DEFAULT_MIN_FILL
from spalloc_server.core.placement.torus import NOTHING, Planes, without
from spalloc_server.core.scheduling.lines import Group, Line, Order, key
from spalloc_server.core.scheduling.prediction import Past
from spalloc_server.core.scheduling.request_kinds import kind_of
from spalloc_server.core.scheduling.waiting import Running, Waiting

__all__ = ["Queue", "allows"]

MAX_KINDS = 10_000
"""Kinds of request for which the machines that could serve them are remembered."""

ALIKE = 32
"""Waiting jobs among which one is looked for that asks for the same as another."""

CHUNK = 256
"""Waiting jobs that are taken from the front of a line at once."""


class Queue:
    """Machines, waiting jobs and running jobs."""

    def __init__(self) -> None:
        self.work = Work()
        """What is left of the present step."""
        self.machines: dict[str, Occupancy] = {}
        """In order of priority, highest first. Change them by `set_machines`."""
        self._suitable: dict[tuple[str | None, frozenset[str], Request], tuple[str, ...]] = {}
        self._side = self._dead_links = 0
        self.waiting: dict[int, Waiting] = {}
        self._groups: dict[tuple[int, tuple[str, ...]], Group] = {}
        """Those waiting, by generation and by the machines that could serve them."""
        self._generation = 0
        """How often machines have changed; jobs of earlier generations have not been judged since."""
        self._joined: dict[int, None] = {}
        self.avoiding: dict[int, Waiting] = {}
        """Those who wait and have something to avoid."""
        self.running: dict[int, Running] = {}
        """Change it by `run` and `stop`."""
        self.in_use: Counter[str] = Counter()
        """How many boards of each machine running jobs have."""
        self.past = Past(half_life=604800.0)
        self.seconds_before_free = 0.0
        self.min_fill = DEFAULT_MIN_FILL
        """Least share of its rectangle that a job's boards fill."""
        self.tried: Waiting | None = None
        """The job that is being looked at: what is raised meanwhile concerns it."""
        self.started: list[tuple[int, Allocation]] = []
        """Jobs that were started, and that the scheduler has not returned to its caller yet."""
        self._hopeless: deque[Waiting] = deque()

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

    def judge(self) -> None:
        """Find out which machines could serve those who wait, as many as the step allows. See `next_hopeless`."""
        while not self._hopeless and self.work.left > 0 and (unjudged := self._unjudged()):
            group = self._groups[unjudged[0]]
            line = next(iter(group.lines.values()))
            for job in line.jobs[:CHUNK]:
                if self.work.left <= 0:
                    break
                self.work.looked()
                self.tried = job
                kind = self.kind(job.request)
                machines = self.suitable(job.request, kind)
                # From here on nothing can raise: no job is in two lines
                self._dequeue(job)
                job.kind, job.machines = kind, machines
                self._enqueue(job)
                if not machines:
                    self._hopeless.append(job)
            self.tried = None

    def next_hopeless(self) -> Waiting | None:
        """Take one of those that no machine could serve, as `judge` has found; None where there is none left."""
        while self._hopeless:
            job = self._hopeless.popleft()
            if job.job_id in self.waiting:
                return job
        return None

    def _unjudged(self) -> list[tuple[int, tuple[str, ...]]]:
        """Which groups are of earlier generations."""
        return [place for place in self._groups if place[0] != self._generation]

    def _begin_generation(self) -> None:
        self._hopeless = deque()
        self._generation += 1

    def _enqueue(self, job: Waiting) -> None:
        job.generation = self._generation
        self._add(job)

    def _add(self, job: Waiting) -> None:
        place = job.generation, job.machines
        if place not in self._groups:
            self._groups[place] = Group(job.machines)
        self._groups[place].add(job)

    def _dequeue(self, job: Waiting) -> None:
        place = job.generation, job.machines
        group = self._groups[place]
        group.remove(job)
        if not group.lines:
            del self._groups[place]

    def lines(self, machines: AbstractSet[str] | None = None) -> Iterator[Line]:
        """The lines of those whom one of these machines could serve; without any given, all lines."""
        for group in self._groups.values():
            if machines is None or not machines.isdisjoint(group.machines):
                yield from group.lines.values()

    def groups(self) -> Iterator[Group]:
        """All who wait, by the machines that could serve them."""
        yield from self._groups.values()

    def queued_work(self, machines: Iterable[str]) -> int:
        """Board-seconds that those will probably take whom one of these machines could serve."""
        names = {*machines}
        return sum(group.work for group in self._groups.values() if not names.isdisjoint(group.machines))

    def line(self, job: Waiting) -> Line:
        """The line in which a job waits."""
        return self._groups[job.generation, job.machines].lines[Group.common(job.request)]

    def position(self, job: Waiting, order: Order) -> int:
        """The place of a job in the queue, from 1."""
        mine = key(job, order.terms(self.line(job)))
        before = 0
        for line in self.lines():
            terms = order.terms(line)
            before += bisect_left(line.jobs, mine, key=lambda other, terms=terms: key(other, terms))  # type: ignore[misc]
        return 1 + before

    def ordered(self, order: Order) -> list[int]:
        """All who wait, in order. Costs as much as there are."""
        keys = [key(job, order.terms(line)) for line in self.lines() for job in line.jobs]
        return [job_id for *_, job_id in sorted(keys)]

    def next_alike(self, request: Request) -> Waiting | None:
        """The first of those who wait and ask for the same, of a few."""
        for group in self._groups.values():
            if line := group.lines.get(Group.common(request)):
                for job in line.jobs[:ALIKE]:
                    if job.request == request:
                        return job
        return None

    def joined(self) -> list[Waiting]:
        """Those who have joined since this was last called and still wait, by priority and then by submit time."""
        joined, self._joined = self._joined, {}
        jobs = (self.waiting[job_id] for job_id in joined if job_id in self.waiting)
        return sorted(jobs, key=lambda job: (-job.request.priority, job.since, job.job_id))

    def connected(self, machines: AbstractSet[str]) -> set[str]:
        """Return `machines`, all machines that share a waiting job with one of these, and so on."""
        found = set(machines)
        while more := {name for _, names in self._groups if not found.isdisjoint(names) for name in names} - found:
            found |= more
        return found

    def join(self, job: Waiting) -> None:
        """Put a job into its line."""
        if job.job_id in self.waiting or job.job_id in self.running:
            raise RuntimeError(f"job {job.job_id} waits or runs already")
        job.kind = self.kind(job.request)
        job.work = round(job.request.asked * self.past.predict(job.request))
        self.waiting[job.job_id] = job
        self._joined[job.job_id] = None
        if job.avoid:
            self.avoiding[job.job_id] = job
        self._enqueue(job)

    def leave(self, job_id: int) -> Waiting:
        """Take a job out of its line."""
        job = self.waiting.pop(job_id)
        self.avoiding.pop(job_id, None)
        self._dequeue(job)
        return job

    def put_back(self, job: Waiting) -> None:
        """Have a job where it was that was taken out, or a part of it; nothing is judged or worked out anew."""
        self.discard(job.job_id)
        self.waiting[job.job_id] = job
        if job.avoid:
            self.avoiding[job.job_id] = job
        self._add(job)

    def discard(self, job_id: int) -> None:
        """Take a job out of every part of the queue, after a defect that may have left it in any."""
        for some in (self.waiting, self.avoiding, self._joined):
            some.pop(job_id, None)
        if (running := self.running.pop(job_id, None)) is not None:
            self.in_use[running.allocation.machine] -= len(running.allocation.boards)
        for place, group in list(self._groups.items()):
            group.discard(job_id)
            if not group.lines:
                del self._groups[place]

    def fork(self, jobs: Iterable[Waiting]) -> Queue:
        """Return a copy that has only these of those who wait; what is done to it does not change this one."""
        fork = Queue()
        fork.machines = {name: machine.fork(fork.work) for name, machine in self.machines.items()}
        fork._side, fork._dead_links = self._side, self._dead_links
        fork.past, fork.seconds_before_free, fork.min_fill = self.past, self.seconds_before_free, self.min_fill
        fork.running = {**self.running}
        for job in jobs:
            fork.join(copy(job))
        return fork

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
        self.in_use[allocation.machine] += len(allocation.boards)

    def stop(self, job_id: int) -> Running:
        """Note that a job runs no longer; its boards stay held for it."""
        running = self.running.pop(job_id)
        self.in_use[running.allocation.machine] -= len(running.allocation.boards)
        return running

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
        for (generation, names), group in self._groups.items():
            assert names == group.machines
            assert group.lines, "a group without lines is kept"
            assert group.work == sum(job.work for line in group.lines.values() for job in line.jobs)
            for at, line in group.lines.items():
                assert line.jobs, "a line without jobs is kept"
                places = [(job.since, job.job_id) for job in line.jobs]
                assert places == sorted(places), "a line is out of order"
                for job in line.jobs:
                    assert (job.machines, job.generation) == (names, generation)
                    assert generation == self._generation
                    assert at == group.common(job.request)
        in_lines = [job.job_id for line in self.lines() for job in line.jobs]
        assert sorted(in_lines) == sorted(self.waiting), "who waits is in one line"
        assert not self.waiting.keys() & self.running.keys(), "a job both waits and runs"
        for job in self.waiting.values():
            assert job.kind == self.kind(job.request), f"job {job.job_id} is taken for something else"
            assert job.machines == self.suitable(job.request), f"job {job.job_id} waits for the wrong machines"
        for occupancy in self.machines.values():
            occupancy.check()
        boards = Counter(dict.fromkeys(self.in_use, 0))
        for running in self.running.values():
            boards[running.allocation.machine] += len(running.allocation.boards)
        assert boards == self.in_use, "the boards in use are not those that running jobs have"
        for running in self.running.values():
            holders = self.machines[running.allocation.machine].holders
            for board in running.allocation.boards:
                assert holders[board] == running.job_id, f"board {board} of job {running.job_id} is not held for it"


def allows(request: Request, machine: Machine) -> bool:
    """Whether a request allows a machine, by its name or its tags."""
    if request.machine is not None:
        return request.machine == machine.name
    return request.tags <= machine.tags
