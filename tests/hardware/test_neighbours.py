"""Boards that are not as this server left them: others drive the same BMP, or FPGAs keep their registers."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from spalloc_server.hardware.scp import Command, ResponseCode, stop_register
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedFrame
from tests.hardware.virtual import Bench, on_bench

OTHERS = "somebody else switches boards of this frame"
KEEPING = "boards keep their FPGAs' registers while off"


def told(lines: list[Any], event: str) -> list[list[int]]:
    return [line["boards"] for line in lines if line["event"] == event]


def real_frame() -> dict[str, SimulatedFrame]:
    return {"a": SimulatedFrame(timings=REAL_TIMINGS)}


def registers_that_stay() -> dict[str, SimulatedFrame]:
    """All boards are on, and their registers survive whatever is done to their power."""
    frame = SimulatedFrame()
    for board in frame.boards.values():
        board.keeps_registers = True
        board.switch(True, 0.0)
    return {"a": frame}


@on_bench()
async def test_a_board_that_was_switched_off_and_is_on_tells_once_that_somebody_else_drives_the_bmp(
    bench: Bench,
) -> None:
    with capture_logs() as lines:
        for job in range(1, 4):
            await bench.outcome(bench.switch([1, 2], job=job))
            await bench.outcome(bench.switch([1, 2], job=job, on=False))
            assert told(lines, OTHERS) == ([] if job == 1 else [[2]])
            bench.frame().boards[2].switch(True, bench.loop.time())
        await bench.outcome(bench.switch([1, 2], job=5))
    assert told(lines, OTHERS) == [[2]]


@on_bench()
async def test_a_stopped_link_that_runs_at_the_next_reset_tells_the_same(bench: Bench) -> None:
    stopped = [(1, Links.north), (2, Links.south_west), (2, Links.east)]
    with capture_logs() as lines:
        await bench.outcome(bench.switch([1, 2], job=7, stopped=stopped))
        await bench.outcome(bench.switch([1, 2], job=7, stopped=stopped))
        assert told(lines, OTHERS) == []
        bench.frame().boards[2].registers[stop_register(Links.east)] = 0
        assert (await bench.outcome(bench.switch([1, 2], job=7, stopped=stopped))).failures == ()
    assert told(lines, OTHERS) == [[2]]
    assert bench.frame().stopped_links() == set(stopped)


@on_bench()
async def test_a_frame_that_was_silent_may_have_been_switched_by_hand(bench: Bench) -> None:
    with capture_logs() as lines:
        await bench.outcome(bench.switch([1], job=1, stopped=[(1, Links.north)]))
        await bench.outcome(bench.switch([2], job=2))
        await bench.outcome(bench.switch([2], job=2, on=False))
        bench.frame().silence()
        await bench.outcome(bench.switch([3]))
        for number in (1, 2):
            bench.frame().boards[number].switch(True, bench.loop.time())
        bench.frame().recover()
        await bench.until(lambda: bench.reports[-1][2] is None)
        await bench.outcome(bench.switch([1, 2], job=4))
    assert told(lines, OTHERS) == []


@on_bench(frames=registers_that_stay)
async def test_boards_that_keep_their_registers_are_accepted_and_noted_once(bench: Bench) -> None:
    with capture_logs() as lines:
        for _ in range(2):
            assert (await bench.outcome(bench.switch([1, 2], job=1))).failures == ()
        assert bench.power_masks() == [("on", 6), ("off", 6), ("on", 6), ("on", 6)]
        assert (await bench.outcome(bench.switch([3], job=2))).failures == ()
        await bench.outcome(bench.switch([1, 2], job=1, on=False))
        assert (await bench.outcome(bench.switch([1, 2], job=3))).failures == ()
    assert told(lines, KEEPING) == [[1, 2]]
    assert told(lines, OTHERS) == []
    assert bench.loop.time() < 5 * Timings().verify_s, "only the first time takes long"


@on_bench(frames=registers_that_stay, timings=Timings(power_on_tries=1))
async def test_boards_that_keep_their_registers_are_accepted_with_a_single_try(bench: Bench) -> None:
    assert (await bench.outcome(bench.switch(range(24)))).failures == ()


@on_bench(frames=real_frame)
async def test_a_mark_that_goes_only_with_the_power_is_a_reset_that_was_lost(bench: Bench) -> None:
    with capture_logs() as lines:
        await bench.outcome(bench.switch([2], job=1))
        bench.frame().refuse(ResponseCode.OK, command=Command.POWER, times=1)  # answered, and not done
        assert (await bench.outcome(bench.switch([2], job=1))).failures == ()
    assert bench.power_masks() == [("on", 4), ("off", 4), ("on", 4)]
    assert told(lines, KEEPING) == []
