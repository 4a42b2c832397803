"""The schedule from now on, as it will be if all predictions come true.

Theory of operation. The policy that serves is run in virtual time, over copies of the machines, of the jobs that run,
and of the first jobs that wait. Each job runs for as long as is predicted, and its boards rest after that. So whatever
the policy heeds (reservations, backfill, the order that changes while time passes) is in the prediction as well.
Nothing of the queue that serves is changed.

A rehearsal is done in steps, each of a bounded amount of work, as a pass is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TypeAlias

from spalloc_server.coordinates import Board
from spalloc_server.core.placement.effort import STEP
from spalloc_server.core.scheduling.policy import Policy
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["Rehearsal", "Start"]

Start: TypeAlias = tuple[int, float, tuple[int, ...]]
"""(job, when it starts, the jobs whose boards it gets)."""


class Rehearsal:
    """What will happen, as far as can be predicted.

    Args:
        queue: the one that serves; it is left alone.
        policy: a copy of the one that serves.
        jobs: those of the queue whose starts are to be predicted.
        now: the time.
    """

    def __init__(self, queue: Queue, policy: Policy, jobs: Iterable[Waiting], now: float) -> None:
        self._queue = queue.fork(jobs)
        self._policy = policy
        self._now = now
        self._begun = False
        self._ends = [(job.predicted_end(now), job.job_id) for job in self._queue.running.values()]
        heapq.heapify(self._ends)
        self._had: dict[str, dict[Board, int]] = {}
        """By machine, which job has or had each board last."""
        rest_until = now + queue.seconds_before_free
        for name, machine in self._queue.machines.items():
            self._had[name] = dict(machine.holders)
            ended = [board for board, job_id in machine.holders.items() if job_id not in self._queue.running]
            machine.release(ended, rest_until)

    @property
    def over(self) -> bool:
        """Whether all have started that can."""
        if not self._begun or self._policy.pending:
            return False
        return not self._queue.waiting or self._next() is None

    def step(self) -> tuple[list[Start], int]:
        """Go on for a step; those that start in it, and the units of work that it took."""
        queue, started = self._queue, list[Start]()
        queue.work.left = STEP
        while queue.work.left > 0 and not self.over:
            if self._begun and not self._policy.pending and (at := self._next()) is not None:
                self._pass_time(at)
            self._begun = True
            self._policy.run(queue, self._now, changed=True)
            for job_id, allocation in queue.started:
                boards, had = allocation.boards, self._had[allocation.machine]
                started.append((job_id, self._now, tuple(sorted({had[board] for board in boards if board in had}))))
                had.update(dict.fromkeys(boards, job_id))
                heapq.heappush(self._ends, (queue.running[job_id].predicted_end(self._now), job_id))
            queue.started = []
        return started, STEP - queue.work.left

    def _next(self) -> float | None:
        """When something happens next; None for never."""
        wakes = [machine.next_wake() for machine in self._queue.machines.values()]
        times = [self._ends[0][0] if self._ends else None, *wakes]
        return min((time for time in times if time is not None), default=None)

    def _pass_time(self, at: float) -> None:
        """Let jobs end, and rests."""
        queue = self._queue
        self._now = max(self._now, at)
        while self._ends and self._ends[0][0] <= self._now:
            job = queue.running.pop(heapq.heappop(self._ends)[1])
            rest = queue.seconds_before_free
            queue.machines[job.allocation.machine].release(job.allocation.boards, self._now + rest if rest else None)
            self._policy.ended(queue, job, self._now)
            queue.work.looked()
        for machine in queue.machines.values():
            machine.wake(self._now)
