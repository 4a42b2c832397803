"""`admin`: machine definitions, and boards in and out of service.

Theory of operation. Groups and quotas are not there yet: their paths answer 404, and so does what else is unknown here.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from litestar import Router, get, post, put
from litestar.params import QueryParameter

from spalloc_server.application import commands
from spalloc_server.application.caller import Permission
from spalloc_server.application.own_job_commands import FindBoard, FoundBoard
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import BoardView, MachineView
from spalloc_server.frontends.http.rest.messages import AdminAnswer
from spalloc_server.frontends.http.rest.openapi import ABSENT, BODY, REFUSED, DefinitionsBody, TextBody
from spalloc_server.frontends.http.rest.requests import Refusal, RestRequest, decoded

__all__ = ["ADMIN"]

MAX_DEFINITIONS = 1_000_000
"""Bytes of machine definitions, as they go to the server. Longer ones are answered with 413."""

Number: TypeAlias = Annotated[int | None, QueryParameter(ge=0, le=MAX_NUMBER)]
Text: TypeAlias = Annotated[str | None, QueryParameter(max_length=256)]


@get("/", responses=REFUSED, summary="Where to go on")
async def root(request: RestRequest) -> AdminAnswer:
    """Tell administrators where to begin."""
    return AdminAnswer(
        import_machines=request.link("admin", "import"), set_board_enabled=request.link("admin", "board")
    )


@get("/board", responses=REFUSED | ABSENT, media_type="text/plain", summary="Whether a board is in service")
async def board(
    request: RestRequest,
    machine: Text = None,
    x: Number = None,
    y: Number = None,
    z: Number = None,
    cabinet: Number = None,
    frame: Number = None,
    board: Number = None,
    address: Text = None,
) -> str:
    """Answer `true` or `false`."""
    return _word(await _board(request, machine, [x, y, z], [cabinet, frame, board], address))


@put(
    "/board",
    responses=REFUSED | ABSENT | BODY,
    media_type="text/plain",
    operation_class=TextBody,
    summary="Take a board out of service, or return it",
)
async def set_board(
    request: RestRequest,
    machine: Text = None,
    x: Number = None,
    y: Number = None,
    z: Number = None,
    cabinet: Number = None,
    frame: Number = None,
    board: Number = None,
    address: Text = None,
) -> str:
    """Do as the body says, which is `true` or `false`, and answer what the board is now."""
    request.check_type("text/plain")
    said = (await request.body()).strip().lower()
    if said not in {b"true", b"false"}:
        raise Refusal(400, "the body must be true or false")
    view = await _board(request, machine, [x, y, z], [cabinet, frame, board], address)
    where: dict[str, Any] = {"machine": view.machine, "x": view.x, "y": view.y, "z": view.z}
    if said == b"true":
        return _word(await request.ask(commands.EnableBoard(**where), BoardView))
    reason = f"switched off by {request.caller.name} by HTTP"
    return _word(await request.ask(commands.DisableBoard(**where, reason=reason), BoardView))


@get("/import", responses=REFUSED, media_type="text/plain", summary="A hint")
async def hint_at_import() -> str:
    """Tell that machines are imported by POST."""
    return "This resource only really supports POST."


@post(
    "/import",
    responses=REFUSED | BODY,
    status_code=204,
    operation_class=DefinitionsBody,
    summary="Add machines that machine definitions define",
)
async def import_machines(request: RestRequest) -> None:
    """Add machines to those of the configuration, whose names are taken."""
    request.check_type("application/json")
    body = await request.body()
    decoded(body, dict)  # which says best what is wrong with JSON
    definitions = body.decode()
    if len(msgspec.json.encode(definitions)) > MAX_DEFINITIONS:
        raise Refusal(413, "the definitions are too long: send machines one by one")
    await request.ask(commands.ImportMachines(definitions=definitions), list[MachineView])


def _word(view: BoardView) -> str:
    return "false" if view.state == "dead" or view.out_of_service else "true"


async def _board(
    request: RestRequest,
    machine: str | None,
    logical: list[int | None],
    physical: list[int | None],
    address: str | None,
) -> BoardView:
    """Return the board that is named.

    Raises:
        Refusal: none is named, or there is no such board.
    """
    if not machine:
        raise Refusal(400, "machine name is required")
    place: dict[str, Any] = {"board": logical} if None not in logical else {"place": physical}
    if None in next(iter(place.values())):
        if address is None:
            raise Refusal(400, "You need to supply coordinates (as x=&y=&z=, c=&f=&b= or address=)")
        place = {"address": address}
    found = await request.find(FindBoard(machine=machine, **place), FoundBoard)
    if found is None:
        raise Refusal(404, "no such board")
    views = await request.ask(commands.Boards(machine=machine), list[BoardView])
    return next(view for view in views if (view.x, view.y, view.z) == tuple(found.board))


ADMIN = Router(
    "/admin",
    route_handlers=[root, hint_at_import, import_machines, board, set_board],
    opt={"permission": Permission.OPERATE},
    tags=["admin"],
)
"""What operators and administrators do."""
