"""The fast transfers: data out through monitors, data in through gatherers.

Theory of operation. Both are streams of plain SDP datagrams without an answer to each. *Out*: a monitor is asked for
bytes, and sends them in numbered packets through the tag of its board's gatherer, with an end mark behind; what got
lost is asked for by number. *In*: a gatherer learns where the bytes go, gets them in numbered packets, and when it is
asked it tells through its tag that it has all, or which ones are missing. Transactions have numbers, so that late
packets of an older one do no harm; the current one stands in the core's user 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from spalloc_server.simulator.applications import Application, Incoming
from spalloc_server.simulator.chip import USER_1, Chip, core_block
from spalloc_server.simulator.flood import CHIPS_PER_BOARD, NUMBER_OF_CHIP
from spalloc_server.simulator.system import System
from spalloc_server.simulator.tags import Target

__all__ = ["Outgoing", "receive", "send"]

_HEADER: Final = struct.Struct("<2x8B")
OUT_BYTES: Final = 264
"""Data of one packet that leaves."""
IN_BYTES: Final = 260
"""Data of one packet that comes in."""
MISSING_A_PACKET: Final = 66
"""Numbers of missing packets that one packet tells."""
LAST: Final = 0x80000000
END_OF_MISSING: Final = 0xFFFFFFFF
SDRAM_BYTES: Final = 128 << 20


class _Out(IntEnum):
    START = 100
    MISSING_FIRST = 1000
    MISSING_MORE = 1001
    CLEAR = 2000


class _In(IntEnum):
    LOCATION = 200
    DATA = 2000
    TELL = 2001
    MISSING = 2002
    FINISHED = 2003


@dataclass(slots=True)
class Outgoing:
    """A stream that leaves a board: `packets` to `target`, in order and as fast as it can take them.

    A stream that begins takes the place of an earlier one of the same board, chip and core.
    """

    board: int
    sender: tuple[int, int]
    """Number of the chip, and core."""
    target: Target
    header: bytes
    """What stands before each packet: nothing, or the header of SDP where the tag does not strip it."""
    packets: Iterator[bytes]


def send(system: System, chip: Chip, core: int, payload: bytes) -> list[Outgoing]:
    """Take a request for data; what leaves for it."""
    words = _words(payload)
    if len(words) < 2:
        return []
    board = chip.number // CHIPS_PER_BOARD
    command, transaction, *rest = words
    key = (chip.number, core)
    if begins := command == _Out.START and len(rest) >= 2 and rest[1] <= SDRAM_BYTES:
        chip.set_word(core_block(core) + USER_1, transaction)
        system.transfers[key] = (transaction, rest[0], rest[1])
    transfer = system.transfers.get(key)
    if transfer is None or transfer[0] != transaction:
        return []
    match command:
        case _Out.START if begins:
            packets = _packets(system, key, transfer, range(-(-rest[1] // OUT_BYTES)))
        case _Out.MISSING_FIRST:
            packets = _packets(system, key, transfer, rest[1:])
        case _Out.MISSING_MORE:
            packets = _packets(system, key, transfer, rest)
        case _Out.CLEAR:
            del system.transfers[key]
            packets = iter(())
        case _:
            return []
    return _leaving(system, board, key, packets)


def _packets(
    system: System, key: tuple[int, int], transfer: tuple[int, int, int], numbers: Iterable[int]
) -> Iterator[bytes]:
    transaction, address, length = transfer
    chip = system.chip(key[0])
    count = -(-length // OUT_BYTES)
    for number in numbers:
        if chip is not None and 0 <= number < count:
            at = number * OUT_BYTES
            data = chip.read(address + at, min(OUT_BYTES, length - at))
            yield struct.pack("<2I", number, transaction) + data
    yield struct.pack("<2I", count | LAST, transaction)


def receive(system: System, chip: Chip, core: int, app: Application, payload: bytes) -> list[Outgoing]:
    """Take a packet of data for a chip of the gatherer's board; what leaves for it."""
    words = _words(payload[:20])
    if len(words) < 2:
        return []
    command, transaction = words[:2]
    board = chip.number // CHIPS_PER_BOARD
    if command == _In.LOCATION and len(words) >= 5:
        place = NUMBER_OF_CHIP.get((words[3] >> 16, words[3] & 0xFFFF))
        if place is not None and words[4] * IN_BYTES < SDRAM_BYTES:
            chip.set_word(core_block(core) + USER_1, transaction)
            app.incoming = Incoming(transaction, words[2], board * CHIPS_PER_BOARD + place, words[4] + 1)
        return []
    incoming = app.incoming
    if incoming is None or incoming.transaction != transaction:
        return []
    if command == _In.DATA and len(words) >= 3:
        number = words[2]
        data = payload[12 : 12 + IN_BYTES]
        there = system.chip(incoming.chip)
        if there is not None and number < incoming.packets and data:
            there.write(incoming.address + number * IN_BYTES, data)
            incoming.have.add(number)
        return []
    return _leaving(system, board, (chip.number, core), _told(incoming)) if command == _In.TELL else []


def _told(incoming: Incoming) -> Iterator[bytes]:
    missing = [number for number in range(incoming.packets) if number not in incoming.have]
    if not missing:
        yield struct.pack("<2I", _In.FINISHED, incoming.transaction)
        return
    missing.append(END_OF_MISSING)
    for start in range(0, len(missing), MISSING_A_PACKET):
        numbers = missing[start : start + MISSING_A_PACKET]
        yield struct.pack(f"<{2 + len(numbers)}I", _In.MISSING, incoming.transaction, *numbers)


def _leaving(system: System, board: int, key: tuple[int, int], packets: Iterator[bytes]) -> list[Outgoing]:
    """A stream to whom the board's gatherer sends; none where no tag says who that is."""
    number = system.gatherer(board)
    tag = None if number is None else system.tags[board].get(number)
    if number is None or tag is None or tag.reverse:
        return []
    x, y = system.position(key[0])
    header = b"" if tag.strip else _HEADER.pack(0x07, number, 0xFF, key[1], 0, 0, y & 0xFF, x & 0xFF)
    return [Outgoing(board, key, (tag.host, tag.port), header, packets)]


def _words(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(payload) // 4}I", payload[: len(payload) // 4 * 4])
