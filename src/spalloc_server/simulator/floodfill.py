"""Flood fill: an executable that goes to all chips of a region at once, as older clients load it."""

from __future__ import annotations

import functools
import operator

from spalloc_server.simulator.memory import Memory

__all__ = ["FloodFill", "Region"]


class Region:
    """A set of chips, in one word: 16 squares of 64, 16, 4 or 1 chips a side, by its level, at a corner."""

    __slots__ = ("_level", "_mask", "_x", "_y")

    def __init__(self, word: int) -> None:
        self._x, self._y = word >> 24, word >> 16 & 0xFC
        self._level = word >> 16 & 3
        self._mask = word & 0xFFFF

    def __contains__(self, chip: tuple[int, int]) -> bool:
        x, y = chip
        shift = 6 - 2 * self._level
        if (x ^ self._x) >> shift + 2 or (y ^ self._y) >> shift + 2:
            return False
        return bool(self._mask >> ((x >> shift & 3) | (y >> shift & 3) << 2) & 1)


class FloodFill:
    """One flood that is under way: `blocks` are to come."""

    __slots__ = ("_blocks", "_content", "_expected", "_region", "_selected")

    def __init__(self, blocks: int, region: Region) -> None:
        self._region = region
        self._selected: list[tuple[Region, int]] = []
        self._expected = blocks
        self._blocks: dict[int, tuple[int, int]] = {}
        self._content = Memory()

    def take(self, number: int, address: int, data: bytes) -> None:
        """Take a block."""
        self._blocks[number] = (address, len(data))
        self._content.write(address, data)

    def select(self, region: Region, cores: int) -> None:
        """Have the application go to the cores of a mask on all chips of a region, too."""
        self._selected.append((region, cores))

    def cores(self, chip: tuple[int, int], cores: int) -> int | None:
        """Return the mask of cores that a chip starts, `cores` being the flood's own; None where it takes no part."""
        masks = [mask for region, mask in self._selected if chip in region]
        if chip in self._region:
            masks.append(cores)
        return functools.reduce(operator.or_, masks) if masks else None

    @property
    def complete(self) -> bool:
        """Whether all blocks have come."""
        return len(self._blocks) >= self._expected

    def copy_to(self, memory: Memory) -> None:
        """Put the blocks where they say, sharing pages with all other chips that get them."""
        start = end = 0
        for address, length in [*sorted(self._blocks.values()), (-1, 0)]:
            if address != end and end > start:
                memory.copy(self._content, start, end - start)
            if address != end:
                start = address
            end = address + length
