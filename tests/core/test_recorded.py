"""Places and queues come out as they were recorded: on machines and traces of all kinds, board by board.

Theory of operation. Other tests say what every placement and every queue must be. Of many that would do, the search and
the policies choose one: the most compact, the first, the longest rested. Users and the simulator's figures depend on
that, so it changes only on purpose. Then the records are written anew, and their differences are looked at:

    python -m tests.core.test_recorded
"""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import msgspec
import pytest

from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.layout import as_told_before
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import fewest, nearest_size, place
from spalloc_server.core.placement.selection import select
from spalloc_server.core.placement.shapes import least_boards
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.links import Links
from tests.core.machines import a_machine
from tests.core.recorded import shortened, sum_of, text_of

pytestmark = pytest.mark.slow

RECORDS = Path(__file__).parents[1] / "data" / "recorded.json"
CHUNKS, SEARCHES, QUEUES, SELECTIONS = 30, 50, 40, 600
"""Chunks of so many searches, and queues."""

COST = 0.05
"""By this part the cost of a search may differ from what was recorded."""


def a_random_machine(choose: random.Random, width: int, height: int) -> Machine:
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    dead = choose.sample(boards, choose.choice([0, 0, 1, 2, len(boards) // 8]))
    links = [
        (*choose.choice(boards), choose.choice(list(Links))) for _ in range(choose.choice([0, 0, 1, 3, 8, len(boards)]))
    ]
    return a_machine("m", width, height, dead_boards=dead, dead_links=links)


def a_random_request(choose: random.Random, machine: Machine, **rest: Any) -> Request:
    most = 3 * machine.width * machine.height
    boards = choose.choice([1, 2, 3, 4, 6, 9, choose.randint(2, most), choose.randint(2, most), most // 2, most])
    size: dict[str, Any] = choose.choice(
        [
            *[{"boards": boards}] * 5,
            *[{"triads": (choose.randint(1, machine.width), choose.randint(1, machine.height))}] * 2,
            {"board": (choose.randrange(machine.width), choose.randrange(machine.height), choose.randrange(3))},
        ]
    )
    if size != {"boards": 1} and "board" not in size:
        rest["require_torus"] = choose.random() < 0.2
        rest["max_dead_boards"] = choose.choice([None, None, 0, 1, 3, most // 3])
        rest["max_dead_links"] = choose.choice([None, None, 0, 1, 3])
        rest["min_ratio"] = choose.choice([0.0, 0.0, 0.3, 0.5, 1.0])
    return Request(**{"owner": "someone", **size, **rest})


def a_place(seed: int) -> Any:
    """What is found on a random machine, part of which is busy or was used lately."""
    choose = random.Random(seed)
    machine = a_random_machine(choose, choose.randint(1, 8), choose.randint(1, 6))
    occupancy = Occupancy(machine, choose.choice([Fraction(2, 3), Fraction(0), Fraction(1)]))
    live = sorted(set(machine.live_boards))
    for job_id in range(1, choose.choice([1, 1, 3, 8])):
        center = choose.choice(live)
        near = [one for one in live if abs(one[0] - center[0]) + abs(one[1] - center[1]) <= choose.choice([0, 1, 2])]
        occupancy.hold([one for one in near if one not in occupancy.holders], job_id)
    if choose.random() < 0.3:
        scattered = choose.sample(live, len(live) // 2)
        occupancy.hold([one for one in scattered if one not in occupancy.holders], 98)
    idle = sorted(set(live) - occupancy.holders.keys())
    used = choose.sample(idle, min(len(idle), choose.choice([0, 0, 1, 4, 20])))
    occupancy.hold(used, 99)
    occupancy.release(used, 1.0)
    occupancy.wake(1.0)
    request = a_random_request(choose, machine)
    effort, free_boards = Effort(occupancy.torus.size), occupancy.free_boards_of(occupancy.free)
    found = place(request, free_boards, effort)
    nearest = nearest_size(request, free_boards, Effort(occupancy.torus.size)) if request.boards is not None else None
    told = None
    if found is not None:
        allocation = occupancy.allocation(request, found)
        before = as_told_before(machine, msgspec.structs.replace(allocation, wraps=None, stopped=None))
        told = [*found[0], sum_of(allocation), sum_of(before)]
    return [told, nearest, fewest(request, occupancy.topology), effort.spent]


def a_selection(seed: int) -> str | None:
    """Which of the boards of a block are given that has many holes, for a job that has just enough to span it."""
    choose = random.Random(seed)
    width, height = choose.randint(1, 6), choose.randint(1, 5)
    machine = a_random_machine(choose, width + choose.choice([0, 1]), height + choose.choice([0, 1]))
    topology = Occupancy(machine).topology
    block = choose.randrange(machine.width), choose.randrange(machine.height), width, height
    share = choose.choice([0.6, 0.75, 0.9])
    kept = [board for board in machine.live_boards if choose.random() < share]
    among = topology.seen(topology.torus.planes(kept), block)
    boards = least_boards((width, height)) + choose.choice([0, 0, 1, 2, 5])
    effort = Effort(topology.torus.size)
    given = select(topology, block, among, boards, effort)
    return None if given is None else f"{boards} {sum_of(topology.torus.boards(given))} {effort.spent}"


class Line:
    """A scheduler of two machines, and jobs of a few owners that come and go at random."""

    def __init__(self, seed: int) -> None:
        self.choose = choose = random.Random(seed)
        self.now, self.told, self.last = 1000.0, list[str](), 0
        self.rest = choose.choice([0.0, 30.0])
        self.size = choose.randint(2, 5), choose.randint(2, 4)
        self.machines = {"m": a_random_machine(choose, *self.size), "n": a_machine("n", 2, 2, tags=("default", "n"))}
        self.scheduler = Scheduler()
        self.policy: Literal["backfill", "fifo"] = "fifo" if seed % 4 == 0 else "backfill"
        self.set_policy(2 / 3)
        self.scheduler.set_machines(self.machines)
        self.running: dict[int, tuple[float, Any]] = {}
        self.waiting: dict[int, Request] = {}

    def set_policy(self, min_fill: float) -> None:
        scheduling = Scheduling(policy=self.policy, half_life=3600.0, max_priority=3, min_fill=min_fill)
        self.scheduler.set_policy(scheduling, self.rest)

    def submit(self) -> None:
        choose, machine = self.choose, self.machines["m"]
        self.last += 1
        request = a_random_request(
            choose,
            machine,
            owner=choose.choice("abc"),
            tags=frozenset({"n"}) if choose.random() < 0.1 else DEFAULT_TAGS,
            priority=choose.choice([0, 0, 0, 1]),
            max_runtime=choose.choice([None, None, 120.0]),
        )
        if refusal := self.scheduler.refusal(request):
            self.told.append(f"{self.last} refused: {refusal}")
            return
        avoid = {"m": [(x, 0, z) for x in range(machine.width) for z in range(3)]} if choose.random() < 0.1 else None
        self.scheduler.submit(self.last, request, self.now, avoid=avoid)
        self.told.append(f"{self.last} waits")
        self.waiting[self.last] = request

    def end(self, job_id: int) -> None:
        _, allocation = self.running.pop(job_id)
        self.scheduler.end(job_id, self.now, learn=self.choose.random() < 0.8)
        until = self.now + self.rest if self.rest else None
        self.scheduler.free(allocation.machine, allocation.boards, rest_until=until, now=self.now)

    def disturb(self) -> None:
        """Change something that is not a job."""
        choose, scheduler = self.choose, self.scheduler
        match choose.randrange(7):
            case 0 | 1:
                boards = [(0, 0, z) for z in range(3)]
                scheduler.set_out_of_service("m", boards, out=choose.random() < 0.5)
            case 2:
                scheduler.close(choose.choice([(), (), ("n",), ("m",)]), everything=choose.random() < 0.1)
            case 3:
                self.set_policy(choose.choice([2 / 3, 2 / 3, 0.5, 1.0]))
            case 4:
                self.machines["m"] = a_random_machine(choose, *self.size)
                scheduler.set_machines(self.machines)
            case 5 if self.waiting:
                gone = choose.choice(sorted(self.waiting))
                del self.waiting[gone]
                scheduler.withdraw(gone)
            case _:
                self.policy = choose.choice(["backfill", "backfill", self.policy])
                self.set_policy(2 / 3)

    def step(self) -> None:
        choose, scheduler = self.choose, self.scheduler
        self.now += choose.choice([0.0, choose.expovariate(1 / 60)])
        for ended, (end, _) in sorted(self.running.items()):
            if end <= self.now:
                self.end(ended)
        if choose.random() < 0.15:
            self.disturb()
        for _ in range(choose.choice([1, 1, 1, 4])):
            self.submit()
        go_on = choose.random() < 0.7
        for job_id, reason in scheduler.impossible(go_on=go_on):
            self.told.append(f"{job_id} impossible: {reason}")
            del self.waiting[job_id]
            scheduler.withdraw(job_id)
        for started, allocation in scheduler.run(self.now, go_on=go_on):
            size, boards = f"{allocation.width}x{allocation.height}", sum_of(allocation)
            self.told.append(f"{self.now:.0f} {started} on {allocation.machine} {size} {boards}")
            self.running[started] = self.now + choose.expovariate(1 / 150), allocation
            del self.waiting[started]
        scheduler.check()
        left, line = scheduler._queue.work.left, scheduler.ordered(self.now)
        wake_at = scheduler.wake_at()
        self.told.append(f"{scheduler.pending} {wake_at and round(wake_at, 3)} {left} {line}")
        if self.waiting and choose.random() < 0.3:
            some = choose.sample(sorted(self.waiting), min(2, len(self.waiting)))
            self.told += [f"{each}: {scheduler.explain(each, self.now).text}" for each in some]


def a_queue(seed: int) -> list[str]:
    """What happens to jobs of a few owners that come and go at random."""
    line = Line(seed)
    with patch("spalloc_server.core.scheduling.scheduler.STEP", line.choose.choice([12, 42, 150, 1200])):
        for _ in range(60):
            line.step()
    line.told.append(text_of(line.scheduler.facts()))
    return list(map(shortened, line.told))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_search_finds_the_place_that_was_recorded_at_the_cost_that_was_recorded(chunk: int) -> None:
    records = json.loads(RECORDS.read_text())["places"]
    for seed in range(SEARCHES * chunk, SEARCHES * (chunk + 1)):
        *found, spent = a_place(seed)
        *before, spent_before = records[seed]
        assert found == before, f"seed {seed}"
        assert spent == pytest.approx(spent_before, rel=COST), f"seed {seed}"


def test_of_a_block_those_boards_are_given_that_were_recorded() -> None:
    records = json.loads(RECORDS.read_text())["selections"]
    assert [a_selection(seed) for seed in range(SELECTIONS)] == records


@pytest.mark.parametrize("seed", range(QUEUES))
def test_a_queue_moves_as_was_recorded(seed: int) -> None:
    assert a_queue(seed) == json.loads(RECORDS.read_text())["queues"][seed]


def write() -> None:
    records = {
        "places": [a_place(seed) for seed in range(CHUNKS * SEARCHES)],
        "selections": [a_selection(seed) for seed in range(SELECTIONS)],
        "queues": [a_queue(seed) for seed in range(QUEUES)],
    }
    lines = [f'"{kind}": [\n' + ",\n".join(map(json.dumps, each)) + "\n]" for kind, each in records.items()]
    RECORDS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
