"""The server's core, by the names that the protocol gives its commands.

Theory of operation. A command is a method call. Each reads the injected clock, changes the state through the engine,
and lets whatever can start, start. Naming a job renews its lease. An unknown job is never an error: its state is
`unknown` and its other replies are empty, because published clients hang or die on errors they do not expect.
"""

from __future__ import annotations

from typing import Any

from spalloc_server.coordinates import Board, Location
from spalloc_server.core import queries
from spalloc_server.core.engine import NO_MACHINES
from spalloc_server.core.job import Event, Job
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.replies import JobDescription, JobMachineInfo, JobStatus, MachineDescription, WhereIs
from spalloc_server.core.operations import OperableEngine
from spalloc_server.core.placement.layout import connections, dimensions
from spalloc_server.frontends.v1.requests import DEFAULT_KEEPALIVE, parse_keepalive, parse_request, told_of

__all__ = ["Controller"]

_UNKNOWN = JobStatus(JobState.unknown)
_NOWHERE = JobMachineInfo()


class Controller(OperableEngine):
    """Jobs, machines, queue and leases of one server: commands in, changes out. It does no I/O."""

    # ---------------------------------------------------------------- commands on jobs

    def create_job(self, /, *args: Any, keepalivehost: str | None = None, **kwargs: Any) -> int:
        """Make a job and start it if it can start; its number.

        Args:
            args: sizes, see `frontends.v1.requests.parse_request`.
            keepalivehost: the address that the command came from.
            kwargs: `owner`, `keepalive` and the other keywords of the protocol.

        Raises:
            RequestError: the arguments make no sense, or there are too many jobs. Nothing has changed.
        """
        now = self._clock()
        request = parse_request(args, kwargs, max_priority=self._configuration.scheduling.max_priority)
        keepalive = parse_keepalive(kwargs.get("keepalive", DEFAULT_KEEPALIVE))
        told_args, told_kwargs = told_of(args, kwargs)
        self._quotas.admit(request.owner, keepalivehost, self._scheduler.queued)
        refusal = self._scheduler.refusal(request)
        job = Job(
            job_id=self._next_id,
            owner=request.owner,
            args=told_args,
            kwargs=told_kwargs,
            keepalive=keepalive,
            keepalivehost=keepalivehost,
            state=JobState.queued,
            power=None,
            created_at=now,
            created_from=keepalivehost,
            deadline=None if keepalive is None else now + keepalive,
            request=request,
        )
        self._admit(job, now)
        if refusal is None:
            self._schedule(now)
        else:
            self._finish(job, f"{NO_MACHINES} {refusal}", now)
        return job.job_id

    def job_keepalive(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Start the job's lease anew, as every command that names the job does."""
        self._touch(job_id, keepalivehost)

    def renew(self, job_id: int, host: str | None) -> int | None:
        """Start the job's lease anew; return `Job.revision`, or None where there is no such live job."""
        job = self._touch(job_id, host)
        return None if job is None else job.revision

    def get_job_state(self, job_id: int, keepalivehost: str | None = None) -> JobStatus:
        """State, power, lease and start of a job; unknown ones and ended ones are told apart."""
        job = self._touch(job_id, keepalivehost)
        if job is not None:
            return _status(job)
        row = self._retired.get(job_id)
        return _UNKNOWN if row is None else JobStatus(JobState.destroyed, reason=row.reason)

    def get_job_machine_info(self, job_id: int, keepalivehost: str | None = None) -> JobMachineInfo:
        """Where the job's boards are, and how to reach them."""
        job = self._touch(job_id, keepalivehost)
        if job is None or job.allocation is None:
            return _NOWHERE
        machine = self._machines[job.allocation.machine]
        width, height = dimensions(job.allocation)
        return JobMachineInfo(width, height, connections(machine, job.allocation), machine.name, job.allocation.boards)

    def power_on_job_boards(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Switch the job's boards on; those that are on are reset."""
        self._ask_power(job_id, keepalivehost, on=True)

    def power_off_job_boards(self, job_id: int, keepalivehost: str | None = None) -> None:
        """Switch the job's boards off; the job keeps them."""
        self._ask_power(job_id, keepalivehost, on=False)

    def destroy_job(self, job_id: int, reason: str | None = None) -> None:
        """End the job; its boards are switched off and go back."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        now = self._clock()
        text = None if reason is None else str(reason)
        self._finish(job, text if job.allocation else f"Cancelled: {text or ''}", now)
        self._schedule(now)

    # ---------------------------------------------------------------- questions

    def job_revisions(self) -> list[tuple[int, int]]:
        """Return (number, `Job.revision`) of each live job, oldest first: a new one where anything has changed."""
        return [(job.job_id, job.revision) for job in self._jobs.values()]

    def job_revision(self, job_id: int) -> int | None:
        """Return the revision of a live job; None where there is none."""
        job = self._jobs.get(job_id)
        return None if job is None else job.revision

    def describe_job(self, job_id: int) -> JobDescription:
        """Return what `list_jobs` says of a live job; `KeyError` where there is none."""
        return _describe(self._jobs[job_id])

    def list_jobs(self) -> list[JobDescription]:
        """All live jobs, oldest first."""
        return [_describe(job) for job in self._jobs.values()]

    def created_from(self, job_id: int) -> str | None:
        """The address that created a live job; None where there is no such job, or that is not known."""
        job = self._jobs.get(job_id)
        return None if job is None else job.created_from

    def list_machines(self) -> list[MachineDescription]:
        """All machines, highest priority first."""
        return [
            MachineDescription(
                machine.name,
                sorted(machine.tags),
                machine.width,
                machine.height,
                sorted(machine.dead_boards),
                sorted(machine.dead_links),
            )
            for machine in self._machines.values()
        ]

    def get_board_position(self, machine_name: str, x: int, y: int, z: int) -> Location | None:
        """(cabinet, frame, board) of a board, or None where there is none."""
        return queries.board_position(self._machines.get(machine_name), (x, y, z))

    def get_board_at_position(self, machine_name: str, x: int, y: int, z: int) -> Board | None:
        """(x, y, z) of the board at cabinet x, frame y, board z, or None where there is none."""
        return queries.board_at_position(self._machines.get(machine_name), (x, y, z))

    def where_is(self, /, **place: Any) -> WhereIs | None:
        """One place in every kind of coordinates; `queries.where_is` tells the forms."""
        return queries.where_is(self._machines, self._scheduler.holder, self._allocation_of, place)

    # ---------------------------------------------------------------- helpers

    def _ask_power(self, job_id: int, host: str | None, *, on: bool) -> None:
        job = self._touch(job_id, host)
        if job is None or job.allocation is None:
            return
        with self._contained("power that a user asked for", job):
            job.apply(Event.asked)
            self._power.switch(job, self._machines[job.allocation.machine], on=on)
            self._changed(job, "power", self._clock())

    def _admit(self, job: Job, now: float) -> None:
        """Take a new job into every part; or, where one of them raises, into none."""
        try:
            job.due = self._scheduler.submit(job.job_id, job.request, now)
            self._jobs[job.job_id] = job
            self._quotas.add(job)
            self._leases.add(job)
            self._changed(job, "created", now)
        except BaseException:
            self._scheduler.forget(job.job_id)
            self._jobs.pop(job.job_id, None)
            self._quotas.recount(self._jobs.values())
            self._stale.pop(job.job_id, None)
            self._changed_jobs.discard(job.job_id)
            raise
        self._next_id += 1
        self._set_fact("next_id", self._next_id)

    def _allocation_of(self, job_id: int) -> Allocation | None:
        job = self._jobs.get(job_id)
        return None if job is None else job.allocation


def _status(job: Job) -> JobStatus:
    state = job.reported
    power = job.power if state != JobState.queued else None
    return JobStatus(state, power, job.keepalive, job.warning, job.created_at, job.keepalivehost)


def _describe(job: Job) -> JobDescription:
    state = job.reported
    return JobDescription(
        job.job_id,
        job.owner,
        job.created_at,
        job.keepalive,
        state,
        job.power if state != JobState.queued else None,
        job.args,
        job.kwargs,
        job.allocation.machine if job.allocation else None,
        job.allocation.boards if job.allocation else None,
        job.keepalivehost,
    )
