"""Who waits, in lines that need no sorting, and their merge into the order of one pass.

Theory of operation. Policies order jobs by keys that change with time, with what owners have used, and with what is
predicted. Sorting a long queue at each pass would cost too much. So jobs that differ in nothing that an order may look
at but the time when they were submitted wait in one *line*: those of one owner, one priority, one size and one longest
run time, that the same machines could serve. Whatever the order, of two jobs in one line the earlier goes first, so a
line is in order at all times.

An `Order` says once for each line what the keys of its jobs are worked out from (`Terms`), and does not change. A pass
merges the lines by it. A `Merge` keeps the first job of each line in a heap, and takes the next from there. It costs
only what is taken from it, besides looking at each line once. Meanwhile jobs may join and leave.

The lines of jobs that the same machines could serve are kept together, in a `Group`.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Set as AbstractSet
from typing import Protocol, TypeAlias

from spalloc_server.core.model import Request
from spalloc_server.core.placement.effort import Work
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["BY_MERIT", "FIRST", "OLD", "Group", "Key", "Line", "Merge", "Order", "Terms", "key"]

OLD, FIRST, BY_MERIT = range(3)
"""Classes of jobs of one priority, first ones first: old ones, which are the first of their lines; those that a policy
wants tried then; all others."""

Key: TypeAlias = tuple[int, int, float, float, int]
"""What jobs are ordered by, lower ones first: (minus the priority, class, minus the merit, submit time, job id)."""


Terms: TypeAlias = tuple[int, float, float]
"""What the keys of a line's jobs are worked out from: (the job of its owner that is old, or `NO_JOB`; the time; a rate,
not negative). The merit of a job is the rate times the seconds since it was submitted."""


class Order(Protocol):
    """An order of the queue that does not change."""

    def terms(self, line: Line) -> Terms:
        """Return what the keys of a line's jobs are worked out from."""


def key(job: Waiting, terms: Terms) -> Key:
    """The key of a job by the terms of its line. It rises within the line."""
    old, now, rate = terms
    if job.job_id == old:
        return -job.request.priority, OLD, 0.0, job.since, job.job_id
    return -job.request.priority, BY_MERIT, (job.since - now) * rate, job.since, job.job_id


def _place(job: Waiting) -> tuple[float, int]:
    return job.since, job.job_id


class Line:
    """Jobs of one owner, priority, size and longest run time.

    Args:
        machines: those that could serve them.
        request: what one of them asks for.
    """

    __slots__ = ("jobs", "machines", "request", "weight")

    def __init__(self, machines: tuple[str, ...], request: Request) -> None:
        self.machines = machines
        self.request = request
        self.weight = math.log2(request.asked + 1)
        """The effort of one of its jobs, for each second that it runs."""
        self.jobs: list[Waiting] = []
        """In order of submit time, then of number."""

    def index(self, job: Waiting) -> int:
        """Where a job is, or would be."""
        return bisect_left(self.jobs, _place(job), key=_place)

    def has(self, job: Waiting, index: int) -> bool:
        """Whether a job is there, at this index."""
        return index < len(self.jobs) and self.jobs[index] is job


class Group:
    """The lines of all who wait for the same machines."""

    __slots__ = ("lines", "machines", "work")

    def __init__(self, machines: tuple[str, ...]) -> None:
        self.machines = machines
        self.work = 0
        """Board-seconds that they will probably take, all together."""
        self.lines: dict[tuple[object, ...], Line] = {}
        """By what their jobs have in common."""

    @staticmethod
    def common(request: Request) -> tuple[object, ...]:
        """Return what jobs of one line have in common, besides their machines."""
        return request.owner, request.priority, request.triads, request.asked, request.max_runtime

    def add(self, job: Waiting) -> None:
        """Put a job into its line."""
        common = self.common(job.request)
        line = self.lines.get(common)
        if line is None:
            line = self.lines[common] = Line(self.machines, job.request)
        line.jobs.insert(line.index(job), job)
        self.work += job.work

    def remove(self, job: Waiting) -> None:
        """Take a job out of its line."""
        common = self.common(job.request)
        line = self.lines[common]
        del line.jobs[line.index(job)]
        self.work -= job.work
        if not line.jobs:
            del self.lines[common]

    def discard(self, job_id: int) -> None:
        """Take a job out, wherever it is, after a defect that may have left it in any line."""
        for common, line in list(self.lines.items()):
            line.jobs[:] = [job for job in line.jobs if job.job_id != job_id]
            if not line.jobs:
                del self.lines[common]
        self.work = sum(job.work for line in self.lines.values() for job in line.jobs)


class Merge:
    """The jobs of some lines, in the order of a pass.

    Args:
        lines: those that are to be merged.
        order: the order.
    """

    def __init__(self, lines: Iterable[Line], order: Order) -> None:
        self._order = order
        self._fresh = list(lines)
        """Lines whose first job is not in the heap yet."""
        self._heads: list[tuple[Key, int, Waiting, int, Line, Terms | None]] = []
        """By key: a number that tells entries apart, the job, its index in its line, the line, and the line's terms;
        None for a job that has been added by itself."""
        self._entries = 0
        self._added: dict[int, bool] = {}
        """Jobs that have been added, which no line brings again; whether they are still to be taken."""

    def gather(self, work: Work) -> bool:
        """Look at as many lines as the step allows; whether all have been looked at, so that `take` can begin."""
        if self._fresh:
            terms, heads = self._order.terms, self._heads
            while self._fresh and work.left > 0:
                work.looked()
                line = self._fresh.pop()
                if line.jobs:
                    of_line = terms(line)
                    self._entries += 1
                    heads.append((key(line.jobs[0], of_line), self._entries, line.jobs[0], 0, line, of_line))
            if not self._fresh:
                heapq.heapify(heads)
        return not self._fresh

    def add(self, job: Waiting, line: Line, place: Key | None = None) -> None:
        """Have a job taken in its turn that has joined meanwhile; or another in another place than its own.

        Args:
            job: the job.
            line: the one that it is in.
            place: the key that counts, where it is not that of the order.
        """
        if not self._added.get(job.job_id):
            self._added[job.job_id] = True
            self._push(place or key(job, self._order.terms(line)), job, 0, line, None)

    def take(self, machines: AbstractSet[str]) -> Waiting | None:
        """Take the next job that one of these machines could serve; None where there is none.

        `machines` are the same as for the last call, or fewer.
        """
        while self._heads and machines:
            _, _, job, index, line, terms = heapq.heappop(self._heads)
            if not line.has(job, index):
                index = line.index(job)
            here = line.has(job, index)
            if terms is None:
                self._added[job.job_id] = False
            if not machines.isdisjoint(line.machines):
                if terms is not None:
                    self._push_from(line, index + here, terms)
                if here and (terms is None or job.job_id not in self._added):
                    return job
        return None

    def _push_from(self, line: Line, index: int, terms: Terms) -> None:
        """Put the first job of a line from this index on among the heads."""
        while index < len(line.jobs) and line.jobs[index].job_id in self._added:
            index += 1
        if index < len(line.jobs):
            self._push(key(line.jobs[index], terms), line.jobs[index], index, line, terms)

    def _push(self, at: Key, job: Waiting, index: int, line: Line, terms: Terms | None) -> None:
        self._entries += 1
        if self._fresh:
            self._heads.append((at, self._entries, job, index, line, terms))  # no heap yet
        else:
            heapq.heappush(self._heads, (at, self._entries, job, index, line, terms))
