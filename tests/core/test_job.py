from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spalloc_server.core.deadlines import SPARE
from spalloc_server.core.job import TRANSITIONS, Event, Job
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.request import Request
from tests.core.house import House
from tests.core.machines import a_machine


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


@pytest.mark.parametrize("keepalive", [60.0, 1e10])
def test_jobs_that_are_over_are_not_kept_until_their_leases_would_have_run_out(keepalive: float) -> None:
    house = House(a_machine("m", 1, 1), seconds_before_free=0, max_retired_jobs=10)
    lasting = house.create(3, keepalive=keepalive)
    house.hardware()
    core = house.controller
    for _ in range(3 * SPARE):
        core.destroy_job(core.create_job(owner="me", keepalive=keepalive))
        core.take_changes()
    core.check()
    assert len(core.state.leases._heap) <= SPARE + 10
    house.after(keepalive + 1)
    assert house.state(lasting) == JobState.destroyed


WORDY: dict[str, Any] = {"owner": "o" * 256, "tags": [f"{n}" * 128 for n in range(10, 26)]}


def line_of(house: House, job_id: int) -> int:
    """Bytes of what history keeps of a job."""
    return len(msgspec.json.encode(house.controller.take().changes.jobs[job_id]))


def test_a_job_that_never_had_boards_leaves_a_short_line_and_its_user_the_whole_reason() -> None:
    house = House(a_machine("m", 1, 1, tags=WORDY["tags"]), seconds_before_free=0)
    running = house.create(3, **WORDY)
    house.hardware()
    waiting, refused = house.create(3, **WORDY), house.create(3, **{**WORDY, "tags": ["t" * 256] * 16})
    assert line_of(house, refused) < 1000
    assert house.controller.job_view(refused).kwargs["tags"] == ["t" * 256] * 16
    house.controller.destroy_job(waiting, "r" * 500)
    assert line_of(house, waiting) < 1000
    assert house.controller.get_job_state(waiting).reason == "Cancelled: " + "r" * 500
    house.controller.destroy_job(running)
    assert line_of(house, running) > 4000
