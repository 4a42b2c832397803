"""How long a decision takes: placements, and passes over a long queue, on machines that are nearly full.

Each machine is brought into the state that years of use leave it in: jobs of the mix `SIZES` come, and random ones
go, until it has been filled many times over. Then every decision is timed by the processor time that it takes.

Others are made hard on purpose (`hostile`, `steps`): of these the longest counts, and must be below its bar.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable

from benchmarks.hostile import Input, a_machine, found_slow, grid
from benchmarks.steps import inputs, like_the_server
from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.search import place
from spalloc_server.core.scheduling.scheduler import Scheduler

SIZES = (1, 1, 1, 2, 3, 6, 12, 24, 48, 120)
"""Boards that jobs ask for."""

IN_USE = 0.8
"""Part of a machine's boards that are in use when decisions are timed."""

MAX_QUEUE = 20
"""Jobs that may wait while a machine is filled."""


BARS = {1200: 0.020, 10800: 0.100, 30000: 0.100}
"""By boards of a machine, the most seconds of processor time that the event loop may be held up at once."""

TIMES = 3
"""How often what takes longer than its bar is timed; the least counts."""

HOPELESS = 20.0
"""What takes so many times its bar is timed once."""


class Hall:
    """A scheduler with one machine in use."""

    def __init__(self, machine: Machine, seed: int, policy: Scheduling, owners: int = 40) -> None:
        self.owners = owners
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
        request = Request(owner=f"user {self.random.randrange(self.owners)}", boards=boards, tags=DEFAULT_TAGS)
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
        machine = hall.scheduler._queue.machines["m"]  # noqa: SLF001 - what is timed is behind the scheduler
        sizes = [size for size in SIZES if size <= hall.boards // 4]
        request = Request(owner="me", boards=hall.random.choice(sizes), tags=DEFAULT_TAGS)
        free_boards = FreeBoards(machine.topology, machine.free)  # nothing remembered
        begin = time.process_time()
        place(request, free_boards)
        seconds.append(time.process_time() - begin)
    return seconds


def passes(on: Machine, queue: int, rounds: int, owners: int = 40) -> list[float]:
    """Seconds of the longest step of each pass over so many queued jobs, when a job has just ended."""
    hall = Hall(on, seed=2, policy=Scheduling(), owners=owners)
    hall.fill()
    hall.settle(300)
    while hall.scheduler.queued < queue:
        hall.submit()
        hall.run()
    gc.collect()
    gc.freeze()
    seconds = []
    for _ in range(rounds):
        hall.end_one()
        steps = [hall.run()]
        while hall.scheduler.pending:
            steps.append(hall.run())
        seconds.append(max(steps))
        while hall.scheduler.queued < queue:
            hall.submit()
            hall.run()
    return seconds


def seconds_of(given: Input, bar: float) -> float:
    """Seconds for one placement: the least of three, where the first is over the bar."""
    least = math.inf
    for _ in range(TIMES):
        free_boards = given.free_boards()
        begin = time.process_time()
        place(given.request, free_boards)
        least = min(least, time.process_time() - begin)
        if least <= bar or least > HOPELESS * bar:
            break
    return least


def decisions(*, quick: bool) -> list[str]:
    """Print a table of decisions as they are usual; those over the bar of 1,200 boards, which is for all, in words."""
    rounds = 300 if quick else 2000
    sound, blemished = a_machine(20, 20), a_machine(20, 20, dead_boards=12, dead_links=6)
    large = a_machine(100, 100)
    measured: list[tuple[str, Callable[[], list[float]]]] = [
        ("a placement on 1,200 boards", lambda: placements(sound, rounds)),
        ("a placement on 1,200 boards, 1 % dead", lambda: placements(blemished, rounds)),
        ("a placement on 30,000 boards", lambda: placements(large, rounds)),
        ("a pass over 1,000 queued jobs, 1,200 boards", lambda: passes(sound, 1000, rounds // 5)),
        ("a pass over 1,000 queued jobs, 1,200 boards, 1 % dead", lambda: passes(blemished, 1000, rounds // 5)),
        ("a pass over 10,000 queued jobs, 1,200 boards", lambda: passes(sound, 10_000, rounds // 5)),
        ("the same, of 10,000 owners", lambda: passes(sound, 10_000, rounds // 5, owners=10_000)),
    ]
    over = []
    print("| decision | p50 ms | p99 ms | longest ms |")
    print("| --- | ---: | ---: | ---: |")
    for what, measure in measured:
        taken = sorted(like_the_server(measure))
        p50, p99 = taken[len(taken) // 2], taken[int(0.99 * len(taken))]
        print(f"| {what} | {1e3 * p50:.2f} | {1e3 * p99:.2f} | {1e3 * taken[-1]:.2f} |", flush=True)
        if p99 > BARS[1200]:
            over.append(f"{1e3 * p99:,.0f} ms (p99), where {BARS[1200] * 1e3:.0f} are allowed: {what}")
    return over


def worst_placements(*, quick: bool) -> list[str]:
    """Print tables of the placements that are made hard; those over their bars, in words."""
    over = []

    def timed(given: Input) -> float:
        bar = BARS[3 * given.machine.width * given.machine.height]
        seconds = seconds_of(given, bar)
        if seconds > bar:
            over.append(f"{seconds * 1e3:,.0f} ms, where {bar * 1e3:.0f} are allowed: {given.name}")
        return seconds

    print("\n| placements that were found to be slow | ms |\n| --- | ---: |")
    for given in found_slow():
        print(f"| {given.name} | {1e3 * timed(given):.1f} |", flush=True)
    print("\n| hostile placements | inputs | p50 ms | p99 ms | longest ms | the longest |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for side, every in ((20, 7 if quick else 1), (100, 41 if quick else 7)):
        by_pattern: dict[str, list[tuple[float, str]]] = {}
        for given in grid(side, every=every):
            by_pattern.setdefault(given.pattern, []).append((timed(given), given.name))
        for pattern, taken in by_pattern.items():
            taken.sort()
            p50, p99 = taken[len(taken) // 2][0], taken[int(0.99 * len(taken))][0]
            figures = f"{1e3 * p50:.2f} | {1e3 * p99:.2f} | {1e3 * taken[-1][0]:.1f} | {taken[-1][1]}"
            print(f"| {3 * side * side:,} boards, {pattern} | {len(taken)} | {figures} |", flush=True)
    return over


def worst_steps(*, quick: bool) -> list[str]:
    """Print a table of what the core does at once where very much is to be done; what is over its bar, in words."""
    over = []
    print("\n| much to do | calls | all s | longest call ms |\n| --- | ---: | ---: | ---: |")
    for what, boards, measure in inputs(quick=quick):
        taken = measure()
        for _ in range(TIMES - 1):
            if max(taken) > BARS[boards]:
                taken = min(taken, measure(), key=max)
        print(f"| {what} | {len(taken)} | {sum(taken):.2f} | {1e3 * max(taken):.1f} |", flush=True)
        if max(taken) > BARS[boards]:
            over.append(f"{1e3 * max(taken):,.0f} ms, where {BARS[boards] * 1e3:.0f} are allowed: {what}")
    return over


def main(*, quick: bool = False) -> str | None:
    """Print tables; what took longer than it may, in words, or None."""
    over = [*decisions(quick=quick), *worst_steps(quick=quick), *worst_placements(quick=quick)]
    print(f"\n{len(over)} over their bars")
    return "\n".join(over) or None


if __name__ == "__main__":
    sys.exit(main())
