"""What operators see of jobs: what they have and ask for, and of those that wait why, and until when.

Theory of operation. As in `views`, everything is worked out when it is asked for. What is said of all jobs takes little
time: of those that wait only what has been predicted already. One job that is asked for alone is looked at closely.
"""

from __future__ import annotations

import msgspec

from spalloc_server.core.job import Job
from spalloc_server.core.model import JobRow, JobState, JobView
from spalloc_server.core.model.arguments import KEYWORDS
from spalloc_server.core.state import State
from spalloc_server.core.views import closed
from spalloc_server.errors import RequestError

__all__ = ["job_view", "job_views"]


def job_views(state: State) -> list[JobView]:
    """All live jobs, oldest first."""
    return [_live_view(state, job) for job in state.jobs.values()]


def job_view(state: State, job_id: int) -> JobView:
    """One job, live or ended; where it waits, with the reason why.

    Raises:
        RequestError: there is no such job, or none that is remembered.
    """
    job = state.jobs.get(job_id) or state.retired.get(job_id)
    if job is None:
        raise RequestError(f"no job {job_id} is known, neither a live one nor one that ended lately")
    if not isinstance(job, Job):
        return _job_view(job)
    view = _live_view(state, job)
    if job.state == JobState.queued and job.held is None:
        why = state.scheduler.explain(job_id, state.clock())
        keeps = closed(state, why.machines, frames=why.waits_for is None)
        view.reason, view.position, view.waits_for = "; ".join([why.text, *keeps]), why.position, why.waits_for
        view.held_by, view.predicted_start = why.held_by, why.predicted_start
    return view


def _live_view(state: State, job: Job) -> JobView:
    """One job that lives, with what is predicted of it, if it waits."""
    view = _job_view(job)
    if job.held is not None:
        view.reason = job.notice
    elif job.state == JobState.queued and (forecast := state.scheduler.predicted(job.job_id)) is not None:
        view.position, view.reason = forecast.position, forecast.why
        view.earliest_start, view.predicted_start, view.latest_start = (
            forecast.earliest,
            forecast.start,
            forecast.latest,
        )
    return view


def _job_view(job: Job | JobRow) -> JobView:
    state = job.reported if isinstance(job, Job) else JobState(job.state)
    kwargs = job.kwargs
    if not kwargs and job.request is not None and job.ended_at is not None:  # a row that comes from the history
        wishes = msgspec.to_builtins(job.request)
        kwargs = {name: value for name, value in wishes.items() if name in KEYWORDS - {"owner"}}
    return JobView(
        job_id=job.job_id,
        owner=job.owner,
        state=state.name,
        power=job.power,
        args=job.args,
        kwargs=kwargs,
        host=job.keepalivehost,
        keepalive=job.keepalive,
        machine=job.allocation.machine if job.allocation else None,
        boards=list(job.allocation.boards) if job.allocation else [],
        created_at=job.created_at,
        allocated_at=job.allocated_at,
        ready_at=job.ready_at,
        ended_at=job.ended_at,
        placements=job.placements,
        reason=job.reason,
        held=job.held,
        priority=0 if job.request is None else job.request.priority,
        max_runtime=None if job.request is None else job.request.max_runtime,
        ends_at=job.ends_at if isinstance(job, Job) else None,
    )
