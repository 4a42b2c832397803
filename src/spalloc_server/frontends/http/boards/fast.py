"""The fast transfers of the published stack: data out through monitors, data in through gatherers.

Theory of operation. Both are streams of plain SDP datagrams without an answer to each, through the board that a
*gatherer* runs on. What the board sends leaves through the gatherer's tag; the tag is told to lead to the socket that
asks. *Out*: a monitor is asked for bytes, and sends them in numbered packets, with an end mark behind; those that got
lost are asked for by number. *In*: the gatherer learns where bytes go and gets them in numbered packets; when it is
asked, it says that it has all, or which ones are missing. A transaction has a number, one more than the last, which
stands in user register 1 of the core; so late packets of an older one do no harm.

What is sent is paced, for nobody says when a board has no room; the more gets lost, the slower.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple

from spalloc_server.coordinates import Chip
from spalloc_server.errors import HardwareError
from spalloc_server.frontends.http.boards.channels import connected
from spalloc_server.frontends.http.boards.scamp import Board, Code, Command
from spalloc_server.hardware.scp import ResponseCode

__all__ = ["Core", "FastChannel", "Gatherer"]

PACKETS_A_SECOND = 28_000
"""To a gatherer, at first; boards take about as many."""

SLOWEST = 1000
"""Packets a second to which it is slowed down where many get lost."""

BURST = 64
"""Packets that leave at once."""

QUIET_SECONDS = 0.1
"""From the last packet to asking again."""

MAX_QUIET = 50
"""Times in a row that nothing comes before a transfer is given up."""

BATCH = 64
"""Packets that are taken before others are served."""

MANY_LOST = 20
"""One packet lost of so many is a reason to send more slowly."""

_OUT_BYTES: Final = 264
_IN_BYTES: Final = 260
_MISSING_ASKED: Final = 65
"""Numbers of missing packets that fit into one that asks for them."""
_LAST: Final = 0x80000000
_END_OF_MISSING: Final = 0xFFFFFFFF
_ALL_MISSING: Final = 0xFFFFFFFE
_DATA_OUT_PORT: Final = 5
_DATA_IN_PORT: Final = 6
_HEADER: Final = struct.Struct("<2x8B")
_TWO: Final = struct.Struct("<2I")
_THREE: Final = struct.Struct("<3I")
_SET_TAG_TO_SENDER: Final = 1 << 28 | 1 << 30 | 1 << 16
"""Strip the header, send to whoever sets it."""
_USER_1: Final = 0xE5007000 + 116
_CORE_BYTES: Final = 128
_MAX_PACKET: Final = 2048


class _Out(IntEnum):
    START = 100
    MISSING = 1000
    CLEAR = 2000


class _In(IntEnum):
    LOCATION = 200
    DATA = 2000
    TELL = 2001
    MISSING = 2002
    FINISHED = 2003


class Core(NamedTuple):
    """A core, as the job counts chips."""

    x: int
    y: int
    p: int


class Gatherer(NamedTuple):
    """The core that runs a gatherer, and how its board is reached."""

    core: Core
    """Its number does not matter for what is read."""
    ethernet: Chip
    """The Ethernet chip of the board."""
    tag: int
    address: str | None = None
    """Of the board, as the client has it: another one than it has is refused."""


class FastChannel:
    """A socket at the board of a gatherer, for one transfer after the other.

    Args:
        board: the way to the board for commands.
        host: its address.
        gatherer: where packets go through.
        port: of the board.

    Raises `OSError` where no socket can be had.
    """

    def __init__(self, board: Board, host: str, gatherer: Gatherer, *, port: int) -> None:
        self._board, self._host, self._gatherer = board, host, gatherer
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket = connected(host, port)
        self._loop.add_reader(self._socket, self._readable)
        self._take: Callable[[memoryview], None] = _nothing
        self._taken = bytearray(_MAX_PACKET)
        self._news = asyncio.Event()
        """That something has come after which there is something to do."""
        self._packets = 0
        self._transactions: dict[Core, int] = {}

    async def open(self) -> None:
        """Let the gatherer's tag lead here; `HardwareError` where the board does not answer."""
        tag = Command(self._gatherer.ethernet, Code.IPTAG, _SET_TAG_TO_SENDER | self._gatherer.tag)
        done: list[int] = []

        def take(packet: memoryview) -> None:
            if len(packet) >= 12:
                done.append(packet[10])
                self._news.set()

        def ask() -> None:
            self._send(tag.encode(0))

        ask()
        await self._until(take, lambda: not done, ask)
        if done[0] != ResponseCode.OK:
            raise HardwareError(f"the board at {self._host} refuses to set tag {self._gatherer.tag}")

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    # ---------------------------------------------------------------- out

    async def read(self, monitor: Core, address: int, length: int) -> bytes:
        """Return bytes of the memory of a monitor's chip; `HardwareError` where they do not come."""
        transaction = await self._next_transaction(monitor)
        taken, count = bytearray(length), -(-length // _OUT_BYTES)
        missing = dict.fromkeys(range(count))

        def take(packet: memoryview) -> None:
            if len(packet) < _TWO.size:
                return
            word, of = _TWO.unpack_from(packet)
            if of != transaction:
                return
            number, data = word & ~_LAST, packet[_TWO.size :]
            if number in missing and len(data) == min(_OUT_BYTES, length - number * _OUT_BYTES):
                del missing[number]
                at = number * _OUT_BYTES
                taken[at : at + len(data)] = data
            if word & _LAST or not missing:
                self._news.set()

        def ask() -> None:
            if len(missing) < count:
                some = list(islice(missing, _MISSING_ASKED))
                self._tell(monitor, _DATA_OUT_PORT, (_Out.MISSING, transaction, 1, *some))
            else:
                self._tell(monitor, _DATA_OUT_PORT, (_Out.START, transaction, address, length))

        ask()
        await self._until(take, lambda: len(missing), ask)
        self._tell(monitor, _DATA_OUT_PORT, (_Out.CLEAR, transaction))
        return bytes(taken)

    # ---------------------------------------------------------------- in

    async def write(self, chip: Chip, address: int, data: bytes) -> None:
        """Write to the memory of a chip, counted from the board's Ethernet chip; `HardwareError` where that fails."""
        core = self._gatherer.core
        transaction = await self._next_transaction(core)
        count = -(-len(data) // _IN_BYTES)
        tell = (_In.TELL, transaction)
        location = (_In.LOCATION, transaction, address, chip[0] << 16 | chip[1], count - 1)
        head = self._head(core, _DATA_IN_PORT)
        missing: dict[int, None] = dict.fromkeys(range(count))
        told: dict[int, None] = {}
        heard: set[int] = set()

        def take(packet: memoryview) -> None:
            if len(packet) < _TWO.size:
                return
            command, of, *numbers = struct.unpack_from(f"<{len(packet) // 4}I", packet)
            if of == transaction and command in {_In.FINISHED, _In.MISSING}:
                heard.add(command)
                told.update(dict.fromkeys(range(count) if _ALL_MISSING in numbers else numbers))
                if command == _In.FINISHED or {_ALL_MISSING, _END_OF_MISSING}.intersection(numbers):
                    self._news.set()

        def ask() -> None:
            if not heard:  # it may not know where the bytes go
                self._tell(core, _DATA_IN_PORT, location)
            self._tell(core, _DATA_IN_PORT, tell)

        pace, rounds = float(PACKETS_A_SECOND), 0
        self._tell(core, _DATA_IN_PORT, location)
        while _In.FINISHED not in heard:
            parts = ((n, data[n * _IN_BYTES : (n + 1) * _IN_BYTES]) for n in missing if n < count)
            await self._pour((head + _THREE.pack(_In.DATA, transaction, n) + part for n, part in parts), pace)
            told.clear()
            self._tell(core, _DATA_IN_PORT, tell)
            await self._until(take, lambda: not (told or _In.FINISHED in heard), ask)
            if len(told) * MANY_LOST > len(missing):
                pace = max(SLOWEST, pace / 2)
            rounds = rounds + 1 if len(told) >= len(missing) else 0
            if rounds > MAX_QUIET:
                raise HardwareError(f"the gatherer at {self._host} does not take data")
            missing = dict(told)

    async def _pour(self, packets: Iterable[bytes], pace: float) -> None:
        """Send packets, so many a second."""
        began = self._loop.time()
        for number, packet in enumerate(packets):
            while number >= (self._loop.time() - began) * pace + BURST:  # noqa: ASYNC110 - time passes
                await asyncio.sleep(0.001)
            self._send(packet)

    # ---------------------------------------------------------------- both

    async def _next_transaction(self, core: Core) -> int:
        """The number of a transaction with a core: its user register 1 has the last one."""
        if core not in self._transactions:
            address = _USER_1 + _CORE_BYTES * core.p

            def take(_: Command, payload: memoryview) -> None:
                self._transactions[core] = int.from_bytes(payload, "little")

            await self._board.perform(iter([Command((core.x, core.y), Code.READ, address, 4, 2)]), take)
        self._transactions[core] = (self._transactions[core] + 1) & 0xFFFFFFFF
        return self._transactions[core]

    async def _until(
        self, take: Callable[[memoryview], None], left: Callable[[], int], ask: Callable[[], None]
    ) -> None:
        """Take packets until nothing is left; `ask` again whenever there is news, or nothing comes for a while."""
        self._take = take
        in_vain = 0
        while before := left():
            packets = self._packets
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._news.wait()
            if self._news.is_set() or self._packets == packets:
                in_vain = in_vain + 1 if left() == before else 0
                if in_vain > MAX_QUIET:
                    raise HardwareError(f"the board at {self._host} does not answer in a fast transfer")
                if left():
                    ask()
        self._take = _nothing

    def _readable(self) -> None:
        taken = memoryview(self._taken)
        with suppress(OSError):
            for _ in range(BATCH):
                size = self._socket.recv_into(taken)
                self._packets += 1
                self._take(taken[:size])

    def _head(self, core: Core, port: int) -> bytes:
        return _HEADER.pack(0x07, 0xFF, port << 5 | core.p, 0xFF, core.y, core.x, 0, 0)

    def _tell(self, core: Core, port: int, words: tuple[int, ...]) -> None:
        self._send(self._head(core, port) + struct.pack(f"<{len(words)}I", *words))

    def _send(self, packet: bytes) -> None:
        with suppress(OSError):  # it is lost, and sent again
            self._socket.send(packet)


def _nothing(_: memoryview) -> None:
    """Nobody waits for packets."""
