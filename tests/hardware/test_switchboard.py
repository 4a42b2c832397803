"""The hardware as the server sees it: in virtual time."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from spalloc_server.core.model.power import BoardFailure, FrameWork, Outcome
from spalloc_server.errors import HardwareError
from spalloc_server.hardware.bmp import Bmp
from spalloc_server.hardware.scp import Adc, Command
from spalloc_server.hardware.switchboard import MAX_ASKED
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedFrame
from tests.hardware.virtual import Bench, on_bench


def fifty_frames() -> dict[str, SimulatedFrame]:
    return {f"f{n}": SimulatedFrame(timings=REAL_TIMINGS) for n in range(50)}


def whole_frame(host: str) -> FrameWork:
    return FrameWork(host, tuple(range(24)))


@on_bench(frames=fifty_frames)
async def test_frames_work_in_parallel(bench: Bench) -> None:
    operation = bench.switch_frames(map(whole_frame, bench.loop.frames))
    assert await bench.outcome(operation) == Outcome(operation)
    assert bench.ended_at[operation] < 1.1 * REAL_TIMINGS.power_on_others
    assert all(len(frame.boards_on()) == 24 for frame in bench.loop.frames.values())


@on_bench(frames=fifty_frames)
async def test_one_outcome_tells_the_failures_of_all_frames(bench: Bench) -> None:
    bench.frame("f3").silence()
    bench.frame("f7").boards[5].stuck = 100
    operation = bench.switch_frames([FrameWork("f3", (1,)), whole_frame("f7"), whole_frame("f8")])
    failures = {(failure.bmp, failure.board) for failure in (await bench.outcome(operation)).failures}
    assert failures == {("f3", 1), ("f7", 5)}


@on_bench()
async def test_a_switch_of_nothing_ends_at_once_but_not_within_the_call(bench: Bench) -> None:
    operation = bench.switch_frames([])
    assert operation not in bench.outcomes
    assert await bench.outcome(operation) == Outcome(operation)


@on_bench(frames=fifty_frames)
async def test_nothing_is_opened_before_it_is_needed(bench: Bench) -> None:
    await asyncio.sleep(60)
    assert bench.loop.opened == []
    assert bench.hardware.frames() == {}
    await bench.outcome(bench.switch([1], host="f3"))
    assert bench.loop.opened == ["f3"]


@on_bench(frames=fifty_frames)
async def test_what_waits_at_a_bmp_that_pauses_goes_on_once_that_is_over(bench: Bench) -> None:
    bench.hardware.pause(["f3"])
    paused, other = bench.switch([1], host="f3"), bench.switch([1], host="f4")
    assert await bench.outcome(other) == Outcome(other)
    await asyncio.sleep(60)
    assert bench.commands("f3") == []
    bench.hardware.resume(["f3"])
    assert await bench.outcome(paused) == Outcome(paused)


@on_bench(frames=dict)
async def test_a_host_that_cannot_be_found_is_a_failure_with_a_reason(bench: Bench) -> None:
    operation = bench.switch([1], host="nowhere.invalid")
    reason = "BMP nowhere.invalid cannot be reached: name or service not known"
    assert (await bench.outcome(operation)).failures == (BoardFailure("nowhere.invalid", 1, reason, frame_fault=True),)
    assert bench.hardware.frames()["nowhere.invalid"].out == reason


@on_bench(frames=fifty_frames)
async def test_watched_bmps_are_known_to_be_silent_before_they_are_needed(bench: Bench) -> None:
    for host in ("f1", "f2"):
        bench.frame(host).silence()
    bench.hardware.watch(bench.loop.frames)
    await asyncio.sleep(10)
    assert {host for _, host, reason in bench.reports if reason} == {"f1", "f2"}
    assert {host for host, status in bench.hardware.frames().items() if status.out} == {"f1", "f2"}


@on_bench()
async def test_a_watched_bmp_that_dies_while_idle_is_noticed_and_so_is_its_return(bench: Bench) -> None:
    bench.hardware.watch(["a"])
    await asyncio.sleep(1000)
    assert bench.reports == []
    bench.frame().silence()
    await asyncio.sleep(100)
    assert len(bench.reports) == 1
    bench.frame().recover()
    await asyncio.sleep(60)
    assert bench.reports[1][1:] == ("a", None)


@on_bench()
async def test_a_bmp_is_left_in_peace_once_it_is_no_longer_watched(bench: Bench) -> None:
    bench.hardware.watch(["a"])
    await asyncio.sleep(1000)
    bench.hardware.watch([])
    before = bench.frame().counters.datagrams
    await asyncio.sleep(1000)
    assert bench.frame().counters.datagrams == before


@on_bench(frames=fifty_frames)
async def test_draining_completes_what_is_under_way(bench: Bench) -> None:
    assert await bench.hardware.drain(1)
    operation = bench.switch(range(24), host="f1")
    assert bench.hardware.busy()
    assert not await bench.hardware.drain(1)
    assert await bench.hardware.drain(60)
    assert operation in bench.outcomes
    assert not bench.hardware.busy()


@on_bench()
async def test_a_silent_bmp_that_nobody_wants_any_more_is_probed_until_its_work_is_done(bench: Bench) -> None:
    bench.hardware.watch(["a"])
    await bench.outcome(bench.switch([1], job=1))
    bench.frame().silence()
    off = bench.switch([1], job=1, on=False)
    await bench.until(lambda: bool(bench.reports))
    bench.hardware.watch([])
    probed = bench.frame().counters.datagrams
    await asyncio.sleep(600)
    assert bench.frame().counters.datagrams > probed
    bench.frame().recover()
    assert (await bench.outcome(off)).failures == ()
    bench.frame().silence()
    await bench.outcome(bench.switch([1], job=2))
    probed = bench.frame().counters.datagrams
    await asyncio.sleep(3600)
    assert bench.frame().counters.datagrams == probed
    bench.frame().recover()
    bench.hardware.watch(["a"])
    await bench.until(lambda: bench.reports[-1][2] is None)


@on_bench()
async def test_draining_does_not_wait_for_a_silent_bmp(bench: Bench) -> None:
    bench.frame().silence()
    bench.switch([1], on=False)
    assert await bench.hardware.drain(60)


@on_bench(frames=fifty_frames)
async def test_once_retired_nothing_is_begun_nor_reported_not_even_of_what_was_in_flight(bench: Bench) -> None:
    bench.frame("f1").silence()
    bench.switch([1], host="f1")
    bench.switch([1], host="f2")
    await bench.until(lambda: bench.hardware.in_flight() == ["f1", "f2"])
    begun = bench.commands("f2")
    bench.hardware.retire()
    await asyncio.sleep(60)
    assert not bench.hardware.in_flight()
    assert (bench.reports, bench.outcomes) == ([], {})
    assert len(bench.commands("f2")) <= len(begun) + 1, "the one that was in flight, and no power command after it"


@on_bench()
async def test_leaving_stops_everything(bench: Bench) -> None:
    bench.frame().boards[1].stuck = 100
    bench.switch([1])
    bench.hardware.watch(["a", "b"])
    await asyncio.sleep(1)
    assert bench.hardware.busy()  # and the bench leaves the hardware now; no task may survive that


@on_bench()
async def test_temperatures_are_read_in_turn_with_other_work(bench: Bench) -> None:
    operation = bench.switch(range(24))
    bench.frame().boards[5].adc = Adc(top=41.5)
    assert (await bench.hardware.read_temperatures("a", 5)).top == 41.5
    await bench.outcome(operation)
    assert bench.frame().counters.overlaps == 0


@on_bench()
async def test_what_an_operator_asks_for_may_be_refused_or_not_answered(bench: Bench) -> None:
    with pytest.raises(HardwareError, match="refuses INFO for board 30: ROUTE"):
        await bench.hardware.read_temperatures("a", 30)
    with pytest.raises(HardwareError, match="BMP b does not answer"):
        await bench.hardware.ask("b", 0, Command.VERSION)
    with pytest.raises(HardwareError, match="power is switched"):
        await bench.hardware.ask("a", 0, Command.POWER, 1, 1)


@on_bench()
async def test_an_operator_who_stops_waiting_does_not_cut_short_what_is_in_flight(bench: Bench) -> None:
    bench.frame().lose_answers(times=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bench.hardware.ask("a", 0, Command.VERSION)
    assert bench.hardware.busy()
    await bench.hardware.ask("a", 1, Command.VERSION)
    assert [request.board for request in bench.commands()] == [0, 0, 1]


@on_bench()
async def test_an_operator_is_told_of_a_defect_instead_of_waiting_for_ever(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as log:
        patch.setattr(Bmp, "command", lambda *_: 1 / 0)
        with pytest.raises(HardwareError, match="internal error of the server; its log tells more"):
            async with asyncio.timeout(60):
                await bench.hardware.ask("a", 0, Command.VERSION)
        await bench.until(lambda: not bench.hardware.busy())
    assert [entry["event"] for entry in log] == ["a task failed"]


@on_bench()
async def test_operators_can_only_have_so_much_wait(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(MAX_ASKED):
            group.create_task(bench.hardware.ask("a", 0, Command.VERSION))
        await asyncio.sleep(0)
        with pytest.raises(HardwareError, match="are waiting for BMPs already"):
            await bench.hardware.ask("a", 0, Command.VERSION)
