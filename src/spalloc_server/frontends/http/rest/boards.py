"""What goes straight to a job's boards: memory, fast or by commands, and routers.

Theory of operation. The server says whose the boards are, and the bytes do not pass through it
(`frontends.http.boards`). They are not gathered here either: what is read is sent on in pieces, and what is written is
taken from the request as it comes.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Final, TypeAlias
from urllib.parse import parse_qsl

from litestar import Router, delete, get, post
from litestar.params import QueryParameter

from spalloc_server.application.caller import Permission
from spalloc_server.frontends.http.answers import Receive, Scope, Send
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError
from spalloc_server.frontends.http.boards.fast import Core, Gatherer
from spalloc_server.frontends.http.boards.memory import MAX_FILTERS, BoardAccess
from spalloc_server.frontends.http.boards.pieces import Pieces
from spalloc_server.frontends.http.rest.jobs import JobId, number_of
from spalloc_server.frontends.http.rest.openapi import ABSENT, AT_BOARDS, BODY, REFUSED, BytesBody
from spalloc_server.frontends.http.rest.polls import left
from spalloc_server.frontends.http.rest.requests import NO_SUCH_JOB, Plain, Refusal, RestRequest, empty
from spalloc_server.log.logger import Complaints

__all__ = ["BOARDS"]

PIECE_SECONDS = 30.0
"""The longest that a client takes to read a piece of memory, of 256 or 512 KiB, before it is disconnected."""

WORDS: Final = 2**32

Coordinate: TypeAlias = Annotated[int, QueryParameter(ge=0, le=255)]
CoreNumber: TypeAlias = Annotated[int, QueryParameter(ge=0, le=17)]
Address: TypeAlias = Annotated[int, QueryParameter(ge=0, lt=WORDS)]
Size: TypeAlias = Annotated[int, QueryParameter(ge=0, le=WORDS)]
Tag: TypeAlias = Annotated[int, QueryParameter(ge=0, le=7)]
Host: TypeAlias = Annotated[str, QueryParameter(max_length=256)]

BYTES: Final = "application/octet-stream"


_complaints = Complaints()


def _access(request: RestRequest) -> BoardAccess:
    access: BoardAccess = request.app.state.boards
    return access


class _Sent:
    """An answer of bytes that come in pieces. No more are read once the client has left, or hardly reads."""

    def __init__(self, pieces: Pieces, size: int) -> None:
        self._pieces, self._size = pieces, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(left(receive))
        headers = [(b"content-type", BYTES.encode()), (b"content-length", b"%d" % self._size)]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in self._pieces:
                if leaving.done():
                    return
                async with asyncio.timeout(PIECE_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except (RefusedError, ServerAwayError, TimeoutError) as error:  # the answer is not complete, and so will it end
            reason = "the client hardly reads" if isinstance(error, TimeoutError) else str(error)
            _complaints.complain("memory is not read to its end", path=scope["path"], reason=reason)
        finally:
            leaving.cancel()
            await self._pieces.aclose()


@get("/memory", responses=REFUSED | ABSENT | AT_BOARDS, media_type=BYTES, summary="Read a chip's memory")
async def read(
    request: RestRequest, job_id: JobId, address: Address, size: Size, x: Coordinate = 0, y: Coordinate = 0
) -> Plain:
    """Read memory; chip (255, 255) is the job's first Ethernet chip."""
    pieces = await _access(request).stream(request.caller, number_of(job_id), x, y, address, size)
    return Plain(_Sent(pieces, size))


@post(
    "/memory",
    responses=REFUSED | ABSENT | AT_BOARDS | BODY,
    status_code=202,
    operation_class=BytesBody,
    summary="Write a chip's memory",
)
async def write(request: RestRequest, job_id: JobId, address: Address, x: Coordinate = 0, y: Coordinate = 0) -> Plain:
    """Write memory; it is written when this is answered."""
    request.check_type(BYTES)
    await _access(request).write(request.caller, number_of(job_id), x, y, address, request.stream())
    return empty(202)


@get("/fast-data-read", responses=REFUSED | ABSENT | AT_BOARDS, media_type=BYTES, summary="Read memory fast")
async def read_fast(
    request: RestRequest,
    job_id: JobId,
    gather_x: Coordinate,
    gather_y: Coordinate,
    iptag: Tag,
    address: Address,
    size: Size,
    eth_x: Coordinate = 0,
    eth_y: Coordinate = 0,
    eth_address: Host = "",
    x: Coordinate = 0,
    y: Coordinate = 0,
    p: CoreNumber = 0,
) -> Plain:
    """Read memory by the monitor (x, y, p), through a gatherer that runs on the board of (eth_x, eth_y)."""
    gatherer = Gatherer(Core(gather_x, gather_y, 0), (eth_x, eth_y), iptag, eth_address or None)
    monitor = Core(x, y, p)
    pieces = await _access(request).fast_stream(request.caller, number_of(job_id), gatherer, monitor, address, size)
    return Plain(_Sent(pieces, size))


@post(
    "/fast-data-write",
    responses=REFUSED | ABSENT | AT_BOARDS | BODY,
    status_code=202,
    operation_class=BytesBody,
    summary="Write memory fast",
)
async def write_fast(
    request: RestRequest,
    job_id: JobId,
    gather_x: Coordinate,
    gather_y: Coordinate,
    gather_p: CoreNumber,
    iptag: Tag,
    address: Address,
    eth_x: Coordinate = 0,
    eth_y: Coordinate = 0,
    eth_address: Host = "",
    x: Coordinate = 0,
    y: Coordinate = 0,
) -> Plain:
    """Write the memory of chip (x, y), through a gatherer that runs on the board of (eth_x, eth_y)."""
    request.check_type(BYTES)
    gatherer = Gatherer(Core(gather_x, gather_y, gather_p), (eth_x, eth_y), iptag, eth_address or None)
    data = request.stream()
    await _access(request).fast_write(request.caller, number_of(job_id), gatherer, x, y, address, data)
    return empty(202)


@delete("/router", responses=REFUSED | ABSENT | AT_BOARDS, status_code=202, summary="Reset the routers of all chips")
async def reset_router(request: RestRequest, job_id: JobId) -> Plain:
    """Clear routers' counters and tables. Each parameter `N=WORD` sets diagnostic filter N."""
    filters: dict[int, int] = {}
    for name, value in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True):
        index, word = _whole(name), _whole(value)
        if not 0 <= index < MAX_FILTERS or not 0 <= word < WORDS or index in filters:
            right = f"each filter (0 to {MAX_FILTERS - 1}) once, and a word of 32 bits for it"
            raise Refusal(400, f"{name[:40]}={value[:40]}: give {right}")
        filters[index] = word
    await _access(request).reset_router(request.caller, number_of(job_id), filters)
    return empty(202)


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1


BOARDS = Router(
    "/jobs/{job_id:str}",
    route_handlers=[read, write, read_fast, write_fast, reset_router],
    opt={"permission": Permission.USE, "absent": NO_SUCH_JOB},
    tags=["boards"],
)
"""The boards of one job."""
