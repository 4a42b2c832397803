"""A million-core machine that misbehaves: `make torture`, or this file with `--run-torture -m torture -s` for figures.

Everything happens in virtual time, and is the same at every run. How quick a real server is: test_latencies.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import spalloc_server
from spalloc_server.config.load import load
from spalloc_server.config.options import Health
from spalloc_server.config.settings import Configuration
from spalloc_server.core.boards.records import address
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import REAL_TIMINGS
from tests.core.machines import a_machine
from tests.floor import Floor, live_many, on_floor
from tests.test_hardware_that_misbehaves import PACED, seconds_to_power_all, shuffle_jobs

EXAMPLE = Path(spalloc_server.__file__).parent / "examples" / "simulated-1200.toml"

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]


def million_cores() -> Configuration:
    return replace(load(EXAMPLE), seconds_before_free=1, health=Health(quarantine_seconds=20, strikes=100))


def some_boards(rng: random.Random) -> int:
    return rng.choice([1, 1, 1, 3, 6, 12, 24, 24, 48, 120])


@on_floor(
    million_cores,
    network=Network(loss=0.2, duplicate=0.05, reorder=0.1, delay=0.002),
    timings=PACED,
    simulated=REAL_TIMINGS,
    seed=1,
)
async def test_a_thousand_jobs_on_a_bad_network(floor: Floor) -> None:
    rng = random.Random(1)
    await live_many(floor, rng, 1000, sizes=lambda: some_boards(rng), seconds=lambda: rng.uniform(0, 20), at_once=100)
    await floor.until(lambda: not on(floor))
    counters = floor.counters
    twice = floor.power_ons() - floor.power_ons_asked_for()
    print(
        f"\n1,000 jobs, all ready, in {floor.loop.now:.0f} virtual seconds: {counters.datagrams} datagrams, "
        f"{counters.repeats} repeats of commands, {counters.commands['POWER']} power commands, "
        f"{twice.total()} power-ons more than were asked for, {counters.overlaps} overlaps, "
        f"{len(floor.failed)} boards blamed"
    )
    assert floor.failed == []
    assert counters.overlaps == 0
    assert floor.power_ons() == floor.power_ons_asked_for()


@on_floor(million_cores, timings=Timings(reply_s=0.1, tries=10, verify_s=2, probe_longest_s=20), seed=2)
async def test_dead_bmps_and_bad_boards_end_no_job(floor: Floor) -> None:
    rng = random.Random(2)
    hosts = rng.sample(sorted(floor.loop.frames), 7)
    for host in hosts[:5]:
        floor.loop.frames[host].silence()
    for number, host in enumerate(hosts[5:]):
        floor.loop.frames[host].silence(start=60.0 + 30 * number)
    bad = rng.sample(floor.machine.live_boards, 12)
    for board in bad:
        floor.simulated(board).wrong_fpgas = float("inf")
    await live_many(floor, rng, 1000, sizes=lambda: some_boards(rng), seconds=lambda: rng.uniform(0, 20), at_once=100)
    healthy_at = floor.loop.now
    out = floor.out_of_service()
    blamed = Counter(board for _, _, board in floor.failed if board[0] not in hosts)
    for frame in floor.loop.frames.values():
        frame.recover()
    await floor.until(lambda: floor.out_of_service() == 0 and not on(floor), within_s=120)
    back = floor.loop.now - healthy_at
    print(
        f"\n1,000 jobs, all ready, with 7 of 50 BMPs silent and {len(bad)} bad boards; {sum(blamed.values())} "
        f"power-ons failed on bad boards, at most {max(blamed.values())} a board; {out} boards out of service at the "
        f"end, all of them back {back:.0f} s after recovery"
    )
    assert set(blamed) <= {address(floor.machine, board) for board in bad}
    assert max(blamed.values()) == 1
    assert back < 60


def on(floor: Floor) -> bool:
    return any(frame.boards_on() for frame in floor.loop.frames.values())


def with_dead_things() -> Configuration:
    rng = random.Random(3)
    boards = [(x, y, z) for x in range(6) for y in range(5) for z in range(3)]
    links = [(*board, link) for board in rng.sample(boards, 12) for link in [rng.choice(list(Links))]]
    machine = a_machine("m", 6, 5, dead_boards=rng.sample(boards, 4), dead_links=links)
    return Configuration([machine], seconds_before_free=1)


@on_floor(with_dead_things, network=Network(loss=0.05, delay=0.001), timings=Timings(reply_s=0.1), seed=3)
async def test_jobs_are_isolated_through_any_sequence(floor: Floor) -> None:
    looks = await shuffle_jobs(floor, random.Random(3), steps=2000, largest=40)
    print(f"\nlinks between and inside jobs looked at {looks} times in 2,000 random steps: none as it should not be")
    assert looks > 500


@on_floor(million_cores, simulated=REAL_TIMINGS)
async def test_powering_everything_takes_as_long_as_the_slowest_frame(floor: Floor) -> None:
    whole, slowest = await seconds_to_power_all(floor)
    print(
        f"\n1,200 boards powered, verified and fenced in {whole:.2f} s; the slowest frame alone takes {slowest:.2f} s"
    )
    assert whole <= 1.1 * slowest
