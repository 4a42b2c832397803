"""Virtual time: an event loop whose clock jumps to the next thing to do, and whose network ends in simulated frames.

Seconds of waiting cost nothing, and a test of a ten-second deadline is exact. Datagrams go straight into a
`SimulatedFrame` (or into nothing, where there is none at the host), through an unreliable network on request.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from spalloc_server.core.model.power import FrameWork, Outcome, Switch
from spalloc_server.hardware.scp import Command, Request
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import SimulatedFrame

__all__ = ["Bench", "VirtualLoop", "name_as_address", "on_bench"]

TRIP_S = 0.0001
"""Time that a datagram takes, one way."""


async def name_as_address(host: str, _within_s: float) -> str:
    """The name itself is the address of a simulated frame; no name service is asked."""
    return host


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits for ever")
        self._loop.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Advances its clock instead of waiting."""

    def __init__(self, frames: dict[str, SimulatedFrame], network: Network, seed: int) -> None:
        self.now = 0.0
        self.frames = frames
        self.network = network
        self.rng = random.Random(seed)
        self.opened: list[str] = []
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    async def create_datagram_endpoint(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.DatagramProtocol], **options: Any
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        host = options["remote_addr"][0]
        if host.endswith(".invalid"):
            raise OSError("name or service not known")
        self.opened.append(host)
        protocol = protocol_factory()
        return cast("asyncio.DatagramTransport", _Wire(self, host, protocol)), protocol


class _Wire:
    """The connected socket of one BMP's driver."""

    def __init__(self, loop: VirtualLoop, host: str, protocol: asyncio.DatagramProtocol) -> None:
        self._loop, self._host, self._protocol = loop, host, protocol
        self._closed = False

    def sendto(self, datagram: bytes) -> None:
        for delay, copy in self._loop.network.passages(self._loop.rng):
            copied_s = TRIP_S if copy else 0.0  # timers of the same time come in any order
            self._loop.call_later(TRIP_S + copied_s + delay, self._arrive, datagram, copy)

    def _arrive(self, datagram: bytes, copy: bool) -> None:
        frame = self._loop.frames.get(self._host)
        answer = frame and frame.handle(datagram, self._loop.time(), source=self, copy=copy)
        if not answer:
            return
        for delay, _ in self._loop.network.passages(self._loop.rng):
            at = answer.at + TRIP_S + delay
            self._loop.call_at(at, self._protocol.datagram_received, answer.datagram, (self._host, 0))

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        self._closed = True


@dataclass
class Bench:
    """Hardware to be tested, on simulated frames in virtual time, and what it reported."""

    loop: VirtualLoop
    hardware: Hardware
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    ended_at: dict[int, float] = field(default_factory=dict)
    """When each outcome came."""
    reports: list[tuple[float, str, str | None]] = field(default_factory=list)
    """(when, BMP, reason for its silence, or None as it came back)."""
    _operations: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def frame(self, host: str = "a") -> SimulatedFrame:
        return self.loop.frames[host]

    def switch(
        self,
        boards: Iterable[int],
        *,
        on: bool = True,
        job: int | None = None,
        host: str = "a",
        stopped: Iterable[tuple[int, Links]] = (),
    ) -> int:
        """Ask for the boards of one frame to be switched; the number of the operation (and of the job)."""
        return self.switch_frames([FrameWork(host, tuple(boards), tuple(stopped))], on=on, job=job)

    def switch_frames(self, frames: Iterable[FrameWork], *, on: bool = True, job: int | None = None) -> int:
        self._operations += 1
        job = self._operations if job is None else job
        self.hardware.switch(Switch(self._operations, job, on, tuple(frames)))
        return self._operations

    async def outcome(self, operation: int, within_s: float = 300.0) -> Outcome:
        async with asyncio.timeout(within_s):
            while operation not in self.outcomes:
                self._news.clear()
                await self._news.wait()
        return self.outcomes[operation]

    async def until(self, condition: Callable[[], bool], within_s: float = 300.0) -> None:
        """Let virtual time pass until `condition` holds."""
        deadline = self.loop.time() + within_s
        while not condition():
            assert self.loop.time() < deadline, f"did not happen within {within_s:g} s"
            await asyncio.sleep(0.01)

    def commands(self, host: str = "a", *kinds: Command) -> list[Request]:
        """What the frame was told, of these kinds (of all kinds, without)."""
        return [request for _, request in self.frame(host).commands if not kinds or request.command in kinds]

    def power_masks(self, host: str = "a") -> list[tuple[str, int]]:
        """The frame's power commands: ("on" or "off", mask of boards)."""
        powers = self.commands(host, Command.POWER)
        return [("on" if request.arg1 & 1 else "off", request.arg2) for request in powers]

    def take_outcome(self, outcome: Outcome) -> None:
        assert outcome.operation not in self.outcomes, "an operation has one outcome"
        self.outcomes[outcome.operation] = outcome
        self.ended_at[outcome.operation] = self.loop.time()
        self._news.set()


Body = Callable[[Bench], Coroutine[Any, Any, None]]


def one_frame() -> dict[str, SimulatedFrame]:
    return {"a": SimulatedFrame()}


def on_bench(
    *,
    frames: Callable[[], dict[str, SimulatedFrame]] = one_frame,
    timings: Timings | None = None,
    network: Network | None = None,
    seed: int = 1,
) -> Callable[[Body], Callable[[], None]]:
    """Make a plain test function of an asynchronous one that takes a `Bench`."""

    async def main(body: Body, loop: VirtualLoop) -> None:
        reports: list[tuple[float, str, str | None]] = []
        hardware = Hardware(
            lambda outcome: bench.take_outcome(outcome),
            lambda host, reason: reports.append((loop.time(), host, reason)),
            timings=timings,
            find_address=name_as_address,
        )
        bench = Bench(loop, hardware, reports=reports)
        async with hardware:
            await body(bench)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task has outlived the hardware's block"

    def decorate(body: Body) -> Callable[[], None]:
        def test() -> None:
            loop = VirtualLoop(frames(), network or Network(), seed)
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main(body, loop))

        test.__name__ = body.__name__
        return test

    return decorate
