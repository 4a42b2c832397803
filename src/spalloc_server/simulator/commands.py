"""The SCP commands to SDP port 0: what SCAMP, and SARK on the other cores, do.

Theory of operation. `Request` is one command, as it came; `perform` does it and gives the code and payload of the
answer. A command that no table has is answered with `CMD`, one whose arguments say nothing with `ARG`. Commands that
are about a whole board go by the board at whose port the datagram came in, or by the Ethernet chip that they name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Final

from spalloc_server.hardware.scp import ResponseCode
from spalloc_server.simulator.applications import Signal
from spalloc_server.simulator.chip import Chip
from spalloc_server.simulator.flood import CHIPS_PER_BOARD
from spalloc_server.simulator.floodfill import FloodFill, Region
from spalloc_server.simulator.system import System
from spalloc_server.simulator.tags import Tag, Target

__all__ = ["OK", "Answer", "Request", "perform"]

MAX_DATA: Final = 256
WAIT: Final = 1 << 18
CORE_MASK: Final = 0x3FFFE
"""Cores 1 to 17."""
RETRY_TAG: Final = 4
READ_FIXED_ROUTE: Final = 0x80000000
ROUTE_BYTES: Final = 16
STRIP: Final = 1 << 28
REVERSE: Final = 1 << 29
USE_SENDER: Final = 1 << 30
ONLY_ASK: Final = 16
"""A time-out from here on asks without setting."""
MULTICAST: Final = 0
POINT_TO_POINT: Final = 1
NEAREST_NEIGHBOUR: Final = 2

Answer = tuple[ResponseCode, bytes]
OK: Final[Answer] = (ResponseCode.OK, b"")
BAD_ARGUMENT: Final[Answer] = (ResponseCode.ARG, b"")


class Command(IntEnum):
    """Commands that SCAMP knows."""

    VER = 0
    READ = 2
    WRITE = 3
    FILL = 5
    COUNT = 15
    LINK_READ = 17
    LINK_WRITE = 18
    AR = 19
    NNP = 20
    APP_COPY_RUN = 21
    SIG = 22
    FFD = 23
    LED = 25
    IPTAG = 26
    ALLOC = 28
    RTR = 29
    INFO = 31
    SYNC = 32


@dataclass(slots=True)
class Request:
    """One command to a core of a chip, from `source`; its arguments are zeros where the datagram is shorter."""

    system: System
    chip: Chip
    core: int
    port: int
    source: Target
    payload: bytes
    """All behind the SDP header."""
    command: int
    arg1: int
    arg2: int
    arg3: int
    data: bytes


def perform(request: Request) -> Answer:
    """Do what the request says; the code and payload of the answer."""
    table = _SCAMP if request.core == 0 else _SARK
    action = table.get(request.command)
    return (ResponseCode.CMD, b"") if action is None else action(request)


# -------------------------------------------------------------------- versions and memory


def _version(request: Request) -> Answer:
    chip, version = request.chip, request.system.image.version
    if request.core:
        version = version.replace(b"SC&MP/", b"SARK/", 1)
    physical = chip.read(0xE5007FA8 + request.core, 1)
    return ResponseCode.OK, bytes((request.core, physical[0], chip.y, chip.x)) + version


def _read(request: Request) -> Answer:
    if not 0 < request.arg2 <= MAX_DATA:
        return BAD_ARGUMENT
    return ResponseCode.OK, request.chip.read(request.arg1, request.arg2, request.core)


def _write(request: Request) -> Answer:
    length = request.arg2
    if not 0 < length <= MAX_DATA or len(request.data) < length:
        return BAD_ARGUMENT
    request.chip.write(request.arg1, request.data[:length], request.core)
    return OK


def _fill(request: Request) -> Answer:
    if request.arg1 % 4 or request.arg3 % 4 or request.arg3 > 0x8000000:
        return BAD_ARGUMENT
    word = struct.pack("<I", request.arg2)
    for start in range(0, request.arg3, 0x10000):
        request.chip.write(request.arg1 + start, word * (min(0x10000, request.arg3 - start) // 4), request.core)
    return OK


def _over_link(action: Callable[[Request], Answer], request: Request) -> Answer:
    """Do a command at the chip at the other end of a link."""
    there = request.system.neighbour(request.chip, request.arg3)
    if there is None:
        return (ResponseCode.TIMEOUT, b"") if request.arg3 < 6 else BAD_ARGUMENT
    return action(replace(request, chip=there, core=0))


def _info(request: Request) -> Answer:
    return ResponseCode.OK, request.chip.info()


def _nothing(_: Request) -> Answer:
    """LED and SYNC: nobody can see what they do."""
    return OK


# -------------------------------------------------------------------- applications


def _run(request: Request) -> Answer:
    return _load(request, request.arg1)


def _load(request: Request, what: int) -> Answer:
    request.system.load(request.chip, what >> 24, what & CORE_MASK, wait=bool(what & WAIT))
    return OK


def _copy_and_run(request: Request) -> Answer:
    link, checksum = request.arg1 & 7, request.arg1 >> 3
    if request.system.neighbour(request.chip, link) is None:
        return ResponseCode.TIMEOUT, b""
    if not request.system.copy_executable(request.chip, link, request.arg2, checksum):
        return ResponseCode.SUM, b""
    return _load(request, request.arg3)


def _signal(request: Request) -> Answer:
    app, mask = request.arg2 & 0xFF, request.arg2 >> 8 & 0xFF
    if request.arg1 == POINT_TO_POINT:
        operation, mode, state = request.arg2 >> 22, request.arg2 >> 20 & 3, request.arg2 >> 16 & 0xF
        if (operation, mode) != (1, 2):
            return BAD_ARGUMENT
        return ResponseCode.OK, struct.pack("<I", request.system.count(app, mask, state))
    if request.arg1 not in {MULTICAST, NEAREST_NEIGHBOUR}:
        return BAD_ARGUMENT
    request.system.signal(request.arg2 >> 16 & 0xFF, app, mask)
    return OK


def _count(request: Request) -> Answer:
    ethernet = request.system.is_ethernet(request.chip.number)
    board = request.chip.number // CHIPS_PER_BOARD
    count = request.system.count(request.arg1 & 0xFF, 0xFF, request.arg2, board) if ethernet else 0
    return ResponseCode.OK, struct.pack("<I", count)


def _nearest_neighbour(request: Request) -> Answer:
    """Packets that go to all chips: a flood fill's begin and end, and STOP."""
    fills = request.system.fills
    if request.arg1 == 0x003F0000 and request.arg2 >> 28 == 5:
        signal, mask, app = request.arg2 >> 16 & 0xFF, request.arg2 >> 8 & 0xFF, request.arg2 & 0xFF
        if signal != Signal.STOP:
            return BAD_ARGUMENT
        request.system.signal(signal, app, mask)
        return OK
    match request.arg1 >> 24:
        case 7:
            for fill in list(fills.values())[-1:]:
                fill.select(Region(request.arg2), request.arg1 & CORE_MASK)
            return OK
        case 6:
            number, blocks = request.arg1 >> 16 & 0xFF, request.arg1 >> 8 & 0xFF
            fills.pop(number, None)
            fills[number] = FloodFill(blocks, Region(request.arg2))
            return OK
        case 15:
            _end_flood(request.system, fills.pop(request.arg1 & 0xFF, None), request.arg2)
            return OK
    return BAD_ARGUMENT


def _end_flood(system: System, fill: FloodFill | None, what: int) -> None:
    """Load what has arrived; a flood that is incomplete has no effect, and no answer says so."""
    if fill is None or not fill.complete:
        return
    for chip, mask in system.chips_of(fill, what & CORE_MASK):
        fill.copy_to(chip.sdram)
        system.load(chip, what >> 24, mask, wait=bool(what & WAIT))


def _flood_data(request: Request) -> Answer:
    fill = request.system.fills.get(request.arg1 & 0xFF)
    block, words = request.arg2 >> 16 & 0xFF, (request.arg2 >> 8 & 0xFF) + 1
    if len(request.data) < 4 * words or 4 * words > MAX_DATA:
        return BAD_ARGUMENT
    if fill is not None:
        fill.take(block, request.arg3, request.data[: 4 * words])
    return OK


# -------------------------------------------------------------------- heap, router, tags


def _allocate(request: Request) -> Answer:
    operation, app, flags = request.arg1 & 0xFF, request.arg1 >> 8 & 0xFF, request.arg1 >> 16
    heap, router = request.chip.heap, request.chip.router
    match operation:
        case 0:
            retry = bool(flags & RETRY_TAG)
            result = heap.allocate(request.arg2, app, request.arg3 & 0xFF, retry=retry)
        case 1:
            return OK if heap.free(request.arg2) else BAD_ARGUMENT
        case 2:
            result = heap.free_app(app)
        case 3:
            result = router.allocate(request.arg2, app)
        case 4:
            return OK if router.free(request.arg2) else BAD_ARGUMENT
        case 7:
            result = router.free_app(app)
        case _:
            return BAD_ARGUMENT
    return ResponseCode.OK, struct.pack("<I", result)


def _route(request: Request) -> Answer:
    operation, app, count = request.arg1 & 0xFF, request.arg1 >> 8 & 0xFF, request.arg1 >> 16
    router = request.chip.router
    match operation:
        case 0:
            router.clear()
        case 2:
            table = request.chip.read(request.arg2, ROUTE_BYTES * min(count, 1024))
            return OK if router.load(table, request.arg3, app) else BAD_ARGUMENT
        case 3 if request.arg2 == READ_FIXED_ROUTE:
            return ResponseCode.OK, struct.pack("<I", router.fixed_route)
        case 3:
            router.fixed_route = request.arg2
        case _:
            return BAD_ARGUMENT
    return OK


def _tag(request: Request) -> Answer:
    if not request.system.is_ethernet(request.chip.number):
        return BAD_ARGUMENT
    table = request.system.tags[request.chip.number // CHIPS_PER_BOARD]
    number = request.arg1 & 0xFF
    match request.arg1 >> 16 & 0xF:
        case 1:
            known = table.set(number, _new_tag(request))
            return (ResponseCode.OK, struct.pack("<I", number)) if known else BAD_ARGUMENT
        case 2:
            described = table.describe(number)
            return BAD_ARGUMENT if described is None else (ResponseCode.OK, described)
        case 3:
            return OK if table.clear(number) else BAD_ARGUMENT
        case 4:
            if request.arg2 < ONLY_ASK:
                table.timeout = request.arg2
            return ResponseCode.OK, table.information()
    return BAD_ARGUMENT


def _new_tag(request: Request) -> Tag:
    flags, port = request.arg1, request.arg2 & 0xFFFF
    if flags & REVERSE:
        chip = (request.arg2 >> 24, request.arg2 >> 16 & 0xFF)
        return Tag(port, strip=bool(flags & STRIP), reverse=True, chip=chip, core=flags >> 8 & 0xFF)
    if flags & USE_SENDER:
        host, port = request.source
    else:
        host = ".".join(map(str, request.arg3.to_bytes(4, "little")))
    return Tag(port, host, strip=bool(flags & STRIP))


_SARK: dict[int, Callable[[Request], Answer]] = {
    Command.VER: _version,
    Command.READ: _read,
    Command.WRITE: _write,
    Command.FILL: _fill,
}
_SCAMP: dict[int, Callable[[Request], Answer]] = {
    **_SARK,
    Command.COUNT: _count,
    Command.LINK_READ: partial(_over_link, _read),
    Command.LINK_WRITE: partial(_over_link, _write),
    Command.AR: _run,
    Command.NNP: _nearest_neighbour,
    Command.APP_COPY_RUN: _copy_and_run,
    Command.SIG: _signal,
    Command.FFD: _flood_data,
    Command.LED: _nothing,
    Command.IPTAG: _tag,
    Command.ALLOC: _allocate,
    Command.RTR: _route,
    Command.INFO: _info,
    Command.SYNC: _nothing,
}
