"""One chip of a booted machine: its memory as seen from outside, its heap, router and cores.

Theory of operation. A chip is made when somebody first asks for it, and its parts when they are first used, for most
chips of a large machine are never touched. What SCAMP would keep in memory about the chip (the system variables, the
cores' blocks, the P2P table, the copy of the routes) is made up from the chip's state when it is read. What clients
write there comes on top, byte by byte, so it reads back, and registers of users outlive the programs on their cores.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from spalloc_server.simulator.applications import Application, Failure, State
from spalloc_server.simulator.heap import Heap
from spalloc_server.simulator.memory import Memory
from spalloc_server.simulator.router import Router

if TYPE_CHECKING:
    from spalloc_server.simulator.system import System

__all__ = ["CORES", "LARGEST_BLOCK", "STAGING", "USER_0", "USER_1", "Chip", "core_block"]

CORES: Final = 18
"""Cores of a chip that is whole."""
SDRAM: Final = 0x60000000
SDRAM_END: Final = 0x68000000
SDRAM_ALIAS: Final = 0x70000000
ALIAS: Final = 0x10000000
STAGING: Final = 0x67800000
"""Where the host puts executables and tables of routes."""
HEAP_START: Final = SDRAM
HEAP_STRUCT: Final = 0x67E10000
HEAP_STRUCT_END: Final = HEAP_STRUCT + 16
LARGEST_BLOCK: Final = 0x075BFFE0
"""Bytes of the largest block of an empty heap."""
ROUTER_COPY: Final = 0x67E00000
ROUTER_COPY_END: Final = 0x67E04000
LOG_TEXTS: Final = 0x67A00000
LOG_BYTES: Final = 16384
SYSTEM_PAGE: Final = 0xE5007000
SYSTEM_PAGE_END: Final = 0xE5008000
"""The cores' blocks and, from 0xE5007F00 on, the system variables."""
P2P_TABLE: Final = 0xE1010000
P2P_TABLE_END: Final = 0xE1018000
CORE_LOCAL_END: Final = 0x00500000
CORE_LOCAL_STRIDE: Final = 0x01000000
"""Memory of single cores is kept where nothing else is."""
BLOCK: Final = struct.Struct("<32x12xBBBB2I2BH3I16s2I32x")
BLOCK_BYTES: Final = 128
VARIABLES: Final = 30
"""The block of the page, and the next one, that are the system variables."""
USER_0: Final = 112
USER_1: Final = 116
"""Where in a core's block the registers lie that are free for users."""
SYSTEM_RAM_FREE: Final = 18388
HARDWARE_VERSION: Final = 5


def core_block(core: int) -> int:
    """Return the address of a core's block of 128 bytes."""
    return SYSTEM_PAGE + BLOCK_BYTES * core


@lru_cache(maxsize=256)
def _core_maps(dead: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The maps from physical to virtual cores and back, 20 bytes each, without the cores that are dead."""
    working = [core for core in range(CORES) if core not in dead]
    virtual = [working.index(core) if core in working else 0xFF for core in range(CORES)]
    return bytes(virtual).ljust(20, b"\xff"), bytes(working).ljust(20, b"\xff")


class Chip:
    """One chip.

    `number` is that of the chip in its system; (`x`, `y`) are its coordinates there. `cores` says how many work, the
    monitor among them. `apps` are the programs by virtual core; a core without one is idle.
    """

    __slots__ = (
        "_dead",
        "_heap",
        "_other",
        "_router",
        "_sdram",
        "_written",
        "apps",
        "cores",
        "number",
        "system",
        "x",
        "y",
    )

    def __init__(self, system: System, number: int, dead_cores: Collection[int]) -> None:
        self.system = system
        self.number = number
        self.x, self.y = system.position(number)
        self._dead = tuple(sorted(dead_cores))
        self.cores = CORES - len(self._dead)
        self.apps: dict[int, Application] = {}
        self._heap: Heap | None = None
        self._router: Router | None = None
        self._sdram: Memory | None = None
        self._other: Memory | None = None
        self._written: dict[int, int] = {}

    # ---------------------------------------------------------------- parts

    @property
    def sdram(self) -> Memory:
        """The chip's SDRAM, by addresses from `SDRAM` on."""
        if self._sdram is None:
            self._sdram = Memory()
        return self._sdram

    @property
    def heap(self) -> Heap:
        """The heap of SDRAM that applications share."""
        if self._heap is None:
            self._heap = Heap(HEAP_START, HEAP_START + 8 + LARGEST_BLOCK)
        return self._heap

    @property
    def router(self) -> Router:
        """The chip's router."""
        if self._router is None:
            self._router = Router()
        return self._router

    def stop(self, app: int, mask: int) -> None:
        """Take all applications away whose number fits, with all that they have."""
        for core in [core for core, each in self.apps.items() if each.app & mask == app & mask]:
            del self.apps[core]
        if self._heap is not None:
            self._heap.free_app(app, mask)
        if self._router is not None:
            self._router.free_app(app, mask)

    # ---------------------------------------------------------------- memory

    def read(self, address: int, length: int, core: int = 0) -> bytes:
        """Return bytes as `core` sees them: memory below 0x00500000 is each core's own."""
        address = _plain(address, core)
        if SDRAM <= address < SDRAM_END:
            if ROUTER_COPY <= address < ROUTER_COPY_END:
                start = address - ROUTER_COPY
                return self.router.copy()[start : start + length].ljust(length, b"\0")
            if HEAP_STRUCT <= address < HEAP_STRUCT_END:
                self._write_heap()
            return bytes(length) if self._sdram is None else self._sdram.read(address, length)
        if SYSTEM_PAGE <= address < SYSTEM_PAGE_END:
            return self._read_system(address - SYSTEM_PAGE, length)
        if P2P_TABLE <= address < P2P_TABLE_END:
            start = address - P2P_TABLE
            return self.system.p2p_table(self.number)[start : start + length].ljust(length, b"\0")
        return bytes(length) if self._other is None else self._other.read(address, length)

    def write(self, address: int, data: bytes, core: int = 0) -> None:
        """Store bytes where `core` sees this address."""
        address = _plain(address, core)
        if SDRAM <= address < SDRAM_END:
            self.sdram.write(address, data)
        elif SYSTEM_PAGE <= address < SYSTEM_PAGE_END:
            self._written.update(enumerate(data, address - SYSTEM_PAGE))
        else:
            if self._other is None:
                self._other = Memory(256)
            self._other.write(address, data)

    def word(self, address: int) -> int:
        """Return the word at an address."""
        return int.from_bytes(self.read(address, 4), "little")

    def set_word(self, address: int, value: int) -> None:
        """Store a word."""
        self.write(address, value.to_bytes(4, "little"))

    def _read_system(self, start: int, length: int) -> bytes:
        first, last = start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES
        whole = b"".join(self._system_block(number) for number in range(first, last + 1))
        found = whole[start - first * BLOCK_BYTES :][:length]
        if not self._written:
            return found
        written = self._written
        return bytes(written.get(at, byte) for at, byte in enumerate(found, start))

    def _system_block(self, number: int) -> bytes:
        """128 bytes of the page: a core's block, or half of the system variables."""
        if number < CORES:
            return self._core_block(number)
        if number == VARIABLES:
            return self._variables()[:BLOCK_BYTES]
        if number == VARIABLES + 1:
            return self._variables()[BLOCK_BYTES:]
        return bytes(BLOCK_BYTES)

    def _core_block(self, core: int) -> bytes:
        if core >= self.cores:
            return bytes(BLOCK_BYTES)
        physical = _core_maps(self._dead)[1][core]
        app = self.apps.get(core)
        error = number = text = 0
        name, state = b"scamp" if core == 0 else b"sark", self.state(core)
        if app is not None:
            error, number, name = app.error, app.app, app.role.name.lower().encode()
            text = LOG_TEXTS + core * LOG_BYTES if app.logs else 0
        loaded = self.system.unix_time if core == 0 or app is not None else 0
        return BLOCK.pack(error, physical, state, number, 0, 0, 0, 0, 0, 0, 0, loaded, name, text, 0)

    def state(self, core: int) -> int:
        """Return the state of a core, one of `State`."""
        if core >= self.cores:
            return State.DEAD
        if core == 0:
            return State.RUNNING
        app = self.apps.get(core)
        return State.IDLE if app is None else app.state_at(self.system.now())

    def write_log(self, core: int, text: str) -> None:
        """Store the log text of a core where its block says that it is: one piece, the last of its chain."""
        content = text.encode("ascii", "replace")[: LOG_BYTES - 16]
        self.sdram.write(LOG_TEXTS + core * LOG_BYTES, struct.pack("<4I", 0, 0, 0, len(content)) + content)

    def failure(self, core: int) -> Failure | None:
        """Return the run-time error that is to come to a core."""
        return self.system.failure(self.number, core)

    # ---------------------------------------------------------------- what SCAMP tells of the chip

    def info(self) -> bytes:
        """Return the payload of the answer to CMD_INFO."""
        entries = 1023 if self._router is None else self._router.largest
        room = LARGEST_BLOCK if self._heap is None else self._heap.largest
        ethernet = self.system.is_ethernet(self.number)
        flags = self.cores | self.system.links(self.number) << 8 | entries << 14 | ethernet << 25
        states = bytes(self.state(core) for core in range(CORES))
        ethernet_x, ethernet_y = self.system.ethernet_position(self.number)
        address = self.system.address(self.number) if ethernet else bytes(4)
        head = struct.pack("<3I", flags, room, SYSTEM_RAM_FREE)
        return head + states + bytes((ethernet_y, ethernet_x)) + address + bytes((self.system.parent(self.number), 0))

    def _variables(self) -> bytes:
        system = self.system
        ethernet = system.is_ethernet(self.number)
        ethernet_x, ethernet_y = system.ethernet_position(self.number)
        to_virtual, to_physical = _core_maps(self._dead)
        sv = bytearray(system.image.variables.ljust(256, b"\0"))
        sv[0:4] = bytes((self.y, self.x, system.height & 0xFF, system.width & 0xFF))
        sv[0x06] = 1  # the P2P table is up
        sv[0x08:0x0C] = bytes((ethernet_y, ethernet_x, HARDWARE_VERSION, ethernet))
        sv[0x0E] = 0x33
        struct.pack_into("<Q", sv, 0x10, system.milliseconds())
        struct.pack_into("<2H", sv, 0x24, 200, 130)
        struct.pack_into("<i", sv, 0x38, 0)
        sv[0x40] = self.number == 0
        struct.pack_into("<5I", sv, 0x48, 0xE5000400, HEAP_STRUCT, LOG_BYTES, 8388608, 32768)
        sv[0x65] = system.links(self.number)
        sv[0x94:0xBC] = to_virtual + to_physical
        sv[0xBC:0xBE] = bytes((self.cores, 1))
        struct.pack_into(
            "<8I", sv, 0xC0, SDRAM, 0xE5000000, 0x67800000, SYSTEM_PAGE, 0x67900000, ROUTER_COPY, 0xE5000200, 0x67F00000
        )
        struct.pack_into("<H", sv, 0xE0, 1)
        if ethernet:
            sv[0xF0:0xF4] = system.address(self.number)
        return bytes(sv)

    def _write_heap(self) -> None:
        """Store the heap's headers, for somebody begins to walk from block to block."""
        walk = self.heap.headers()
        self.sdram.write(HEAP_STRUCT, struct.pack("<4I", HEAP_START, HEAP_START, walk[-1][0], self.heap.largest))
        for address, header in walk:
            self.sdram.write(address, header)


def _plain(address: int, core: int) -> int:
    """The one address of what has several."""
    if address >= 0xF0000000 or SDRAM_ALIAS <= address < SDRAM_ALIAS + SDRAM_END - SDRAM:
        return address - ALIAS
    return address + core * CORE_LOCAL_STRIDE if address < CORE_LOCAL_END else address
