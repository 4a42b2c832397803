"""What users command: jobs, their power, and reports of boards that do not work.

Theory of operation. Functions over an `Engine`. Each reads the clock, changes the state as a whole or not at all
(`undo`), and lets whatever can start, start. An unknown job is never an error, because published clients hang or die on
errors they do not expect. Naming a job renews its lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core import transitions
from spalloc_server.core.boards.hosts import host_key
from spalloc_server.core.engine import NO_MACHINES, Engine
from spalloc_server.core.job import Event, Job
from spalloc_server.core.model import MAX_TEXT, NO_JOB, BoardReport, JobState, Request
from spalloc_server.core.state import State
from spalloc_server.core.undo import Undo
from spalloc_server.errors import RequestError

__all__ = ["MAX_REPORT", "create_job", "destroy_job", "report_issue", "report_problem", "switch_power"]

MAX_REPORT = 500
"""Characters of a report that are kept."""

LATELY = 100
"""Jobs, those that ended last, among which is looked for the one that had a board when it was reported."""


def create_job(
    engine: Engine,
    request: Request,
    *,
    keepalive: float | None,
    host: str | None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    original: str | None = None,
    session: str | None = None,
    of_account: bool = False,
) -> int:
    """Make a job and start it if it can start; its number.

    Args:
        engine: the core.
        request: what is asked for.
        keepalive: seconds that it lives without being named; None where it never expires.
        host: the address that the command came from.
        args: the positional arguments, as `list_jobs` has them.
        kwargs: the other arguments, likewise.
        original: the request in the words of the door that it came by, as JSON.
        session: the one in which it was made.
        of_account: whether its owner's name has been checked.

    Raises:
        RequestError: the request makes no sense or is too long, its priority is too high, or there are too many jobs.
    """
    state, now = engine.state, engine.state.clock()
    request.check()
    request.check_lengths()
    if request.priority > (highest := state.configuration.scheduling.max_priority):
        raise RequestError(f"priority {request.priority} is more than this server allows: at most {highest}")
    state.quotas.admit(request.owner, host, state.scheduler.queued)
    refusal = state.scheduler.refusal(request)
    job = Job(
        job_id=state.next_id,
        owner=request.owner,
        args=list(args),
        kwargs=dict(kwargs or {}),
        keepalive=keepalive,
        keepalivehost=host,
        state=JobState.queued,
        power=None,
        created_at=now,
        created_from=host,
        original=original,
        session=session,
        of_account=of_account,
        deadline=None if keepalive is None else now + keepalive,
        request=request,
    )
    if refusal is None:
        _admit(state, job, now)
        engine.follow(now)
    else:
        _refuse(state, job, f"{NO_MACHINES} {refusal}", now)
        with engine.contained("jobs that have ended and are not remembered any longer"):
            transitions.forget_retired(state)
    return job.job_id


def switch_power(engine: Engine, job_id: int, host: str | None, *, on: bool) -> None:
    """Switch a job's boards on (those that are on are reset), or off; the job keeps them."""
    state = engine.state
    job = state.jobs.get(job_id)
    if job is None:
        return
    with Undo() as undo:
        undo.fields(job)
        state.power.note_before(undo, job)
        transitions.touch(state, job_id, host)
        if job.allocation is not None:
            job.apply(Event.asked)
            state.power.switch(job, state.machines[job.allocation.machine], on=on)
            transitions.changed(state, job, "power", state.clock())


def destroy_job(engine: Engine, job_id: int, reason: str | None = None) -> None:
    """End a job; its boards are switched off and go back. Where that raises, the job is given up."""
    job = engine.state.jobs.get(job_id)
    if job is None:
        return
    now = engine.state.clock()
    text = None if reason is None else str(reason)
    engine.finish(job, text if job.allocation else f"Cancelled: {text or ''}", now)
    engine.follow(now)


def report_problem(engine: Engine, host: str, text: str, *, reporter: str, user: str | None = None) -> None:
    """Record a user's report that the board at this address does not work; unknown addresses are no error.

    Args:
        engine: the core.
        host: address of the board, in any spelling of what `get_job_machine_info` gives.
        text: what does not work.
        reporter: address that the report comes from.
        user: name of who reports, where it has been verified.
    """
    found = [
        (machine, board)
        for machine in engine.state.machines.values()
        for board in machine.live_boards
        if host_key(machine.spinnaker_ips[board]) == host_key(host)
    ]
    _report(engine, found, text, reporter=reporter, user=user)


def report_issue(
    engine: Engine, job_id: int, hosts: Sequence[str], text: str, *, reporter: str, user: str | None = None
) -> int:
    """Record the report of a job's user that boards of the job do not work, all of them or none.

    Args:
        engine: the core.
        job_id: the job.
        hosts: addresses of its boards.
        text: what does not work.
        reporter: as in `report_problem`.
        user: likewise.

    Returns:
        How many boards this has taken out of service.

    Raises:
        RequestError: the job has no boards, or not one at such an address.
    """
    state = engine.state
    job = transitions.touch(state, job_id, reporter)
    if job is None or job.allocation is None:
        raise RequestError(f"job {job_id} has no boards")
    machine = state.machines[job.allocation.machine]
    boards = {host_key(machine.spinnaker_ips[board]): board for board in job.allocation.boards}
    keys = {host_key(host): host for host in hosts}
    if strange := [host for key, host in keys.items() if key not in boards]:
        raise RequestError(f"job {job_id} has no board at {strange[0][:MAX_TEXT]!r}")
    named = [boards[key] for key in keys]
    before = _out_of_service(state, machine, named)
    _report(engine, [(machine, board) for board in named], text, reporter=reporter, user=user)
    return _out_of_service(state, machine, named) - before


def _out_of_service(state: State, machine: Machine, boards: Sequence[Board]) -> int:
    return sum(state.boards.out_of_service(machine, board) is not None for board in boards)


def _report(
    engine: Engine, found: Sequence[tuple[Machine, Board]], text: str, *, reporter: str, user: str | None
) -> None:
    state, now = engine.state, engine.state.clock()
    with Undo() as undo:
        for machine, board in found:
            job = state.jobs.get(state.scheduler.holder(machine.name, board) or NO_JOB)
            owner, ready_for = None if job is None else job.owner, _had_it_ready(state, machine, board, job)
            report = BoardReport(now, owner, reporter, text[:MAX_REPORT], ready_for, user)
            undo.call(state.boards.apply, machine, [board])
            state.boards.note_before((machine.name, *board), undo)
            state.boards.reported(machine, board, report)
        names = [machine.name for machine, _ in found]
        state.outbox.changed_machines.update(names)
    engine.follow(now)


def _had_it_ready(state: State, machine: Machine, board: Board, job: Job | None) -> int | None:
    """Return the number of the job that has a board ready, or has had it lately."""
    if job is not None:
        return None if job.ready_at is None else job.job_id
    for row in islice(reversed(state.retired.values()), LATELY):
        place = row.allocation
        if row.ready_at is not None and place and place.machine == machine.name and board in place.boards:
            return row.job_id
    return None


# From the last call of each of these on, nothing can raise any more


def _admit(state: State, job: Job, now: float) -> None:
    """Add a new job to every part; where one of them raises, to none."""
    created = transitions.job_event(job, "created", now)
    state.scheduler.submit(job.job_id, job.request, now)
    try:
        state.quotas.add(job)
        state.leases.add(job)
    except BaseException:
        state.scheduler.forget(job.job_id)
        state.quotas.recount(state.jobs.values())
        raise
    state.jobs[job.job_id] = state.outbox.jobs[job.job_id] = job
    state.outbox.events.append(created)
    state.outbox.changed_jobs.add(job.job_id)
    state.next_id += 1
    state.facts["next_id"] = state.outbox.facts["next_id"] = state.next_id


def _refuse(state: State, job: Job, reason: str, now: float) -> None:
    """Put a new job that no machine could ever serve straight into history."""
    created = transitions.job_event(job, "created", now)
    job.state, job.reason, job.ended_at = JobState.destroyed, reason, now
    ended, row, last_row = transitions.job_event(job, "destroyed", now), job.row(), job.last_row()
    state.retired[job.job_id], state.outbox.jobs[job.job_id] = row, last_row
    state.outbox.events.extend((created, ended))
    state.outbox.changed_jobs.add(job.job_id)
    state.next_id += 1
    state.facts["next_id"] = state.outbox.facts["next_id"] = state.next_id
