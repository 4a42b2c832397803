"""Memory of a job's boards, and its routers: what REST offers beside the proxy, straight to the boards.

Theory of operation. Any length at any address is cut into commands that SCAMP takes, words wherever the address allows
it. A chip is reached through the board that it is on; (255, 255) is the chip with the Ethernet of the job's first
board. What is read comes in pieces of `PIECE_BYTES`, of which the first is there before anything is answered; what is
written is taken from the request as it comes. So memory is bounded by how many transfers there are. A job and an
account have some of the places only, and whoever reads or writes too slowly loses them.

Writing ends when the boards have answered all commands. Who waits for that, as clients do, may go on by the proxy and
finds the memory written; and the other way round.

Before each transfer the server is asked for the job's boards on behalf of who wants it, which also renews the lease;
and again each `CHECK_SECONDS` while it lasts, so that nothing is written to boards that have become somebody else's:
those are off for longer than that first.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from spalloc_server.coordinates import Chip
from spalloc_server.errors import HardwareError
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.boards.fast import Core, FastChannel, Gatherer
from spalloc_server.frontends.http.boards.job_boards import JobBoards, boards_of, machine_of
from spalloc_server.frontends.http.boards.pieces import Pieces, Unit, begun, blocks, parts, reads, writes
from spalloc_server.frontends.http.boards.scamp import HERE, Boards, Code, Command
from spalloc_server.frontends.local_api import Behalf
from spalloc_server.hardware.scp import SCP_PORT

__all__ = ["BoardAccess"]

PIECE_BYTES = 256 * 1024
"""Bytes that are read before they are handed on."""

BLOCK_BYTES = 64 * 1024
"""Bytes of a request that are written together."""

FAST_BYTES = 512 * 1024
"""Bytes of one transaction of a fast transfer."""

MAX_TRANSFERS = 128
"""Transfers at the same time; others wait."""

MAX_TRANSFERS_PER_ACCOUNT = 32
"""Transfers of one account at the same time, to whatever jobs; others wait."""

MAX_TRANSFERS_PER_JOB = 16
"""Transfers of one job at the same time; others wait."""

WAIT_SECONDS = 8.0
"""The longest wait of a transfer before it begins; published clients wait 10 s for its end."""

CHECK_SECONDS = 1.0
"""Between looks whether a job still has its boards, during a transfer."""

BOARDS_AT_ONCE = 64
"""Boards whose routers are reset at the same time."""

_END: Final = 1 << 32
_SIZE_OF_MACHINE: Final = 0xF5007F02
"""Height and width, a byte each."""
_P2P_TABLE: Final = 0xE1010000
_NO_CHIP: Final = 6
_COUNTERS: Final = 0xF100002C
_FILTERS: Final = 0xE1000200
MAX_FILTERS: Final = 16

T = TypeVar("T")


class _Held:
    """Boards of a job, while a transfer lasts."""

    def __init__(self, asking: Asking, behalf: Behalf, boards: JobBoards) -> None:
        self.boards = boards
        self._asking, self._behalf = asking, behalf
        self._loop = asyncio.get_running_loop()
        self._checked = self._loop.time()

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`, unless the job loses its boards; `RefusedError` then, or where hardware fails."""
        try:
            await self._check()  # before anything is sent: since the last piece, a slow client may have taken its time
        except BaseException:
            work.close()
            raise
        task = self._loop.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=CHECK_SECONDS)
                await self._check()
            return task.result()
        except HardwareError as error:
            raise RefusedError("hardware", str(error)) from error
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # which has been heard of, or does not matter any more

    async def _check(self) -> None:
        if self._loop.time() - self._checked < CHECK_SECONDS:
            return
        try:
            machine = await machine_of(self._asking, self.boards.job_id, self._behalf)
        except ServerAwayError:
            return  # while it is away nothing changes
        if machine is None or machine.connections != self.boards.machine.connections:
            raise RefusedError("no-boards", f"job {self.boards.job_id} does not have these boards any more")
        self._checked = self._loop.time()


class BoardAccess:
    """Memory and routers of jobs' boards.

    What goes wrong is a `ServerAwayError`, or a `RefusedError`: of kind `no-such` where the job is not the caller's,
    `no-boards` where it has none, `hardware` where the boards do not do it.

    Args:
        asking: the server.
        port: of boards.
    """

    def __init__(self, asking: Asking, *, port: int = SCP_PORT) -> None:
        self._asking = asking
        self._port = port
        self._boards = Boards(port=port)
        self._room = asyncio.Semaphore(MAX_TRANSFERS)
        self._room_of_jobs: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        self._room_of_accounts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._gatherers: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def read(self, caller: WebCaller, job_id: int, x: int, y: int, address: int, size: int) -> bytes:
        """Return `size` bytes of a chip's memory."""
        return b"".join([piece async for piece in await self.stream(caller, job_id, x, y, address, size)])

    async def stream(self, caller: WebCaller, job_id: int, x: int, y: int, address: int, size: int) -> Pieces:
        """Return the same piece by piece, the first of which has been read; it is to be read to its end, or closed."""
        _check_range(address, size)
        return await begun(self._read(caller, job_id, (x, y), address, size), alone=size <= PIECE_BYTES)

    async def write(
        self, caller: WebCaller, job_id: int, x: int, y: int, address: int, data: bytes | AsyncIterable[bytes]
    ) -> None:
        """Write all of `data` to a chip's memory."""
        async with self._hold(caller, job_id) as held:
            chip, host = _reached(held.boards, (x, y))
            board = self._boards.at(host)
            async for block in blocks(data, BLOCK_BYTES):
                _check_range(address, len(block))
                await held.during(board.perform(writes(chip, address, block)))
                address += len(block)

    async def reset_router(self, caller: WebCaller, job_id: int, filters: Mapping[int, int]) -> None:
        """Clear routes and counters of all chips of a job, and set diagnostic filters, by number."""
        if not all(0 <= number < MAX_FILTERS and 0 <= word < _END for number, word in filters.items()):
            raise RefusedError("bad-request", f"filters are words by numbers from 0 to {MAX_FILTERS - 1}")
        async with self._hold(caller, job_id) as held:
            await held.during(self._reset(held.boards, filters))

    async def fast_stream(
        self, caller: WebCaller, job_id: int, gatherer: Gatherer, monitor: Core, address: int, size: int
    ) -> Pieces:
        """Return bytes of the memory of a monitor's chip, piece by piece, sent by it through a gatherer's board."""
        _check_range(address, size)
        parts = self._fast_read(caller, job_id, gatherer, monitor, address, size)
        return await begun(parts, alone=size <= FAST_BYTES)

    async def fast_write(
        self,
        caller: WebCaller,
        job_id: int,
        gatherer: Gatherer,
        x: int,
        y: int,
        address: int,
        data: bytes | AsyncIterable[bytes],
    ) -> None:
        """Write all of `data` to the memory of a chip of a gatherer's board, through the gatherer."""
        async with self._hold(caller, job_id) as held, self._fast(held, gatherer) as channel:
            place = held.boards.within_board(x, y, gatherer.ethernet)
            if place is None:
                raise RefusedError("bad-request", f"chip ({x}, {y}) is not on the board of the gatherer")
            async for block in blocks(data, FAST_BYTES):
                _check_range(address, len(block))
                await held.during(channel.write(place, address, block))
                address += len(block)

    def close(self) -> None:
        """Close the sockets that are not in use."""
        self._boards.close()

    # ---------------------------------------------------------------- how

    @asynccontextmanager
    async def _hold(self, caller: WebCaller, job_id: int) -> AsyncIterator[_Held]:
        """Wait for room for a transfer, with the boards that the job has; who may not use them takes none."""
        boards = await boards_of(self._asking, job_id, caller.behalf)
        if boards is None:
            raise RefusedError("no-boards", f"job {job_id} has no boards at present")
        held = _Held(self._asking, caller.behalf, boards)
        of_job = self._room_of_jobs.setdefault(job_id, asyncio.Semaphore(MAX_TRANSFERS_PER_JOB))
        mine = self._room_of_accounts.setdefault(caller.name, asyncio.Semaphore(MAX_TRANSFERS_PER_ACCOUNT))
        async with _in_turn(of_job), _in_turn(mine), _in_turn(self._room):
            yield held

    @asynccontextmanager
    async def _fast(self, held: _Held, gatherer: Gatherer) -> AsyncIterator[FastChannel]:
        """A channel to a gatherer, which has no other one meanwhile."""
        boards = held.boards
        if gatherer.ethernet not in boards.hosts:
            raise RefusedError("bad-request", f"chip {gatherer.ethernet} is no Ethernet chip of job {boards.job_id}")
        host = boards.address(gatherer.ethernet)
        if gatherer.address not in {None, host, boards.hosts[gatherer.ethernet]}:
            raise RefusedError("bad-request", f"the board of chip {gatherer.ethernet} is not at this address")
        async with _in_turn(self._gatherers.setdefault(host, asyncio.Semaphore(1))):
            try:
                channel = FastChannel(self._boards.at(host), host, gatherer, port=self._port)
            except OSError as error:
                raise RefusedError("hardware", f"the board at {host} cannot be reached: {error.strerror}") from error
            try:
                await held.during(channel.open())
                yield channel
            finally:
                channel.close()

    async def _read(
        self, caller: WebCaller, job_id: int, chip: Chip, address: int, size: int
    ) -> AsyncGenerator[bytes, None]:
        async with self._hold(caller, job_id) as held:
            chip, host = _reached(held.boards, chip)
            board = self._boards.at(host)
            for start, length in parts(address, size, PIECE_BYTES):
                taken = bytearray(length)

                def take(command: Command, payload: memoryview, start: int = start, taken: bytearray = taken) -> None:
                    at = command.arg1 - start
                    taken[at : at + len(payload)] = payload

                await held.during(board.perform(reads(chip, start, length), take))
                yield bytes(taken)

    async def _fast_read(
        self, caller: WebCaller, job_id: int, gatherer: Gatherer, monitor: Core, address: int, size: int
    ) -> AsyncGenerator[bytes, None]:
        async with self._hold(caller, job_id) as held, self._fast(held, gatherer) as channel:
            if held.boards.ethernet_chip(monitor.x, monitor.y) is None:
                raise RefusedError("bad-request", f"chip ({monitor.x}, {monitor.y}) is not the job's")
            for start, length in parts(address, size, FAST_BYTES):
                yield await held.during(channel.read(monitor, start, length))

    async def _reset(self, boards: JobBoards, filters: Mapping[int, int]) -> None:
        by_board: dict[str, list[Chip]] = {}
        async for chip in self._chips(boards):
            if (ethernet := boards.ethernet_chip(*chip)) is not None:
                by_board.setdefault(boards.address(ethernet), []).append(chip)
        few = asyncio.Semaphore(BOARDS_AT_ONCE)

        async def reset(host: str) -> None:
            async with few:
                await self._boards.at(host).perform(_resets(by_board[host], filters))

        tasks = [asyncio.ensure_future(reset(host)) for host in by_board]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _chips(self, boards: JobBoards) -> AsyncIterator[Chip]:
        """The chips that the job's machine has, as its first chip knows them; others are served in between."""
        first = self._boards.at(boards.address((0, 0)))
        found: dict[int, bytes] = {}

        def take(command: Command, payload: memoryview) -> None:
            found[command.arg1] = bytes(payload)

        await first.perform(iter([Command(HERE, Code.READ, _SIZE_OF_MACHINE, 2, Unit.HALF)]), take)
        height, width = found.pop(_SIZE_OF_MACHINE)
        length = (height + 7) // 8 * 4
        columns = [_P2P_TABLE + 128 * x for x in range(width)]
        await first.perform((Command(HERE, Code.READ, column, length, Unit.WORD) for column in columns), take)
        for x, column in enumerate(columns):
            words = struct.unpack(f"<{length // 4}I", found[column])
            for y in range(height):
                if words[y // 8] >> 3 * (y % 8) & 7 != _NO_CHIP:
                    yield x, y
            await asyncio.sleep(0)


@asynccontextmanager
async def _in_turn(room: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for room, for as long as a transfer may wait; `RefusedError` then."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await room.acquire()
    except TimeoutError:
        raise RefusedError("busy", "too many transfers are under way; try again later") from None
    try:
        yield
    finally:
        room.release()


def _reached(boards: JobBoards, chip: Chip) -> tuple[Chip, str]:
    """The chip to put into commands, and the address of the board that they are sent to."""
    if chip == HERE:
        return HERE, boards.address((0, 0))
    ethernet = boards.ethernet_chip(*chip)
    if ethernet is None:
        raise RefusedError("bad-request", f"chip {chip} is on none of the boards of job {boards.job_id}")
    return chip, boards.address(ethernet)


def _check_range(address: int, size: int) -> None:
    if not 0 <= address <= address + size <= _END:
        raise RefusedError("bad-request", f"{size} bytes at {address:#x} are outside of a chip's 32 bits of addresses")


def _resets(chips: Iterable[Chip], filters: Mapping[int, int]) -> Iterator[Command]:
    runs: list[tuple[int, bytes]] = []
    for number, word in sorted(filters.items()):
        if runs and runs[-1][0] + len(runs[-1][1]) // 4 == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + struct.pack("<I", word))
        else:
            runs.append((number, struct.pack("<I", word)))
    for chip in chips:
        yield Command(chip, Code.WRITE, _COUNTERS, 4, Unit.WORD, b"\xff\xff\xff\xff")
        yield Command(chip, Code.ROUTER)
        for first, words in runs:
            yield Command(chip, Code.WRITE, _FILTERS + 4 * first, len(words), Unit.WORD, words)
