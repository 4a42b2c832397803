"""The boot of a board: datagrams in, an image out.

Theory of operation. A board that is switched on and runs nothing waits for an image at UDP port 54321: a START that
says how many blocks there will be, the blocks, an END. Nothing is answered. An image that lacks a block, or has one
twice, is not started, and the client will see that the board stays silent and begin again. Headers are big-endian;
the words of the blocks come with their bytes reversed.
"""

from __future__ import annotations

import struct
from array import array
from enum import Enum, IntEnum
from typing import Final, NamedTuple

__all__ = ["BOOT_PORT", "SPOILT", "BootReceiver", "Image", "MalformedBoot", "Spoilt"]

BOOT_PORT: Final = 54321
VERSION: Final = 1
HEADER: Final = struct.Struct(">H4I")
BLOCK_BYTES: Final = 1024
MAX_BLOCKS: Final = 32
"""An image has at most 32 KiB."""
SYSTEM_VARIABLES: Final = slice(384, 512)
"""Where the client puts the first half of the system variables into the image."""
_NAME: Final = b"SC&MP/SpiNNaker\0"
_BEFORE_NAME: Final = 8
"""Bytes of the version reply that stand before its text: buffer size, format and build time."""


class _Operation(IntEnum):
    START = 1
    BLOCK = 3
    END = 5


class MalformedBoot(ValueError):
    """A datagram is none of a boot."""


class Image(NamedTuple):
    """What a board was booted with."""

    version: bytes
    """What SCAMP answers about its version behind the chip's identity; it says so in its own image."""
    variables: bytes
    """The system variables 0x00 to 0x7F, as the client set them."""


class Spoilt(Enum):
    """That an image ended, and cannot be started."""

    SPOILT = "spoilt"


SPOILT: Final = Spoilt.SPOILT


class BootReceiver:
    """Collects the blocks of one image."""

    __slots__ = ("_blocks", "_expected")

    def __init__(self) -> None:
        self._expected = 0
        self._blocks: dict[int, bytes] = {}

    def receive(self, datagram: bytes) -> Image | Spoilt | None:
        """Take a datagram; where it is an END, return the image, or that it is spoilt.

        `MalformedBoot` where it is none of a boot.
        """
        if len(datagram) < HEADER.size:
            raise MalformedBoot("too short")
        version, operation, arg1, _, arg3 = HEADER.unpack_from(datagram)
        if version != VERSION or operation not in _Operation.__members__.values():
            raise MalformedBoot("not an operation of version 1")
        match operation:
            case _Operation.START:
                self._expected = arg3 + 1 if arg3 < MAX_BLOCKS else 0
                self._blocks.clear()
            case _Operation.BLOCK:
                self._take(arg1 & 0xFF, datagram[HEADER.size :])
            case _Operation.END:
                image = self._complete()
                self._expected = 0
                self._blocks.clear()
                return image
        return None

    def _take(self, number: int, data: bytes) -> None:
        """A block that is repeated, or is not one of those announced, spoils the image."""
        if not 0 < len(data) <= BLOCK_BYTES or len(data) % 4:
            raise MalformedBoot("a block of another size")
        if number in self._blocks or number >= self._expected:
            self._expected = 0
        self._blocks[number] = data

    def _complete(self) -> Image | Spoilt:
        if not self._expected or len(self._blocks) != self._expected:
            return SPOILT
        *whole, _ = blocks = [self._blocks[number] for number in range(self._expected)]
        if any(len(block) != BLOCK_BYTES for block in whole):
            return SPOILT
        words = array("I", b"".join(blocks))
        words.byteswap()
        return _image(words.tobytes())


def _image(content: bytes) -> Image | Spoilt:
    """What the image says; one that is not SCAMP's is as good as spoilt."""
    name = content.find(_NAME)
    end = content.find(b"\0", name + len(_NAME))
    if name < _BEFORE_NAME or end < 0 or len(content) < SYSTEM_VARIABLES.stop:
        return SPOILT
    return Image(content[name - _BEFORE_NAME : end + 1], content[SYSTEM_VARIABLES])
