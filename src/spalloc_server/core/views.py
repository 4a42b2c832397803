"""What users and operators see: machines, frames, boards and jobs, with reasons, names and times.

Theory of operation. Everything is worked out when it is asked for, from the parts that know it; nothing is kept here.
The structs are what a service hands to a JSON encoder. All times are seconds since the Unix epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.coordinates import Board, Chip, Location, board_to_chip, chip_to_board
from spalloc_server.core.job import Job
from spalloc_server.core.model import (
    NO_JOB,
    Allocation,
    BoardRow,
    BoardView,
    FrameView,
    JobDescription,
    JobMachineInfo,
    JobState,
    JobStatus,
    MachineDescription,
    MachineView,
    WhereIs,
)
from spalloc_server.core.placement.layout import connections, dimensions, ethernet_chip, machine_chip, machine_chips
from spalloc_server.core.state import State
from spalloc_server.errors import RequestError

__all__ = ["ON_TRIAL", "board_view", "board_views", "closed", "describe", "job_status"]
__all__ += [
    "board_at_position",
    "board_position",
    "list_machines",
    "machine_info",
    "machine_named",
    "machine_views",
    "machine_with",
    "where_is",
    "why_closed",
]

ON_TRIAL = "on trial"
"""The state of a board during a self-test."""

NAMED_FRAMES = 3
"""Frames out of service that are named to explain why a job waits."""

_UNKNOWN = JobStatus(JobState.unknown)
_NOWHERE = JobMachineInfo()
_FORMS = (
    frozenset({"machine", "x", "y", "z"}),
    frozenset({"machine", "cabinet", "frame", "board"}),
    frozenset({"machine", "chip_x", "chip_y"}),
    frozenset({"job_id", "chip_x", "chip_y"}),
)
"""Names by which `where_is` takes a place."""


# ---------------------------------------------------------------- what users see


def job_status(state: State, job_id: int) -> JobStatus:
    """State, power, lease and start of a job; unknown ones and ended ones are told apart."""
    job = state.jobs.get(job_id)
    if job is None:
        row = state.retired.get(job_id)
        return _UNKNOWN if row is None else JobStatus(JobState.destroyed, reason=row.reason)
    reported = job.reported
    power = job.power if reported != JobState.queued else None
    return JobStatus(reported, power, job.keepalive, job.notice, job.created_at, job.keepalivehost)


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
        job.notice if job.state == JobState.queued else None,
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


def board_position(machine: Machine | None, board: tuple[Any, ...]) -> Location | None:
    """(cabinet, frame, board) of the board (x, y, z), or None."""
    return None if machine is None else machine.board_locations.get(board)


def board_at_position(machine: Machine | None, location: tuple[Any, ...]) -> Board | None:
    """(x, y, z) of the board at (cabinet, frame, board), or None."""
    return None if machine is None else machine.board_at.get(location)


def where_is(state: State, place: Mapping[str, Any]) -> WhereIs | None:
    """Everything about the place that `place` names in one of the four forms; None where there is none.

    Raises:
        RequestError: any other set of names.
    """
    form = frozenset(place)
    if form not in _FORMS:
        forms = ", or ".join(", ".join(sorted(names)) for names in _FORMS)
        raise RequestError(f"Invalid arguments: {', '.join(sorted(form)) or 'none'}; where_is takes {forms}")
    allocation = None
    if "job_id" in form:
        job = state.jobs.get(place["job_id"])
        if job is None or job.allocation is None:
            return None
        allocation = job.allocation
    machine = state.machines.get(allocation.machine if allocation else place["machine"])
    if machine is None:
        return None
    located = _locate(machine, allocation, place)
    if located is None or located[0] not in machine.board_locations:
        return None
    board, board_chip = located
    holder = state.jobs.get(state.scheduler.holder(machine.name, board) or NO_JOB)
    held_by = None if holder is None else holder.allocation
    if held_by is not None and board not in held_by.boards:
        held_by = None  # it had the board before, and has others now
    chip_x, chip_y = board_to_chip(*board)
    width, height = machine_chips(machine)
    return WhereIs(
        machine=machine.name,
        logical=board,
        physical=machine.board_locations[board],
        chip=((chip_x + board_chip[0]) % width, (chip_y + board_chip[1]) % height),
        board_chip=board_chip,
        job_id=None if holder is None or held_by is None else holder.job_id,
        job_chip=None if held_by is None else _job_chip(machine, held_by, board, board_chip),
    )


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


def why_closed(state: State, machines: tuple[str, ...]) -> str:
    """What keeps jobs from these machines, in words; nothing where it is not known."""
    return "; ".join(closed(state, [name for name in machines if name in state.machines], frames=True))


def closed(state: State, machines: Iterable[str], *, frames: bool) -> list[str]:
    """What operators, and silent BMPs, keep jobs on these machines from; of single frames only where it is asked."""
    stopped, texts = state.closures.stopped, []
    if stopped is not None:
        texts.append(f"nothing starts before the emergency stop by {stopped.by} is over: {stopped.reason}")
    for view in (_machine_view(state, state.machines[name]) for name in machines):
        if view.drained is not None:
            texts.append(f"{view.name} is drained by {view.drained.by}: {view.drained.reason}")
        for each in view.frames[:NAMED_FRAMES] if frames else ():
            note, where = each.disabled, f"cabinet {each.cabinet}, frame {each.frame} of {view.name}"
            why = f"disabled by {note.by}: {note.reason}" if note else f"out of service: {each.silent}"
            texts.append(f"{where} is {why}")
        if frames and len(view.frames) > NAMED_FRAMES:
            texts.append(f"{len(view.frames) - NAMED_FRAMES} more frames of {view.name} are out of service")
    return texts


def _machine_view(state: State, machine: Machine) -> MachineView:
    # A dead board without a place is none: a machine of one board has triads of three, too
    states = Counter(_board_state(state, machine, board) for board in machine.board_locations)
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
        imported=machine.name in state.imported,
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
    view.address = machine.spinnaker_ips.get(board)
    if view.state == "dead":
        return view
    view.job_id = state.scheduler.holder(machine.name, board) or None
    view.rests_until = state.scheduler.rests_until(machine.name, board)
    view.out_of_service = state.boards.out_of_service(machine, board)
    row = state.boards.row(machine, board) or BoardRow(machine=machine.name, x=x, y=y, z=z)
    view.last_trial = state.self_tests.verdicts.get((machine.name, x, y, z))
    view.trial_at, view.strikes, view.failures, view.reports = row.trial_at, row.strikes, row.failures, row.reports
    note = state.closures.frames.get((machine.name, machine.board_locations[board][:2]))
    who = note if row.out_of_service is None else row
    if who is not None:
        view.by, view.since = who.by, who.since
    return view


def _locate(machine: Machine, allocation: Allocation | None, place: Mapping[str, Any]) -> tuple[Board, Chip] | None:
    """(board, chip on the board) of the place, or None where there is none."""
    if "x" in place:
        return (_whole(place, "x"), _whole(place, "y"), _whole(place, "z")), (0, 0)
    if "cabinet" in place:
        board = machine.board_at.get((place["cabinet"], place["frame"], place["board"]))
        return None if board is None else (board, (0, 0))
    width, height = machine_chips(machine)
    x, y = _whole(place, "chip_x"), _whole(place, "chip_y")
    if allocation is not None:
        x, y = machine_chip(machine, allocation, (x, y))
    board = chip_to_board(x, y, width, height)
    if allocation is not None and board not in allocation.boards:
        return None
    chip_x, chip_y = board_to_chip(*board)
    return board, ((x - chip_x) % width, (y - chip_y) % height)


def _whole(place: Mapping[str, Any], name: str) -> int:
    value = place[name]
    if not isinstance(value, int):
        raise RequestError(f"Invalid arguments: {name} must be a whole number, not {value!r}")
    return value


def _job_chip(machine: Machine, allocation: Allocation, board: Board, board_chip: Chip) -> Chip:
    width, height = dimensions(allocation)
    x, y = ethernet_chip(machine, allocation, board)
    return (x + board_chip[0]) % width, (y + board_chip[1]) % height
