"""Jobs on hardware that loses packets, dies, goes bad and comes back: small machines, in virtual time.

The long versions are in tests/torture.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from spalloc_server.config.options import Health
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import Switch
from spalloc_server.hardware.scp import Command, ResponseCode
from spalloc_server.hardware.timings import Timings
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import REAL_TIMINGS
from tests.core.machines import a_machine
from tests.floor import Floor, live_many, on_floor

PATIENT = Timings(reply_s=0.1, tries=20)
PACED = Timings(reply_s=0.1, tries=20, pace_s=0.002)
"""So that a copy that the network made of a command is dealt with before the next: no driver could help an overlap."""


def two_frames() -> Configuration:
    return Configuration([a_machine("m", 4, 4)], seconds_before_free=1, health=Health(quarantine_seconds=60))


@on_floor(
    two_frames,
    network=Network(loss=0.2, duplicate=0.05, reorder=0.1, delay=0.002),
    timings=PACED,
    simulated=REAL_TIMINGS,
)
async def test_all_jobs_become_ready_through_a_network_that_loses_doubles_and_reorders(floor: Floor) -> None:
    rng = random.Random(1)
    await live_many(floor, rng, 40, sizes=lambda: rng.randint(1, 12), seconds=lambda: rng.uniform(0, 5), at_once=10)
    assert floor.failed == []
    await floor.until(lambda: not any(frame.boards_on() for frame in floor.loop.frames.values()))
    assert floor.counters.overlaps == 0
    assert floor.power_ons() == floor.power_ons_asked_for()


@on_floor(two_frames, timings=PATIENT)
async def test_a_silent_frame_costs_jobs_a_wait_and_comes_back_by_itself(floor: Floor) -> None:
    floor.loop.frames["bmp-m-0"].silence(end=100)
    jobs = [floor.create(6) for _ in range(4)]
    for job_id in jobs:
        await floor.ready(job_id)
    assert all(not floor.loop.frames["bmp-m-0"].boards_on() for _ in jobs)
    assert floor.out_of_service() == 24
    late = floor.create(6)
    assert floor.state(late) == JobState.queued
    await floor.ready(late)
    assert 100 < floor.loop.now < 131
    assert floor.out_of_service() == 0


@on_floor(two_frames, simulated=REAL_TIMINGS)
async def test_a_short_silence_is_no_boards_fault_even_if_it_is_over_when_the_slowest_frame_is_ready(
    floor: Floor,
) -> None:
    floor.simulated((2, 0, 0)).wrong_fpgas = 1
    floor.loop.frames["bmp-m-0"].silence(end=8.5)
    whole = floor.create(4, 4)
    await floor.until(lambda: bool(floor.failed))
    assert floor.out_of_service() == 0
    assert {bmp for _, _, (bmp, _) in floor.failed} == {"bmp-m-0"}
    await floor.ready(whole)
    assert floor.controller.snapshot().boards == []


@on_floor(two_frames, simulated=REAL_TIMINGS)
async def test_a_frame_that_is_deaf_to_power_commands_costs_one_job_a_wait_and_nobody_more(floor: Floor) -> None:
    deaf = floor.loop.frames["bmp-m-0"]
    deaf.lose_answers(command=Command.POWER)
    for board in deaf.boards.values():
        board.stuck = float("inf")
    await floor.ready(floor.create(1), within_s=150)
    for _ in range(20):
        job_id = floor.create(1)
        await floor.ready(job_id, within_s=10)
        floor.destroy(job_id)
        await asyncio.sleep(60)
    assert floor.out_of_service() == 24
    assert len(floor.failed) == 1
    deaf.recover()
    await floor.until(lambda: floor.out_of_service() == 0, within_s=60)
    assert floor.controller.snapshot().boards == []


@on_floor(two_frames, simulated=REAL_TIMINGS)
async def test_boards_whose_power_off_is_refused_are_given_to_nobody(floor: Floor) -> None:
    frame = floor.loop.frames["bmp-m-0"]
    first = floor.create(24)
    await floor.ready(first)
    frame.refuse(ResponseCode.ARG, command=Command.POWER)
    floor.destroy(first)
    job_id = floor.create(4, 4)
    await asyncio.sleep(600)
    assert floor.state(job_id) == JobState.queued
    assert len(frame.boards_on()) == 24
    (view,) = floor.controller.machine_views()[0].frames
    assert (view.bmp, view.silent) == ("bmp-m-0", "BMP bmp-m-0 refuses POWER for board 0: ARG")
    frame.recover()
    await floor.ready(job_id)


@on_floor(two_frames, simulated=REAL_TIMINGS)
async def test_a_user_is_not_told_that_boards_are_off_that_refused_to_be(floor: Floor) -> None:
    job_id = floor.create(1)
    await floor.ready(job_id)
    frame = floor.loop.frames["bmp-m-0"]
    frame.refuse(ResponseCode.ARG, command=Command.POWER)
    floor.controller.power_off_job_boards(job_id)
    floor.changed()
    await asyncio.sleep(600)
    assert floor.state(job_id) == JobState.power
    frame.recover()
    await floor.ready(job_id)
    assert frame.boards_on() == set()


@on_floor(two_frames, simulated=REAL_TIMINGS)
async def test_a_frame_of_dead_boards_beside_a_good_one_ends_no_job(floor: Floor) -> None:
    for board in floor.loop.frames["bmp-m-0"].boards.values():
        board.stuck = float("inf")
    for _ in range(30):
        job_id = floor.create(1)
        await floor.ready(job_id)
        floor.destroy(job_id)
    assert set(Counter(job for _, job, _ in floor.failed).values()) == {1}


@on_floor(two_frames, timings=PATIENT)
async def test_boards_wait_for_no_frame_but_their_own_to_be_given_again(floor: Floor) -> None:
    across = floor.create(4, 4)
    await floor.ready(across)
    floor.loop.frames["bmp-m-1"].silence()
    floor.destroy(across)
    await floor.ready(floor.create(24), within_s=10)
    states = Counter(view.state for view in floor.controller.board_views())
    assert states == {"in use": 24, "switching off": 24}


@on_floor(two_frames, timings=Timings(verify_s=2))
async def test_a_bad_board_fails_one_job_is_tried_and_comes_back_when_it_works(floor: Floor) -> None:
    floor.simulated((0, 0, 0)).wrong_fpgas = 7
    rng = random.Random(2)
    await live_many(floor, rng, 30, sizes=lambda: rng.randint(12, 48), seconds=lambda: rng.uniform(0, 5), at_once=5)
    assert [board for _, _, board in floor.failed] == [("bmp-m-0", 0)]
    await floor.until(lambda: floor.out_of_service() == 0)
    assert floor.simulated((0, 0, 0)).wrong_fpgas == 0
    (row,) = floor.controller.snapshot().boards
    assert (row.strikes, len(row.failures)) == (2, 2)


@on_floor(two_frames)
async def test_links_between_jobs_are_stopped_and_those_inside_run_whatever_happens_to_jobs(floor: Floor) -> None:
    rng = random.Random(3)
    assert await shuffle_jobs(floor, rng, steps=60, largest=20) > 20


async def shuffle_jobs(floor: Floor, rng: random.Random, *, steps: int, largest: int) -> int:
    """Create, power and end jobs at random; look at the links whenever nothing is under way. How often that was."""
    jobs: list[int] = []
    looks = 0
    for _ in range(steps):
        action = rng.random()
        if action < 0.5 or not jobs:
            jobs.append(floor.create(rng.randint(1, largest)))
        elif action < 0.75:
            floor.destroy(jobs.pop(rng.randrange(len(jobs))))
        else:
            command = rng.choice([floor.controller.power_on_job_boards, floor.controller.power_off_job_boards])
            command(rng.choice(jobs))
            floor.changed()
        if rng.random() < 0.6:
            await floor.until(lambda: all(job.state != JobState.power for job in floor.controller.list_jobs()))
            assert floor.breaches() == []
            looks += 1
    return looks


@on_floor(lambda: Configuration([a_machine("m", 8, 6)], seconds_before_free=0), simulated=REAL_TIMINGS)
async def test_frames_are_switched_side_by_side(floor: Floor) -> None:
    whole, slowest = await seconds_to_power_all(floor)
    assert whole <= 1.1 * slowest


async def seconds_to_power_all(floor: Floor) -> tuple[float, float]:
    """Seconds in which a job that has the whole machine is powered, and those that its slowest frame takes alone."""
    job_id = floor.create(floor.machine.width, floor.machine.height)
    (switch,) = floor.switches
    whole = await seconds_to(floor, lambda: floor.state(job_id) == JobState.ready)
    floor.destroy(job_id)
    await floor.until(lambda: not any(frame.boards_on() for frame in floor.loop.frames.values()))
    slowest = 0.0
    for number, frame in enumerate(switch.frames, 10**6):
        floor.ask(Switch(number, number, on=True, frames=(frame,)))
        slowest = max(slowest, await seconds_to(floor, partial(floor.outcomes.__contains__, number)))
    return whole, slowest


async def seconds_to(floor: Floor, condition: Callable[[], bool]) -> float:
    began = floor.loop.now
    await floor.until(condition)
    return floor.loop.now - began
