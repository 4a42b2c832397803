"""A booted machine: the chips that one boot reached, and what goes to all of them.

Theory of operation. A boot floods over the links that run; what it reaches is one system, with coordinates of its own
(`simulator.fabric`). Nobody says which boards belong to it, or how large it is. A board that is switched off later
leaves it. A chip is made when it is first used; signals and counts look only at chips that were made, since on
others all cores are idle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from spalloc_server.simulator.applications import Application, Role, Signal
from spalloc_server.simulator.boot import Image
from spalloc_server.simulator.chip import STAGING, USER_0, USER_1, Chip, core_block, plain
from spalloc_server.simulator.fabric import Fabric
from spalloc_server.simulator.flood import CHIPS_PER_BOARD, NO_CHIP, Numbering
from spalloc_server.simulator.floodfill import FloodFill
from spalloc_server.simulator.heap import Block
from spalloc_server.simulator.site import Site
from spalloc_server.simulator.tags import TagTable

__all__ = ["System"]

COMPRESSOR_TAG: Final = 1
ROUTE_BYTES: Final = 16
MAX_APP: Final = 255
REGION_TABLE: Final = 8
"""Bytes before the table of regions of a core's data."""
SIMULATION_PORT: Final = 3
GATHERER_KEY: Final = 0xFFFFFFF8
"""The first word of a gatherer's configuration."""
CHECKSUM_MASK: Final = 0x1FFFFFFF


class System(Fabric):
    """A fabric, and the chips of it that are in use."""

    def __init__(self, numbering: Numbering[Site], image: Image, now: Callable[[], float]) -> None:
        super().__init__(numbering, image, now)
        self.tags = [TagTable() for _ in self.sites]
        self.reinjection = [[0x11, 0x10, 1] for _ in self.sites]
        """Of each board: the two time limits of its routers, and the flags of what is reinjected."""
        self.fills: dict[int, FloodFill] = {}
        """Flood fills that are under way, by their number."""
        self.transfers: dict[tuple[int, int], tuple[int, int, int]] = {}
        """What monitors are sending: (transaction, address, bytes), by number of the chip and core."""
        self._chips: dict[int, Chip] = {}
        self._lost: set[int] = set()
        self._checked: tuple[list[bytes], int] = ([], 0)

    # ---------------------------------------------------------------- where chips are

    def chip_at(self, x: int, y: int) -> Chip | None:
        """Return the chip at these coordinates; None where there is none, or its board is lost."""
        number = self._by_position.get(x << 8 | y)
        return None if number is None else self.chip(number)

    def chip(self, number: int) -> Chip | None:
        """Return the chip of a number, made if this is its first use; None where its board is lost."""
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

    def neighbour(self, chip: Chip, link: int) -> Chip | None:
        """Return the chip at the end of a link; None where the link does not work."""
        number = self._numbering.neighbours[6 * chip.number + link] if 0 <= link < 6 else NO_CHIP
        return None if number == NO_CHIP else self.chip(number)

    def lose(self, site: Site) -> None:
        """Forget a board that is switched off, with all that is on it."""
        board = self.sites.index(site)
        self._lost.add(board)
        for number in _chips_of(board):
            self._chips.pop(number, None)

    # ---------------------------------------------------------------- applications

    def load(self, chip: Chip, app: int, mask: int, *, wait: bool) -> None:
        """Put the application on the cores of the mask, and start it unless it is to wait for START."""
        for core in range(1, chip.cores):
            if mask >> core & 1:
                chip.apps[core] = Application(app, self.failure(chip.number, core))
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
        now = self.now()
        for chip in list(self._chips.values()):
            if signal == Signal.STOP:
                chip.stop(app, mask)
            for core, each in chip.apps.items():
                if each.app & mask == app & mask:
                    if signal == Signal.START:
                        self._start(chip, core)
                    else:
                        each.signal(signal, now)
                        self._tell_failure(chip, core, each)

    def count(self, app: int, mask: int, state: int, board: int | None = None) -> int:
        """Return how many cores of the applications whose number fits are in a state, on one board or on all."""
        now, chips = self.now(), self._chips
        return sum(
            each.app & mask == app & mask and each.state_at(now) == state
            for number in (chips if board is None else _chips_of(board))
            if number in chips
            for each in chips[number].apps.values()
        )

    def gatherer(self, board: int) -> int | None:
        """Return the tag through which a board's gatherer sends; None where none runs there."""
        chip = self.ethernet_chip(board)
        for core, each in chip.apps.items() if chip is not None else ():
            if each.role == Role.GATHERER and chip is not None:
                return chip.word(_first_region(chip, core) + 20)
        return None

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
        data = chip.heap.holding(plain(chip.word(core_block(core) + USER_0)))
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


def _chips_of(board: int) -> range:
    """The numbers of a board's chips."""
    return range(board * CHIPS_PER_BOARD, (board + 1) * CHIPS_PER_BOARD)


def _first_region(chip: Chip, core: int) -> int:
    """The address of the first region of a core's data."""
    return chip.word(chip.word(core_block(core) + USER_0) + REGION_TABLE)


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
