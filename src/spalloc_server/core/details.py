"""What owners see of their jobs, and everybody of machines, with more detail than v1 has.

Theory of operation. As in `views`, everything is worked out when it is asked for. A job counts chips from its own
bottom-left board, and they wrap around where its boards do: a chip beyond an edge that does not wrap is nowhere,
whichever board of the machine is there. Chips of a machine do not wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from itertools import islice

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import (
    BOARDS_PER_TRIAD,
    Board,
    Chip,
    WrapAround,
    board_down_link,
    board_to_chip,
    chip_to_board,
)
from spalloc_server.core.boards.hosts import host_key
from spalloc_server.core.job import Job
from spalloc_server.core.model import NO_JOB, JobState
from spalloc_server.core.model.details import BoardPlace, FoundBoard, JobDetails, MachineDetails, SubMachine
from spalloc_server.core.placement.layout import dimensions, ethernet_chip, machine_chip, machine_chips
from spalloc_server.core.state import State
from spalloc_server.errors import NoSuchError, RequestError
from spalloc_server.links import Links

__all__ = ["board_of_job", "find_board", "job_details", "job_numbers", "machine_details", "sub_machine"]


def job_details(state: State, job_id: int, revision: int) -> JobDetails:
    """A live job, or one that has ended and is remembered.

    Raises:
        NoSuchError: there is none.
    """
    job = state.jobs.get(job_id)
    row = job or state.retired.get(job_id)
    if row is None:
        raise NoSuchError(f"there is no job {job_id}")
    reported = JobState.destroyed if job is None else job.reported
    lease = None if job is None or job.deadline is None else job.deadline - (job.keepalive or 0.0)
    return JobDetails(
        job_id=job_id,
        owner=row.owner,
        state=reported,
        power=row.power if reported not in (JobState.queued, JobState.destroyed) else None,
        created_at=row.created_at,
        ended_at=row.ended_at,
        reason=row.reason if job is None else job.notice,
        keepalive=row.keepalive,
        keepalive_host=row.keepalivehost,
        kept_alive_at=lease,
        machine=row.allocation.machine if row.allocation else None,
        original=None if row.original is None else msgspec.Raw(row.original.encode()),
        revision=revision,
    )


def sub_machine(state: State, job: Job | None) -> SubMachine | None:
    """The boards that a job has; None where it has none."""
    if job is None or (allocation := job.allocation) is None:
        return None
    machine = state.machines[allocation.machine]
    boards = sorted((ethernet_chip(machine, allocation, board), board) for board in allocation.boards)
    return SubMachine(
        machine=machine.name,
        width=allocation.width,
        height=allocation.height,
        depth=1 if allocation.single else 3,
        power=job.state == JobState.ready and bool(job.power),
        boards=[board for _, board in boards],
        connections=[(chip, machine.spinnaker_ips[board]) for chip, board in boards],
    )


def job_numbers(state: State, *, ended: bool, start: int, limit: int) -> list[int]:
    """Return numbers of live jobs, and with `ended` of those that have ended, the newest first, from the `start`th."""
    live = reversed(state.jobs)
    numbers = merge(live, sorted(state.retired, reverse=True), reverse=True) if ended else live
    return list(islice(numbers, start, start + limit))


def machine_details(state: State, name: str, revision: int) -> MachineDetails:
    """A machine, with what does not work of it.

    Raises:
        NoSuchError: there is none.
    """
    machine = _machine(state, name)
    out = [board for board in machine.live_boards if state.boards.out_of_service(machine, board) is not None]
    links = set()
    for x, y, z, link in machine.dead_links:
        other = *board_down_link(x, y, z, link, machine.width, machine.height)[:3], link.opposite
        links.add(min((x, y, z, link), other))
    return MachineDetails(
        name=name,
        tags=sorted(machine.tags),
        width=machine.width,
        height=machine.height,
        in_service=name not in state.closures.drained,
        down_boards=[_place(machine, board) for board in sorted([*machine.dead_boards, *out])],
        down_links=[_both_ends(machine, (x, y, z), Links(link)) for x, y, z, link in sorted(links)],
        revision=revision,
    )


def find_board(
    state: State,
    name: str,
    *,
    board: Sequence[int] | None = None,
    place: Sequence[int] | None = None,
    chip: Sequence[int] | None = None,
    address: str | None = None,
) -> FoundBoard | None:
    """A place on a machine: one of board (x, y, z), place (cabinet, frame, board), chip (x, y) and address.

    Raises:
        NoSuchError: there is no such machine.
        RequestError: none of the places is given, more than one, or one with too few or too many numbers.
    """
    forms = ((board, 3), (place, 3), (chip, 2))
    given = sum(each is not None for each in (board, place, chip, address))
    if given != 1 or any(each is not None and len(each) != size for each, size in forms):
        raise RequestError("give one of board (x, y, z), place (cabinet, frame, board), chip (x, y) and address")
    machine = _machine(state, name)
    found: Board | None = None
    if board is not None:
        x, y, z = board
        found = (x, y, z) if 0 <= z < BOARDS_PER_TRIAD else None
    elif place is not None:
        found = machine.board_at.get((place[0], place[1], place[2]))
    elif address is not None:
        key = host_key(address)
        found = next((each for each, host in machine.spinnaker_ips.items() if host_key(host) == key), None)
    elif chip is not None:
        (x, y), (width, height) = chip, machine_chips(machine)
        if 0 <= x < width and 0 <= y < height:
            return _found(state, machine, chip_to_board(x, y, width, height), (x, y))
    return None if found is None else _found(state, machine, found, board_to_chip(*found))


def board_of_job(state: State, job: Job | None, chip: Sequence[int]) -> FoundBoard | None:
    """A chip as a job counts chips; None where the job has none there.

    Raises:
        RequestError: it is not (x, y).
    """
    if len(chip) != 2:
        raise RequestError("a chip of a job is (x, y)")
    if job is None or (allocation := job.allocation) is None:
        return None
    machine, wraps = state.machines[allocation.machine], allocation.wraps or WrapAround.none
    here = []
    for position, size, axis in zip(chip, dimensions(allocation), (WrapAround.x, WrapAround.y), strict=True):
        if not (wraps & axis or 0 <= position < size):
            return None
        here.append(position % size)
    x, y = machine_chip(machine, allocation, (here[0], here[1]))
    board = chip_to_board(x, y, *machine_chips(machine))
    return _found(state, machine, board, (x, y)) if board in allocation.boards else None


def _machine(state: State, name: str) -> Machine:
    if name not in state.machines:
        raise NoSuchError(f"there is no machine {name!r}")
    return state.machines[name]


def _found(state: State, machine: Machine, board: Board, chip: Chip) -> FoundBoard | None:
    if board not in machine.board_locations:
        return None
    (x, y), (width, height) = board_to_chip(*board), machine_chips(machine)
    job = state.jobs.get(state.scheduler.holder(machine.name, board) or NO_JOB)
    job_chip = None
    if job is not None and (allocation := job.allocation) is not None and board in allocation.boards:
        first_x, first_y = ethernet_chip(machine, allocation, board)
        across, up = dimensions(allocation)
        job_chip = (first_x + (chip[0] - x) % width) % across, (first_y + (chip[1] - y) % height) % up
    return FoundBoard(
        machine=machine.name,
        board=board,
        place=machine.board_locations[board],
        address=machine.spinnaker_ips.get(board),
        chip=chip,
        board_chip=(x, y),
        job_id=None if job is None or job_chip is None else job.job_id,
        job_chip=job_chip,
    )


def _place(machine: Machine, board: Board) -> BoardPlace:
    return BoardPlace(board=board, place=machine.board_locations.get(board), address=machine.spinnaker_ips.get(board))


def _both_ends(machine: Machine, board: Board, link: Links) -> tuple[BoardPlace, int, BoardPlace, int]:
    x, y, z, _ = board_down_link(*board, link, machine.width, machine.height)
    return _place(machine, board), link, _place(machine, (x, y, z)), link.opposite
