"""A heap of a chip: blocks of SDRAM, each of an application, some with a tag.

Theory of operation. Blocks are cut from the front of the first gap that is large enough. In front of each block lies a
header of 8 bytes, as SCAMP's heap has it, so that clients can walk from block to block: the address of the next header
(0 after the last), then 0 in a gap, or application and tag of the block.
"""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Block", "Heap"]

HEADER: Final = 8
IN_USE: Final = 0xFFFF0000
"""What a header of a block in use has beside its tag and application."""


class Block(NamedTuple):
    """Bytes in use."""

    address: int
    size: int
    """Bytes, a multiple of 4."""
    app: int
    tag: int


class Heap:
    """The bytes from `start` (inclusive) to `end`, both multiples of 4."""

    __slots__ = ("_blocks", "_end", "_start")

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end
        self._blocks: list[Block] = []

    def allocate(self, size: int, app: int, tag: int = 0, *, retry: bool = False) -> int:
        """Return the address of a new block, 0 where there is no room or the application has the tag already.

        With `retry` the block that has the tag is given again: the request may be a repeat.
        """
        if tag and (found := self.tagged(app, tag)) is not None:
            return found.address if retry else 0
        size = -(-size // 4) * 4
        for address, room in self._gaps():
            if 0 < size <= room:
                insort(self._blocks, Block(address, size, app, tag))
                return address
        return 0

    def free(self, address: int) -> bool:
        """Give the block at `address` back; whether there was one."""
        return self._drop([block for block in self._blocks if block.address == address]) > 0

    def free_app(self, app: int, mask: int = 0xFF) -> int:
        """Give all blocks of the applications whose number fits back; how many there were."""
        return self._drop([block for block in self._blocks if block.app & mask == app & mask])

    def _drop(self, blocks: list[Block]) -> int:
        for block in blocks:
            self._blocks.remove(block)
        return len(blocks)

    def tagged(self, app: int, tag: int) -> Block | None:
        """Return the block of an application that has a tag."""
        return next((block for block in self._blocks if (block.app, block.tag) == (app, tag)), None)

    def holding(self, address: int) -> Block | None:
        """Return the block that an address lies in."""
        return next((each for each in self._blocks if each.address <= address < each.address + each.size), None)

    @property
    def largest(self) -> int:
        """Bytes of the largest block that could be had."""
        return max((room for _, room in self._gaps()), default=0)

    def _gaps(self) -> list[tuple[int, int]]:
        """(address, bytes) of each block that could be had, in order of addresses."""
        return [(at + HEADER, end - at - HEADER) for at, end, use in self._walk() if not use and end - at > HEADER]

    def headers(self) -> list[tuple[int, bytes]]:
        """(address, header) of each block and gap, in order of addresses, and of the end."""
        return [*((at, struct.pack("<2I", end, use)) for at, end, use in self._walk()), (self._end, bytes(HEADER))]

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        """(address, end, second word) of the header of each block and gap, in order of addresses."""
        at = self._start
        for block in self._blocks:
            if block.address - HEADER > at:
                yield at, block.address - HEADER, 0
            at = block.address + block.size
            yield block.address - HEADER, at, IN_USE | block.app << 8 | block.tag
        if self._end > at:
            yield at, self._end, 0
