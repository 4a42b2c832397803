"""What one boot reached: where its chips are, how they are linked, and what else does not change until the next boot.

Theory of operation. Chips have numbers, 48 a board (`simulator.flood`). All that a chip can be asked about its machine
follows from its number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from spalloc_server.simulator.applications import Failure
from spalloc_server.simulator.boot import Image
from spalloc_server.simulator.flood import CHIPS_PER_BOARD, NO_CHIP, Numbering, hops
from spalloc_server.simulator.site import Site

__all__ = ["Fabric"]

MAX_COORDINATE: Final = 256
"""Coordinates have 8 bits; chips beyond cannot be addressed."""
P2P_BYTES: Final = 32768
_NO_P2P_WORD: Final = struct.pack("<I", 0o66666666)


class Fabric:
    """The boards of one boot, and their chips by number.

    `now` gives seconds on a clock that never goes back.
    """

    def __init__(self, numbering: Numbering[Site], image: Image, now: Callable[[], float]) -> None:
        self.image = image
        self.now = now
        self.width, self.height = numbering.width, numbering.height
        self.sites = numbering.boards
        self.unix_time = int.from_bytes(image.variables[0x1C:0x20], "little")
        self._numbering = numbering
        self._began = now()
        self._p2p: tuple[int, bytes] = (NO_CHIP, b"")
        self._by_position = {
            x << 8 | y: number
            for number, x, y in reversed(list(zip(range(len(numbering.x)), numbering.x, numbering.y, strict=True)))
            if 0 <= x < MAX_COORDINATE and 0 <= y < MAX_COORDINATE
        }

    def position(self, number: int) -> tuple[int, int]:
        """Return the coordinates of a chip."""
        return self._numbering.x[number], self._numbering.y[number]

    def is_ethernet(self, number: int) -> bool:
        """Whether this is its board's Ethernet chip."""
        return number % CHIPS_PER_BOARD == 0

    def ethernet_position(self, number: int) -> tuple[int, int]:
        """Return the coordinates of the Ethernet chip of a chip's board."""
        return self.position(number - number % CHIPS_PER_BOARD)

    def address(self, number: int) -> bytes:
        """Return the four bytes of the address of a chip's board."""
        return self.sites[number // CHIPS_PER_BOARD].address

    def links(self, number: int) -> int:
        """Return the mask of a chip's working links."""
        ends = self._numbering.neighbours[6 * number : 6 * number + 6]
        return sum(1 << link for link, end in enumerate(ends) if end != NO_CHIP)

    def parent(self, number: int) -> int:
        """Return the link over which a chip heard of the boot first; 7 of the root."""
        return self._numbering.parents[number]

    def p2p_table(self, number: int) -> bytes:
        """Return the routes from a chip to all others, 3 bits each, a column of 256 in 32 words; 6 is no route."""
        if self._p2p[0] != number:
            columns = bytearray(_NO_P2P_WORD * (P2P_BYTES // 4))
            reached = hops(self._numbering.neighbours, number)
            for key, there in self._by_position.items():
                x, y = key >> 8, key & 0xFF
                at = 128 * x + 4 * (y // 8)
                shift = 3 * (y % 8)
                word = int.from_bytes(columns[at : at + 4], "little") & ~(7 << shift) | reached[there] << shift
                columns[at : at + 4] = word.to_bytes(4, "little")
            self._p2p = number, bytes(columns)
        return self._p2p[1]

    def milliseconds(self) -> int:
        """Return the time since the boot."""
        return int((self.now() - self._began) * 1000)

    def failure(self, number: int, core: int) -> Failure | None:
        """Return the run-time error that is to come to a core."""
        board, on_board = divmod(number, CHIPS_PER_BOARD)
        return self.sites[board].chip_faults.failures.get((on_board, core))
