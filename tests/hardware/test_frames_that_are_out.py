"""Frames whose BMP is silent, or has a power fault: what fails, what waits, and how it ends."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from spalloc_server.core.model.power import BoardFailure
from spalloc_server.hardware.scp import Command, Request, ResponseCode
from spalloc_server.hardware.timings import Timings
from spalloc_server.simulator.frame import Answer, SimulatedFrame
from tests.hardware.test_frame import LOOK_S, reasons
from tests.hardware.virtual import Bench, on_bench


@on_bench()
async def test_a_refused_power_on_fails_with_the_reason_and_is_the_frames_fault(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.ARG, command=Command.POWER)
    on = await bench.outcome(bench.switch([1, 2]))
    refused = "BMP a refuses POWER for board 0: ARG"
    assert on.failures == tuple(BoardFailure("a", board, refused, frame_fault=True) for board in (1, 2))
    assert [report[1:] for report in bench.reports] == [("a", refused)]


@on_bench()
async def test_a_refused_power_off_is_tried_ever_less_often_until_it_is_confirmed(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().refuse(ResponseCode.ARG, command=Command.POWER)
    off = bench.switch([1, 2], job=1, on=False)
    await asyncio.sleep(3600)
    assert off not in bench.outcomes
    assert [report[1:] for report in bench.reports] == [("a", "BMP a refuses POWER for board 0: ARG")]
    assert 3 * 100 <= bench.frame().counters.errors <= 3 * 130  # three tries each half minute or so
    assert not bench.hardware.busy()
    bench.frame().recover()
    back = bench.loop.time()
    assert (await bench.outcome(off)).failures == ()
    assert bench.ended_at[off] - back <= Timings().probe_longest_s + LOOK_S
    assert bench.frame().boards_on() == set()
    assert bench.reports[-1][1:] == ("a", None)


@on_bench()
async def test_a_bmp_that_refuses_to_tell_its_version_is_alive(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.CMD, command=Command.VERSION)
    assert (await bench.outcome(bench.switch([1, 2], job=1))).failures == ()
    await asyncio.sleep(10)
    assert (await bench.outcome(bench.switch([1, 2], job=1, on=False))).failures == ()
    assert bench.reports == []


@on_bench(frames=dict)
async def test_a_bmp_that_never_answers_fails_power_ons_with_the_reason(bench: Bench) -> None:
    operation = bench.switch([1, 2])
    outcome = await bench.outcome(operation)
    timings = Timings()
    assert bench.ended_at[operation] <= timings.reply_s * timings.tries + LOOK_S
    why = "BMP a does not answer (16 x VERSION in 0.5 s each)"
    assert reasons(outcome.failures) == {1: why, 2: why}
    assert [(host, reason) for _, host, reason in bench.reports] == [("a", why)]


@on_bench(frames=dict)
async def test_in_a_silent_frame_power_ons_fail_at_once(bench: Bench) -> None:
    await bench.outcome(bench.switch([1]))
    before = bench.loop.time()
    later = bench.switch([2, 3])
    assert later not in bench.outcomes
    assert len((await bench.outcome(later)).failures) == 2
    assert bench.ended_at[later] - before < LOOK_S


@on_bench()
async def test_a_frame_that_falls_silent_fails_what_waits_there_at_once(bench: Bench) -> None:
    bench.frame().silence()
    operations = [bench.switch([n % 5]) for n in range(20)]
    for operation in operations:
        await bench.outcome(operation)
    timings = Timings()
    assert max(bench.ended_at.values()) <= timings.reply_s * timings.tries + LOOK_S


@on_bench()
async def test_power_off_waits_for_a_silent_bmp_to_come_back(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().silence()
    off = bench.switch([1, 2], job=1, on=False)
    await bench.until(lambda: bool(bench.reports))
    refused = bench.switch([1, 2], job=1)
    assert len((await bench.outcome(refused)).failures) == 2
    await asyncio.sleep(600)
    assert off not in bench.outcomes
    assert not bench.hardware.busy()
    bench.frame().recover()
    back = bench.loop.time()
    assert (await bench.outcome(off)).failures == ()
    assert bench.ended_at[off] - back <= Timings().probe_longest_s + LOOK_S
    assert bench.frame().boards_on() == set()
    assert bench.reports[-1][1:] == ("a", None)


@on_bench()
async def test_a_silent_bmp_is_probed_ever_less_often(bench: Bench) -> None:
    bench.frame().silence()
    await bench.outcome(bench.switch([1]))
    before = bench.frame().counters.datagrams
    await asyncio.sleep(3600)
    probed = bench.frame().counters.datagrams - before
    assert 3 * 100 <= probed <= 3 * 130  # three datagrams each half minute or so


@on_bench()
async def test_a_bmp_that_answers_all_but_power_commands_counts_as_silent(bench: Bench) -> None:
    await bench.outcome(bench.switch([1], job=1))
    bench.frame().lose_answers(command=Command.POWER, times=15)
    off = bench.switch([1], job=1, on=False)
    assert (await bench.outcome(off)).failures == ()
    fault = "BMP a answers, but not to power commands (12 were lost)"
    assert [reason for *_, reason in bench.reports] == [fault, None]
    bench.frame().refuse(ResponseCode.P2P_TIMEOUT, command=Command.POWER)
    outcome = await bench.outcome(bench.switch([1]))
    assert reasons(outcome.failures) == {1: fault}


@on_bench()
async def test_signs_of_life_end_no_power_fault_but_an_answered_power_off_does(bench: Bench) -> None:
    await bench.outcome(bench.switch([1], job=1))
    bench.frame().lose_answers(command=Command.POWER)
    off = bench.switch([1], job=1, on=False)
    await asyncio.sleep(3600)
    assert len(bench.reports) == 1
    assert off not in bench.outcomes
    assert 12 + 80 <= bench.frame().counters.commands["POWER"] <= 12 + 100  # each waits 10 s, and then half a minute
    bench.frame().recover()
    assert (await bench.outcome(off)).failures == ()
    assert len(bench.reports) == 2


@on_bench()
async def test_a_frame_with_a_power_fault_is_tried_with_boards_that_are_off_where_nothing_else_is_harmless(
    bench: Bench,
) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    await bench.outcome(bench.switch([1, 2], job=1, on=False))
    bench.frame().refuse(ResponseCode.ARG, command=Command.POWER, times=3 * 3)
    assert (await bench.outcome(bench.switch([2, 3], job=2))).failures
    sent = len(bench.power_masks())
    await asyncio.sleep(60)
    assert [reason is None for *_, reason in bench.reports] == [False, True]
    assert bench.power_masks()[sent:] == [("off", 0b10)]
    assert (await bench.outcome(bench.switch([2, 3], job=2))).failures == ()
    assert bench.hardware.frames()["a"].waiting == 0


@on_bench()
async def test_a_power_fault_that_was_assumed_to_be_over_is_back_at_the_first_lost_command(
    bench: Bench,
) -> None:
    bench.frame().lose_answers(command=Command.POWER)
    bench.frame().boards[1].wrong_fpgas = 1e9
    timings = Timings()
    failed_after = []
    for job in range(6):
        since = bench.loop.time()
        (failure,) = (await bench.outcome(bench.switch([1], job=job))).failures
        assert failure.frame_fault
        failed_after.append(bench.loop.time() - since)
        await bench.until(lambda: bench.hardware.frames()["a"].out is None)
    pauses = [back - out for (out, *_), (back, *_) in pairwise(bench.reports)][::2]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30], abs=0.1)
    assert failed_after[0] > timings.power_losses * timings.power_reply_s
    assert max(failed_after[1:]) < timings.power_reply_s + LOOK_S


@on_bench()
async def test_a_board_that_comes_up_makes_the_pauses_of_a_power_fault_short_again(bench: Bench) -> None:
    for _ in range(3):
        await bench.outcome(bench.switch([1], job=1))
        bench.frame().refuse(ResponseCode.ARG, command=Command.POWER, times=3 * 4)
        since = bench.loop.time()
        assert (await bench.outcome(bench.switch([1], job=1, on=False))).failures == ()
        assert bench.loop.time() - since == pytest.approx(1 + 2 + 4 + 8, abs=1)


class Picky(SimulatedFrame):
    """Does not answer power commands for board 5."""

    def handle(self, datagram: bytes, now: float, **how: Any) -> Answer | None:
        request = Request.decode(datagram)
        return (
            None if request.command == Command.POWER and request.arg2 >> 5 & 1 else super().handle(datagram, now, **how)
        )


@on_bench(frames=lambda: {"a": Picky()})
async def test_a_board_whose_power_commands_alone_are_lost_is_at_fault_itself(bench: Bench) -> None:
    bad = bench.switch([5])
    while bad not in bench.outcomes:
        assert (await bench.outcome(bench.switch([1], job=1))).failures == ()
    reason = "power-on was not answered, 12 times"
    assert bench.outcomes[bad].failures == (BoardFailure("a", 5, reason),)
    assert bench.reports == []


@on_bench()
async def test_a_bmp_with_a_power_fault_that_nobody_wants_any_more_is_tried_until_its_work_is_done(
    bench: Bench,
) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    await bench.outcome(bench.switch([1, 2], job=1, on=False))
    bench.frame().refuse(ResponseCode.ARG, command=Command.POWER)
    await bench.outcome(bench.switch([1], job=2))
    await asyncio.sleep(60)
    bench.hardware.watch([])
    await asyncio.sleep(60)
    tried = bench.frame().counters.datagrams
    await asyncio.sleep(3600)
    assert bench.frame().counters.datagrams == tried


@on_bench()
async def test_thousands_of_power_offs_of_a_silent_frame_are_one_and_all_of_them_end(bench: Bench) -> None:
    await bench.outcome(bench.switch([1, 2], job=1))
    bench.frame().silence()
    operations = [bench.switch([1, 2], job=1, on=False)]
    await bench.until(lambda: bool(bench.reports))
    for _ in range(2500):
        operations += [bench.switch([1, 2], job=1, on=False), bench.switch([1, 2], job=1, on=False)]
        assert bench.hardware.frames()["a"].waiting == 1
    bench.frame().recover()
    for operation in operations:
        assert (await bench.outcome(operation)).failures == ()
    assert bench.power_masks() == [("on", 0b110), ("off", 0b110)]


@on_bench()
async def test_powering_on_and_off_in_turn_in_a_silent_frame_leaves_one_power_off_to_do(bench: Bench) -> None:
    bench.frame().silence()
    first = bench.switch([1, 2], job=1, on=False)
    await bench.until(lambda: bool(bench.reports))
    for _ in range(2500):
        bench.switch([1, 2], job=1)
        off = bench.switch([1, 2], job=1, on=False)
        if bench.hardware.frames()["a"].waiting > 64:
            await asyncio.sleep(0)
            assert bench.hardware.frames()["a"].waiting == 1
    bench.frame().recover()
    for operation in (first, off):
        assert (await bench.outcome(operation)).failures == ()
    assert bench.power_masks() == [("off", 0b110)]
