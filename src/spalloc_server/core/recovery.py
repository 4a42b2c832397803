"""Stop, and go on in another process: the core's state as rows, and back.

Theory of operation. A snapshot is what a journal has stored of `take_changes`, or what `snapshot` gives. `restore`
brings back the machines as they were; the present configuration is applied afterwards, exactly as at a reload. Leases
start afresh, since clients could not renew them meanwhile. Power operations that were under way are started again.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from typing import Any

import msgspec

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board
from spalloc_server.core.engine import Engine
from spalloc_server.core.job import Job, JobState
from spalloc_server.core.layout import as_told_before
from spalloc_server.core.machine_facts import machine_from_fact
from spalloc_server.core.messages import JobRow, ReleaseRow, Snapshot
from spalloc_server.core.request import parse_request

__all__ = ["RecoverableEngine"]


_STATES = {False: {JobState.queued}, True: {JobState.power, JobState.ready}}
"""States of a live job, by whether it has boards."""


class RecoverableEngine(Engine):
    """An engine that can be stored and brought back."""

    def snapshot(self) -> Snapshot:
        """Everything that `restore` needs."""
        self._learn_facts()
        return Snapshot(
            jobs=[*self._retired.values(), *(job.row() for job in self._jobs.values())],
            boards=self._boards.rows(),
            releases=self._power.rows(),
            facts=dict(self._facts),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on where another left off. The snapshot is left as it is.

        The machines are those of the snapshot: `configure` applies the present configuration afterwards. Leases start
        afresh, and power operations that were under way are started again.

        Raises:
            RuntimeError: this controller is not new.
        """
        if self._facts:
            raise RuntimeError("only a new controller can be restored: this one has had machines or jobs")
        now = self._clock()
        self._restore_facts({name: value for name, value in snapshot.facts.items() if value is not None})
        self._next_id = max([self._next_id, self._facts.get("next_id", 1), *(1 + row.job_id for row in snapshot.jobs)])
        names = self._facts.get("machines", [])
        self._machines = {name: machine_from_fact(self._facts[f"machine/{name}"]) for name in names}
        self._scheduler.set_machines(self._machines)
        self._boards.set_machines(self._machines.values())
        for record in snapshot.boards:
            self._boards.restore(copy(record))
        for machine in self._machines.values():
            self._boards.apply(machine)
        self._power.skip_numbers(row.release_id for row in snapshot.releases)
        for release in snapshot.releases:
            self._restore_release(copy(release), now)
        for row in sorted(snapshot.jobs, key=lambda row: row.job_id):
            self._restore_job(row, now)
        self._forget_retired()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where a pickled controller left off; leases start afresh, as after `restore`."""
        self.__dict__.update(state)
        now = self._clock()
        for job in self._jobs.values():
            self._begin_lease(job, now)

    def _begin_lease(self, job: Job, now: float) -> None:
        if job.keepalive is not None:
            job.deadline = now + job.keepalive
        self._leases.add(job)

    def _restore_facts(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self._scheduler.restore_facts(facts)

    def _restore_release(self, release: ReleaseRow, now: float) -> None:
        if release.rest_until is not None:  # no longer than a rest, should the wall clock have been set back
            release.rest_until = min(release.rest_until, now + self._rest)
        if self._power.restore(release, now) and release.boards:
            _check(self._machines[release.machine], release.boards)
            self._wait_for(release, now)

    def _restore_job(self, row: JobRow, now: float) -> None:
        if row.ended_at is not None:
            self._retired[row.job_id] = row
            return
        request = parse_request(
            row.args, {**row.kwargs, "owner": row.owner}, max_priority=row.kwargs.get("priority") or 0
        )
        job = Job(**msgspec.structs.asdict(row), request=request)
        if job.state not in _STATES[job.allocation is not None]:
            raise ValueError(f"job {job.job_id} cannot be in state {job.state}")
        self._jobs[job.job_id] = job
        self._quotas.add(job)
        job.operation = None
        self._begin_lease(job, now)
        self._bound_runtime(job, now)
        if job.allocation is None:
            job.due = self._scheduler.submit(job.job_id, request, job.created_at, job.due)
            return
        machine = self._machines[job.allocation.machine]
        _check(machine, job.allocation.boards)
        if job.allocation.wraps is None or job.allocation.stopped is None:
            job.allocation = as_told_before(machine, job.allocation)
            self._stale[job.job_id] = job
        self._scheduler.adopt(job.job_id, request, job.allocation, job.allocated_at or now)
        if job.state == JobState.power:
            self._power.switch(job, machine, on=bool(job.power))


def _check(machine: Machine, boards: Collection[Board]) -> None:
    """Raise `ValueError` where there is no such board; one may be dead by now."""
    for x, y, z in boards:
        if not (0 <= x < machine.width and 0 <= y < machine.height and 0 <= z < BOARDS_PER_TRIAD):
            raise ValueError(f"{machine.name} has no board {(x, y, z)}")
