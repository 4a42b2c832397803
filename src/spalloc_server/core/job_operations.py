"""What operators do with jobs: end them, put them on hold and release them, give them more time or another priority.

Theory of operation. Functions over an `Engine`, each for any number of jobs at once, so that nothing starts in between.
All jobs are looked at first: where one of them will not do, `RequestError` says why, and nothing has changed. What
raises later has changed nothing either (`undo`), but for `kill`, which is obeyed whatever raises.

A job on hold is queued, and keeps its submit time and its lease. But the scheduler does not know it: so no pass tries
it, it has no reservation, and nobody's wait is judged by it. Whether there still is a machine for it is found out when
it is released.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from spalloc_server.core import transitions
from spalloc_server.core.engine import NO_MACHINES, Engine
from spalloc_server.core.job import Job
from spalloc_server.core.model import JobState, Note, Request
from spalloc_server.core.state import State
from spalloc_server.core.undo import Undo
from spalloc_server.errors import RequestError

__all__ = ["extend", "hold", "kill", "release", "set_priority"]

NAMED = 10
"""Jobs that are named where some do not exist."""


def kill(engine: Engine, job_ids: Sequence[int], *, reason: str, by: str) -> list[int]:
    """End jobs; their reason says by whom and why. Return which: those are left out that have ended already.

    Raises:
        RequestError: one of them has never been, or none of them lives.
    """
    state, now = engine.state, engine.state.clock()
    unknown = [job_id for job_id in job_ids if not 1 <= job_id < state.next_id]
    jobs = [state.jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in state.jobs]
    if unknown or not jobs:
        raise _none_live(unknown or job_ids)
    numbers = _numbers(jobs)
    for job in jobs:
        with engine.contained("the end of a job", job):
            transitions.end(state, job, f"Ended by {by}: {reason}", now)
    engine.follow(now)
    return numbers


def hold(engine: Engine, job_ids: Sequence[int], *, reason: str, by: str) -> list[int]:
    """Have queued jobs not start until they are released. A job that is held already is held for this reason."""
    state, now = engine.state, engine.state.clock()
    jobs = _queued(state, job_ids)
    with Undo() as undo:
        for job in jobs:
            undo.fields(job)
            if job.held is None:
                _leave(state, undo, job)
            job.held = Note(reason, by, now)
        numbers = _tell(state, jobs, "held", now, f"by {by}: {reason}")
    engine.follow(now)
    return numbers


def release(engine: Engine, job_ids: Sequence[int], *, by: str) -> list[int]:
    """Have jobs wait again as if they had never been held. Return which: those are left out that were not held."""
    state, now = engine.state, engine.state.clock()
    jobs = [job for job in _queued(state, job_ids) if job.held is not None]
    refusals = [(job, refusal) for job in jobs if (refusal := state.scheduler.refusal(job.request)) is not None]
    with Undo() as undo:
        for job in jobs:
            undo.fields(job)
            undo.call(state.scheduler.forget, job.job_id)
            job.held = None
            transitions.submit(state, job)
        state.scheduler.reorder()
        numbers = _tell(state, jobs, "released", now, f"by {by}")
    for job, refusal in refusals:
        with engine.contained("the end of a job", job):
            transitions.end(state, job, f"{NO_MACHINES} {refusal}", now)
    engine.follow(now)
    return numbers


def extend(engine: Engine, job_ids: Sequence[int], seconds: float, *, by: str) -> list[int]:
    """Let jobs that have a `max_runtime` run so much longer, whether they have boards yet or not."""
    if not seconds > 0:
        raise RequestError(f"a job cannot be given {seconds:g} s more: give more than 0")
    jobs = _live(engine.state, job_ids)
    requests = []
    for job in jobs:
        if (most := job.request.max_runtime) is None:
            raise RequestError(f"job {job.job_id} has no max_runtime: it may run for as long as it is kept alive")
        requests.append(msgspec.structs.replace(job.request, max_runtime=most + seconds))
    return _change(engine, jobs, requests, "extended", f"by {by}: {seconds:g} s more")


def set_priority(engine: Engine, job_ids: Sequence[int], priority: int, *, by: str) -> list[int]:
    """Give queued jobs another priority, and so their new places in the queue at once."""
    if priority > (highest := engine.state.configuration.scheduling.max_priority):
        raise RequestError(f"priority {priority} is more than this server allows: at most {highest}")
    jobs = _queued(engine.state, job_ids)
    requests = [msgspec.structs.replace(job.request, priority=priority) for job in jobs]
    return _change(engine, jobs, requests, "priority", f"by {by}: {priority}")


def _change(engine: Engine, jobs: Sequence[Job], requests: Sequence[Request], event: str, reason: str) -> list[int]:
    """Have jobs ask for something else, which does not bear on their places on machines."""
    state, now = engine.state, engine.state.clock()
    for request in requests:
        request.check()
    with Undo() as undo:
        for job, request in zip(jobs, requests, strict=True):
            undo.fields(job)
            before, job.request = job.request, request
            if job.allocation is not None:
                undo.call(state.scheduler.change, job.job_id, before)
                state.scheduler.change(job.job_id, request)
                job.extended(now)
            elif job.held is None:
                _leave(state, undo, job)
                transitions.submit(state, job)
        state.scheduler.reorder()
        numbers = _tell(state, jobs, event, now, reason)
    engine.follow(now)
    return numbers


def _leave(state: State, undo: Undo, job: Job) -> None:
    """Take a job out of the scheduler's queue."""
    undo.call(state.scheduler.put_back, state.scheduler.waiting(job.job_id))
    state.scheduler.withdraw(job.job_id)


def _live(state: State, job_ids: Sequence[int]) -> list[Job]:
    """Return these jobs, each once; `RequestError` where one of them does not live."""
    if gone := [job_id for job_id in job_ids if job_id not in state.jobs]:
        raise _none_live(gone)
    return [state.jobs[job_id] for job_id in dict.fromkeys(job_ids)]


def _queued(state: State, job_ids: Sequence[int]) -> list[Job]:
    """The same of jobs that have no boards."""
    jobs = _live(state, job_ids)
    for job in jobs:
        if job.state != JobState.queued:
            raise RequestError(f"job {job.job_id} has boards already: this is only for jobs that wait for theirs")
    return jobs


def _none_live(job_ids: Sequence[int]) -> RequestError:
    named = ", ".join(map(str, job_ids[:NAMED]))
    return RequestError(f"there is no live job {named}{' and others' if len(job_ids) > NAMED else ''}")


def _numbers(jobs: Sequence[Job]) -> list[int]:
    return [job.job_id for job in jobs]


def _tell(state: State, jobs: Sequence[Job], event: str, now: float, reason: str) -> list[int]:
    """Note what has happened to jobs, as `transitions.changed` does, of all or of none; return their numbers."""
    events = [transitions.job_event(job, event, now, reason) for job in jobs]
    numbers = _numbers(jobs)
    for job in jobs:  # from here on nothing can raise
        job.revision += 1
        state.outbox.jobs[job.job_id] = job
    state.outbox.changed_jobs.update(numbers)
    state.outbox.events.extend(events)
    return numbers
