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

import pytest

from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.options import Scheduling
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.effort import Effort
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import fewest, nearest_size, place
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.links import Links
from tests.core.machines import a_machine
from tests.core.recorded import sum_of, text_of

RECORDS = Path(__file__).parents[1] / "data" / "recorded.json"
CHUNKS, SEARCHES, QUEUES = 30, 50, 40
"""Chunks of so many searches, and queues."""

COST = 0.05
"""By this part the cost of a search may differ from what was recorded."""


def a_random_machine(choose: random.Random, width: int, height: int) -> Machine:
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    dead = choose.sample(boards, choose.choice([0, 0, 1, 2, len(boards) // 8]))
    links = [(*choose.choice(boards), choose.choice(list(Links))) for _ in range(choose.choice([0, 0, 1, 3, 8]))]
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
    idle = sorted(set(live) - occupancy.holders.keys())
    used = choose.sample(idle, min(len(idle), choose.choice([0, 0, 1, 4, 20])))
    occupancy.hold(used, 99)
    occupancy.release(used, 1.0)
    occupancy.wake(1.0)
    request = a_random_request(choose, machine)
    effort = Effort(occupancy.torus.size)
    found = place(request, occupancy.free_boards, effort)
    nearest = nearest_size(request, occupancy.free_boards) if request.boards is not None else None
    told = None
    if found is not None:
        told = [*found[0], sum_of(occupancy.allocation(request, found))]
    return [told, nearest, fewest(request, occupancy.topology), effort.spent]


def a_queue(seed: int) -> list[str]:
    """What happens to jobs of a few owners that come and go at random, a line for each start and some explanations."""
    choose = random.Random(seed)
    machines = {
        "m": a_random_machine(choose, choose.randint(2, 5), choose.randint(2, 4)),
        "n": a_machine("n", 2, 2, tags=("default", "n")),
    }
    rest = choose.choice([0.0, 30.0])
    policy: Literal["backfill", "fifo"] = "fifo" if seed % 4 == 0 else "backfill"
    scheduler = Scheduler(Scheduling(policy=policy, half_life=3600.0, max_priority=3), rest)
    scheduler.set_machines(machines)
    now, told = 1000.0, list[str]()
    running: dict[int, tuple[float, Any]] = {}
    waiting: set[int] = set()
    for job_id in range(1, 60):
        now += choose.expovariate(1 / 40)
        for ended, (end, allocation) in sorted(running.items()):
            if end <= now:
                del running[ended]
                scheduler.end(ended, now)
                scheduler.free(allocation.machine, allocation.boards, rest_until=now + rest if rest else None, now=now)
        frame = [(0, 0, z) for z in range(3)]
        if choose.random() < 0.1:
            scheduler.set_out_of_service("m", frame, out=choose.random() < 0.5)
        request = a_random_request(
            choose,
            machines["m"],
            owner=choose.choice("abc"),
            tags=frozenset({"n"}) if choose.random() < 0.1 else DEFAULT_TAGS,
            priority=choose.choice([0, 0, 0, 1]),
            max_runtime=choose.choice([None, None, 120.0]),
        )
        if refusal := scheduler.refusal(request):
            told.append(f"{job_id} refused: {refusal}")
            continue
        scheduler.submit(job_id, request, now)
        waiting.add(job_id)
        for started, allocation in scheduler.run(now):
            size, boards = f"{allocation.width}x{allocation.height}", sum_of(allocation.boards)
            told.append(f"{now:.0f} {started} on {allocation.machine} {size} {boards}")
            running[started] = now + choose.expovariate(1 / 150), allocation
            waiting.discard(started)
        scheduler.check()
        if waiting and job_id % 5 == 0:
            told += [f"{each}: {scheduler.explain(each, now).text}" for each in sorted(waiting)[:3]]
    told.append(text_of(scheduler.facts()))
    return told


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_search_finds_the_place_that_was_recorded_at_the_cost_that_was_recorded(chunk: int) -> None:
    records = json.loads(RECORDS.read_text())["places"]
    for seed in range(SEARCHES * chunk, SEARCHES * (chunk + 1)):
        *found, spent = a_place(seed)
        *before, spent_before = records[seed]
        assert found == before, f"seed {seed}"
        assert spent == pytest.approx(spent_before, rel=COST), f"seed {seed}"


@pytest.mark.parametrize("seed", range(QUEUES))
def test_a_queue_moves_as_was_recorded(seed: int) -> None:
    assert a_queue(seed) == json.loads(RECORDS.read_text())["queues"][seed]


def write() -> None:
    records = {
        "places": [a_place(seed) for seed in range(CHUNKS * SEARCHES)],
        "queues": [a_queue(seed) for seed in range(QUEUES)],
    }
    lines = [f'"{kind}": [\n' + ",\n".join(map(json.dumps, each)) + "\n]" for kind, each in records.items()]
    RECORDS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
