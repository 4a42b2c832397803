"""A board's blacklist: what is broken on it, as its BMP's flash says, and what boot programs read from there.

Theory of operation. The list is 256 bytes of the BMP's flash: a count, then a word for each chip that is not whole. To
people it is text, a line a chip: `chip 3 4 core 5,17 link 0` (physical cores 0-17, links 0 east to 5 south,
counter-clockwise) or `chip 3 4 dead`. Chips are counted on the board.

Flash is written in sectors. The sector that has the list is read, changed, given its checksum, written to the BMP's
buffer and from there to flash. A copy goes to the serial flash, as the firmware has it, and both are read back. The
command to write the buffer to flash is sent once: where its answer is lost, what is read back says whether it was done.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Awaitable, Iterable
from typing import Final, Protocol

from spalloc_server.coordinates import BOARD_CHIPS
from spalloc_server.errors import HardwareError, RequestError
from spalloc_server.hardware.bmp import NoAnswer
from spalloc_server.hardware.scp import MAX_DATA, Command, InfoType

__all__ = ["Ask", "decode", "encode", "read_blacklist", "write_blacklist"]

SECTOR: Final = 0x1000
"""Address of the flash sector that has the list."""
SECTOR_BYTES: Final = 0x1000
LIST_OFFSET: Final = 0xE00
"""Of the list in its sector."""
LIST_BYTES: Final = 256
CHECKSUM_OFFSET: Final = 0xFFC
"""Of the sector's checksum: the inverted CRC-32 of all that is before it."""
SERIAL_COPY: Final = 0x100
"""Address of the copy in serial flash."""

CORES: Final = 18
LINKS: Final = 6
_DEAD: Final = (1 << CORES) - 1
_BUFFER_WORD: Final = 5
"""Which word of the serial information is the address of the flash buffer."""
_SERIAL_READ, _SERIAL_WRITE = 0, 1
_LINE = re.compile(r"chip (\d) (\d)(?: (dead)|(?: core ([\d,]+))?(?: link ([\d,]+))?)")


class Ask(Protocol):
    """Has one command done by the BMP of one board: `Hardware.ask` of that board."""

    def __call__(
        self, command: int, arg1: int = 0, arg2: int = 0, arg3: int = 0, data: bytes = b""
    ) -> Awaitable[bytes]:
        """The payload of its answer; `HardwareError` where there is none."""


def decode(area: bytes) -> list[str]:
    """The lines that these 256 bytes hold; `HardwareError` where they hold no list. Erased flash holds an empty one."""
    (number,) = struct.unpack_from("<I", area)
    if number == 0xFFFFFFFF:
        return []
    if 4 * number + 4 > LIST_BYTES:
        raise HardwareError(f"the board's flash holds no blacklist: it would have {number} entries")
    lines = []
    for word in struct.unpack_from(f"<{number}I", area, 4):
        line = f"chip {word >> 27 & 7} {word >> 24 & 7}"
        cores = [str(core) for core in range(CORES) if word >> core & 1]
        links = [str(link) for link in range(LINKS) if word >> CORES + link & 1]
        if word & _DEAD == _DEAD:
            line += " dead"
        else:
            line += (f" core {','.join(cores)}" if cores else "") + (f" link {','.join(links)}" if links else "")
        lines.append(line)
    return lines


def encode(lines: Iterable[str]) -> bytes:
    """The 256 bytes that hold these lines; `RequestError` where one says nothing or cannot be."""
    words = [_word(line) for line in lines]
    if 4 * len(words) + 4 > LIST_BYTES:
        raise RequestError(f"a blacklist has at most {LIST_BYTES // 4 - 1} lines, not {len(words)}")
    chips = [word >> 24 for word in words]
    if len(set(chips)) < len(chips):
        raise RequestError("a chip is named twice; give all of its cores and links in one line")
    return struct.pack(f"<I{len(words)}I", len(words), *words).ljust(LIST_BYTES, b"\xff")


async def read_blacklist(ask: Ask) -> list[str]:
    """The board's blacklist."""
    return decode(await ask(Command.READ, SECTOR + LIST_OFFSET, LIST_BYTES))


async def write_blacklist(ask: Ask, lines: Iterable[str]) -> list[str]:
    """Write a blacklist and read it back; `HardwareError` where it reads differently. One at a time for each board."""
    area = encode(lines)
    old = b"".join([await ask(Command.READ, SECTOR + at, MAX_DATA) for at in range(0, SECTOR_BYTES, MAX_DATA)])
    if len(old) != SECTOR_BYTES:
        raise HardwareError(f"the board's flash could not be read: {len(old)} bytes instead of {SECTOR_BYTES}")
    new = old[:LIST_OFFSET] + area + old[LIST_OFFSET + LIST_BYTES : CHECKSUM_OFFSET]
    new += struct.pack("<I", ~zlib.crc32(new) & 0xFFFFFFFF)
    buffer = struct.unpack_from("<I", await ask(Command.INFO, InfoType.SERIAL), 4 * _BUFFER_WORD)[0]
    for at in range(0, SECTOR_BYTES, MAX_DATA):
        await ask(Command.WRITE, buffer + at, MAX_DATA, 0, new[at : at + MAX_DATA])
    with contextlib.suppress(NoAnswer):
        await ask(Command.FLASH_WRITE, SECTOR, SECTOR_BYTES, 1)
    await ask(Command.SERIAL_FLASH, SERIAL_COPY, LIST_BYTES, _SERIAL_WRITE, area)
    written = await ask(Command.READ, SECTOR + LIST_OFFSET, LIST_BYTES)
    copied = await ask(Command.SERIAL_FLASH, SERIAL_COPY, LIST_BYTES, _SERIAL_READ)
    if not written == copied == area:
        raise HardwareError("the board's flash does not read as it was written")
    return decode(written)


def _word(line: str) -> int:
    match = _LINE.fullmatch(" ".join(line.split()))
    if match is None or match.group(3, 4, 5) == (None, None, None):
        raise RequestError(f"{line!r} is no line of a blacklist; `chip 3 4 core 5,17 link 0` or `chip 3 4 dead` is")
    x, y = int(match[1]), int(match[2])
    if not (x < BOARD_CHIPS and y < BOARD_CHIPS and -3 <= x - y <= 4):
        raise RequestError(f"{line!r}: there is no chip {x} {y} on a board")
    if match[3]:
        return x << 27 | y << 24 | _DEAD
    cores, links = _bits(line, match[4], CORES, "cores"), _bits(line, match[5], LINKS, "links")
    return x << 27 | y << 24 | links << CORES | cores


def _bits(line: str, numbers: str | None, most: int, what: str) -> int:
    bits = 0
    for number in filter(None, (numbers or "").split(",")):
        if int(number) >= most:
            raise RequestError(f"{line!r}: {what} are numbered 0 to {most - 1}")
        bits |= 1 << int(number)
    return bits
