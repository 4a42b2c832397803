"""What users and operators see: machines, frames, boards and jobs, with reasons, names and times.

Theory of operation. Everything is worked out when it is asked for, from the parts that know it; nothing is kept here.
The structs are what a service hands to a JSON encoder. All times are seconds since the Unix epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.coordinates import Board
from spalloc_server.core import queries
from spalloc_server.core.job import Job
from spalloc_server.core.model import (
    Allocation,
    BoardRow,
    BoardView,
    FrameView,
    JobDescription,
    JobMachineInfo,
    JobRow,
    JobState,
    JobStatus,
    JobView,
    MachineDescription,
    MachineView,
    SetAsideView,
    WhereIs,
)
from spalloc_server.core.placement.layout import connections, dimensions
from spalloc_server.core.set_aside import views as set_aside_views
from spalloc_server.core.state import State
from spalloc_server.errors import RequestError

__all__ = ["ON_TRIAL", "board_view", "board_views", "describe", "job_status", "job_view", "job_views"]
__all__ += ["list_machines", "machine_info", "machine_named", "machine_views", "machine_with", "set_aside", "where_is"]

ON_TRIAL = "on trial"
"""The state of a board that is tried."""

_UNKNOWN = JobStatus(JobState.unknown)
_NOWHERE = JobMachineInfo()


# ---------------------------------------------------------------- what users see


def job_status(state: State, job_id: int) -> JobStatus:
    """State, power, lease and start of a job; unknown ones and ended ones are told apart."""
    job = state.jobs.get(job_id)
    if job is None:
        row = state.retired.get(job_id)
        return _UNKNOWN if row is None else JobStatus(JobState.destroyed, reason=row.reason)
    reported = job.reported
    power = job.power if reported != JobState.queued else None
    return JobStatus(reported, power, job.keepalive, job.warning, job.created_at, job.keepalivehost)


def machine_info(state: State, job: Job | None) -> JobMachineInfo:
    """Where a job's boards are, and how to reach them."""
    if job is None or job.allocation is None:
        return _NOWHERE
    machine = state.machines[job.allocation.machine]
    width, height = dimensions(job.allocation)
    return JobMachineInfo(width, height, connections(machine, job.allocation), machine.name, job.allocation.boards)


def describe(job: Job) -> JobDescription:
    """One job, as `list_jobs` has it."""
    reported = job.reported
    return JobDescription(
        job.job_id,
        job.owner,
        job.created_at,
        job.keepalive,
        reported,
        job.power if reported != JobState.queued else None,
        job.args,
        job.kwargs,
        job.allocation.machine if job.allocation else None,
        job.allocation.boards if job.allocation else None,
        job.keepalivehost,
    )


def list_machines(state: State) -> list[MachineDescription]:
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
        for machine in state.machines.values()
    ]


def where_is(state: State, place: Mapping[str, Any]) -> WhereIs | None:
    """One place in every kind of coordinates; `core.queries.where_is` says in which forms it may be named."""

    def allocation_of(job_id: int) -> Allocation | None:
        job = state.jobs.get(job_id)
        return None if job is None else job.allocation

    return queries.where_is(state.machines, state.scheduler.holder, allocation_of, place)


# ---------------------------------------------------------------- what operators see


def machine_views(state: State) -> list[MachineView]:
    """All machines, highest priority first."""
    return [_machine_view(state, machine) for machine in state.machines.values()]


def board_views(state: State, machine: str | None = None) -> list[BoardView]:
    """The boards of a machine, or of all.

    Raises:
        RequestError: there is no such machine.
    """
    machines = state.machines.values() if machine is None else [machine_named(state, machine)]
    return [
        _board_view(state, each, board) for each in machines for board in sorted({*each.live_boards, *each.dead_boards})
    ]


def board_view(state: State, machine: str, board: Board) -> BoardView:
    """One board.

    Raises:
        RequestError: there is no such board.
    """
    return _board_view(state, machine_with(state, machine, board), board)


def job_views(state: State) -> list[JobView]:
    """All live jobs, oldest first."""
    return [_job_view(job) for job in state.jobs.values()]


def job_view(state: State, job_id: int) -> JobView:
    """One job, live or ended; where it waits, with the reason why.

    Raises:
        RequestError: there is no such job, or none that is remembered.
    """
    job = state.jobs.get(job_id) or state.retired.get(job_id)
    if job is None:
        raise RequestError(f"no job {job_id} is known, neither a live one nor one that ended lately")
    view = _job_view(job)
    if job.state == JobState.queued:
        why = state.scheduler.explain(job_id, state.clock())
        view.reason, view.position, view.waits_for = why.text, why.position, why.waits_for
        view.held_by, view.predicted_start = why.held_by, why.predicted_start
    return view


def set_aside(state: State) -> list[SetAsideView]:
    """Stored rows that made no sense at a start, in order of table and key."""
    return set_aside_views(state.facts)


def machine_named(state: State, name: str) -> Machine:
    """Return a machine; `RequestError` where there is none of this name."""
    if name not in state.machines:
        there = ", ".join(state.machines) or "none"
        raise RequestError(f"there is no machine {name!r}; there are: {there}")
    return state.machines[name]


def machine_with(state: State, name: str, board: Board) -> Machine:
    """Return a machine that has a board; `RequestError` where there is none."""
    machine = machine_named(state, name)
    if board not in machine.dead_boards and board not in machine.live_boards:
        raise RequestError(f"{name} has no board {board}; it has {machine.width} x {machine.height} triads of 3")
    return machine


def _machine_view(state: State, machine: Machine) -> MachineView:
    states = Counter(_board_state(state, machine, board) for board in {*machine.live_boards, *machine.dead_boards})
    out = [board for board in machine.live_boards if state.boards.out_of_service(machine, board) is not None]
    return MachineView(
        name=machine.name,
        tags=sorted(machine.tags),
        width=machine.width,
        height=machine.height,
        jobs=sum(job.allocation is not None and job.allocation.machine == machine.name for job in state.jobs.values()),
        boards=dict(sorted(states.items())),
        out_of_service=len(out),
        frames=[view for frame in sorted(machine.frames) if (view := _frame_view(state, machine, frame))],
        drained=state.closures.drained.get(machine.name),
    )


def _frame_view(state: State, machine: Machine, frame: Frame) -> FrameView | None:
    bmp = machine.bmp_ips[frame]
    silent, disabled = state.boards.silent.get(bmp), state.closures.frames.get((machine.name, frame))
    if silent is None and disabled is None:
        return None
    return FrameView(machine=machine.name, cabinet=frame[0], frame=frame[1], bmp=bmp, silent=silent, disabled=disabled)


def _board_state(state: State, machine: Machine, board: Board) -> str:
    if board in machine.dead_boards:
        return "dead"
    job_id = state.scheduler.holder(machine.name, board)
    if job_id is not None:
        job = state.jobs.get(job_id)
        if job is not None and job.allocation is not None and board in job.allocation.boards:
            return "in use"
        return ON_TRIAL if state.self_tests.tries(machine, board) else "switching off"
    if state.boards.out_of_service(machine, board) is not None:
        return "out of service"
    return "free" if state.scheduler.rests_until(machine.name, board) is None else "resting"


def _board_view(state: State, machine: Machine, board: Board) -> BoardView:
    x, y, z = board
    view = BoardView(machine=machine.name, x=x, y=y, z=z, state=_board_state(state, machine, board))
    if board in machine.board_locations:
        view.cabinet, view.frame, view.board = machine.board_locations[board]
        view.bmp = machine.bmp_ips.get((view.cabinet, view.frame))
    if view.state == "dead":
        return view
    view.job_id = state.scheduler.holder(machine.name, board) or None
    view.rests_until = state.scheduler.rests_until(machine.name, board)
    view.out_of_service = state.boards.out_of_service(machine, board)
    row = state.boards.row(machine, board) or BoardRow(machine=machine.name, x=x, y=y, z=z)
    view.last_trial = state.self_tests.verdicts.get((machine.name, x, y, z))
    view.trial_at, view.strikes, view.failures, view.reports = row.trial_at, row.strikes, row.failures, row.reports
    cabinet, frame, _ = machine.board_locations[board]
    note = state.closures.frames.get((machine.name, (cabinet, frame)))
    if row.out_of_service is not None:
        view.by, view.since = row.by, row.since
    elif note is not None:
        view.by, view.since = note.by, note.since
    return view


def _job_view(job: Job | JobRow) -> JobView:
    state = job.reported if isinstance(job, Job) else JobState(job.state)
    return JobView(
        job_id=job.job_id,
        owner=job.owner,
        state=state.name,
        power=job.power,
        args=job.args,
        kwargs=job.kwargs,
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
    )
