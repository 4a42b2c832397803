"""Hardware that answers on loopback addresses, for tests, demonstrations and for trying a configuration.

Theory of operation. A `Simulator` binds UDP port 17893 of every BMP's address, which must be a loopback one, so that
nothing outside of this computer ever takes it for hardware. Each datagram goes through an unreliable network (by
default a perfect one), then into the frame's pure state (`simulator.frame`), and the answer back through the network
when it is due. Randomness has a seed. Datagrams that are found waiting together were in flight together; the frames
know it, so that a driver that sends two commands at once is detected however quick the BMP is. Boards that boot
(`simulator.boards`) are there where it is given their `sites`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Final, Self

from spalloc_server.config.settings import Configuration
from spalloc_server.hardware.scp import SCP_PORT
from spalloc_server.links import Links
from spalloc_server.simulator.boards import BATCH, Boards, files_for, listen, send
from spalloc_server.simulator.faults import Faults, Network, apply_faults
from spalloc_server.simulator.frame import Counters, SimulatedFrame, SimulatedTimings
from spalloc_server.simulator.site import SimulatorError, Site, loopback, sites_of

__all__ = ["Simulator", "SimulatorError"]

MAX_DATAGRAM: Final = 1024

Source = tuple[str, int]
"""Address and port of a driver."""


class Simulator:
    """Simulated frames, each answering at its own loopback address while the simulator is entered; and their boards.

    `frames` gives the numbers of the boards that are fitted, by host of the BMP; board 0 always is. `clock` gives
    seconds and never goes back. `sites` are the boards that boot; `report` gets a line where something keeps one from
    working. `frames[host]` and `networks[host]` may be used, to look and to spoil, at any time.

    Raises `SimulatorError` on entering where an address is not a loopback one or cannot be had, and
    `ConfigurationError` where `faults` name hardware that there is not.
    """

    def __init__(
        self,
        frames: Mapping[str, Iterable[int]],
        *,
        faults: Faults | None = None,
        timings: SimulatedTimings | None = None,
        sites: Iterable[Site] = (),
        report: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.frames = {host: SimulatedFrame(boards, timings=timings) for host, boards in frames.items()}
        self.faults = faults or Faults()
        self.networks: dict[str, Network] = dict.fromkeys(self.frames, self.faults.network)
        self._random = random.Random(self.faults.seed)
        self._clock = clock
        self._sockets: list[socket.socket] = []
        self._sites = tuple(sites)
        self._report = report
        lossy = self.faults.board_network != Network()
        self.boards = Boards(self._sites, self.frames, clock, self._on_the_way if lossy else None, report)
        apply_faults(self.faults, self.frames, clock(), self._sites)
        for host, frame in self.frames.items():
            frame.on_switch = partial(self.boards.switched, host)

    @classmethod
    def of_configuration(
        cls,
        configuration: Configuration,
        *,
        faults: Faults | None = None,
        timings: SimulatedTimings | None = None,
        boards: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """The hardware that a server of this configuration expects, with or without `boards` that boot."""
        frames: dict[str, set[int]] = {}
        for machine in configuration.machines:
            for cabinet, frame, board in machine.board_locations.values():
                frames.setdefault(machine.bmp_ips[cabinet, frame], set()).add(board)
        sites = sites_of(configuration) if boards else ()
        return cls(frames, faults=faults, timings=timings, sites=sites, report=report)

    async def __aenter__(self) -> Self:
        possible = files_for(len(self._sites), others=len(self.frames)) if self._sites else 0
        if possible < len(self._sites):
            self._report(
                f"only {possible} of {len(self._sites)} boards can be on at once: each needs two open files, and this "
                "system allows no more; raise the hard limit (ulimit -Hn)"
            )
        try:
            for host in self.frames:
                self._listen(host)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def counters(self) -> Counters:
        """What all frames together have seen."""
        return sum((frame.counters for frame in self.frames.values()), Counters())

    def boards_on(self) -> set[tuple[str, int]]:
        """(host, board number) of the boards that are switched on."""
        return {(host, board) for host, frame in self.frames.items() for board in frame.boards_on()}

    def power_on(self) -> None:
        """Switch all boards on, as after a power cut: BMPs do so by themselves, and no link is stopped."""
        now = self._clock()
        for host, frame in self.frames.items():
            for number, board in frame.boards.items():
                board.switch(True, now)
                self.boards.switched(host, number)

    def stopped_links(self) -> set[tuple[str, int, Links]]:
        """(host, board number, link) of the links whose outgoing traffic is stopped."""
        return {(host, *stopped) for host, frame in self.frames.items() for stopped in frame.stopped_links()}

    def power_cycles(self) -> dict[tuple[str, int], tuple[int, int]]:
        """How often each board was switched (on, off), by (host, board number)."""
        return {
            (host, number): (board.power_ons, board.power_offs)
            for host, frame in self.frames.items()
            for number, board in frame.boards.items()
        }

    def _listen(self, host: str) -> None:
        address = loopback(host)
        try:
            channel = listen(address, SCP_PORT)
        except OSError as exc:
            raise SimulatorError(f"cannot listen on {host}:{SCP_PORT}: {exc.strerror}") from exc
        self._sockets.append(channel)
        asyncio.get_running_loop().add_reader(channel, self._readable, channel, host)

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for channel in self._sockets:
            loop.remove_reader(channel)
            channel.close()
        self._sockets.clear()
        self.boards.close()

    def _on_the_way(self, action: Callable[[], None]) -> None:
        """Let the network of boards have a datagram, whose arrival is `action`."""
        for delay, _ in self.faults.board_network.passages(self._random):
            self._later(delay, action)

    def _readable(self, channel: socket.socket, host: str) -> None:
        """Take all datagrams that are there before answering any, for those were in flight together."""
        taken: list[tuple[bytes, Source]] = []
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while len(taken) < BATCH:
                taken.append(channel.recvfrom(MAX_DATAGRAM))
        for number, (datagram, source) in enumerate(taken):
            for delay, copy in self.networks[host].passages(self._random):
                self._later(delay, self._arrive, channel, host, datagram, source, number > 0, copy)

    def _arrive(
        self, channel: socket.socket, host: str, datagram: bytes, source: Source, waiting: bool, copy: bool
    ) -> None:
        now = self._clock()
        answer = self.frames[host].handle(datagram, now, source=source, waiting=waiting, copy=copy)
        if answer is None:
            return
        for delay, _ in self.networks[host].passages(self._random):
            self._later(answer.at - now + delay, send, channel, answer.datagram, source)

    def _later(self, delay: float, action: Callable[..., None], *args: object) -> None:
        """Call `action` after `delay` seconds; at once where that is none."""
        if delay <= 0:
            action(*args)
        else:
            asyncio.get_running_loop().call_later(delay, action, *args)
