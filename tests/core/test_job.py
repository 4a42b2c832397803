from __future__ import annotations

import msgspec
import pytest

from spalloc_server.core.job import TRANSITIONS, Event, Job
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.request import Request


def a_job(state: JobState, allocated_at: float | None = None) -> Job:
    return Job(
        job_id=1,
        owner="me",
        args=[],
        kwargs={},
        keepalive=60.0,
        keepalivehost=None,
        state=state,
        power=None,
        created_at=0.0,
        allocated_at=allocated_at,
        request=Request(owner="me", boards=1),
    )


def test_every_live_state_can_end_and_none_comes_back_from_the_dead() -> None:
    live = {JobState.queued, JobState.power, JobState.ready}
    assert {state for state, event in TRANSITIONS if event is Event.ended} == live
    assert JobState.destroyed not in {state for state, _ in TRANSITIONS}
    assert all(TRANSITIONS[state, Event.ended] is JobState.destroyed for state in live)


def test_every_live_state_can_be_reached_from_the_queue() -> None:
    reached = {JobState.queued}
    while more := {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(JobState) - {JobState.unknown}


def test_a_transition_that_cannot_happen_is_an_error() -> None:
    job = a_job(JobState.queued)
    with pytest.raises(KeyError):
        job.apply(Event.switched)
    assert job.state == JobState.queued


def test_a_job_that_lost_its_boards_still_reports_that_it_is_being_switched_on() -> None:
    assert a_job(JobState.queued).reported == JobState.queued
    assert a_job(JobState.queued, allocated_at=1000.0).reported == JobState.power
    assert a_job(JobState.ready, allocated_at=1000.0).reported == JobState.ready


def test_a_row_is_a_copy() -> None:
    job = a_job(JobState.power)
    row = job.row()
    job.apply(Event.switched)
    assert row.state == JobState.power


@pytest.mark.parametrize(
    ("seconds", "warned_at"), [(1000.0, 1040.0), (120.0, 160.0), (119.0, 159.5), (60.0, 130.0), (10.0, 105.0)]
)
def test_the_end_of_a_run_time_is_told_a_minute_before_or_at_half_time(seconds: float, warned_at: float) -> None:
    request = Request(owner="me", boards=1, max_runtime=seconds)
    assert msgspec.structs.replace(a_job(JobState.ready), request=request).ends_at is None, "it is not ready yet"
    job = msgspec.structs.replace(a_job(JobState.ready), request=request, ready_at=100.0)
    assert (job.ends_at, job.warned_at) == (100.0 + seconds, warned_at)
    job.warn(warned_at)
    left = 100.0 + seconds - warned_at
    told = f"The run time of {seconds:g} s that was asked for is over in {left:.0f} s; then the job will be ended."
    assert (job.bound, job.warning, job.revision) == (100.0 + seconds, told, 1)
    job.warn(1e6)
    assert "is over in 0 s;" in (job.warning or "")
