"""`POST jobs`: which command a request for a job becomes.

Theory of operation. The core asks for a number of boards, a rectangle of triads, or a board (x, y, z) of a machine;
so other ways to name a board are looked up first. Where tags and no machine are given along with a board, it is the
first machine that has the tags and the board. Machines out of service, for which the job has to wait, come after the
others. Group and NMPI fields decide nothing. The job keeps the request as it would be shown (`original-request`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from spalloc_server.application.caller import Permission
from spalloc_server.application.commands import CreateJob
from spalloc_server.application.own_job_commands import FindBoard, FoundBoard, MachineDetails, MachineDetailsOf
from spalloc_server.coordinates import Board
from spalloc_server.core.model import Request
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.rest.messages import BoardAsked, CreateBody, OriginalRequest, ReportedBoard
from spalloc_server.frontends.http.rest.requests import Refusal, RestRequest, may

__all__ = ["command_for", "place_in"]

KEEPALIVE_SECONDS = (30.0, 300.0)
"""The shortest and the longest keepalive of a job that is created by REST."""

NO_MACHINE = "no machine available which matches allocation request"


async def command_for(request: RestRequest, body: CreateBody) -> CreateJob:
    """Return the command that creates what is asked for.

    Raises:
        Refusal: it makes no sense, or there is no such board.
    """
    seconds = _keepalive(body)
    _check(body)
    owner = _owner(request, body)
    machine, board = await _board(request, body) if body.board else (body.machine_name, None)
    size = body.dimensions
    wanted = Request(
        owner=owner,
        boards=(body.num_boards or 1) if size is None and board is None else None,
        triads=None if size is None else (size.width, size.height),
        board=board if size is None else None,
        root=board[:2] if board is not None and size is not None else None,
        machine=machine,
        tags=frozenset(body.tags or ()) if machine is None else frozenset(),
        max_dead_boards=body.max_dead_boards or 0,
    )
    return CreateJob(request=wanted, keepalive=seconds, original=_original(body, owner, seconds))


def _keepalive(body: CreateBody) -> float:
    if (given := body.keepalive_interval) is None:
        raise Refusal(400, "keepalive-interval is required")
    least, most = KEEPALIVE_SECONDS
    if isinstance(given, str):
        try:
            given = msgspec.convert(given, timedelta).total_seconds()
        except (msgspec.ValidationError, OverflowError) as error:
            raise Refusal(400, "keepalive-interval must be a duration such as PT60S, or a number of seconds") from error
    if not least <= given <= most:
        raise Refusal(400, f"keepalive-interval must be {least:.0f} to {most:.0f} seconds")
    return given


def _check(body: CreateBody) -> None:
    """Raise `Refusal` where parts of a request are impossible, alone or together."""
    if (body.machine_name is None) == (body.tags is None):
        raise Refusal(400, "either machine-name or tags must be supplied")
    if body.tags is not None and not all(tag.strip() for tag in body.tags):
        raise Refusal(400, "tags must not be blank")
    if body.tags == [] or (body.machine_name is not None and not body.machine_name.strip()):
        raise Refusal(400, NO_MACHINE)
    if body.num_boards is not None and body.num_boards < 1:
        raise Refusal(400, "number of boards must be at least 1 if given")
    if body.num_boards is not None and (body.dimensions or body.board):
        raise Refusal(400, "either specify num-boards or dimensions and/or board")
    if body.max_dead_boards is not None and body.max_dead_boards < 0:
        raise Refusal(400, "max-dead-boards may not be negative")
    if sum(each is not None for each in (body.group, body.nmpi_collab, body.nmpi_job_id)) > 1:
        raise Refusal(400, "At most one of group, nmpiCollabId or nmpiJobId can be specified")


def _owner(request: RestRequest, body: CreateBody) -> str:
    if body.owner is None or not body.owner.strip():
        return request.caller.name
    if not may(request.caller, Permission.OPERATE, request.asking.settings):
        raise Refusal(400, "Only admin and NMPI users can specify an owner")
    return body.owner


async def _board(request: RestRequest, body: CreateBody) -> tuple[str, Board]:
    """Return the machine and the board that a request is for."""
    asked = body.board or BoardAsked()
    place = place_in(asked)
    if place is None:
        raise Refusal(400, "at least one way of identifying a board must be given")
    for name in [body.machine_name] if body.machine_name is not None else await _tagged(request, body.tags or ()):
        try:
            found = await request.find(FindBoard(machine=name, **place), FoundBoard)
        except RefusedError as error:
            if error.kind != "no-such":
                raise
            found = None
        if found is not None and body.dimensions is not None and found.board[2] != 0:
            raise Refusal(400, f"{NO_MACHINE}: a rectangle begins at a board whose z is 0, not {found.board[2]}")
        if found is not None:
            return found.machine, found.board
    raise Refusal(400, f"{NO_MACHINE}: there is no such board")


async def _tagged(request: RestRequest, tags: Sequence[str]) -> list[str]:
    machines = await request.ask(MachineDetailsOf(), list[MachineDetails])
    found = [machine for machine in machines if {*tags} <= {*machine.tags}]
    return [machine.name for machine in sorted(found, key=lambda machine: not machine.in_service)]


def place_in(asked: BoardAsked | ReportedBoard) -> dict[str, Any] | None:
    """Return the argument of `FindBoard` that means the same board; None where none is named completely."""
    if None not in (logical := [asked.x, asked.y, asked.z]):
        return {"board": logical}
    if None not in (physical := [asked.cabinet, asked.frame, asked.board]):
        return {"place": physical}
    return None if asked.address is None else {"address": asked.address}


def _original(body: CreateBody, owner: str, seconds: float) -> Any:
    names = OriginalRequest.__struct_fields__
    kept = {name: value for name in names if (value := getattr(body, name)) is not None}
    return msgspec.to_builtins(OriginalRequest(**{**kept, "owner": owner, "keepalive_interval": seconds}))
