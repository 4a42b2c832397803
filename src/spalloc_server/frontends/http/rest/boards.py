"""What goes straight to a job's boards: memory, and routers.

Theory of operation. The server says whose the boards are; the bytes do not pass through it (`http.boards`). None of
this keeps the job alive, as with the Java server.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias
from urllib.parse import parse_qsl

from litestar import Response, Router, delete, get, post
from litestar.params import QueryParameter

from spalloc_server.application.caller import Permission
from spalloc_server.frontends.http.rest.jobs import JobId, number_of
from spalloc_server.frontends.http.rest.openapi import ABSENT, AT_BOARDS, BODY, REFUSED, BytesBody
from spalloc_server.frontends.http.rest.requests import NO_SUCH_JOB, Plain, Refusal, RestRequest, empty

__all__ = ["BOARDS"]

ADDRESSES = 2**32
FILTERS = 16
"""Diagnostic filters of a router."""

Coordinate: TypeAlias = Annotated[int, QueryParameter(ge=0, le=255)]
Address: TypeAlias = Annotated[int, QueryParameter(ge=0, lt=ADDRESSES)]
Size: TypeAlias = Annotated[int, QueryParameter(ge=0, le=ADDRESSES)]

BYTES = "application/octet-stream"


@get("/memory", responses=REFUSED | ABSENT | AT_BOARDS, media_type=BYTES, summary="Read a chip's memory")
async def read(
    request: RestRequest, job_id: JobId, address: Address, size: Size, x: Coordinate = 0, y: Coordinate = 0
) -> Response[bytes]:
    """Read memory; chip (255, 255) is the job's first Ethernet chip."""
    if size > (most := request.asking.settings.web.body_bytes):
        raise Refusal(400, f"size must be at most {most}")
    if address + size > ADDRESSES:
        raise Refusal(400, "size is more than the memory from this address on")
    behalf, boards = request.caller.behalf, request.app.state.boards
    return Response(await boards.read(behalf, number_of(job_id), x, y, address, size), media_type=BYTES)


@post(
    "/memory",
    responses=REFUSED | ABSENT | AT_BOARDS | BODY,
    status_code=202,
    operation_class=BytesBody,
    summary="Write a chip's memory",
)
async def write(request: RestRequest, job_id: JobId, address: Address, x: Coordinate = 0, y: Coordinate = 0) -> Plain:
    """Write memory; it is written when this is answered."""
    data = await request.typed_body(BYTES)
    if address + len(data) > ADDRESSES:
        raise Refusal(400, "the body is longer than the memory from this address on")
    await request.app.state.boards.write(request.caller.behalf, number_of(job_id), x, y, address, data)
    return empty(202)


@delete("/router", responses=REFUSED | ABSENT | AT_BOARDS, status_code=202, summary="Reset the routers of all chips")
async def reset_router(request: RestRequest, job_id: JobId) -> Plain:
    """Clear routers' counters and tables. Each parameter `N=WORD` sets diagnostic filter N."""
    filters: dict[int, int] = {}
    for name, value in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True):
        index, word = _whole(name), _whole(value)
        if not 0 <= index < FILTERS or not 0 <= word < ADDRESSES or index in filters:
            right = f"each filter (0 to {FILTERS - 1}) once, and a word of 32 bits for it"
            raise Refusal(400, f"{name[:40]}={value[:40]}: give {right}")
        filters[index] = word
    await request.app.state.boards.reset_router(request.caller.behalf, number_of(job_id), filters)
    return empty(202)


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1


BOARDS = Router(
    "/jobs/{job_id:str}",
    route_handlers=[read, write, reset_router],
    opt={"permission": Permission.USE, "absent": NO_SUCH_JOB},
    tags=["boards"],
)
"""The boards of one job."""
