"""Who gets which boards, and when: the queue and all occupancy.

Theory of operation. A job is submitted, waits, is started by `run`, and ends; its boards stay held until they are
freed (powered off), and rest before they are given again. `run` asks the policy, but only where something has changed
that could let a job start. A call of `run` is one step: what is more than that is left for the next, and `wake_at` says
that the next is due. This module knows nothing of power, keepalives or clients, and has no clock: whoever
calls it says what time it is.

Whether any machine could ever serve a request is decided by placement on the machine as if it were empty. It is
decided when a job is submitted, and again for the whole queue when the configuration changes, so that no job waits
for what cannot come. Boards that are out of service are expected back, and end nobody's wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.coordinates import Board
from spalloc_server.core.model import NO_JOB, Allocation, Request
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.placement.effort import STEP
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.shapes import as_share
from spalloc_server.core.scheduling.backfill import Backfill
from spalloc_server.core.scheduling.explanation import Explanation, explain
from spalloc_server.core.scheduling.fifo import FirstComeFirstServed
from spalloc_server.core.scheduling.forecast import Forecaster
from spalloc_server.core.scheduling.policy import Policy
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.refusals import why_none
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["Explanation", "Scheduler"]

MAX_FAILURES = 10
"""Jobs that one step of the scheduler gives up after a defect, before it goes on to other things."""

POLICIES: dict[str, type[Policy]] = {"backfill": Backfill, "fifo": FirstComeFirstServed}


class Scheduler:
    """The queue, and the boards of all machines.

    Args:
        scheduling: the policy and its settings.
        seconds_before_free: how long boards rest, for predictions; `free` says when each rest ends.
    """

    def __init__(self, scheduling: Scheduling | None = None, seconds_before_free: float = 30.0) -> None:
        self._policy: Policy = FirstComeFirstServed()
        self._queue = Queue()
        self._forecaster: Forecaster | None = None
        self._closed: frozenset[str] | None = frozenset()
        self._now = 0.0
        """When `run` was last called."""
        self._failures: list[tuple[str, Exception, int]] = []
        self.set_policy(scheduling or Scheduling(), seconds_before_free)

    def set_policy(self, scheduling: Scheduling, seconds_before_free: float) -> None:
        """Change what a configuration may change while jobs wait and run. A policy that stays keeps what it knows."""
        self._queue.past.set_half_life(scheduling.half_life)
        self._queue.seconds_before_free = seconds_before_free
        self._queue.min_fill = as_share(scheduling.min_fill)
        for occupancy in self._queue.machines.values():
            if occupancy.set_min_fill(self._queue.min_fill):
                self._policy.places_changed()
        if not isinstance(self._policy, POLICIES[scheduling.policy]):
            self._policy = POLICIES[scheduling.policy]()
        self._changed = True

    def set_machines(self, machines: Mapping[str, Machine]) -> None:
        """Take over a configuration's machines, in order of priority.

        A machine that is the same hardware as before keeps who has its boards. Jobs that run on one that goes must be
        ended before the next `run`.
        """
        before = self._queue.machines
        if list(machines.items()) == [(name, occupancy.machine) for name, occupancy in before.items()]:
            return
        after = {}
        for name, machine in machines.items():
            occupancy = before.get(name)
            if occupancy is not None and machine.same_hardware(occupancy.machine):
                occupancy.configure(machine)
            else:
                occupancy = Occupancy(machine, self._queue.min_fill, self._queue.work)
            after[name] = occupancy
        self._queue.set_machines(after)
        self._policy.places_changed()
        self._close()

    def settings(self) -> list[Any]:
        """Return the objects whose attributes `set_policy`, `set_machines` and `close` replace, and never mutate."""
        return [self, self._policy, self._queue, self._queue.past, *self._queue.machines.values()]

    def refusal(self, request: Request) -> str | None:
        """Return why no machine could ever serve a request, in words for its owner; None where one could."""
        if self._queue.suitable(request):
            return None
        return why_none(self._queue, request)

    @property
    def pending(self) -> bool:
        """Whether the last step has left work for the next."""
        return self._changed or not self._queue.judged or self._policy.pending

    def impossible(self, *, go_on: bool = True) -> list[tuple[int, str]]:
        """Return queued jobs that no machine can serve any more, and why. The caller withdraws them.

        Args:
            go_on: as for `run`.
        """
        if self._queue.judged:
            return []
        self._begin_step(go_on=go_on)
        for _ in range(MAX_FAILURES):
            try:
                self._queue.judge()
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, other jobs are to start
                if not self._blame("the search for machines that could serve a job", error):
                    break
        impossible = []
        while job := self._queue.next_hopeless():
            impossible.append((job.job_id, why_none(self._queue, job.request)))
            if self._queue.work.left <= 0:  # to say why takes time
                break
        return impossible

    def submit(
        self,
        job_id: int,
        request: Request,
        now: float,
        *,
        avoid: Mapping[str, Collection[Board]] | None = None,
    ) -> None:
        """Let a job join the queue. One that `refusal` refuses would wait for ever.

        Args:
            job_id: the job.
            request: what it asks for.
            now: when it asked.
            avoid: by machine, boards that it is given only if no others in service could serve it.
        """
        planes = {name: self._queue.machines[name].torus.planes(boards) for name, boards in (avoid or {}).items()}
        job = Waiting(job_id, request, now, self._queue.suitable(request), avoid=planes)
        try:
            self._queue.join(job)
        except BaseException:
            self._queue.discard(job_id)  # all of it, or nothing
            raise
        if self._forecaster is not None:
            self._forecaster.forget(job_id)
        self._changed = True

    def withdraw(self, job_id: int) -> None:
        """Let a job leave the queue."""
        self._queue.leave(job_id)
        self._changed = True

    def waiting(self, job_id: int) -> Waiting | None:
        """A job as it waits in the queue, for `put_back`; None where it does not."""
        return self._queue.waiting.get(job_id)

    def put_back(self, job: Waiting) -> None:
        """Undo what has been done to a job that waited: it waits as it did."""
        self._queue.put_back(job)
        self._changed = True

    def change(self, job_id: int, request: Request) -> None:
        """A running job asks for something else from now on, which does not bear on its place."""
        self._queue.running[job_id].request = request

    def reorder(self) -> None:
        """Try all who wait again, and reserve anew: operators have changed what the order or predictions rest on."""
        self._policy.places_changed()
        self._changed = True

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self._queue.waiting)

    def adopt(self, job_id: int, request: Request, allocation: Allocation, started_at: float) -> None:
        """After a restart: this job runs, and has these boards."""
        self._queue.run(job_id, request, allocation, started_at)

    def move(self, job_id: int, request: Request, allocation: Allocation) -> None:
        """The boards of a running job are on another machine now, or elsewhere on it: the configuration has changed."""
        self._queue.run(job_id, request, allocation, self._queue.stop(job_id).started_at)

    def end(self, job_id: int, now: float, *, learn: bool = True) -> None:
        """A running job is over. Its boards stay held for it until they are freed.

        Args:
            job_id: the job.
            now: the time.
            learn: whether its run time helps to predict its owner's next ones.
        """
        running = self._queue.stop(job_id)
        if learn:
            boards = len(running.allocation.boards)
            self._queue.past.learn(running.request, boards, now - running.started_at, now)
            self._policy.ended(self._queue, running, now)

    def hold(self, machine: str, boards: Collection[Board], job_id: int) -> None:
        """Give these boards to nobody until they are freed: an ended job, or a self-test (`NO_JOB`), has them."""
        self._queue.machines[machine].hold(boards, job_id)

    def free(self, machine: str, boards: Collection[Board], *, rest_until: float | None, now: float) -> None:
        """Boards that were held are powered off: they rest, and then are free. `None` where they need no rest."""
        if rest_until is not None and rest_until <= now:
            rest_until = None
        self._queue.machines[machine].release(boards, rest_until)
        self._changed = True

    def set_out_of_service(self, machine: str, boards: Collection[Board], *, out: bool) -> None:
        """Take boards out of service, or put them back. A job that has one keeps it."""
        self._changed |= self._queue.machines[machine].set_out_of_service(boards, out=out)

    def out_of_service(self, machine: str) -> frozenset[Board]:
        """The boards of a machine that are out of service."""
        return frozenset(self._queue.machines[machine].out)

    def close(self, machines: Collection[str], *, everything: bool = False) -> None:
        """Give nothing of these machines, or of any, until the next call; they need not be there yet.

        Jobs that have boards of them keep them; others may wait for them.
        """
        self._closed = None if everything else frozenset(machines)
        self._close()

    def forget(self, job_id: int) -> None:
        """Remove a job, whether it waits or runs. Its boards stay held for it."""
        self._queue.discard(job_id)
        self._changed = True

    def run(self, now: float, *, go_on: bool = True) -> list[tuple[int, Allocation]]:
        """Start the jobs that may start now, as far as the step allows.

        Nothing starts before all jobs are judged: `impossible` comes first. A job for which either raises leaves the
        queue, and they go on without it. `take_failures` says which it was.

        Args:
            now: the time.
            go_on: whether to go on with what earlier steps have left. Otherwise, if they have left anything, no more is
                done than to try new jobs elsewhere.
        """
        self._now = now
        self._begin_step(go_on=go_on)
        for occupancy in self._queue.machines.values():
            self._changed |= occupancy.wake(now)
        if not self._queue.judged or not (self._changed or self._policy.pending):
            return []
        changed, self._changed = self._changed, False
        if self._forecaster is not None:
            self._forecaster.changed()
        for _ in range(MAX_FAILURES):
            self._queue.tried = None
            try:
                self._policy.run(self._queue, now, changed=changed)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, other jobs are to start
                changed = True
                if not self._blame("the search for boards", error):
                    break
        else:
            self._changed = True
        started, self._queue.started = self._queue.started, []
        if self._forecaster is not None:
            for job_id, _ in started:
                self._forecaster.spreads.started(job_id, now)
        return started

    def take_failures(self) -> list[tuple[str, Exception, int]]:
        """Return what `run` has met since the last call: (what was done, what it raised, the job or `NO_JOB`)."""
        failures, self._failures = self._failures, []
        return failures

    def _blame(self, doing: str, error: Exception) -> bool:
        """Put on record what was raised, and remove the job that it concerned; whether there is one."""
        culprit = NO_JOB if self._queue.tried is None else self._queue.tried.job_id
        self._failures.append((doing, error, culprit))
        self._policy.places_changed()
        if culprit != NO_JOB:
            self._queue.discard(culprit)
        return culprit != NO_JOB

    def wake_at(self) -> float | None:
        """Return when `run` should be called even if nothing else happens; None for no such time."""
        if self.pending:
            return self._now
        if not self._queue.waiting:
            return None
        wakes = (occupancy.next_wake() for occupancy in self._queue.machines.values())
        return min((wake for wake in wakes if wake is not None), default=None)

    def holders(self, machine: str) -> Mapping[Board, int]:
        """The boards of a machine that are held, and the job that each is held for."""
        return self._queue.machines[machine].holders

    def hold_again(self, machine: str, boards: Collection[Board], job_id: int) -> None:
        """Hold boards for this job that are held for another so far."""
        self._queue.machines[machine].hold_again(boards, job_id)

    def holder(self, machine: str, board: Board) -> int | None:
        """The job that a board is held for; one that has ended, while its boards are being powered off."""
        return self._queue.machines[machine].holders.get(board)

    def rests_until(self, machine: str, board: Board) -> float | None:
        """When the rest of a board ends; None where it does not rest."""
        return self._queue.machines[machine].resting.get(board)

    def counts(self, machine: str) -> tuple[int, int, int, int]:
        """How many boards of a machine work; and how many have jobs, cool down, and are out of service.

        Each is in one of the last three, or free.
        """
        occupancy, running = self._queue.machines[machine], self._queue.running
        holders, resting, dead = occupancy.holders, occupancy.resting, occupancy.machine.dead_boards
        in_use, out, cooling_out = self._queue.in_use[machine], 0, 0
        for board in occupancy.out:
            job = running.get(holders.get(board, NO_JOB))
            if board not in dead and (job is None or board not in job.allocation.boards):
                out += 1
                cooling_out += board in holders or board in resting
        boards = len(occupancy.machine.live_boards)
        cooling = len(holders) + len(resting) - in_use - cooling_out
        return boards, in_use, min(cooling, boards - in_use - out), out  # an emergency switches dead boards off, too

    def explain(self, job_id: int, now: float) -> Explanation:
        """Why a queued job waits. `KeyError` where it is not queued."""
        taken = {name: self._policy.reserved(name) for name in self._queue.machines}
        job = self._queue.waiting[job_id]
        position = self._queue.position(job, self._policy.order(self._queue, now))
        return explain(self._queue, job, position, self._policy.reservation(job_id), taken, now, self.predicted(job_id))

    def ordered(self, now: float) -> list[int]:
        """Return all who wait, in order. Costs as much as there are."""
        return self._queue.ordered(self._policy.order(self._queue, now))

    def predict_starts(self, closed: Callable[[tuple[str, ...]], str]) -> None:
        """From now on predict when those who wait will start, as `forecast_at` and `forecast` are called.

        Args:
            closed: says in words what keeps jobs from starting on these machines.
        """
        self._forecaster = Forecaster(self._queue, closed)

    def forecast_at(self) -> float | None:
        """Return when `forecast` is due; None for no such time."""
        return None if self._forecaster is None else self._forecaster.due()

    def forecast(self, now: float) -> list[int]:
        """Go on with predicting starts, for a step; the jobs of whom something else is predicted now."""
        assert self._forecaster is not None
        try:
            return self._forecaster.step(self._policy, now)
        except Exception as error:  # noqa: BLE001 - whatever it is, jobs are to start
            self._forecaster.drop()
            self._failures.append(("the prediction of starts", error, NO_JOB))
            return []

    def forecast_at_once(self, now: float) -> None:
        """Predict all starts, whatever time it takes: where nothing else is to be done."""
        assert self._forecaster is not None
        self.forecast(now)
        while self._forecaster.under_way:
            self.forecast(now)

    def predicted(self, job_id: int) -> Forecast | None:
        """What is predicted of a job that waits; None where nothing is yet."""
        return None if self._forecaster is None else self._forecaster.known.get(job_id)

    def facts(self) -> dict[str, Any]:
        """Named values to keep, plain JSON, that have changed since the last call."""
        return self._queue.past.facts()

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` gave, ever."""
        self._queue.past.restore(facts)

    def check(self) -> None:
        """Assert every invariant."""
        if self._queue.judged:
            self._queue.check()

    def _begin_step(self, *, go_on: bool) -> None:
        left_over = self._policy.pending or not self._queue.judged
        self._queue.work.left = 0 if left_over and not go_on else STEP

    def _close(self) -> None:
        for name, occupancy in self._queue.machines.items():
            occupancy.closed = self._closed is None or name in self._closed
        self._changed = True
