"""Stalls of the event loop are noticed, counted and told, but not too often."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from spalloc_server.process.loop_lag import BEAT_SECONDS, LOG_SECONDS, STALL_SECONDS, StallDetector
from tests.house import PATIENCE


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched() -> tuple[StallDetector, Clock, Clock]:
    clock, cpu_clock = Clock(), Clock()
    detector = StallDetector(clock=clock, cpu_clock=cpu_clock)
    return detector, clock, cpu_clock


def test_beats_that_are_hardly_late_count_for_nothing(watched: tuple[StallDetector, Clock, Clock]) -> None:
    detector, clock, _ = watched
    with capture_logs() as lines:
        for _ in range(10):
            clock.now += BEAT_SECONDS + STALL_SECONDS * 0.9
            detector.beat()
    assert (detector.count, lines) == (0, [])


def test_a_stall_is_counted_and_logged_with_the_work_that_was_done(
    watched: tuple[StallDetector, Clock, Clock],
) -> None:
    detector, clock, cpu_clock = watched
    clock.now += BEAT_SECONDS + 0.05
    cpu_clock.now += 0.04
    with capture_logs() as lines:
        detector.beat()
    assert detector.count == 1
    assert detector.longest == pytest.approx(0.05)
    assert [(line["event"], line["stalled_ms"], line["cpu_ms"]) for line in lines] == [("event loop stalled", 50, 40)]


def test_many_stalls_make_one_line_a_second_with_the_longest(watched: tuple[StallDetector, Clock, Clock]) -> None:
    detector, clock, _ = watched
    with capture_logs() as lines:
        for late in (0.03, 0.09, 0.04):
            clock.now += BEAT_SECONDS + late
            detector.beat()
        assert [line["stalled_ms"] for line in lines] == [30]
        for _ in range(int(LOG_SECONDS / BEAT_SECONDS)):
            clock.now += BEAT_SECONDS
            detector.beat()
    assert [(line["stalls"], line["stalled_ms"]) for line in lines] == [(1, 30), (3, 90)]


async def test_a_callback_that_takes_its_time_is_noticed() -> None:
    detector = StallDetector()
    watching = asyncio.create_task(detector.run())
    await asyncio.sleep(0)
    time.sleep(BEAT_SECONDS + 1.5 * STALL_SECONDS)  # noqa: ASYNC251 - this is what is to be noticed
    async with asyncio.timeout(PATIENCE):
        while not detector.count:  # noqa: ASYNC110 - the detector has no event for this
            await asyncio.sleep(0)
    watching.cancel()
    assert detector.longest >= STALL_SECONDS
