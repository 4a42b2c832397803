"""`machines`: which there are, what does not work of them, and where a board or chip is."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from litestar import Router, get
from litestar.params import FromQuery, PathParameter, QueryParameter

from spalloc_server.application.caller import Permission
from spalloc_server.application.own_job_commands import (
    BoardPlace,
    FindBoard,
    FoundBoard,
    MachineDetails,
    MachineDetailsOf,
)
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.frontends.http.rest.messages import (
    BriefMachine,
    DownLink,
    LinkEnd,
    MachineAnswer,
    MachinesAnswer,
    PlaceAnswer,
    WhereIsAnswer,
)
from spalloc_server.frontends.http.rest.openapi import ABSENT, REFUSED
from spalloc_server.frontends.http.rest.requests import Refusal, RestRequest

__all__ = ["MACHINES", "where_is"]

Name: TypeAlias = Annotated[str, PathParameter()]
Number: TypeAlias = Annotated[int, QueryParameter(ge=0, le=MAX_NUMBER)]

_DIRECTIONS: Any = ("SE", "E", "N", "NW", "W", "S")
"""The Java server's names of `links.Links`."""


@get("/", responses=REFUSED, summary="The machines in service, by name")
async def list_machines(request: RestRequest) -> MachinesAnswer:
    """List machines."""
    found = await request.ask(MachineDetailsOf(), list[MachineDetails])
    return MachinesAnswer(
        machines=[
            BriefMachine(
                name=machine.name,
                tags=machine.tags,
                uri=request.link("machines", machine.name),
                width=machine.width,
                height=machine.height,
                dead_boards=[_place(each) for each in machine.down_boards],
                dead_links=[_link(*each) for each in machine.down_links],
            )
            for machine in found
            if machine.in_service
        ]
    )


@get("/{name:str}", responses=REFUSED | ABSENT, summary="A machine; with wait, after it has changed")
async def show_machine(request: RestRequest, name: Name, wait: FromQuery[bool] = False) -> MachineAnswer:
    """Describe a machine."""
    ask = MachineDetailsOf(name=name)
    (machine,) = await request.ask(ask, list[MachineDetails])
    if wait:
        await request.app.state.polls.wait(request.receive, f"machine/{name}", machine.revision)
        (machine,) = await request.ask(ask, list[MachineDetails])
    ref = request.link("machines", name)
    return MachineAnswer(
        name=machine.name,
        tags=machine.tags,
        width=machine.width,
        height=machine.height,
        down_boards=[_place(each) for each in machine.down_boards],
        down_links=[_link(*each) for each in machine.down_links],
        lookup_by_physical_board=f"{ref}/physical-board",
        lookup_by_logical_board=f"{ref}/logical-board",
        lookup_by_chip=f"{ref}/chip",
        lookup_by_address=f"{ref}/board-ip",
    )


@get("/{name:str}/logical-board", responses=REFUSED | ABSENT, summary="The board (x, y, z)")
async def find_board(request: RestRequest, name: Name, x: Number = 0, y: Number = 0, z: Number = 0) -> WhereIsAnswer:
    """Find a board."""
    return await _find(request, FindBoard(machine=name, board=[x, y, z]))


@get("/{name:str}/physical-board", responses=REFUSED | ABSENT, summary="The board (cabinet, frame, board)")
async def find_place(
    request: RestRequest, name: Name, cabinet: Number = 0, frame: Number = 0, board: Number = 0
) -> WhereIsAnswer:
    """Find a board."""
    return await _find(request, FindBoard(machine=name, place=[cabinet, frame, board]))


@get("/{name:str}/chip", responses=REFUSED | ABSENT, summary="The board that has the machine's chip (x, y)")
async def find_chip(request: RestRequest, name: Name, x: Number = 0, y: Number = 0) -> WhereIsAnswer:
    """Find a chip."""
    return await _find(request, FindBoard(machine=name, chip=[x, y]))


@get("/{name:str}/board-ip", responses=REFUSED | ABSENT, summary="The board of this address")
async def find_address(request: RestRequest, name: Name, address: FromQuery[str]) -> WhereIsAnswer:
    """Find a board."""
    return await _find(request, FindBoard(machine=name, address=address))


async def _find(request: RestRequest, command: FindBoard) -> WhereIsAnswer:
    if (found := await request.find(command, FoundBoard)) is None:
        raise Refusal(404, "failed to locate board")
    return where_is(request, found)


def where_is(request: RestRequest, found: FoundBoard) -> WhereIsAnswer:
    """Return the answer that tells where something is."""
    return WhereIsAnswer(
        job_id=found.job_id,
        job_ref=None if found.job_id is None else request.link("jobs", found.job_id),
        job_chip=found.job_chip,
        chip=found.chip,
        logical_board_coordinates=found.board,
        machine=found.machine,
        machine_ref=request.link("machines", found.machine),
        board_chip=found.board_chip,
        physical_board_coordinates=found.place,
    )


def _place(of: BoardPlace) -> PlaceAnswer:
    cabinet, frame, board = of.place or (None, None, None)
    return PlaceAnswer(
        x=of.board[0], y=of.board[1], z=of.board[2], cabinet=cabinet, frame=frame, board=board, address=of.address
    )


def _link(one: BoardPlace, direction: int, other: BoardPlace, back: int) -> DownLink:
    return (
        LinkEnd(board=_place(one), direction=_DIRECTIONS[direction]),
        LinkEnd(board=_place(other), direction=_DIRECTIONS[back]),
    )


MACHINES = Router(
    "/machines",
    route_handlers=[list_machines, show_machine, find_board, find_place, find_chip, find_address],
    opt={"permission": Permission.LOOK, "absent": "no such machine"},
    tags=["machines"],
)
"""What everybody may know who may look."""
