"""Where boards and chips are, and who has them: the questions that change nothing.

Theory of operation. Pure functions over the machines and two look-ups that the controller gives: which job has a board,
and which allocation a job has. A place that does not exist is answered with None; only a set of arguments that makes no
sense is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, Chip, Location, board_to_chip, chip_to_board
from spalloc_server.core.model import Allocation, WhereIs
from spalloc_server.core.placement.layout import dimensions, ethernet_chip, machine_chip, machine_chips
from spalloc_server.errors import RequestError

__all__ = ["board_at_position", "board_position", "where_is"]

Holder = Callable[[str, Board], int | None]
AllocationOf = Callable[[int], Allocation | None]

_FORMS = (
    frozenset({"machine", "x", "y", "z"}),
    frozenset({"machine", "cabinet", "frame", "board"}),
    frozenset({"machine", "chip_x", "chip_y"}),
    frozenset({"job_id", "chip_x", "chip_y"}),
)


def board_position(machine: Machine | None, board: tuple[Any, ...]) -> Location | None:
    """(cabinet, frame, board) of the board (x, y, z), or None."""
    return None if machine is None else machine.board_locations.get(board)


def board_at_position(machine: Machine | None, location: tuple[Any, ...]) -> Board | None:
    """(x, y, z) of the board at (cabinet, frame, board), or None."""
    return None if machine is None else machine.board_at.get(location)


def where_is(
    machines: Mapping[str, Machine], holder: Holder, allocation_of: AllocationOf, place: Mapping[str, Any]
) -> WhereIs | None:
    """Everything about the place that `place` names in one of the four forms.

    Raises:
        RequestError: any other set of names.
    """
    form = frozenset(place)
    if form not in _FORMS:
        forms = ", or ".join(", ".join(sorted(names)) for names in _FORMS)
        raise RequestError(f"Invalid arguments: {', '.join(sorted(form)) or 'none'}; where_is takes {forms}")
    allocation = None
    if "job_id" in form:
        allocation = allocation_of(place["job_id"])
        if allocation is None:
            return None
    machine = machines.get(allocation.machine if allocation else place["machine"])
    if machine is None:
        return None
    located = _locate(machine, allocation, place)
    if located is None or located[0] not in machine.board_locations:
        return None
    board, board_chip = located
    job_id = holder(machine.name, board)
    owner = None if job_id is None else allocation_of(job_id)
    chip_x, chip_y = board_to_chip(*board)
    width, height = machine_chips(machine)
    return WhereIs(
        machine=machine.name,
        logical=board,
        physical=machine.board_locations[board],
        chip=((chip_x + board_chip[0]) % width, (chip_y + board_chip[1]) % height),
        board_chip=board_chip,
        job_id=None if owner is None else job_id,
        job_chip=None if owner is None else _job_chip(machine, owner, board, board_chip),
    )


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
