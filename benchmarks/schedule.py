"""How long a decision takes: placements, and passes over a long queue, on machines that are nearly full.

Each machine is brought into the state that years of use leave it in: jobs of the mix `SIZES` come, and random ones
go, until it has been filled many times over. Then every decision is timed by the processor time that it takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from spalloc_server.configuration import Machine, Scheduling
from spalloc_server.core.messages import Request
from spalloc_server.core.placement import place
from spalloc_server.core.request import DEFAULT_TAGS
from spalloc_server.core.schedule import Scheduler
from spalloc_server.links import Links

SIZES = (1, 1, 1, 2, 3, 6, 12, 24, 48, 120)
"""Boards that jobs ask for."""

IN_USE = 0.8
"""Part of a machine's boards that are in use when decisions are timed."""

MAX_QUEUE = 20
"""Jobs that may wait while a machine is filled."""


DEAD = 0.01
"""Part of the boards of a blemished machine that are dead, and half as many links."""


def a_machine(width: int, height: int, *, blemished: bool = False) -> Machine:
    """A machine of width x height triads, all of it working or with some boards and links dead."""
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    dead = random.Random(3).sample(boards, int(DEAD * len(boards)) if blemished else 0)
    locations = {board: (0, number // 24, number % 24) for number, board in enumerate(boards)}
    return Machine(
        "m",
        width=width,
        height=height,
        dead_boards=set(dead),
        dead_links={(x, y, (z + 1) % 3, Links.north) for x, y, z in dead[::2]},
        board_locations=locations,
        bmp_ips={(0, frame): f"bmp-{frame}" for _, frame, _ in locations.values()},
        spinnaker_ips={board: "board-{}-{}-{}".format(*board) for board in boards},
    )


class Hall:
    """A scheduler with one machine in use."""

    def __init__(self, machine: Machine, seed: int, policy: Scheduling) -> None:
        self.random = random.Random(seed)
        self.scheduler = Scheduler(policy, 0.0)
        self.scheduler.set_machines({"m": machine})
        self.boards = len(machine.live_boards)
        self.now = 0.0
        self.running: dict[int, tuple[tuple[int, int, int], ...]] = {}
        self.in_use = 0
        self.last = 0

    def submit(self) -> None:
        """One more job joins the queue."""
        self.last += 1
        boards = self.random.choice([size for size in SIZES if size <= self.boards // 4])
        request = Request(owner=f"user {self.random.randrange(40)}", boards=boards, tags=DEFAULT_TAGS)
        self.scheduler.submit(self.last, request, self.now)

    def run(self) -> float:
        """A pass; the seconds of processor time that it took."""
        begin = time.process_time()
        started = self.scheduler.run(self.now)
        seconds = time.process_time() - begin
        for job_id, allocation in started:
            self.running[job_id] = allocation.boards
            self.in_use += len(allocation.boards)
        return seconds

    def end_one(self) -> None:
        """A random job ends, and its boards are free at once."""
        self.now += self.random.expovariate(1.0)
        job_id = self.random.choice(list(self.running))
        boards = self.running.pop(job_id)
        self.scheduler.end(job_id, self.now)
        self.scheduler.free("m", boards, rest_until=None, now=self.now)
        self.in_use -= len(boards)

    def fill(self) -> None:
        """Start jobs until as much is in use as is to be."""
        while self.in_use < IN_USE * self.boards:
            self.submit()
            self.run()
            if self.scheduler.queued > MAX_QUEUE:
                self.end_one()

    def settle(self, rounds: int) -> None:
        """Use the machine for a while."""
        for _ in range(rounds):
            while self.in_use > IN_USE * self.boards:
                self.end_one()
            self.submit()
            self.run()


def placements(on: Machine, rounds: int) -> list[float]:
    """Seconds of each decision where to place a job, or that there is no place for it, free boards being scattered."""
    hall = Hall(on, seed=1, policy=Scheduling(policy="fifo"))
    hall.fill()
    hall.settle(rounds // 2)
    seconds = []
    for _ in range(rounds):
        hall.settle(1)
        machine = hall.scheduler._book.machines["m"]  # noqa: SLF001 - what is timed is behind the scheduler
        sizes = [size for size in SIZES if size <= hall.boards // 4]
        request = Request(owner="me", boards=hall.random.choice(sizes), tags=DEFAULT_TAGS)
        ground = type(machine.ground)(machine.ground.topology, machine.ground.free)  # nothing remembered
        begin = time.process_time()
        place(request, ground)
        seconds.append(time.process_time() - begin)
    return seconds


def passes(on: Machine, queue: int, rounds: int) -> list[float]:
    """Seconds of each pass over so many queued jobs, when a job has just ended."""
    hall = Hall(on, seed=2, policy=Scheduling())
    hall.fill()
    hall.settle(300)
    while hall.scheduler.queued < queue:
        hall.submit()
        hall.run()
    seconds = []
    for _ in range(rounds):
        hall.end_one()
        seconds.append(hall.run())
        while hall.scheduler.queued < queue:
            hall.submit()
            hall.run()
    return seconds


def main(*, quick: bool = False) -> None:
    """Print a table."""
    rounds = 300 if quick else 2000
    sound, blemished, large = a_machine(20, 20), a_machine(20, 20, blemished=True), a_machine(100, 100)
    measured: list[tuple[str, Callable[[], list[float]]]] = [
        ("a placement on 1,200 boards", lambda: placements(sound, rounds)),
        ("a placement on 1,200 boards, 1 % dead", lambda: placements(blemished, rounds)),
        ("a placement on 30,000 boards", lambda: placements(large, rounds)),
        ("a pass over 1,000 queued jobs, 1,200 boards", lambda: passes(sound, 1000, rounds // 5)),
        ("a pass over 1,000 queued jobs, 1,200 boards, 1 % dead", lambda: passes(blemished, 1000, rounds // 5)),
    ]
    print("| decision | p50 ms | p99 ms | longest ms |")
    print("| --- | ---: | ---: | ---: |")
    for what, measure in measured:
        taken = sorted(measure())
        p50, p99 = taken[len(taken) // 2], taken[int(0.99 * len(taken))]
        print(f"| {what} | {1e3 * p50:.2f} | {1e3 * p99:.2f} | {1e3 * taken[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
