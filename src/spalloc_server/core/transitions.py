"""What can happen to one job and its boards, and what the world must do about it.

Theory of operation. `Transitions` holds the parts and is the only one that makes them agree. A `Job` knows its own life
(`job`), the `Scheduler` who waits and which boards are whose (`schedule`), `Power` which operations are under way and
which boards are on their way back (`power`), `BoardRecords` which boards are not to be used (`boards`), `Trials` which
of them are being tried again (`trials`), `Deadlines` whose lease has run out (`deadlines`).

What the world must do piles up until a shell fetches it: rows to store (`take_changes`), power to switch
(`take_switches`), watchers to tell (`changed_jobs`, `changed_machines`), and what has gone wrong in the core itself
(`defects`). A shell stores first, and only then acts on the rest.

Nothing here is caught: `engine` says when a transition happens, and contains what one raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.power import Power
from spalloc_server.core.boards.records import BoardRecords, address
from spalloc_server.core.boards.self_tests import Trials
from spalloc_server.core.deadlines import Deadlines
from spalloc_server.core.defects import Defects
from spalloc_server.core.job import Event, Job
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.events import JobEvent
from spalloc_server.core.model.power import BoardFailure, Switch
from spalloc_server.core.model.rows import Changes, JobRow, Note, ReleaseRow
from spalloc_server.core.quotas import Quotas
from spalloc_server.core.scheduling.scheduler import Scheduler

__all__ = ["Transitions"]

MAX_EVENTS = 100_000
"""Events that are kept for a shell that does not fetch them."""


class Transitions:
    """Jobs, machines, queue and leases.

    Args:
        clock: the time in seconds since the Unix epoch; it never goes back.
        max_retired_jobs: ended jobs that are remembered.
        next_id: number of the first job.
        seconds_before_free: seconds that boards rest between two jobs.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_retired_jobs: int = 1200,
        next_id: int = 1,
        seconds_before_free: float = 30.0,
    ) -> None:
        self._clock = clock
        self._configuration = Configuration(max_retired_jobs=max_retired_jobs, seconds_before_free=seconds_before_free)
        self._next_id = next_id
        self._machines: dict[str, Machine] = {}
        self._jobs: dict[int, Job] = {}
        self._retired: dict[int, JobRow] = {}
        self._scheduler = Scheduler()
        self._power = Power()
        self.defects = Defects()
        """What has gone wrong in the core itself."""
        self._boards = BoardRecords(self._scheduler)
        self._trials = Trials(self._scheduler, self._power, self._boards, self.defects)
        self._quotas = Quotas()
        self._leases = Deadlines(self._jobs, attrgetter("deadline"))
        self._runtimes = Deadlines(self._jobs, attrgetter("bound"))
        self.stopped: Note | None = None
        """The emergency stop that holds, if any."""
        self._drained: dict[str, Note] = {}
        self._facts: dict[str, Any] = {}
        self._changed_facts: set[str] = set()
        self._stale: dict[int, Job | JobRow] = {}
        self._dropped: dict[str, set[Any]] = {"boards": set(), "releases": set(), "facts": set()}
        """Keys of rows, by table, that are to go because they make no sense."""
        self._events: deque[JobEvent] = deque(maxlen=MAX_EVENTS)
        self._changed_jobs: set[int] = set()
        self._changed_machines: set[str] = set()
        self._reclaim_at: float | None = None
        """When boards that are held for nobody, because of a defect, are to be switched off."""
        self._reclaimed_at = float("-inf")
        """When that was done last."""

    # ---------------------------------------------------------------- what the world must do

    @property
    def changed(self) -> bool:
        """Whether there is anything to fetch."""
        told = self._changed_jobs or self._changed_machines
        return bool(self._stale or told or self._changed_facts or self._power.changed or self._boards.changed)

    @property
    def next_id(self) -> int:
        """Number of the next job."""
        return self._next_id

    def take_changes(self) -> Changes:
        """Rows to store that changed since the last call; storing them makes the state last."""
        self._learn_facts()
        jobs = {}
        for job_id, job in self._stale.items():
            with self.defects.contained("the row of a job", job_id):
                jobs[job_id] = job.row() if isinstance(job, Job) else job
        changes = Changes(
            jobs=jobs,
            boards={**dict.fromkeys(self._dropped["boards"]), **self._boards.take_changes()},
            releases={**dict.fromkeys(self._dropped["releases"]), **self._power.take_changes()},
            facts={name: self._facts.get(name) for name in self._dropped["facts"] | self._changed_facts},
        )
        for keys in self._dropped.values():
            keys.clear()
        self._stale.clear()
        self._changed_facts.clear()
        return changes

    def take_switches(self) -> list[Switch]:
        """Power operations to start since the last call, in order; only after their changes are stored."""
        return self._power.take_switches()

    def take_events(self) -> list[JobEvent]:
        """What has happened to jobs since the last call, in order; the latest `MAX_EVENTS` of it."""
        events = list(self._events)
        self._events.clear()
        return events

    @property
    def changed_jobs(self) -> set[int]:
        """Jobs whose state changed since this was last read."""
        changed, self._changed_jobs = self._changed_jobs, set()
        return changed

    @property
    def changed_machines(self) -> set[str]:
        """Machines that changed, or on which boards were given or freed, since this was last read."""
        changed, self._changed_machines = self._changed_machines, set()
        return changed

    # ---------------------------------------------------------------- transitions

    @property
    def _rest(self) -> float:
        return self._configuration.seconds_before_free

    def _start(self, job: Job, allocation: Allocation, now: float) -> None:
        """The scheduler has given boards to the job."""
        job.apply(Event.allocated)
        job.allocation, job.allocated_at = allocation, now
        job.placements += 1
        self._changed_machines.add(allocation.machine)
        self._power.switch(job, self._machines[allocation.machine], on=True)
        self._changed(job, "allocated", now)

    def _job_switched(self, job: Job, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
        self._power.forget(job)
        if failures and job.power:
            self._place_again(job, failures, now)
            return
        job.apply(Event.switched)
        job.failed_in = frozenset()
        if job.ready_at is None:
            job.ready_at = now
            self._bound_runtime(job, now)
        self._changed(job, "ready", now)

    def _bound_runtime(self, job: Job, now: float) -> None:
        """Have the job's user warned, and then the job ended, when the run time that it asked for is over."""
        if job.ends_at is not None:
            job.bound = job.warned_at
            if job.bound <= now:  # as after a restart
                self._warn(job, now)
            self._runtimes.add(job)

    def _runtime_passed(self, job: Job, now: float) -> None:
        if job.warning is not None:
            self._end(job, f"{job.run_time_over}.", now)
        else:
            self._warn(job, now)
            self._runtimes.add(job)

    def _warn(self, job: Job, now: float) -> None:
        job.warn(now)
        self._changed_jobs.add(job.job_id)

    def _place_again(self, job: Job, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
        """Take the boards that could not be switched on away from the job, and find it others.

        Not once it has been ready: its user has its boards' addresses, and published clients ask for them only once.
        """
        assert job.allocation is not None
        machine = self._machines[job.allocation.machine]
        failed = self._boards.failed(machine, job.allocation.boards, failures, now)
        bad = (board for board in job.allocation.boards if address(machine, board) in failures)
        job.failed_in |= {(machine.name, machine.board_locations[board][:2]) for board in bad}
        if job.ready_at is not None:
            self._end(job, f"Machine configuration failed. {failed}", now)
        elif job.placements >= self._configuration.health.max_placements:
            self._end(job, f"Boards failed in each of {job.placements} places, last {failed}.", now)
        else:
            self._requeue(job, failed, now)

    def _requeue(self, job: Job, reason: str, now: float) -> None:
        """Take the boards of a job that was never ready away, and let it wait for others."""
        self._power.forget(job)
        job.apply(Event.failed)
        self._changed(job, "failed", now, reason=reason)
        self._give_back(job, now, learn=False)
        job.allocation, job.power = None, True
        avoid: dict[str, list[Board]] = {}
        for name, frame in job.failed_in:
            if name in self._machines:
                avoid.setdefault(name, []).extend(self._machines[name].frames.get(frame, ()))
        job.due = self._scheduler.submit(job.job_id, job.request, job.created_at, avoid=avoid)

    def _boards_released(self, operation: int, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
        rest_until = now + self._rest if self._rest > 0 else None
        release = self._power.released(operation, rest_until)
        if release is None or not release.boards:
            return
        self._boards.failed(self._machines[release.machine], release.boards, failures, now)
        mine = [board for board in release.boards if self._scheduler.holder(release.machine, board) == release.job_id]
        self._scheduler.free(release.machine, mine, rest_until=rest_until, now=now)
        self._changed_machines.add(release.machine)

    def _wait_for(self, release: ReleaseRow, now: float) -> None:
        """Give the boards of a release to nobody before they are off and have rested."""
        self._scheduler.hold(release.machine, release.boards, release.job_id)
        if release.rest_until is not None:
            self._scheduler.free(release.machine, release.boards, rest_until=release.rest_until, now=now)

    def _end(self, job: Job, reason: str | None, now: float) -> None:
        """The job is over: it gives its boards back and is history."""
        job.apply(Event.ended)
        self._power.forget(job)
        if job.allocation is None:
            self._scheduler.withdraw(job.job_id)
        else:
            self._give_back(job, now, learn=job.ready_at is not None)
        job.power, job.reason, job.ended_at = None, reason, now
        del self._jobs[job.job_id]
        self._quotas.remove(job)
        self._retired[job.job_id] = job.row()
        self._forget_retired()
        self._changed(job, "destroyed", now)

    def _give_back(self, job: Job, now: float, *, learn: bool) -> None:
        assert job.allocation is not None
        assert job.allocated_at is not None
        job.board_seconds += len(job.allocation.boards) * (now - job.allocated_at)
        self._scheduler.end(job.job_id, now, learn=learn)
        self._power.release(job.job_id, self._machines[job.allocation.machine], job.allocation.boards)
        self._changed_machines.add(job.allocation.machine)

    def _touch(self, job_id: int, host: str | None) -> Job | None:
        """The live job of this number, its lease begun anew; None where there is none."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        if (keepalive := job.keepalive) is not None and keepalive > 0:
            job.deadline = self._clock() + keepalive
        if host != job.keepalivehost and host is not None:
            job.keepalivehost = host
            job.forget_encoded()
        return job

    def _changed(self, job: Job, event: str, now: float, reason: str | None = None) -> None:
        """Something has happened to the job that must be stored and told."""
        job.forget_encoded()
        self._stale[job.job_id] = job
        self._changed_jobs.add(job.job_id)
        machine, boards = (job.allocation.machine, job.allocation.boards) if job.allocation else (None, ())
        host, why = job.keepalivehost, reason or job.reason
        self._events.append(JobEvent(now, event, job.job_id, job.owner, host, job.power, machine, boards, why))

    def _learn_facts(self) -> None:
        with self.defects.contained("what was learnt of owners"):
            for name, value in self._scheduler.facts().items():
                self._set_fact(name, value)

    def _set_fact(self, name: str, value: Any) -> None:
        if value is None:
            self._facts.pop(name, None)
        else:
            self._facts[name] = value
        self._changed_facts.add(name)

    def _forget_retired(self) -> None:
        while len(self._retired) > self._configuration.max_retired_jobs:
            del self._retired[next(iter(self._retired))]
