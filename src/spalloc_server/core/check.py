"""Whether all that the core knows agrees with itself: for tests, after every step."""

from __future__ import annotations

from spalloc_server.core.machine_facts import IMPORTED, machine_from_fact
from spalloc_server.core.model import JobState
from spalloc_server.core.state import State

__all__ = ["check"]


def check(state: State) -> None:
    """Assert every invariant."""
    state.scheduler.check()
    state.quotas.check(list(state.jobs.values()))
    state.leases.check()
    state.run_times.check()
    operations = state.power.operations()
    assert operations == {job.operation: job.job_id for job in state.jobs.values() if job.operation is not None}
    state.boards.check(state.machines.values())
    assert len(state.retired) <= state.configuration.max_retired_jobs
    assert state.retired.keys().isdisjoint(state.jobs)
    _check_jobs_and_boards(state)
    _check_closures(state)
    defined = {name.removeprefix(IMPORTED): fact for name, fact in state.facts.items() if name.startswith(IMPORTED)}
    assert {name: machine_from_fact(fact) for name, fact in defined.items()} == state.imported
    assert all(state.machines.get(name) == machine for name, machine in state.imported.items())


def _check_jobs_and_boards(state: State) -> None:
    held = {(machine, board): job_id for machine, board, job_id in (*state.power.held(), *state.self_tests.held())}
    for job in state.jobs.values():
        assert job.state in {JobState.queued, JobState.power, JobState.ready}
        assert (job.state == JobState.queued) == (job.allocation is None), f"job {job.job_id} is queued with boards"
        waits = job.state == JobState.queued and job.held is None
        assert (state.scheduler.waiting(job.job_id) is not None) == waits, f"job {job.job_id} waits, or does not"
        assert job.held is None or job.state == JobState.queued, f"job {job.job_id} is held with boards"
        assert (job.state == JobState.power) == (job.operation is not None), f"job {job.job_id} waits for nothing"
        for board in job.allocation.boards if job.allocation else ():
            assert held.setdefault((job.allocation.machine, board), job.job_id) == job.job_id  # type: ignore[union-attr]
    for machine in state.machines.values():
        for board in machine.live_boards:
            assert state.scheduler.holder(machine.name, board) == held.get((machine.name, board)), f"{board} is torn"


def _check_closures(state: State) -> None:
    for machine in state.machines.values():
        for (name, frame), note in state.closures.frames.items():
            if name == machine.name and frame in machine.frames:
                for board in machine.frames[frame]:
                    assert board in machine.dead_boards or state.boards.out_of_service(machine, board), note
    stored = {
        name: fact
        for name, fact in state.facts.items()
        if name.partition("/")[0] in {"disabled", "drained", "away", "stopped"}
    }
    assert state.closures.facts() == stored
    if state.closures.stopped is not None:
        assert not any(job.allocation for job in state.jobs.values()), "a job has boards in an emergency"
