"""Transfers in pieces: commands of SCAMP for any bytes at any address, and streams of bytes in blocks.

Theory of operation. A command reads or writes up to 256 bytes in units of words, half-words or bytes; its address and
length are multiples of that. Words are quickest, and the only ones that registers take; so all but the ends of a
transfer are words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from enum import IntEnum

from spalloc_server.coordinates import Chip
from spalloc_server.frontends.http.boards.scamp import Code, Command
from spalloc_server.hardware.scp import MAX_DATA

__all__ = ["Pieces", "Unit", "begun", "blocks", "parts", "pieces", "reads", "writes"]


class Unit(IntEnum):
    """How memory is accessed: the third argument of a command."""

    BYTE = 0
    HALF = 1
    WORD = 2


def pieces(address: int, size: int) -> Iterator[tuple[int, int, Unit]]:
    """Yield (address, bytes, unit) of the commands that read or write some bytes, in order.

    Address and length are multiples of the unit.
    """
    end = address + size
    while address < end:
        if address % 4 or end - address < 4:
            length = min(4 - address % 4, end - address)
            unit = Unit.BYTE if address % 2 or length % 2 else Unit.HALF
        else:
            length, unit = min(MAX_DATA, (end - address) & ~3), Unit.WORD
        yield address, length, unit
        address += length


def parts(address: int, size: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of parts of at most `length`."""
    for start in range(address, address + size, length):
        yield start, min(length, address + size - start)


def reads(chip: Chip, address: int, size: int) -> Iterator[Command]:
    """Return the commands that read some bytes of a chip's memory."""
    return (Command(chip, Code.READ, at, length, unit) for at, length, unit in pieces(address, size))


def writes(chip: Chip, address: int, data: bytes) -> Iterator[Command]:
    """Yield the commands that write data to a chip's memory."""
    view = memoryview(data)
    for at, length, unit in pieces(address, len(data)):
        start = at - address
        yield Command(chip, Code.WRITE, at, length, unit, view[start : start + length])


class Pieces:
    """What a generator yields, the first of which is there; closing it closes the generator, begun or not."""

    def __init__(self, first: list[bytes], rest: AsyncGenerator[bytes, None]) -> None:
        self._first, self._rest = first, rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._first.pop() if self._first else await anext(self._rest)

    async def aclose(self) -> None:
        """Have done with it."""
        self._first.clear()
        await self._rest.aclose()


async def begun(parts: AsyncGenerator[bytes, None], *, alone: bool) -> Pieces:
    """Return what yields the parts, once the first is there; where that is `alone`, nothing is open any more."""
    first = [part async for part in parts] if alone else [await anext(parts)]
    return Pieces(first, parts)


async def blocks(data: bytes | AsyncIterable[bytes], length: int) -> AsyncIterator[bytes]:
    """Yield the data in blocks of about `length`, whole commands each but for the last."""
    if isinstance(data, bytes):
        for start in range(0, len(data), length):
            yield data[start : start + length]
        return
    rest = bytearray()
    async for chunk in data:
        rest += chunk
        while len(rest) >= length:
            yield bytes(rest[:length])
            del rest[:length]
    if rest:
        yield bytes(rest)
