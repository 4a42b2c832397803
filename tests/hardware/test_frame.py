"""What a frame does to its boards, in virtual time and against the pure state of a simulated frame."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from spalloc_server.core.model.power import BoardFailure, FrameWork
from spalloc_server.hardware.frame import MAX_QUEUE
from spalloc_server.hardware.scp import Command, ResponseCode
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedFrame
from tests.hardware.virtual import Bench, on_bench

LOOK_S = 0.2
"""More than what is needed to see that FPGAs are up, after they are."""


def real_frames() -> dict[str, SimulatedFrame]:
    return {"a": SimulatedFrame(timings=REAL_TIMINGS)}


def reasons(failures: tuple[BoardFailure, ...]) -> dict[int, str]:
    return {failure.board: failure.reason for failure in failures}


@on_bench(frames=real_frames)
async def test_one_power_command_switches_all_boards_of_a_job_on(bench: Bench) -> None:
    outcome = await bench.outcome(bench.switch([0, 1, 3]))
    assert outcome.failures == ()
    assert bench.power_masks() == [("on", 0b1011)]
    assert bench.frame().boards_on() == {0, 1, 3}


@on_bench(frames=real_frames)
async def test_a_job_is_ready_as_soon_as_its_boards_are_up(bench: Bench) -> None:
    operation = bench.switch(range(24))
    await bench.outcome(operation)
    up_at = max(board.up_at for board in bench.frame().boards.values())
    assert up_at <= bench.ended_at[operation] < up_at + LOOK_S


@on_bench(frames=real_frames)
async def test_links_are_stopped_after_power_on_and_no_others(bench: Bench) -> None:
    stopped = {(3, Links.north), (3, Links.south_west), (4, Links.east)}
    outcome = await bench.outcome(bench.switch([3, 4], stopped=stopped))
    assert outcome.failures == ()
    assert bench.frame().stopped_links() == stopped
    assert bench.frame().counters.lost_writes == 0


@on_bench(frames=real_frames)
async def test_powering_on_again_resets_boards_that_are_on(bench: Bench) -> None:
    await bench.outcome(bench.switch([3, 4], job=7, stopped=[(3, Links.north)]))
    outcome = await bench.outcome(bench.switch([3, 4], job=7, stopped=[(4, Links.south)]))
    assert outcome.failures == ()
    assert bench.frame().stopped_links() == {(4, Links.south)}
    assert [bench.frame().boards[number].power_ons for number in (3, 4)] == [2, 2]


@on_bench(frames=real_frames, timings=Timings(stagger_ms=200))
async def test_a_board_that_was_on_counts_as_up_only_once_it_was_reset(bench: Bench) -> None:
    await bench.outcome(bench.switch([20], job=7))
    again = bench.switch([20], job=7)
    await bench.outcome(again)
    assert bench.ended_at[again] >= bench.frame().boards[20].up_at


@on_bench(timings=Timings(stagger_ms=40))
async def test_power_on_is_staggered_by_the_bmp_and_power_off_is_not(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2]))
    await bench.outcome(bench.switch([1, 2], on=False))
    on, off = bench.commands("a", Command.POWER)
    assert (on.arg1, off.arg1) == (40 << 16 | 1, 0)


@on_bench(frames=real_frames)
async def test_only_boards_with_wrong_fpgas_are_powered_on_again(bench: Bench) -> None:
    bench.frame().boards[2].wrong_fpgas = 2
    outcome = await bench.outcome(bench.switch([1, 2, 3]))
    assert outcome.failures == ()
    assert bench.power_masks() == [("on", 0b1110), ("on", 0b100), ("on", 0b100)]


@on_bench(frames=real_frames)
async def test_a_board_whose_fpgas_stay_wrong_fails_with_the_reason_and_alone(bench: Bench) -> None:
    bench.frame().boards[2].wrong_fpgas = 1000
    outcome = await bench.outcome(bench.switch([1, 2, 3], stopped=[(1, Links.east)]))
    assert reasons(outcome.failures) == {
        2: "FPGA 0 reports number 3 (flags 0x3): a wrong bit file, or none, after 3 power-ons",
    }
    assert bench.frame().boards[2].power_ons == 3


@on_bench(frames=lambda: {"a": SimulatedFrame(range(4))})
async def test_a_board_that_is_not_there_fails_alone(bench: Bench) -> None:
    outcome = await bench.outcome(bench.switch([3, 9]))
    assert reasons(outcome.failures) == {9: "BMP a refuses FPGA_READ for board 9: ROUTE, after 3 power-ons"}


@on_bench()
async def test_a_board_number_that_no_frame_has_is_refused(bench: Bench) -> None:
    for on in (True, False):
        outcome = await bench.outcome(bench.switch([24], on=on))
        assert reasons(outcome.failures) == {24: "a frame's boards have the numbers 0 to 23"}
    assert bench.commands() == []


@on_bench(frames=real_frames)
async def test_a_bad_board_holds_up_nobody_else(bench: Bench) -> None:
    bench.frame().boards[2].wrong_fpgas = 1000
    bench.switch([2])
    other = bench.switch([3])
    await bench.outcome(other)
    assert bench.ended_at[other] < REAL_TIMINGS.power_on_others + 2 * LOOK_S


@on_bench(frames=real_frames)
async def test_work_on_the_same_boards_happens_in_order(bench: Bench) -> None:
    operations = [
        bench.switch([1, 2], job=1),
        bench.switch([1, 2], job=2, on=False),
        bench.switch([2, 3], job=3),
        bench.switch([3], job=4, on=False),
    ]
    for operation in operations:
        assert (await bench.outcome(operation)).failures == ()
    assert bench.power_masks() == [("on", 0b110), ("off", 0b110), ("on", 0b1100), ("off", 0b1000)]
    assert all(bench.ended_at[a] < bench.ended_at[b] for a, b in pairwise(operations))


@on_bench(frames=real_frames)
async def test_power_on_that_has_not_begun_is_void_once_its_job_is_switched_off(bench: Bench) -> None:
    first = bench.switch([1], job=1)
    void = bench.switch([1, 2], job=2)
    off = bench.switch([1, 2], job=2, on=False)
    await bench.outcome(first)
    await bench.outcome(off)
    assert bench.power_masks() == [("on", 0b10), ("off", 0b110)]
    assert void not in bench.outcomes


@on_bench(frames=real_frames)
async def test_a_job_that_ends_while_it_is_powered_on_is_switched_off_without_waiting_for_its_fpgas(
    bench: Bench,
) -> None:
    bench.frame().boards[2].wrong_fpgas = 1000
    void = bench.switch([2], job=1)
    await asyncio.sleep(1.0)
    off = bench.switch([2], job=1, on=False)
    await bench.outcome(off)
    assert bench.ended_at[off] < 1.0 + LOOK_S
    assert void not in bench.outcomes


@on_bench(frames=real_frames)
async def test_a_later_operation_on_other_boards_of_a_job_voids_nothing(bench: Bench) -> None:
    first = bench.switch([1, 2], job=1)
    second = bench.switch([3, 4], job=1)
    assert (await bench.outcome(first)).failures == (await bench.outcome(second)).failures == ()


@on_bench(frames=real_frames)
async def test_boards_of_a_job_that_nothing_has_switched_on_since_are_not_switched_off_again(bench: Bench) -> None:
    await bench.outcome(bench.switch([1], job=1, on=False))
    bench.switch([1], job=2)
    await bench.outcome(bench.switch([1], job=2, on=False))
    assert bench.power_masks() == [("off", 0b10)]
    await bench.outcome(bench.switch([1], job=0, on=False))
    assert bench.power_masks() == [("off", 0b10)] * 2, (
        "the server's own power-offs, as in an emergency, are done always"
    )


@on_bench(frames=real_frames)
async def test_a_power_off_is_never_void(bench: Bench) -> None:
    bench.switch([1], job=1)
    off = bench.switch([1], job=1, on=False)
    on = bench.switch([1], job=1)
    await bench.outcome(off)
    await bench.outcome(on)
    assert bench.frame().boards_on() == {1}


@on_bench(frames=real_frames)
async def test_a_power_on_whose_answer_was_lost_is_not_sent_again(bench: Bench) -> None:
    bench.frame().lose_answers(command=Command.POWER, times=1)
    outcome = await bench.outcome(bench.switch([1, 2], stopped=[(1, Links.east)]))
    assert outcome.failures == ()
    assert bench.power_masks() == [("on", 0b110)]
    assert bench.frame().stopped_links() == {(1, Links.east)}


@on_bench(frames=real_frames)
async def test_a_power_on_that_was_itself_lost_is_sent_anew_after_looking(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.P2P_TIMEOUT, command=Command.POWER, times=1)  # done nothing, perhaps
    outcome = await bench.outcome(bench.switch([1, 2]))
    assert outcome.failures == ()
    assert bench.power_masks() == [("on", 0b110)]


@on_bench(frames=real_frames)
async def test_a_reset_whose_answer_was_lost_is_told_from_one_that_never_arrived(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().lose_answers(command=Command.POWER, times=1)
    await bench.outcome(bench.switch([1, 2], job=1))
    assert [bench.frame().boards[number].power_ons for number in (1, 2)] == [2, 2]
    bench.frame().refuse(ResponseCode.P2P_NOREPLY, command=Command.POWER, times=1)
    await bench.outcome(bench.switch([1, 2], job=1))
    assert [bench.frame().boards[number].power_ons for number in (1, 2)] == [3, 3]


@on_bench(frames=real_frames)
async def test_a_power_off_is_repeated_until_it_is_confirmed(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().lose_answers(command=Command.POWER, times=3)
    outcome = await bench.outcome(bench.switch([1, 2], job=1, on=False))
    assert outcome.failures == ()
    assert bench.power_masks()[1:] == [("off", 0b110)] * 4
    assert bench.frame().boards_on() == set()


@on_bench()
async def test_a_board_that_does_not_tell_its_version_is_judged_by_its_fpgas(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.CMD, command=Command.VERSION, board=3)
    assert (await bench.outcome(bench.switch([2, 3], stopped=[(3, Links.west)]))).failures == ()
    assert bench.frame().stopped_links() == {(3, Links.west)}


@on_bench()
async def test_a_board_that_cannot_be_marked_is_reset_all_the_same(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().refuse(ResponseCode.P2P_REJECT, command=Command.FPGA_WRITE, board=1)
    assert (await bench.outcome(bench.switch([1, 2], job=1))).failures == ()
    assert bench.frame().boards[1].power_ons == 2


@on_bench()
async def test_links_that_cannot_be_stopped_fail_their_board(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.P2P_REJECT, command=Command.FPGA_WRITE, board=4)
    outcome = await bench.outcome(bench.switch([3, 4], stopped=[(3, Links.east), (4, Links.west)]))
    assert reasons(outcome.failures) == {
        4: "link west cannot be stopped: BMP a refuses FPGA_WRITE for board 4: P2P_REJECT"
    }
    assert bench.frame().stopped_links() == {(3, Links.east)}


@on_bench()
async def test_a_link_that_is_acknowledged_but_not_stopped_is_stopped_once_more(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.OK, command=Command.FPGA_WRITE, board=4, times=1)  # answered, and not done
    assert (await bench.outcome(bench.switch([3, 4], stopped=[(4, Links.west)]))).failures == ()
    assert bench.frame().stopped_links() == {(4, Links.west)}


@on_bench()
async def test_a_link_that_is_acknowledged_and_never_stopped_fails_its_board(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.OK, command=Command.FPGA_WRITE, board=4)
    outcome = await bench.outcome(bench.switch([3, 4], stopped=[(3, Links.east), (4, Links.west)]))
    assert reasons(outcome.failures) == {4: "link west cannot be stopped: its register keeps reading 0"}
    assert bench.frame().stopped_links() == {(3, Links.east)}


def old_frames() -> dict[str, SimulatedFrame]:
    frame = SimulatedFrame()
    for board in frame.boards.values():
        board.version = (1, 33, 0)
    return {"a": frame}


@on_bench(frames=old_frames)
async def test_boards_with_old_firmware_get_time_to_settle_instead_of_verification_and_links(bench: Bench) -> None:
    bench.frame().lose_answers(command=Command.POWER, times=1)
    operation = bench.switch([3, 4], stopped=[(3, Links.east)])
    assert (await bench.outcome(operation)).failures == ()
    timings = Timings()
    assert bench.ended_at[operation] > timings.power_reply_s + timings.settle_s
    assert bench.power_masks() == [("on", 0b11000)] * 2
    assert bench.frame().counters.errors == 0  # it refuses whatever reaches for FPGAs


@on_bench()
async def test_a_queue_that_is_full_refuses_power_ons_but_no_power_offs(bench: Bench) -> None:
    bench.frame().boards[1].wrong_fpgas = 1000
    bench.switch([1])
    for _ in range(MAX_QUEUE - 1):
        bench.switch([1])
    refused, off = bench.switch([1]), bench.switch([1], on=False)
    outcome = await bench.outcome(refused)
    assert reasons(outcome.failures) == {1: "there is too much to do in the frame of BMP a"}
    assert bench.ended_at[refused] < LOOK_S
    assert off not in bench.outcomes


@on_bench(frames=real_frames)
async def test_a_power_off_is_not_taken_up_by_one_that_another_jobs_power_on_comes_after(bench: Bench) -> None:
    bench.switch([1], job=1)
    bench.switch([1], job=2, on=False)
    bench.switch([1], job=3)
    off = bench.switch([1], job=2, on=False)
    await bench.outcome(off)
    assert bench.power_masks() == [("on", 0b10), ("off", 0b10), ("on", 0b10), ("off", 0b10)]


@pytest.mark.slow
@on_bench(
    frames=lambda: {host: SimulatedFrame(timings=REAL_TIMINGS) for host in "abc"},
    network=Network(loss=0.2, duplicate=0.05, reorder=0.1, delay=0.002),
    timings=Timings(reply_s=0.1, pace_s=0.002),
)
async def test_a_bad_network_loses_no_job_and_repeats_no_power_on(bench: Bench) -> None:
    async def live(job: int) -> None:
        boards = tuple(range(job % 3 * 8, job % 3 * 8 + 8))
        todo = [FrameWork(host, boards, ((boards[0], Links.east),)) for host in "abc"]
        on = bench.switch_frames(todo, job=job)
        assert (await bench.outcome(on, 3600)).failures == ()
        if job % 2:
            again = bench.switch_frames(todo, job=job)
            assert (await bench.outcome(again, 3600)).failures == ()
        for host in "abc":
            assert {item for item in bench.frame(host).stopped_links() if item[0] in boards} == {
                (boards[0], Links.east)
            }
        off = bench.switch_frames(todo, on=False, job=job)
        assert (await bench.outcome(off, 3600)).failures == ()

    async def live_after_another(first: int) -> None:
        for job in range(first, 24, 3):
            await live(job)

    async with asyncio.TaskGroup() as group:
        for first in range(3):
            group.create_task(live_after_another(first))
    for host in "abc":
        counters = bench.frame(host).counters
        assert counters.overlaps == counters.power_repeats == 0
        assert bench.frame(host).boards_on() == set()
    assert bench.reports == []


def million_cores() -> dict[str, SimulatedFrame]:
    frames = {f"f{n}": SimulatedFrame(timings=REAL_TIMINGS) for n in range(50)}
    for n in range(5):
        frames[f"f{n}"].silence(end=1000.0)
    for n in range(5, 7):
        frames[f"f{n}"].silence(start=100.0 * n, end=2000.0)
    for n in range(12):
        frames[f"f{4 * n}"].boards[n].wrong_fpgas = 1e9
    return frames


@pytest.mark.torture
@pytest.mark.timeout(300)
@on_bench(
    frames=million_cores,
    network=Network(loss=0.2, duplicate=0.05, reorder=0.1, delay=0.002),
    timings=Timings(reply_s=0.1, tries=20, pace_s=0.002),
)
async def test_a_thousand_jobs_on_a_million_cores_with_dead_frames_bad_boards_and_a_bad_network(bench: Bench) -> None:
    rng = random.Random(7)
    sick = {(f"f{4 * n}", n) for n in range(12)}
    perhaps_silent = {f"f{n}" for n in range(7)}
    free = {(host, third) for host in bench.loop.frames for third in range(3)}
    released = asyncio.Condition()

    async def live(job: int) -> None:
        async with released:
            await released.wait_for(lambda: len(free) > 6)
            places = rng.sample(sorted(free), rng.randint(1, 6))
            free.difference_update(places)
        frames = [
            FrameWork(host, tuple(range(8 * third, 8 * third + 8)), ((8 * third, Links.east),))
            for host, third in places
        ]
        outcome = await bench.outcome(bench.switch_frames(frames, job=job), 600)
        for failure in outcome.failures:
            assert failure.bmp in perhaps_silent or (failure.bmp, failure.board) in sick
        assert (await bench.outcome(bench.switch_frames(frames, job=job, on=False), 4000)).failures == ()
        async with released:
            free.update(places)
            released.notify_all()

    async with asyncio.TaskGroup() as group:
        for job in range(1000):
            group.create_task(live(job))
    counters = [frame.counters for frame in bench.loop.frames.values()]
    assert [sum(getattr(c, name) for c in counters) for name in ("overlaps", "power_repeats")] == [0, 0]
    assert not any(frame.boards_on() for frame in bench.loop.frames.values())
    assert {host for _, host, reason in bench.reports if reason} == perhaps_silent
