"""One chip of a booted machine: its memory as seen from outside, its heap, router and cores.

Theory of operation. A chip is made when it is first used, for most chips of a large machine never are. What SCAMP would
keep in memory about the chip (the system variables, the cores' blocks, the P2P table, the copy of the routes) is made
from the chip's state when it is read. What clients write there is kept byte by byte and takes precedence, so it reads
back, and registers of users outlive the programs on their cores.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from spalloc_server.simulator.applications import Application, State
from spalloc_server.simulator.fabric import Fabric
from spalloc_server.simulator.heap import Heap
from spalloc_server.simulator.memory import Memory
from spalloc_server.simulator.router import Router

__all__ = ["CORES", "LARGEST_BLOCK", "STAGING", "USER_0", "USER_1", "Chip", "core_block", "plain"]

CORES: Final = 18
"""Cores of a chip that is whole."""
SDRAM: Final = range(0x60000000, 0x68000000)
ALIAS: Final = 0x10000000
"""What is at an address can be had this much higher, too."""
STAGING: Final = 0x67800000
"""Where the host puts executables and tables of routes."""
HEAP_START: Final = SDRAM.start
HEAP_STRUCT: Final = range(0x67E10000, 0x67E10010)
LARGEST_BLOCK: Final = 0x075BFFE0
"""Bytes of the largest block of an empty heap."""
ROUTER_COPY: Final = range(0x67E00000, 0x67E04000)
LOG_TEXTS: Final = 0x67A00000
LOG_BYTES: Final = 16384
SYSTEM_PAGE: Final = range(0xE5007000, 0xE5008000)
"""The cores' blocks and, from 0xE5007F00 on, the system variables."""
P2P_TABLE: Final = range(0xE1010000, 0xE1018000)
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
    return SYSTEM_PAGE.start + BLOCK_BYTES * core


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
        "_other",
        "_written",
        "apps",
        "cores",
        "fabric",
        "heap",
        "number",
        "router",
        "sdram",
        "x",
        "y",
    )

    def __init__(self, fabric: Fabric, number: int, dead_cores: Collection[int]) -> None:
        self.fabric = fabric
        self.number = number
        self.x, self.y = fabric.position(number)
        self._dead = tuple(sorted(dead_cores))
        self.cores = CORES - len(self._dead)
        self.apps: dict[int, Application] = {}
        self.sdram = Memory()
        """By addresses from the first of `SDRAM` on."""
        self.heap = Heap(HEAP_START, HEAP_START + 8 + LARGEST_BLOCK)
        """The heap of SDRAM that applications share."""
        self.router = Router()
        self._other = Memory(256)
        self._written: dict[int, int] = {}

    def stop(self, app: int, mask: int) -> None:
        """Take all applications away whose number fits, with all that they have."""
        for core in [core for core, each in self.apps.items() if each.app & mask == app & mask]:
            del self.apps[core]
        self.heap.free_app(app, mask)
        self.router.free_app(app, mask)

    # ---------------------------------------------------------------- memory

    def read(self, address: int, length: int, core: int = 0) -> bytes:
        """Return bytes as `core` sees them: memory below 0x00500000 is each core's own."""
        address = plain(address, core)
        if address in ROUTER_COPY:
            start = address - ROUTER_COPY.start
            return self.router.copy()[start : start + length].ljust(length, b"\0")
        if address in HEAP_STRUCT:
            self._write_heap()
        if address in SDRAM:
            return self.sdram.read(address, length)
        if address in SYSTEM_PAGE:
            return self._read_system(address - SYSTEM_PAGE.start, length)
        if address in P2P_TABLE:
            start = address - P2P_TABLE.start
            return self.fabric.p2p_table(self.number)[start : start + length].ljust(length, b"\0")
        return self._other.read(address, length)

    def write(self, address: int, data: bytes, core: int = 0) -> None:
        """Store bytes where `core` sees this address."""
        address = plain(address, core)
        if address in SDRAM:
            self.sdram.write(address, data)
        elif address in SYSTEM_PAGE:
            self._written.update(enumerate(data, address - SYSTEM_PAGE.start))
        else:
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
        loaded = self.fabric.unix_time if core == 0 or app is not None else 0
        return BLOCK.pack(error, physical, state, number, 0, 0, 0, 0, 0, 0, 0, loaded, name, text, 0)

    def state(self, core: int) -> int:
        """Return the state of a core, one of `State`."""
        if core >= self.cores:
            return State.DEAD
        if core == 0:
            return State.RUNNING
        app = self.apps.get(core)
        return State.IDLE if app is None else app.state_at(self.fabric.now())

    def write_log(self, core: int, text: str) -> None:
        """Store the log text of a core where its block says that it is: one piece, the last of its chain."""
        content = text.encode("ascii", "replace")[: LOG_BYTES - 16]
        self.sdram.write(LOG_TEXTS + core * LOG_BYTES, struct.pack("<4I", 0, 0, 0, len(content)) + content)

    # ---------------------------------------------------------------- what SCAMP tells of the chip

    def info(self) -> bytes:
        """Return the payload of the answer to CMD_INFO."""
        ethernet = self.fabric.is_ethernet(self.number)
        flags = self.cores | self.fabric.links(self.number) << 8 | self.router.largest << 14 | ethernet << 25
        states = bytes(self.state(core) for core in range(CORES))
        ethernet_x, ethernet_y = self.fabric.ethernet_position(self.number)
        address = self.fabric.address(self.number) if ethernet else bytes(4)
        head = struct.pack("<3I", flags, self.heap.largest, SYSTEM_RAM_FREE)
        return head + states + bytes((ethernet_y, ethernet_x)) + address + bytes((self.fabric.parent(self.number), 0))

    def _variables(self) -> bytes:
        fabric = self.fabric
        ethernet = fabric.is_ethernet(self.number)
        ethernet_x, ethernet_y = fabric.ethernet_position(self.number)
        to_virtual, to_physical = _core_maps(self._dead)
        sv = bytearray(fabric.image.variables.ljust(256, b"\0"))
        sv[0:4] = bytes((self.y, self.x, fabric.height & 0xFF, fabric.width & 0xFF))
        sv[0x06] = 1  # the P2P table is up
        sv[0x08:0x0C] = bytes((ethernet_y, ethernet_x, HARDWARE_VERSION, ethernet))
        sv[0x0E] = 0x33
        struct.pack_into("<Q", sv, 0x10, fabric.milliseconds())
        struct.pack_into("<2H", sv, 0x24, 200, 130)
        struct.pack_into("<i", sv, 0x38, 0)
        sv[0x40] = self.number == 0
        struct.pack_into("<5I", sv, 0x48, 0xE5000400, HEAP_STRUCT.start, LOG_BYTES, 8388608, 32768)
        sv[0x65] = fabric.links(self.number)
        sv[0x94:0xBC] = to_virtual + to_physical
        sv[0xBC:0xBE] = bytes((self.cores, 1))
        struct.pack_into(
            "<8I",
            sv,
            0xC0,
            SDRAM.start,
            0xE5000000,
            STAGING,
            SYSTEM_PAGE.start,
            0x67900000,
            ROUTER_COPY.start,
            0xE5000200,
            0x67F00000,
        )
        struct.pack_into("<H", sv, 0xE0, 1)
        if ethernet:
            sv[0xF0:0xF4] = fabric.address(self.number)
        return bytes(sv)

    def _write_heap(self) -> None:
        """Store the heap's headers, for somebody begins to walk from block to block."""
        walk = self.heap.headers()
        self.sdram.write(HEAP_STRUCT.start, struct.pack("<4I", HEAP_START, HEAP_START, walk[-1][0], self.heap.largest))
        for address, header in walk:
            self.sdram.write(address, header)


def plain(address: int, core: int = 0) -> int:
    """Return the one address of what has several; memory below `CORE_LOCAL_END` is each core's own."""
    if address >= 0xF0000000 or address - ALIAS in SDRAM:
        return address - ALIAS
    return address + core * CORE_LOCAL_STRIDE if address < CORE_LOCAL_END else address
