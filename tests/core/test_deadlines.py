"""Deadlines that pass are noticed in time, and those of jobs that have ended cost nothing for ever."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from spalloc_server.core import deadlines as module
from spalloc_server.core.deadlines import Deadlines
from spalloc_server.core.job import Job
from spalloc_server.core.model.job_state import JobState
from tests.core.test_job import a_job


def due(job_id: int, deadline: float) -> Job:
    return msgspec.structs.replace(a_job(JobState.queued), job_id=job_id, deadline=deadline)


def test_a_job_that_has_no_deadline_any_more_does_not_pass_one() -> None:
    jobs = {number: due(number, 10.0) for number in (1, 2)}
    deadlines = Deadlines(jobs, lambda job: job.deadline)
    for job in jobs.values():
        deadlines.add(job)
    jobs[1].deadline = None
    assert deadlines.passed(20.0) == [jobs[2]]
    assert deadlines.first() is None


@given(st.lists(st.integers(0, 100), min_size=8, max_size=40), st.data())
def test_once_most_have_ended_the_first_deadline_is_that_of_a_job_that_lives(
    times: list[int], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPARE", 0)
        jobs = {number: due(number, float(time)) for number, time in enumerate(times)}
        deadlines = Deadlines(jobs, lambda job: job.deadline)
        for job in jobs.values():
            deadlines.add(job)
        live = data.draw(st.sets(st.sampled_from([*jobs]), max_size=(len(times) - 3) // 2))
        for number in jobs.keys() - live:
            del jobs[number]
        jobs[1000] = due(1000, 50.0)
        deadlines.add(jobs[1000])
        assert deadlines.first() == min(job.deadline for job in jobs.values() if job.deadline is not None)
        passed = [job.job_id for time in range(101) for job in deadlines.passed(float(time))]
        assert passed == sorted(jobs, key=lambda number: (jobs[number].deadline, number))
