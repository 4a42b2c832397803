"""Whether a stored row makes sense: by itself, and on the machines that there are.

Theory of operation. What the core writes always passes. Each function raises `ValueError`, with a text for the
operator, at the first thing that no core can have written. `restore`, which has all rows, checks whether two contradict
each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board
from spalloc_server.core.boards.records import SERVER, address
from spalloc_server.core.model import LATEST, Allocation, BoardRow, JobRow, JobState, ReleaseRow, Request
from spalloc_server.core.scheduling.prediction import LARGEST

__all__ = ["check_board", "check_ended", "check_job", "check_number", "check_release"]

_STATES = {False: {JobState.queued}, True: {JobState.power, JobState.ready}}
"""States of a live job, by whether it has boards."""


def check_number(number: object, what: str) -> int:
    """Return a number of a job, or of an operation; `ValueError` where it is none."""
    if type(number) is not int or not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"{what} {number!r} is not a number from 1 to {MAX_NUMBER}")
    return number


def check_job(row: JobRow, machines: Mapping[str, Machine]) -> Request:
    """Return what a live job asked for; `ValueError` where its row makes no sense."""
    check_number(row.job_id, "job")
    _check_amounts(row)
    if row.ended_at is not None:
        raise ValueError("it has ended, yet it is among those that live")
    if row.keepalive is not None and not abs(row.keepalive) <= MAX_SECONDS:  # nor is it, where it is not a number
        raise ValueError(f"its keepalive is {row.keepalive} seconds")
    request = _check_request(row.request, row.owner)
    if row.state not in _STATES[row.allocation is not None]:
        raise ValueError(f"it is in state {row.state}, and has {'boards' if row.allocation else 'no boards'}")
    if row.held is not None and row.allocation is not None:
        raise ValueError("it is on hold, and has boards")
    if row.allocation is not None:
        if row.allocated_at is None or row.power is None or (row.state == JobState.ready and row.ready_at is None):
            raise ValueError("it has boards, but not since when, or not whether they are on")
        _check_allocation(row.allocation, request, machines)
    return request


def check_ended(row: JobRow) -> None:
    """Raise `ValueError` where the row of a job that has ended makes no sense."""
    check_number(row.job_id, "job")
    _check_amounts(row)
    if row.ended_at is None or row.state != JobState.destroyed:
        raise ValueError("it has not ended, yet it is among those that have")


def check_release(row: ReleaseRow, machines: Mapping[str, Machine]) -> None:
    """Raise `ValueError` where a release makes no sense."""
    check_number(row.release_id, "release")
    _check_times((row.rest_until,))
    places = [(frame.bmp, number) for frame in row.frames for number in frame.boards]
    if not places or len(set(places)) < len(places):
        raise ValueError("it has no boards, or one of them twice")
    if row.boards:
        machine = _machine(row.machine, machines)
        _check_boards(machine, row.boards)
        if not {address(machine, board) for board in row.boards} <= set(places):
            raise ValueError("its boards are not those of its frames")


def check_board(row: BoardRow) -> None:
    """Raise `ValueError` where the record of a board makes no sense."""
    times = [row.since, row.counts_from, row.trial_at]
    _check_times((*times, *(time for time, _ in row.failures), *(report.time for report in row.reports)))
    if max(map(abs, (row.x, row.y, row.z, row.strikes))) > MAX_NUMBER or row.strikes < 0:
        raise ValueError("its place, or its strikes, are no sensible numbers")
    if not (row.out_of_service is None) == (row.by is None) == (row.since is None):
        raise ValueError("it is out of service, but not by whom, since when, or why")
    if row.trial_at is not None and row.by != SERVER:
        raise ValueError("it is to be tried, yet an operator has taken it out of service")


def _check_request(request: Request | None, owner: str) -> Request:
    if request is None:
        raise ValueError("what it asks for is not stored")
    if request.owner != owner:
        raise ValueError(f"its owner is {owner!r}, and that of its request {request.owner!r}")
    if sum(what is not None for what in (request.boards, request.triads, request.board)) != 1:
        raise ValueError("it asks for none, or for more than one, of boards, triads and one certain board")
    sizes = [(request.boards, 1), *((size, 1) for size in request.triads or ())]
    places = [(place, 0) for place in (*(request.board or ()), *(request.root or ()))]
    if request.root is not None and request.triads is None:
        raise ValueError("it says where its triads are to begin, and asks for none")
    counts = [(n, -MAX_NUMBER) for n in (request.max_dead_boards, request.max_dead_links, request.priority)]
    for number, least in (*sizes, *places, *counts):
        if number is not None and not least <= number <= MAX_NUMBER:
            raise ValueError(f"a number of its request is {number}, and not from {least} to {MAX_NUMBER}")
    if not 0 <= request.min_ratio <= 1:  # nor is it, where it is not a number
        raise ValueError(f"its least ratio is {request.min_ratio}, and not from 0 to 1")
    if request.max_runtime is not None and not 0 < request.max_runtime <= MAX_SECONDS:
        raise ValueError(f"its longest run time is {request.max_runtime} seconds")
    if (request.machine is not None and request.tags) or (request.require_torus and request.single):
        raise ValueError("it asks for a machine and for tags, or for one board that is a torus")
    return request


def _check_amounts(row: JobRow) -> None:
    held = None if row.held is None else row.held.since
    _check_times((row.created_at, row.allocated_at, row.ready_at, row.ended_at, row.due, held))
    if not (0 <= row.board_seconds <= LARGEST and 0 <= row.placements <= MAX_NUMBER):
        raise ValueError("its board-seconds, or its placements, are no sensible numbers")


def _check_times(times: Iterable[float | None]) -> None:
    for time in times:
        if time is not None and not abs(time) <= LATEST:  # nor is it, where it is not a number
            raise ValueError(f"{time} is no time")


def _check_allocation(allocation: Allocation, request: Request, machines: Mapping[str, Machine]) -> None:
    machine = _machine(allocation.machine, machines)
    _check_boards(machine, allocation.boards)
    x, y, width, height = allocation.x, allocation.y, allocation.width, allocation.height
    if not (0 <= x < machine.width and 0 <= y < machine.height):
        raise ValueError(f"its block begins at {(x, y)}, which {machine.name} does not have")
    if not (1 <= width <= machine.width and 1 <= height <= machine.height):
        raise ValueError(f"its block has {width} x {height} triads, and {machine.name} has not")
    for board in allocation.boards:
        if (board[0] - x) % machine.width >= width or (board[1] - y) % machine.height >= height:
            raise ValueError(f"its board {board} is not in its block")
    if any(link[:3] not in allocation.boards for link in allocation.stopped or ()):
        raise ValueError("links are stopped of boards that it does not have")
    if allocation.single != request.single or (request.single and len(allocation.boards) != 1):
        raise ValueError("it asked for one board and has a block, or the other way round")
    if not request.single and (x, y, 0) not in allocation.boards:
        raise ValueError("its block lacks its first board")
    if request.board is not None and allocation.boards != (request.board,):
        raise ValueError("it has another board than the one that it asked for")
    if request.root not in (None, (x, y)):
        raise ValueError("its block begins at another triad than it asked for")
    if request.machine not in (None, machine.name):
        raise ValueError("it is on another machine than it asked for")


def _machine(name: str, machines: Mapping[str, Machine]) -> Machine:
    if name not in machines:
        raise ValueError(f"there is no machine {name!r}")
    return machines[name]


def _check_boards(machine: Machine, boards: Iterable[Board]) -> None:
    """Raise `ValueError` where there is no such board, or one twice; one may be dead by now."""
    seen: set[Board] = set()
    for board in boards:
        x, y, z = board
        if not (0 <= x < machine.width and 0 <= y < machine.height and 0 <= z < BOARDS_PER_TRIAD):
            raise ValueError(f"{machine.name} has no board {board}")
        if board in seen or board not in machine.board_locations or board not in machine.spinnaker_ips:
            raise ValueError(f"board {board} of {machine.name} is there twice, or has no place")
        seen.add(board)
    if not seen:
        raise ValueError("it has no boards")
