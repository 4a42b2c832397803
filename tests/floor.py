"""The core and the hardware shell together, on simulated frames in virtual time: days of misbehaviour in seconds.

There is no journal and no network service: what the core wants done is done at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board, board_down_link
from spalloc_server.core.boards.records import address
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import Outcome, Switch
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import Counters, SimulatedBoard, SimulatedFrame, SimulatedTimings
from tests.hardware.virtual import VirtualLoop, name_as_address

__all__ = ["Floor", "live_many", "on_floor"]

EPOCH = 1_000_000.0
"""The core's time at the loop's second 0."""


ROUNDING_S = 1e-6
"""Virtual time does not pass by itself: what is due must be due when it is looked at."""


@dataclass
class Floor:
    """One machine, everything that switches it, and a record of what happened."""

    loop: VirtualLoop
    configuration: Configuration
    controller: Controller
    hardware: Hardware
    switches: list[Switch] = field(default_factory=list)
    """What the hardware was asked to do."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    failed: list[tuple[float, int, tuple[str, int]]] = field(default_factory=list)
    """(when, job, board): each failure that the hardware reported for a job's power-on."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.TimerHandle | None = None

    @property
    def machine(self) -> Machine:
        return next(iter(self.controller.machines.values()))

    @property
    def counters(self) -> Counters:
        return sum((frame.counters for frame in self.loop.frames.values()), Counters())

    def power_ons(self) -> Counter[tuple[str, int]]:
        """How often each board was switched on, by the simulator's own count."""
        frames = self.loop.frames.items()
        return Counter({(bmp, n): board.power_ons for bmp, frame in frames for n, board in frame.boards.items()})

    def power_ons_asked_for(self) -> Counter[tuple[str, int]]:
        """How often the core asked for each board to be switched on."""
        frames = (frame for switch in self.switches if switch.on for frame in switch.frames)
        return Counter((frame.bmp, number) for frame in frames for number in frame.boards)

    def simulated(self, board: Board) -> SimulatedBoard:
        host, number = address(self.machine, board)
        return self.loop.frames[host].boards[number]

    def create(self, *args: Any, **kwargs: Any) -> int:
        job_id = self.controller.create_job(*args, **{"owner": "me", "keepalive": None, **kwargs})
        self.changed()
        return job_id

    def destroy(self, job_id: int) -> None:
        self.controller.destroy_job(job_id)
        self.changed()

    def state(self, job_id: int) -> JobState:
        return JobState(self.controller.get_job_state(job_id).state)

    async def ready(self, job_id: int, within_s: float = 3600.0) -> None:
        await self.until(lambda: self.state(job_id) in {JobState.ready, JobState.destroyed}, within_s)
        status = self.controller.get_job_state(job_id)
        assert status.state == JobState.ready, f"job {job_id}: {status.reason}"

    async def until(self, condition: Callable[[], bool], within_s: float = 3600.0) -> None:
        """Let time pass until `condition` holds; it is looked at after every change."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def changed(self) -> None:
        """Do what the core wants done."""
        self.controller.take_changes()
        for switch in self.controller.take_switches():
            self.ask(switch)
        if self._wake is not None:
            self._wake.cancel()
        wake_at = self.controller.wake_at()
        self._wake = None if wake_at is None else self.loop.call_at(wake_at - EPOCH + ROUNDING_S, self._tick)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def ask(self, switch: Switch) -> None:
        """Have boards switched."""
        self.switches.append(switch)
        self.hardware.switch(switch)

    def take_outcome(self, outcome: Outcome) -> None:
        self.outcomes[outcome.operation] = outcome
        switch = next(each for each in reversed(self.switches) if each.operation == outcome.operation)
        if switch.on and switch.job_id:
            self.failed += [(self.loop.now, switch.job_id, (f.bmp, f.board)) for f in outcome.failures]
        self.controller.switched(outcome)
        self.changed()

    def take_frame(self, bmp: str, reason: str | None) -> None:
        self.controller.frame_changed(bmp, reason)
        self.changed()

    def _tick(self) -> None:
        self.controller.tick()
        self.changed()

    def out_of_service(self) -> int:
        return sum(view.out_of_service for view in self.controller.machine_views())

    def breaches(self) -> list[str]:
        """What is wrong with the isolation of jobs whose boards are on, by the simulator's own registers."""
        machine, found = self.machine, []
        owner = {
            board: job.job_id
            for job in self.controller.list_jobs()
            if job.state == JobState.ready and job.power
            for board in job.boards or ()
        }
        for board, job_id in owner.items():
            here = self.simulated(board)
            if not here.is_up(self.loop.now):
                found.append(f"board {board} of job {job_id} is not up")
            for link in Links:
                x, y, z, _ = board_down_link(*board, link, machine.width, machine.height)
                there = (x, y, z)
                dead = {(*board, link), (*there, link.opposite)} & machine.dead_links
                inside = owner.get(there) == job_id and not dead
                if inside == (link in here.stopped_links()):
                    found.append(
                        f"link {link.name} of board {board} of job {job_id} should {'run' if inside else 'stop'}"
                    )
        return found


Body = Callable[[Floor], Coroutine[Any, Any, None]]


def on_floor(
    configuration: Callable[[], Configuration],
    *,
    network: Network | None = None,
    timings: Timings | None = None,
    simulated: SimulatedTimings | None = None,
    seed: int = 1,
) -> Callable[[Body], Callable[[], None]]:
    """Make a plain test function of an asynchronous one that takes a `Floor`."""

    async def main(body: Body, loop: VirtualLoop, wanted: Configuration) -> None:
        hardware = Hardware(
            lambda outcome: floor.take_outcome(outcome),
            lambda bmp, reason: floor.take_frame(bmp, reason),
            timings=timings,
            find_address=name_as_address,
        )
        floor = Floor(loop, wanted, Controller(clock=lambda: EPOCH + loop.now), hardware)
        async with hardware:
            floor.controller.configure(wanted)
            hardware.watch({bmp for machine in wanted.machines for bmp in machine.bmp_ips.values()})
            await body(floor)
        floor.controller.check()
        counters = floor.counters
        assert (counters.overlaps, counters.power_repeats) == (0, 0)

    def decorate(body: Body) -> Callable[[], None]:
        def test() -> None:
            wanted = configuration()
            frames: dict[str, set[int]] = {}
            for machine in wanted.machines:
                for cabinet, frame, number in machine.board_locations.values():
                    frames.setdefault(machine.bmp_ips[cabinet, frame], set()).add(number)
            loop = VirtualLoop(
                {bmp: SimulatedFrame(numbers, timings=simulated) for bmp, numbers in frames.items()},
                network or Network(),
                seed,
            )
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main(body, loop, wanted))

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate


async def live_many(
    floor: Floor, rng: random.Random, jobs: int, *, sizes: Callable[[], int], seconds: Callable[[], float], at_once: int
) -> None:
    """Let so many jobs live: each is created, becomes ready, is used, and ends."""
    places = asyncio.Semaphore(at_once)

    async def live() -> None:
        async with places:
            job_id = floor.create(sizes(), owner=f"user {rng.randrange(20)}")
            await floor.ready(job_id)
            await asyncio.sleep(seconds())
            floor.destroy(job_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(live())
