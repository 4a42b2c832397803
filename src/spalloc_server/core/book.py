"""What a policy reads and writes: machines and their boards, who waits and who runs.

Theory of operation. A `Book` is the scheduler's state without any idea of who should go next. It knows on which
machines a request could ever be served, tries to place a job now, and starts it. A policy decides whom to try, in
which order and under which conditions.

Those who wait stand in one line for each set of machines that could serve them. So whoever looks for candidates for
some machines pays nothing for all who wait for others.

A job that was placed in vain, because boards failed, is placed elsewhere than in their frames, if anything else in
service could serve it: boards of one frame seldom fail alone.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from spalloc_server.configuration import Machine
from spalloc_server.core.ground import Ground
from spalloc_server.core.messages import Allocation, Kind, Request
from spalloc_server.core.occupancy import Occupancy
from spalloc_server.core.placement import Place, place
from spalloc_server.core.runtime import Past, predicted_end
from spalloc_server.core.torus import Planes, without

__all__ = ["Book", "Running", "Turn", "Waiting", "allows", "first_come"]

Turn: TypeAlias = tuple[float, float, int]
"""A job's place in the line: lower ones go first. (minus its priority, time by which it is due, job id)."""


THOUGHT_OF_AGAIN = 32
"""An owner's first waiting jobs whose predictions change when a job of the owner has ended; others are not next."""


@dataclass(slots=True)
class Waiting:
    """A queued job."""

    job_id: int
    request: Request
    since: float
    machines: tuple[str, ...]
    """Machines that could serve it if they were empty, highest priority first."""
    predicted: float = 0.0
    """How long it will probably run, seconds."""
    turn: Turn = (0.0, 0.0, 0)
    """Its place in the line: lower goes first."""
    avoid: Mapping[str, Planes] = field(default_factory=dict)
    """By machine, the boards of frames that have failed it already."""
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.request.kind


@dataclass(slots=True)
class Running:
    """A job that has boards."""

    job_id: int
    request: Request
    allocation: Allocation
    started_at: float
    planes: Planes
    """Its boards."""
    predicted: float
    """How long it would probably run when it started, seconds."""

    def predicted_end(self, now: float) -> float:
        """When it will probably end."""
        return predicted_end(self.request, self.started_at, self.predicted, now)


class Book:
    """Machines, waiting jobs and running jobs."""

    def __init__(self) -> None:
        self.machines: dict[str, Occupancy] = {}
        """In order of priority, highest first."""
        self.waiting: dict[int, Waiting] = {}
        self._lines: dict[tuple[str, ...], list[Waiting]] = {}
        """Those waiting, by the machines that could serve them, each line in order of turn."""
        self._owned: dict[str, dict[int, None]] = {}
        """Jobs that wait, by owner, each owner's in the order in which they joined."""
        self._joined: list[int] = []
        self.avoiding: dict[int, Waiting] = {}
        """Those who wait and have something to avoid."""
        self.running: dict[int, Running] = {}
        self.past = Past(half_life=604800.0)
        self.seconds_before_free = 0.0
        self._turn_of: Callable[[Book, Waiting], Turn] = first_come

    @property
    def line(self) -> list[Waiting]:
        """All who wait, in order of turn. Costs as much as there are."""
        return list(heapq.merge(*self._lines.values(), key=_turn))

    def candidates(self, machines: AbstractSet[str]) -> Iterator[Waiting]:
        """Those whom one of `machines` could serve, in order of turn.

        Costs only as much as is taken. Meanwhile `machines` may shrink, and the job that was given last may leave.
        """
        heads = [(line[0].turn, names, 0) for names, line in self._lines.items()]
        heapq.heapify(heads)
        while heads:
            _, names, index = heapq.heappop(heads)
            line = self._lines[names]
            while index < len(line) and not machines.isdisjoint(names):
                job = line[index]
                if heads and heads[0][0] < job.turn:
                    heapq.heappush(heads, (job.turn, names, index))
                    break
                yield job
                if index < len(line) and line[index] is job:
                    index += 1

    def joined(self) -> list[Waiting]:
        """Those who have joined since this was last called and still wait, in order of turn."""
        joined, self._joined = self._joined, []
        return sorted((self.waiting[job_id] for job_id in joined if job_id in self.waiting), key=_turn)

    def connected(self, machines: AbstractSet[str]) -> set[str]:
        """`machines`, and all for which somebody waits who could be served by one of these as well, and so on."""
        found = set(machines)
        while more := {name for names in self._lines if not found.isdisjoint(names) for name in names} - found:
            found |= more
        return found

    def line_up(self, turn_of: Callable[[Book, Waiting], Turn] | None = None) -> None:
        """Order the line anew, by turns given by this function, or by those that there are."""
        self._turn_of = turn_of or self._turn_of
        self._lines.clear()
        for job in self.waiting.values():
            (self._queue if turn_of else self._line_in)(job)

    def join(self, job: Waiting, due: float | None = None) -> None:
        """Put a job into the line; one that has stood there before a restart, where it stood: with its time then.

        That is worked out anew where it was since the job joined, for that comes out the same.
        """
        assert job.job_id not in self.waiting, f"job {job.job_id} waits already"
        assert job.job_id not in self.running, f"job {job.job_id} runs already"
        self.waiting[job.job_id] = job
        self._owned.setdefault(job.request.owner, {})[job.job_id] = None
        self._joined.append(job.job_id)
        if job.avoid:
            self.avoiding[job.job_id] = job
        self._queue(job, None if self.past.counted(job.request.owner, job.since) else due)

    def leave(self, job_id: int) -> Waiting:
        """Take a job out of the line."""
        job = self.waiting.pop(job_id)
        self.avoiding.pop(job_id, None)
        owned = self._owned[job.request.owner]
        del owned[job_id]
        if not owned:
            del self._owned[job.request.owner]
        self._unqueue(job)
        return job

    def learn(self, job: Running, now: float) -> None:
        """A job is over: think again of its owner's other ones, as many as that may take time for."""
        self.past.learn(job.request, len(job.allocation.boards), now - job.started_at, now)
        for job_id in list(islice(self._owned.get(job.request.owner, ()), THOUGHT_OF_AGAIN)):
            waiting = self.waiting[job_id]
            self._unqueue(waiting)
            self._queue(waiting)

    def _queue(self, job: Waiting, due: float | None = None) -> None:
        job.predicted = self.past.predict(job.request)
        priority, when, number = self._turn_of(self, job)
        job.turn = priority, when if due is None else due, number
        self._line_in(job)

    def _line_in(self, job: Waiting) -> None:
        insort(self._lines.setdefault(job.machines, []), job, key=_turn)

    def _unqueue(self, job: Waiting) -> None:
        line = self._lines[job.machines]
        del line[bisect_left(line, job.turn, key=_turn)]
        if not line:
            del self._lines[job.machines]

    def place(self, job: Waiting, machine: str) -> Place | None:
        """Where a job fits on a machine now; None where it does not."""
        occupancy = self.machines[machine]
        return None if occupancy.closed else place(job.request, self.ground(job, machine, occupancy.free))

    def ground(self, job: Waiting, machine: str, free: Planes) -> Ground:
        """Those of the free boards of a machine that a job may be given."""
        occupancy = self.machines[machine]
        free = without(free, self.avoided(job, machine))
        return occupancy.ground if free == occupancy.free else occupancy.ground_of(free)

    def avoided(self, job: Waiting, machine: str) -> Planes:
        """Boards of a machine that a job is not given, because others that are in service could serve it as well."""
        if job.avoid and any(self._serves_apart(job, name) for name in job.machines):
            return job.avoid.get(machine, (0, 0, 0))
        return 0, 0, 0

    def _serves_apart(self, job: Waiting, machine: str) -> bool:
        occupancy = self.machines[machine]
        apart = without(occupancy.topology.live, job.avoid.get(machine, (0, 0, 0)))
        return not occupancy.closed and place(job.request, Ground(occupancy.topology, apart)) is not None

    def start(self, job: Waiting, machine: str, found: Place, now: float) -> Allocation:
        """Give a waiting job a place on a machine."""
        (x, y, width, height), planes = found
        boards = self.machines[machine].torus.boards(planes)
        allocation = Allocation(
            machine=machine, x=x, y=y, width=width, height=height, boards=boards, single=job.request.single
        )
        self.leave(job.job_id)
        self.run(job.job_id, job.request, allocation, now)
        return allocation

    def run(self, job_id: int, request: Request, allocation: Allocation, since: float) -> None:
        """Note that a job has had its boards since then."""
        occupancy = self.machines[allocation.machine]
        occupancy.hold(allocation.boards, job_id)
        planes = occupancy.torus.planes(allocation.boards)
        predicted = self.past.predict(request)
        self.running[job_id] = Running(job_id, request, allocation, since, planes, predicted)

    def suitable(self, request: Request) -> tuple[str, ...]:
        """Names of the machines that could serve a request if they were empty, highest priority first."""
        return tuple(
            name
            for name, occupancy in self.machines.items()
            if allows(request, occupancy.machine) and occupancy.could_serve(request)
        )

    def check(self) -> None:
        """Assert that what is kept agrees with itself."""
        assert all(job.machines == names for names, line in self._lines.items() for job in line)
        assert self._owned == {
            owner: {job.job_id: None for job in self.waiting.values() if job.request.owner == owner}
            for owner in self._owned
        }
        assert [job.job_id for job in self.line] == [job.job_id for job in sorted(self.waiting.values(), key=_turn)]
        assert not self.waiting.keys() & self.running.keys(), "a job both waits and runs"
        for job in self.waiting.values():
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


def first_come(book: Book, job: Waiting) -> Turn:  # noqa: ARG001 - as other policies' turns
    """Turn by priority and age alone."""
    return -job.request.priority, job.since, job.job_id


def _turn(job: Waiting) -> Turn:
    return job.turn
