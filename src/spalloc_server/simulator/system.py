"""A booted machine: the chips that one boot reached, and what goes to all of them.

Theory of operation. A boot floods over the links that run; what it reaches is one system, with coordinates of its own
(`simulator.flood`). It is told neither a size nor which boards belong to it. Boards that are switched off afterwards
are lost to it. Chips are made at first touch; signals and counts look only at chips that were made, since on others all
cores are idle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from spalloc_server.simulator.applications import Application, Failure, Role, Signal
from spalloc_server.simulator.boot import Image
from spalloc_server.simulator.chip import STAGING, USER_0, USER_1, Chip, core_block
from spalloc_server.simulator.flood import CHIPS_PER_BOARD, NO_CHIP, Numbering, hops
from spalloc_server.simulator.floodfill import FloodFill
from spalloc_server.simulator.heap import Block
from spalloc_server.simulator.site import Site
from spalloc_server.simulator.tags import TagTable

__all__ = ["System"]

MAX_COORDINATE: Final = 256
"""Coordinates have 8 bits; chips beyond cannot be addressed."""
COMPRESSOR_TAG: Final = 1
ROUTE_BYTES: Final = 16
MAX_APP: Final = 255
REGION_TABLE: Final = 8
"""Bytes before the table of regions of a core's data."""
SIMULATION_PORT: Final = 3
GATHERER_KEY: Final = 0xFFFFFFF8
"""The first word of a gatherer's configuration."""
CHECKSUM_MASK: Final = 0x1FFFFFFF
P2P_BYTES: Final = 32768
_NO_P2P_WORD: Final = struct.pack("<I", 0o66666666)


class System:
    """The boards of one boot.

    `now` gives seconds on a clock that never goes back.
    """

    def __init__(self, numbering: Numbering[Site], image: Image, now: Callable[[], float]) -> None:
        self.image = image
        self.now = now
        self.width, self.height = numbering.width, numbering.height
        self.sites = numbering.boards
        self.tags = [TagTable() for _ in self.sites]
        self.reinjection = [[0x11, 0x10, 1] for _ in self.sites]
        """Of each board: the two time limits of its routers, and the flags of what is reinjected."""
        self.fills: dict[int, FloodFill] = {}
        """Flood fills that are under way, by their number."""
        self.transfers: dict[tuple[int, int], tuple[int, int, int]] = {}
        """What monitors are sending: (transaction, address, bytes), by number of the chip and core."""
        self._numbering = numbering
        self._began = now()
        self.unix_time = int.from_bytes(image.variables[0x1C:0x20], "little")
        self._chips: dict[int, Chip] = {}
        self._lost: set[int] = set()
        self._p2p: tuple[int, bytes] = (NO_CHIP, b"")
        self._checked: tuple[list[bytes], int] = ([], 0)
        self._by_position = {
            x << 8 | y: number
            for number, x, y in reversed(list(zip(range(len(numbering.x)), numbering.x, numbering.y, strict=True)))
            if 0 <= x < MAX_COORDINATE and 0 <= y < MAX_COORDINATE
        }

    # ---------------------------------------------------------------- where chips are

    def chip_at(self, x: int, y: int) -> Chip | None:
        """Return the chip at these coordinates; None where there is none, or none any more."""
        number = self._by_position.get(x << 8 | y)
        return None if number is None else self.chip(number)

    def chip(self, number: int) -> Chip | None:
        """Return the chip of a number, made where this is its first touch; None where its board is lost."""
        board, on_board = divmod(number, CHIPS_PER_BOARD)
        if board in self._lost:
            return None
        chip = self._chips.get(number)
        if chip is None:
            dead = self.sites[board].chip_faults.dead_cores.get(on_board, ())
            chip = self._chips[number] = Chip(self, number, dead)
        return chip

    def ethernet_chip(self, board: int) -> Chip | None:
        """Return the chip of a board that has its network plug."""
        return self.chip(board * CHIPS_PER_BOARD)

    def chips_of(self, fill: FloodFill, cores: int) -> Iterator[tuple[Chip, int]]:
        """Return all chips that a flood goes to, with the mask of the cores that are to start."""
        for key, number in self._by_position.items():
            mask = fill.cores((key >> 8, key & 0xFF), cores)
            if mask is not None and (chip := self.chip(number)) is not None:
                yield chip, mask

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

    def neighbour(self, chip: Chip, link: int) -> Chip | None:
        """Return the chip at the end of a link; None where the link does not work."""
        number = self._numbering.neighbours[6 * chip.number + link] if 0 <= link < 6 else NO_CHIP
        return None if number == NO_CHIP else self.chip(number)

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

    def lose(self, site: Site) -> None:
        """Forget a board that is switched off, with all that is on it."""
        board = self.sites.index(site)
        self._lost.add(board)
        for number in range(board * CHIPS_PER_BOARD, (board + 1) * CHIPS_PER_BOARD):
            self._chips.pop(number, None)

    def milliseconds(self) -> int:
        """Return the time since the boot."""
        return int((self.now() - self._began) * 1000)

    # ---------------------------------------------------------------- applications

    def failure(self, number: int, core: int) -> Failure | None:
        """Return the run-time error that is to come to a core."""
        board, on_board = divmod(number, CHIPS_PER_BOARD)
        return self.sites[board].chip_faults.failures.get((on_board, core))

    def load(self, chip: Chip, app: int, mask: int, *, wait: bool) -> None:
        """Put the application on the cores of the mask, and start it unless it is to wait for START."""
        for core in range(1, chip.cores):
            if mask >> core & 1:
                chip.apps[core] = Application(app, chip.failure(core))
                if not wait:
                    self._start(chip, core)

    def copy_executable(self, chip: Chip, link: int, length: int, checksum: int) -> bool:
        """Copy an executable from the neighbour; False where the link is dead or its checksum differs."""
        source = self.neighbour(chip, link)
        if source is None or not 0 < length < 0x100000:
            return False
        pages = source.sdram.shared(STAGING, length)
        known, sum_ = self._checked
        if known != pages:
            content = b"".join(pages)
            sum_ = sum(memoryview(content.ljust(-(-length // 4) * 4, b"\0")).cast("I")) & CHECKSUM_MASK
            self._checked = pages, sum_
        if sum_ != checksum:
            return False
        chip.sdram.copy(source.sdram, STAGING, length)
        return True

    def signal(self, signal: int, app: int, mask: int) -> None:
        """Give a signal to all cores of the applications whose number fits."""
        if signal == Signal.STOP:
            for chip in list(self._chips.values()):
                chip.stop(app, mask)
            return
        now = self.now()
        for chip in list(self._chips.values()):
            for core, each in chip.apps.items():
                if each.app & mask == app & mask:
                    if signal == Signal.START:
                        self._start(chip, core)
                    else:
                        each.signal(signal, now)
                        self._tell_failure(chip, core, each)

    def count(self, app: int, mask: int, state: int, board: int | None = None) -> int:
        """Return how many cores of the applications whose number fits are in a state, on one board or on all."""
        now = self.now()
        return sum(
            each.app & mask == app & mask and each.state_at(now) == state
            for chip in self._made(board)
            for each in chip.apps.values()
        )

    def gatherer(self, board: int) -> int | None:
        """Return the tag through which a board's gatherer sends; None where none runs there."""
        chip = self.ethernet_chip(board)
        for core, each in chip.apps.items() if chip is not None else ():
            if each.role == Role.GATHERER and chip is not None:
                return chip.word(_first_region(chip, core) + 20)
        return None

    def _made(self, board: int | None) -> Iterable[Chip]:
        if board is None:
            return list(self._chips.values())
        return self._made_on(board)

    def _made_on(self, board: int) -> Iterator[Chip]:
        for number in range(board * CHIPS_PER_BOARD, (board + 1) * CHIPS_PER_BOARD):
            chip = self._chips.get(number)
            if chip is not None:
                yield chip

    def made(self) -> int:
        """Return how many chips were touched."""
        return len(self._chips)

    def _start(self, chip: Chip, core: int) -> None:
        app = chip.apps[core]
        if app.state != app.state.READY or app.role != Role.PLAIN:
            return
        role = self._role(chip, core, app.app)
        step_us = 1000
        if role == Role.SIMULATION:
            step_us = chip.word(_first_region(chip, core) + 4) or step_us
        app.start(role, step_us)
        self._tell_failure(chip, core, app)

    def _role(self, chip: Chip, core: int, app: int) -> Role:
        """What a program is for, from the data that the host has given it."""
        if self._compress(chip, core, app):
            return Role.FINISHING
        data = chip.heap.holding(_plain_sdram(chip.word(core_block(core) + USER_0)))
        if data is None:
            return Role.PLAIN
        if data.app != app:
            return Role.FINISHING
        region = _first_region(chip, core)
        if chip.word(region + 8) == SIMULATION_PORT:
            return Role.SIMULATION
        return Role.GATHERER if chip.word(region) == GATHERER_KEY else Role.MONITOR

    def _compress(self, chip: Chip, core: int, app: int) -> bool:
        """Load the routes that a compressor was given, as they are; False where this is none."""
        block = chip.heap.tagged(app, COMPRESSOR_TAG)
        found = None if block is None else _table_of_routes(chip, block)
        if found is None:
            return False
        owner, entries = found
        first = chip.router.allocate(len(entries), owner)
        for index, (key, mask, route, _) in enumerate(entries if first else ()):
            chip.router.load(struct.pack("<2H3I", index, 0, route, key, mask), first, owner)
        chip.set_word(core_block(core) + USER_1, 0 if first or not entries else 1)
        return True

    def _tell_failure(self, chip: Chip, core: int, app: Application) -> None:
        if app.logs and app.failure is not None:
            chip.write_log(core, app.failure.text)


def _first_region(chip: Chip, core: int) -> int:
    """The address of the first region of a core's data."""
    return chip.word(chip.word(core_block(core) + USER_0) + REGION_TABLE)


def _plain_sdram(address: int) -> int:
    return address - 0x10000000 if 0x70000000 <= address < 0x78000000 else address


def _table_of_routes(chip: Chip, block: Block) -> tuple[int, list[tuple[int, ...]]] | None:
    """(application, [(key, mask, route, source)]) where a block is what a compressor is given; None where it is not.

    One or two flags stand between the application and the number of entries; other programs use the tag, too.
    """
    head = struct.unpack("<4I", chip.read(block.address, 16))
    for words in (3, 4):
        app, *flags, count = head[:words]
        if block.size == 4 * words + ROUTE_BYTES * count and max(flags) <= 1 and app <= MAX_APP:
            table = chip.read(block.address + 4 * words, ROUTE_BYTES * count)
            return app, list(struct.iter_unpack("<4I", table))
    return None
