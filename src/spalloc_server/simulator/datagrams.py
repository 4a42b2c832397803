"""Datagrams that a booted board takes and sends at UDP port 17893: SDP, and SCP within it.

Theory of operation. A datagram says to which core of which chip it goes; all chips of a machine can be reached through
the port of any of its boards, and the answer leaves where the datagram came in. (255, 255) is the Ethernet chip that
took it; so is every chip where a datagram is not to be routed (flag 0x20). An answer's source is the chip that
answers, as its own coordinates are. What is no datagram of SDP is dropped.
"""

from __future__ import annotations

import struct
from typing import Final

from spalloc_server.hardware.scp import ResponseCode
from spalloc_server.simulator.chip import CORES
from spalloc_server.simulator.commands import Request, perform
from spalloc_server.simulator.fast_data import Outgoing
from spalloc_server.simulator.programs import deliver
from spalloc_server.simulator.system import System
from spalloc_server.simulator.tags import Target

__all__ = ["MAX_DATAGRAM", "Malformed", "handle"]

_HEADER: Final = struct.Struct("<2x8B")
_COMMAND: Final = struct.Struct("<2H3I")
_REPLY: Final = struct.Struct("<2x8B2H")
MAX_DATAGRAM: Final = 2 + 8 + 16 + 256
_REPLY_EXPECTED: Final = 0x80
_NOT_ROUTED: Final = 0x20
_FLAGS: Final = 0x07
HERE: Final = (255, 255)


class Malformed(ValueError):
    """A datagram is none of SDP."""


def handle(system: System, board: int, datagram: bytes, source: Target) -> tuple[bytes | None, list[Outgoing]]:
    """Do what a datagram says that came to the port of a system's board, by number; `Malformed` where it is none.

    Return the answer to its sender, if any, and the streams that leave through tags.
    """
    if not _HEADER.size <= len(datagram) <= MAX_DATAGRAM:
        raise Malformed("a datagram of another size")
    flags, tag, to, sender, y, x, source_y, source_x = _HEADER.unpack_from(datagram)
    if flags & ~(_REPLY_EXPECTED | _NOT_ROUTED) != _FLAGS:
        raise Malformed("other flags")
    is_here = (x, y) == HERE or flags & _NOT_ROUTED
    chip = system.ethernet_chip(board) if is_here else system.chip_at(x, y)
    port, core = to >> 5, to & 31
    payload = datagram[_HEADER.size :]
    outgoing: list[Outgoing] = []
    if chip is None:
        code, data = ResponseCode.ROUTE, b""
    elif core >= min(CORES, chip.cores):
        code, data = ResponseCode.CPU, b""
    elif port == 0 and len(payload) < _COMMAND.size:
        code, data = ResponseCode.LEN, b""
    elif port != 0 and core == 0:
        code, data = ResponseCode.PORT, b""
    else:
        command, _, arg1, arg2, arg3 = _COMMAND.unpack_from(payload.ljust(_COMMAND.size, b"\0"))
        data = payload[_COMMAND.size :]
        request = Request(system, chip, core, port, source, payload, command, arg1, arg2, arg3, data)
        if port == 0:
            code, data = perform(request)
        else:
            (code, data), outgoing = deliver(request)
    if not flags & _REPLY_EXPECTED:
        return None, outgoing
    from_x, from_y = (x, y) if chip is None else (chip.x, chip.y)
    sequence = int.from_bytes(payload[2:4], "little")
    flags &= ~_REPLY_EXPECTED
    head = _REPLY.pack(flags, tag, sender, to, source_y, source_x, from_y & 0xFF, from_x & 0xFF, code, sequence)
    return head + data, outgoing
