"""Every job is a machine for the published tools: SpiNNMachine builds it from the chips that SCAMP would find.

Jobs come from the core, in virtual time. Which boards they have and which links work between them is what the hardware
was told (`tests.worlds`), the coordinates are what SCAMP's rule gives (`tests.scamp_rule`), and four published versions
of SpiNNMachine judge them (`tests.conformance.judges`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, BoardLink, WrapAround, board_down_link, board_to_chip
from spalloc_server.links import Links
from tests.conformance.judges import Judges
from tests.core.machines import a_machine
from tests.scamp_rule import Job, working_links
from tests.worlds import World

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

SIDE = 20
"""Triads of a side of the million-core machine."""

SIZES = range(1, 201)
"""Boards of the jobs on an idle machine."""

BUSY_JOBS = 3000
RECTANGLES = 1000
SMALL_JOBS = 1500

SEED = 13

Named = Iterator[tuple[str, Job]]


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    with Judges() as judges:
        yield judges


def with_faults(width: int, height: int, share: float, rng: random.Random) -> Machine:
    """A machine with this share of its boards dead, and of its links from one end or both."""
    every = list(product(range(width), range(height), range(3)))
    dead_links: set[BoardLink] = set()
    for board, link in product(every, Links):
        if rng.random() < share / 2:
            x, y, z, _ = board_down_link(*board, link, width, height)
            dead_links |= {(*board, link), (x, y, z, link.opposite)} if rng.random() < 0.5 else {(*board, link)}
    dead = {board for board in every if rng.random() < share}
    return a_machine(f"{width}x{height}", width, height, dead_boards=dead, dead_links=dead_links)


def without_edge_cables(width: int, height: int) -> Machine:
    """A machine whose links around are all dead."""
    links: set[BoardLink] = set()
    for board, link in product(product(range(width), range(height), range(3)), Links):
        *_, wrapped = board_down_link(*board, link, width, height)
        if wrapped != WrapAround.none:
            links.add((*board, link))
    return a_machine(f"{width}x{height}-cut", width, height, dead_links=links)


def on_an_idle_machine(machine: Machine, *requests: tuple[int, ...]) -> Named:
    """A job for each request, each on a machine that nobody else uses."""
    for sizes in requests:
        world = World(machine)
        job = world.job(world.create(*sizes))
        assert job is not None, f"{machine.name} is idle, and {sizes} got no boards"
        yield f"{machine.name}: {sizes}", job


def on_a_busy_machine(machine: Machine, n_jobs: int, rng: random.Random, *, rectangles: bool = False) -> Named:
    """Random jobs on a machine where others come and go; those that would have to wait go away again."""
    world, running = World(machine), list[int]()
    given = tried = 0
    largest = max(3, 3 * machine.width * machine.height // 4)
    while given < n_jobs:
        tried += 1
        assert tried < 20 * n_jobs, f"only {given} of {tried} jobs got boards"
        sizes, kwargs = _rectangle(rng) if rectangles else _some_boards(rng, largest)
        job_id = world.create(*sizes, **kwargs)
        job = world.job(job_id)
        if job is None:
            world.destroy(job_id)
            for _ in range(min(len(running), 2)):
                world.destroy(running.pop(rng.randrange(len(running))))
            continue
        given += 1
        running.append(job_id)
        yield f"{machine.name} #{tried}: {sizes} {kwargs}", job
        while len(running) > 40 or (running and rng.random() < 0.4):
            world.destroy(running.pop(rng.randrange(len(running))))


def _some_boards(rng: random.Random, largest: int) -> tuple[tuple[int, ...], dict[str, object]]:
    n_boards = min(largest, 1 + int(rng.expovariate(1 / 14)))
    kwargs: dict[str, object] = {}
    if rng.random() < 0.3:
        kwargs["min_ratio"] = rng.choice([0.2, 0.333, 0.5, 1.0])
    if n_boards > 1 and rng.random() < 0.1:
        kwargs |= {"require_torus": True, "max_dead_boards": rng.choice([None, 0])}
    return (n_boards,), kwargs


def _rectangle(rng: random.Random) -> tuple[tuple[int, ...], dict[str, object]]:
    # Where boards may be dead a rectangle need not have a complete span: so none may be
    return (rng.randint(1, 5), rng.randint(1, 5)), {"max_dead_boards": 0}


def test_jobs_of_every_size_on_an_idle_machine_with_and_without_edge_cables(judges: Judges) -> None:
    sizes = [(size,) for size in SIZES]
    whole, cut = a_machine("20x20", SIDE, SIDE), without_edge_cables(SIDE, SIDE)
    others = [(1, 1), (3, 2), (20, 1), (1, 20), (20, 7), (19, 20), (20, 20)]
    verdicts = judges.judge(job for machine in (whole, cut) for job in on_an_idle_machine(machine, *sizes, *others))
    assert not verdicts.complaints, str(verdicts)


def test_jobs_of_every_size_on_an_idle_machine_with_faults(judges: Judges) -> None:
    machine = with_faults(SIDE, SIDE, 0.01, random.Random(SEED))
    verdicts = judges.judge(on_an_idle_machine(machine, *((size,) for size in SIZES)))
    assert not verdicts.complaints, str(verdicts)


def test_random_jobs_on_a_busy_machine(judges: Judges) -> None:
    rng = random.Random(SEED)
    machine = with_faults(SIDE, SIDE, 0.01, rng)
    verdicts = judges.judge(on_a_busy_machine(machine, BUSY_JOBS, rng))
    assert not verdicts.complaints, str(verdicts)


def test_rectangles_on_a_busy_machine(judges: Judges) -> None:
    rng = random.Random(SEED)
    machines = (a_machine("20x20", SIDE, SIDE), with_faults(SIDE, SIDE, 0.01, rng))
    verdicts = judges.judge(
        job for machine in machines for job in on_a_busy_machine(machine, RECTANGLES // 2, rng, rectangles=True)
    )
    assert not verdicts.complaints, str(verdicts)


def test_random_jobs_and_whole_machines_where_jobs_go_around(judges: Judges) -> None:
    rng = random.Random(SEED)
    shapes = [(1, 1), (2, 1), (1, 3), (2, 2), (4, 2), (3, 3), (2, 5), (5, 4), (8, 5)]

    def jobs() -> Named:
        for width, height in shapes:
            small = without_edge_cables(width, height), a_machine(f"{width}x{height}", width, height)
            for machine in small:
                yield from on_an_idle_machine(machine, (width, height), (3 * width * height,))
            for machine in (*small, with_faults(width, height, 0.03, rng)):
                yield from on_a_busy_machine(machine, SMALL_JOBS // len(shapes) // 3, rng)

    verdicts = judges.judge(jobs())
    assert not verdicts.complaints, str(verdicts)


def test_the_judges_refuse_what_is_no_machine(judges: Judges) -> None:
    boards: frozenset[Board] = frozenset({(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)})
    machine = a_machine("m", 8, 8)
    verdicts = judges.judge([("four boards", _left_alone(machine, boards, (16, 28)))])
    assert set(verdicts.complaints) == {"6.0.0", "7.0.0", "7.3.0", "SCAMP's rule"}, str(verdicts)
    column = boards - {(0, 1, 0)} | {(0, 1, 0), (0, 1, 1)}
    verdicts = judges.judge([("no ring", _left_alone(machine, column, (16, 24)))])
    assert len(verdicts.complaints) == 5, str(verdicts)
    assert "wrap around in y, and no link does" in verdicts.complaints["7.4.1"]["no ring"]


def _left_alone(machine: Machine, boards: frozenset[Board], size: tuple[int, int]) -> Job:
    """Boards whose links to each other all work, whatever the core would do about them."""
    ends = working_links(machine.width, machine.height, boards, machine.dead_links, ())
    return Job(boards, ends, size, {board: board_to_chip(*board) for board in boards})
