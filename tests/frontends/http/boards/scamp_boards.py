"""Booted boards behind UDP sockets, over a network that loses, doubles and reorders datagrams."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from spalloc_server.coordinates import Board, board_to_chip
from spalloc_server.frontends.http.boards import fast, scamp
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.hardware.scp import SCP_PORT
from spalloc_server.simulator import datagrams
from spalloc_server.simulator.system import System
from tests.frontends.http.boards.stand_in import StandIn, sub_machine
from tests.hardware.addresses import loopback_hosts
from tests.simulator.machines import machine, sites

TRIAD: list[Board] = [(0, 0, 0), (0, 0, 1), (0, 0, 2)]


class Hall:
    """A booted machine of one job, number 1, whose boards listen at loopback addresses."""

    def __init__(self, boards: list[Board], width: int, height: int, *, closed: bool) -> None:
        places = sites(boards, width, height, closed=closed)
        self.system: System = machine(boards, width, height, places=places)
        self.hosts = dict(zip(self.system.sites, loopback_hosts(len(boards)), strict=True))
        hosts = {board_to_chip(*board): self.hosts[places[board]] for board in boards}
        self.asking = StandIn({1: sub_machine(hosts, width, height)})
        self.access = BoardAccess(self.asking)
        self.random = random.Random(1)
        self.loss = self.doubled = self.swapped = 0.0
        self.silent = False
        self.datagrams = 0
        self._held: list[tuple[socket.socket, bytes, tuple[str, int]]] = []
        self._sockets: list[socket.socket] = []
        self._streams: set[asyncio.Future[None]] = set()

    def listen(self) -> None:
        for number, site in enumerate(self.system.sites):
            listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            listening.bind((self.hosts[site], SCP_PORT))
            asyncio.get_running_loop().add_reader(listening, self._readable, listening, number)
            self._sockets.append(listening)

    def close(self) -> None:
        self.access.close()
        while self._sockets:
            listening = self._sockets.pop()
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()

    def _readable(self, listening: socket.socket, number: int) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                datagram, source = listening.recvfrom(2048)
                self.datagrams += 1
                for _ in range(self._copies()):
                    if not self.silent:
                        self._handle(listening, number, datagram, source)

    def _handle(self, listening: socket.socket, number: int, datagram: bytes, source: tuple[str, int]) -> None:
        reply, streams = datagrams.handle(self.system, number, datagram, source)
        if reply is not None:
            self._send(listening, reply, source)
        for stream in streams:
            streaming = asyncio.ensure_future(self._stream(listening, stream.packets, stream.target))
            self._streams.add(streaming)
            streaming.add_done_callback(self._streams.discard)

    async def _stream(self, listening: socket.socket, packets: Iterator[bytes], target: tuple[str, int]) -> None:
        for number, packet in enumerate(packets):
            self._send(listening, packet, target)
            if number % 32 == 31:
                await asyncio.sleep(0)

    def _send(self, listening: socket.socket, datagram: bytes, target: tuple[str, int]) -> None:
        out = [(listening, datagram, target)] * self._copies()
        if self.random.random() < self.swapped:
            self._held += out
            return
        for sending, each, to in [*out, *self._held]:
            with suppress(OSError):
                sending.sendto(each, to)
        self._held.clear()

    def _copies(self) -> int:
        if self.random.random() < self.loss:
            return 0
        return 1 + (self.random.random() < self.doubled)


@asynccontextmanager
async def a_hall(
    boards: list[Board] = TRIAD, width: int = 1, height: int = 1, *, closed: bool = False
) -> AsyncIterator[Hall]:
    """Boards that listen until the end of the block."""
    hall = Hall(boards, width, height, closed=closed)
    hall.listen()
    try:
        yield hall
    finally:
        hall.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send again after a few milliseconds."""
    monkeypatch.setattr(scamp, "RESEND_SECONDS", 0.01)
    monkeypatch.setattr(scamp, "BUSY_SECONDS", 0.005)
    monkeypatch.setattr(scamp, "_TICK", 0.002)
    monkeypatch.setattr(fast, "QUIET_SECONDS", 0.01)
