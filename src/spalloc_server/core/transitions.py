"""What can happen to one job and its boards.

Theory of operation. Functions over a `State`, which make its parts agree: where a job starts, is switched, waits again
or ends, the scheduler, the power operations, the records of boards, the quotas and the outbox all follow.

Nothing here is caught: `engine` says when a transition happens, and contains what one raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.records import address
from spalloc_server.core.job import Event, Job
from spalloc_server.core.model import Allocation, BoardFailure, Holding, JobEvent, ReleaseRow, reasons
from spalloc_server.core.state import State

__all__: list[str] = []


def start(state: State, job: Job, allocation: Allocation, now: float) -> None:
    """The scheduler has given boards to the job."""
    job.apply(Event.allocated)
    job.allocation, job.allocated_at = allocation, now
    job.placements += 1
    state.outbox.changed_machines.add(allocation.machine)
    state.power.switch(job, state.machines[allocation.machine], on=True)
    changed(state, job, "allocated", now)


def job_switched(state: State, job: Job, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
    """The power operation of a job is over; these boards have failed."""
    state.power.forget(job)
    if failures and job.power:
        place_again(state, job, failures, now)
        return
    job.apply(Event.switched)
    job.failed_in = frozenset()
    if job.ready_at is None:
        job.ready_at = now
        bound_run_time(state, job, now)
    changed(state, job, "ready", now)


def bound_run_time(state: State, job: Job, now: float) -> None:
    """Watch the run time that the job asked for: first to warn its user, and then to end the job."""
    if job.ends_at is not None:
        job.bound = job.warned_at
        if job.bound <= now:  # as after a restart
            warn(state, job, now)
        state.run_times.add(job)


def run_time_passed(state: State, job: Job, now: float) -> None:
    """Warn the job's user, or end the job if that was done already."""
    if job.warning is not None:
        end(state, job, f"{job.run_time_over}.", now)
    else:
        warn(state, job, now)
        state.run_times.add(job)


def warn(state: State, job: Job, now: float) -> None:
    """Warn the job's user that the run time is over soon."""
    job.warn(now)
    state.outbox.changed_jobs.add(job.job_id)


def place_again(state: State, job: Job, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
    """Take a job's boards away, some of which could not be switched on, and let it wait for others.

    End it instead if it has been ready: its user has its boards' addresses, and published clients ask for them once.
    """
    assert job.allocation is not None
    machine = state.machines[job.allocation.machine]
    failed = state.boards.failed(machine, job.allocation.boards, failures, now)
    bad = (board for board in job.allocation.boards if address(machine, board) in failures)
    job.failed_in |= {(machine.name, machine.board_locations[board][:2]) for board in bad}
    if job.ready_at is not None:
        end(state, job, f"{reasons.NOT_CONFIGURED}. {failed}", now)
    elif job.placements >= state.configuration.health.max_placements:
        end(state, job, f"{reasons.NOWHERE} {job.placements} places, last {failed}.", now)
    else:
        requeue(state, job, failed, now)


def requeue(state: State, job: Job, reason: str, now: float) -> None:
    """Take the boards of a job that was never ready away, and let it wait for others."""
    state.power.forget(job)
    job.apply(Event.failed)
    changed(state, job, "failed", now, reason=reason)
    give_back(state, job, now, learn=False)
    assert job.allocation is not None
    assert job.allocated_at is not None
    had = Holding(job.allocation.machine, len(job.allocation.boards), job.allocated_at, now)
    job.earlier = [*(job.earlier or ()), had]
    job.allocation, job.power = None, True
    submit(state, job)


def submit(state: State, job: Job) -> None:
    """Let a job join the queue that has waited already: with its submit time, and apart from frames that failed it."""
    avoid: dict[str, list[Board]] = {}
    for name, frame in job.failed_in:
        if name in state.machines:
            avoid.setdefault(name, []).extend(state.machines[name].frames.get(frame, ()))
    state.scheduler.submit(job.job_id, job.request, job.created_at, avoid=avoid)
    job.waits = None  # until its start is predicted anew


def boards_released(state: State, operation: int, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> None:
    """Boards of a release are switched off, except those that have failed. That they go back was told when it began."""
    rest = state.configuration.seconds_before_free
    rest_until = now + rest if rest > 0 else None
    release = state.power.released(operation, rest_until)
    if release is None or not release.boards:
        return
    state.boards.failed(state.machines[release.machine], release.boards, failures, now)
    mine = [board for board in release.boards if state.scheduler.holder(release.machine, board) == release.job_id]
    state.scheduler.free(release.machine, mine, rest_until=rest_until, now=now)
    if failures:
        state.outbox.changed_machines.add(release.machine)


def wait_for(state: State, release: ReleaseRow, now: float) -> None:
    """Hold the boards of a release until they are off and have rested."""
    state.scheduler.hold(release.machine, release.boards, release.job_id)
    if release.rest_until is not None:
        state.scheduler.free(release.machine, release.boards, rest_until=release.rest_until, now=now)


def end(state: State, job: Job, reason: str | None, now: float, gone: Mapping[str, Machine] | None = None) -> None:
    """End a job: take its boards back, and put it into history. Its machine may be one of those that have gone."""
    job.apply(Event.ended)
    state.power.forget(job)
    if job.allocation is not None:
        give_back(state, job, now, learn=job.ready_at is not None, gone=gone)
    elif job.held is None:
        state.scheduler.withdraw(job.job_id)
    job.power, job.reason, job.ended_at, job.held = None, reason, now, None
    del state.jobs[job.job_id]
    state.quotas.remove(job)
    state.retired[job.job_id] = job.row()
    forget_retired(state)
    changed(state, job, "destroyed", now)
    state.outbox.jobs[job.job_id] = job.last_row()


def move(state: State, job: Job, allocation: Allocation) -> None:
    """Give a job's boards, and its request, the name and the coordinates that a new configuration has for them."""
    request = job.request
    if request.machine is not None:
        request = msgspec.structs.replace(request, machine=allocation.machine)
    if request.board is not None:
        request = msgspec.structs.replace(request, board=allocation.boards[0])
    if request.root is not None:
        request = msgspec.structs.replace(request, root=(allocation.x, allocation.y))
    state.scheduler.move(job.job_id, request, allocation)
    if allocation != job.allocation:
        job.request, job.allocation = request, allocation
        job.revision += 1
        state.outbox.jobs[job.job_id] = job
        state.outbox.changed_jobs.add(job.job_id)


def give_back(state: State, job: Job, now: float, *, learn: bool, gone: Mapping[str, Machine] | None = None) -> None:
    """Take the boards of a job away, and switch them off."""
    assert job.allocation is not None
    assert job.allocated_at is not None
    job.board_seconds += len(job.allocation.boards) * (now - job.allocated_at)
    state.scheduler.end(job.job_id, now, learn=learn)
    learn_facts(state)
    machine = (gone or state.machines)[job.allocation.machine]
    state.power.release(job.job_id, machine, job.allocation.boards, held=not gone)
    state.outbox.changed_machines.add(job.allocation.machine)


def touch(state: State, job_id: int, host: str | None) -> Job | None:
    """Return the live job of this number, its lease begun anew; None where there is none."""
    job = state.jobs.get(job_id)
    if job is not None:
        renew_lease(state, job, host)
    return job


def renew_lease(state: State, job: Job, host: str | None) -> None:
    """Begin a job's lease anew, as somebody at this address has asked for; None for nobody in particular."""
    if (keepalive := job.keepalive) is not None and keepalive > 0:
        job.deadline = state.clock() + keepalive
    if host != job.keepalivehost and host is not None:
        job.keepalivehost = host
        job.revision += 1


def begin_lease(state: State, job: Job, now: float) -> None:
    """Begin a job's lease."""
    if job.keepalive is not None:
        job.deadline = now + job.keepalive
    state.leases.add(job)


def changed(state: State, job: Job, event: str, now: float, reason: str | None = None) -> None:
    """Note that something has happened to the job, to be stored and published."""
    job.revision += 1
    happened = job_event(job, event, now, reason)
    state.outbox.jobs[job.job_id] = job
    state.outbox.changed_jobs.add(job.job_id)
    state.outbox.events.append(happened)


def job_event(job: Job, event: str, now: float, reason: str | None = None) -> JobEvent:
    """Return an entry for a log of jobs."""
    machine, boards = (job.allocation.machine, job.allocation.boards) if job.allocation else (None, ())
    reason, seconds = reason or job.reason, _seconds(job, event, now)
    return JobEvent(now, event, job.job_id, job.owner, job.keepalivehost, job.power, machine, boards, reason, seconds)


def _seconds(job: Job, event: str, now: float) -> float | None:
    """How long what has ended with this event was."""
    placed = job.created_at if job.allocation is None or job.allocated_at is None else job.allocated_at
    if event == "allocated":
        return now - job.created_at
    return now - placed if event == "destroyed" or (event == "ready" and job.ready_at == now) else None


def learn_facts(state: State) -> None:
    """Store what the scheduler has learnt of owners."""
    with state.defects.contained("what was learnt of owners"):
        for name, value in state.scheduler.facts().items():
            set_fact(state, name, value)


def set_fact(state: State, name: str, value: Any) -> None:
    """Store a named value, or delete it (None)."""
    state.outbox.facts[name] = value
    if value is None:
        state.facts.pop(name, None)
    else:
        state.facts[name] = value


def forget_retired(state: State) -> None:
    """Remember no more jobs that have ended than the configuration says."""
    while len(state.retired) > state.configuration.max_retired_jobs:
        del state.retired[next(iter(state.retired))]


def close(state: State) -> None:
    """Tell the scheduler which machines are closed."""
    state.scheduler.close(state.closures.drained, everything=state.closures.stopped is not None)
