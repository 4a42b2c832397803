"""A defect of those who are told by the hardware is logged, counted where all are, and costs nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import structlog

from spalloc_server.core.model.power import BoardFailure, FrameWork, Outcome, Switch
from spalloc_server.hardware.frame import Frame, Work
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.hardware.timings import Timings
from spalloc_server.log.defects import DefectLog
from spalloc_server.simulator.faults import Network
from spalloc_server.simulator.frame import SimulatedFrame
from tests.hardware.virtual import VirtualLoop, name_as_address


class Boom(Exception):
    pass


def boom(*_: object) -> None:
    raise Boom


def test_a_frames_condition_that_cannot_be_told_is_counted() -> None:
    defects = DefectLog()
    frame = Frame("bmp", Timings(), lambda coroutine: coroutine.close(), boom, defects=defects)
    with structlog.testing.capture_logs() as log:
        frame.bmp.fall_silent("gone")
    assert (defects.count, frame.out) == (1, "gone")
    assert log[0]["bmp"] == "bmp"
    frame = Frame("bmp", Timings(), lambda coroutine: coroutine.close(), boom)
    with structlog.testing.capture_logs():
        frame.bmp.fall_silent("gone")
    assert frame.out == "gone", "nor does it raise where nobody counts"


def run(on_outcome: Callable[[Outcome], None], defects: DefectLog | None) -> None:
    loop = VirtualLoop({"a": SimulatedFrame()}, Network(), 1)

    async def main() -> None:
        async with Hardware(on_outcome, lambda *_: None, defects=defects, find_address=name_as_address) as hardware:
            hardware.switch(Switch(1, 1, True, (FrameWork("a", (1,)),)))
            assert await hardware.drain(60.0)
            hardware.switch(Switch(2, 2, True, (FrameWork("a", (2,)),)))
            assert await hardware.drain(60.0)

    with asyncio.Runner(loop_factory=lambda: loop) as runner, structlog.testing.capture_logs():
        runner.run(main())
    assert loop.frames["a"].boards_on() == {1, 2}


def test_an_outcome_that_cannot_be_told_is_counted_and_others_are_told() -> None:
    defects, told = DefectLog(), list[int]()

    def on_outcome(outcome: Outcome) -> None:
        told.append(outcome.operation)
        raise Boom

    run(on_outcome, defects)
    assert (told, defects.count) == ([1, 2], 2)
    run(on_outcome, None)
    assert told == [1, 2, 1, 2]


def test_a_defect_in_what_switches_boards_is_counted_and_told_as_the_servers_own_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defects, told = DefectLog(), list[Outcome]()
    loop = VirtualLoop({"a": SimulatedFrame()}, Network(), 1)
    monkeypatch.setattr(Frame, "_switch_on", boom)

    async def main() -> None:
        async with Hardware(told.append, lambda *_: None, defects=defects, find_address=name_as_address) as hardware:
            hardware.switch(Switch(1, 1, True, (FrameWork("a", (1,)),)))
            assert await hardware.drain(60.0)

    with asyncio.Runner(loop_factory=lambda: loop) as runner, structlog.testing.capture_logs() as log:
        runner.run(main())
    assert told == [Outcome(1, (BoardFailure("a", 1, "internal error of the server", frame_fault=True),))]
    assert (defects.count, log[0]["bmp"], log[0]["boards"]) == (1, "a", [1])


def test_a_power_off_that_a_defect_has_ended_is_tried_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    defects, told, tried = DefectLog(), list[Outcome](), list[float]()
    loop = VirtualLoop({"a": SimulatedFrame()}, Network(), 1)
    switch_off = Frame._switch_off

    async def at_the_third_time(self: Frame, work: Work) -> dict[int, str]:
        tried.append(loop.time())
        if len(tried) < 3:
            raise Boom
        return await switch_off(self, work)

    monkeypatch.setattr(Frame, "_switch_off", at_the_third_time)

    async def main() -> None:
        async with Hardware(told.append, lambda *_: None, defects=defects, find_address=name_as_address) as hardware:
            hardware.switch(Switch(1, 1, False, (FrameWork("a", (1,)),)))
            assert await hardware.drain(600.0)

    with asyncio.Runner(loop_factory=lambda: loop) as runner, structlog.testing.capture_logs():
        runner.run(main())
    assert (told, defects.count) == ([Outcome(1)], 2)
    first, second, third = tried
    assert min(second - first, third - second) >= Timings().probe_longest_s
