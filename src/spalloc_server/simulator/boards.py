"""The boards' sockets: opened when a board is switched on, closed when it is switched off.

Theory of operation. A board that is on has UDP ports 54321, where it waits for an image, and 17893, where it is silent
until it runs one. Its BMP says when its power changes; a power cycle, too, leaves it with nothing in its memory. A
complete image boots all boards that the links reach at that moment: those that run outward and back (neither FPGA
stops them), to boards that are up and run nothing yet.

Datagrams are taken in batches, and answered in the same turn of the event loop. What leaves through tags is sent in
small bursts, as fast as a client can take it; UDP has nobody who would wait for a slow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from spalloc_server.hardware.scp import SCP_PORT, stop_register
from spalloc_server.links import Links
from spalloc_server.simulator import datagrams
from spalloc_server.simulator.boot import BOOT_PORT, SPOILT, BootReceiver, Image, MalformedBoot
from spalloc_server.simulator.fast_data import Outgoing
from spalloc_server.simulator.flood import flood
from spalloc_server.simulator.frame import SimulatedFrame
from spalloc_server.simulator.site import Site
from spalloc_server.simulator.system import System
from spalloc_server.simulator.tags import Target

__all__ = ["BATCH", "BoardCounters", "Boards", "files_for", "listen", "send"]

BATCH: Final = 64
"""Most datagrams taken from one socket before the event loop goes on to others."""
MAX_DATAGRAM: Final = 2048
RECEIVE_BUFFER: Final = 1 << 22
"""Bytes that wait in a board's socket while others are served; a fast transfer comes without pauses."""
PACKETS_A_SECOND: Final = 20_000
"""Of one stream: about 5 MB/s, as fast as boards are; a client's socket holds some 150 while the client is busy."""
BURST: Final = 60
"""Packets of one stream that leave at once, at most."""
BURST_SECONDS: Final = 0.001
SPARE_FILES: Final = 64
"""Open files that are kept for all else."""


@dataclass(slots=True)
class BoardCounters:
    """What all boards together have seen since the start."""

    datagrams: int = 0
    """That came to boards that were booted."""
    malformed: int = 0
    """That were none of SDP, or of a boot; they are dropped."""
    images: int = 0
    """That booted a board."""
    spoilt_images: int = 0
    """That lacked a block or had one twice, or were not SCAMP."""
    injected: int = 0
    """That came through reverse tags; no program takes them."""


@dataclass(slots=True, eq=False)
class _Board:
    """A board that is on."""

    site: Site
    scp: socket.socket
    boot: socket.socket
    receiver: BootReceiver = field(default_factory=BootReceiver)
    system: System | None = None
    number: int = 0
    """Within its system."""
    reverse: dict[int, socket.socket] = field(default_factory=dict)


class Boards:
    """All boards, each with its sockets while it is on.

    `frames` are those whose BMPs switch them, by host; `now` gives seconds and never goes back. `deliver` takes a
    function and hands it over, once, late, twice or never, as the network of boards does with a datagram. `report` gets
    a line where something keeps a board from working.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        frames: Mapping[str, SimulatedFrame],
        now: Callable[[], float],
        deliver: Callable[[Callable[[], None]], None] | None,
        report: Callable[[str], None],
    ) -> None:
        self.counters = BoardCounters()
        self._sites = {(site.bmp, site.number): site for site in sites}
        self._frames = frames
        self._now = now
        self._deliver = deliver or (lambda action: action())
        self._report = report
        self._on: dict[Site, _Board] = {}
        self._streams: dict[tuple[System, tuple[int, int]], tuple[_Board, Outgoing]] = {}
        self._pumping = False
        self._pumped_at = now()

    def systems(self) -> list[System]:
        """Return the booted machines that there are."""
        found = {id(board.system): board.system for board in self._on.values() if board.system is not None}
        return list(found.values())

    def open_sockets(self) -> int:
        """Return how many sockets are open."""
        return sum(2 + len(board.reverse) for board in self._on.values())

    def switched(self, bmp: str, number: int) -> None:
        """A board's power was switched: what it ran is lost, and where it is on now, it listens."""
        site = self._sites.get((bmp, number))
        if site is None:
            return
        self._close(site)
        if self._frames[bmp].boards[number].on:
            try:
                self._open(site)
            except OSError as exc:
                self._report(f"the board at {site.host} cannot be simulated while it is on: {exc.strerror}")

    def close(self) -> None:
        """Close all sockets."""
        for site in list(self._on):
            self._close(site)

    # ---------------------------------------------------------------- sockets

    def _open(self, site: Site) -> None:
        scp = listen(site.host, SCP_PORT)
        try:
            channel = listen(site.host, BOOT_PORT)
        except OSError:
            scp.close()
            raise
        board = self._on[site] = _Board(site, scp, channel)
        loop = asyncio.get_running_loop()
        loop.add_reader(scp, self._readable, board)
        loop.add_reader(channel, self._boot_readable, board)

    def _close(self, site: Site) -> None:
        board = self._on.pop(site, None)
        if board is None:
            return
        loop = asyncio.get_running_loop()
        for channel in (board.scp, board.boot, *board.reverse.values()):
            loop.remove_reader(channel)
            channel.close()
        if board.system is not None:
            board.system.lose(site)
        self._streams = {key: each for key, each in self._streams.items() if each[0] is not board}

    def _is_up(self, site: Site) -> bool:
        return site in self._on and self._frames[site.bmp].boards[site.number].is_up(self._now())

    # ---------------------------------------------------------------- booting

    def _boot_readable(self, board: _Board) -> None:
        with contextlib.suppress(OSError):
            for _ in range(BATCH):
                datagram = board.boot.recv(MAX_DATAGRAM)
                if board.system is None and not board.site.chip_faults.never_boots and self._is_up(board.site):
                    self._deliver(partial(self._boot_datagram, board, datagram))

    def _boot_datagram(self, board: _Board, datagram: bytes) -> None:
        if board.system is not None or self._on.get(board.site) is not board:
            return
        try:
            image = board.receiver.receive(datagram)
        except MalformedBoot:
            self.counters.malformed += 1
            return
        if isinstance(image, Image):
            self._boot(board.site, image)
        elif image is SPOILT:
            self.counters.spoilt_images += 1

    def _boot(self, root: Site, image: Image) -> None:
        numbering = flood(
            root,
            self._across,
            dead_chips=lambda site: site.chip_faults.dead_chips,
            dead_links=lambda site: site.chip_faults.dead_links,
        )
        system = System(numbering, image, self._now)
        for number, site in enumerate(numbering.boards):
            board = self._on[site]
            board.system, board.number = system, number
        self.counters.images += 1

    def _across(self, site: Site, link: Links) -> Site | None:
        """The board at the other end of a link that runs, where it takes part in a boot."""
        other = site.neighbours.get(link)
        if other is None or not self._is_up(other) or other.chip_faults.never_boots:
            return None
        runs = self._runs(site, link) and self._runs(other, link.opposite)
        return other if runs and self._on[other].system is None else None

    def _runs(self, site: Site, link: Links) -> bool:
        state = self._frames[site.bmp].boards[site.number]
        return not state.misloaded and not state.registers.get(stop_register(link), 0) & 1

    # ---------------------------------------------------------------- datagrams

    def _readable(self, board: _Board) -> None:
        receive = board.scp.recvfrom
        with contextlib.suppress(OSError):
            for _ in range(BATCH):
                datagram, source = receive(MAX_DATAGRAM)
                if board.system is not None:
                    self._deliver(partial(self._datagram, board, datagram, source))

    def _datagram(self, board: _Board, datagram: bytes, source: Target) -> None:
        system = board.system
        if system is None or self._on.get(board.site) is not board:
            return
        self.counters.datagrams += 1
        try:
            reply, outgoing = datagrams.handle(system, board.number, datagram, source)
        except datagrams.Malformed:
            self.counters.malformed += 1
            return
        if reply is not None:
            self._deliver(partial(send, board.scp, reply, source))
        for stream in outgoing:
            self._begin(system, stream)
        if system.tags[board.number].changed:
            self._follow_tags(board, system)

    # ---------------------------------------------------------------- what leaves and comes in through tags

    def _begin(self, system: System, stream: Outgoing) -> None:
        board = self._on.get(system.sites[stream.board])
        if board is not None and board.system is system:
            self._streams[system, stream.sender] = board, stream
            if not self._pumping:
                self._pump()

    def _pump(self) -> None:
        """Send as many packets of every stream as are due, and come back for the rest."""
        now = self._now()
        due = min(BURST, int((now - self._pumped_at) * PACKETS_A_SECOND) + 1)
        self._pumped_at = now
        for key, (board, stream) in list(self._streams.items()):
            for _ in range(due):
                packet = next(stream.packets, None)
                if packet is None:
                    del self._streams[key]
                    break
                whole = stream.header + packet
                self._deliver(partial(send, board.scp, whole, stream.target))
        self._pumping = bool(self._streams)
        if self._pumping:
            asyncio.get_running_loop().call_later(BURST_SECONDS, self._pump)

    def _follow_tags(self, board: _Board, system: System) -> None:
        """Open the ports of reverse tags, and close those that have none any more."""
        table = system.tags[board.number]
        table.changed = False
        loop = asyncio.get_running_loop()
        wanted = table.reverse_ports()
        for port in board.reverse.keys() - wanted.keys():
            loop.remove_reader(board.reverse[port])
            board.reverse.pop(port).close()
        for port in wanted.keys() - board.reverse.keys() - {SCP_PORT, BOOT_PORT, 0}:
            try:
                channel = board.reverse[port] = listen(board.site.host, port)
            except OSError as exc:
                self._report(f"the board at {board.site.host} cannot have UDP port {port} for a tag: {exc.strerror}")
            else:
                loop.add_reader(channel, self._injected, channel)

    def _injected(self, channel: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(BATCH):
                channel.recv(MAX_DATAGRAM)
                self.counters.injected += 1


def listen(host: str, port: int) -> socket.socket:
    """Return a UDP socket that does not block; `OSError` where the address or port cannot be had."""
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        channel.setblocking(False)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        channel.bind((host, port))
    except OSError:
        channel.close()
        raise
    return channel


def send(channel: socket.socket, datagram: bytes, target: Target) -> None:
    """Send, unless the socket was closed meanwhile or nobody takes it: UDP may lose anything."""
    try:
        channel.sendto(datagram, target)
    except (OSError, OverflowError):  # a socket that was closed, nobody listens, or a tag's target cannot be
        return


def files_for(boards: int, *, others: int) -> int:
    """Raise the limit of open files for so many boards beside `others`; return how many boards can be on at once."""
    needed = 2 * boards + others + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    if soft == resource.RLIM_INFINITY:
        return boards
    return max(0, min(boards, (soft - others - SPARE_FILES) // 2))
