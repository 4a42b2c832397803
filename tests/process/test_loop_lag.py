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


def test_a_stall_is_a_warning_only_where_the_server_itself_was_busy(
    watched: tuple[StallDetector, Clock, Clock],
) -> None:
    detector, clock, cpu_clock = watched
    for stalled, worked in ((0.05, 0.04), (0.08, 0.01), (0.03, 0.03), (0.06, 0.02)):
        clock.now += BEAT_SECONDS + stalled
        cpu_clock.now += worked
        with capture_logs() as lines:
            detector.beat()
        assert lines == [], "stalls are summed up"
    assert detector.count == 4
    assert detector.longest == pytest.approx(0.08)
    clock.now = LOG_SECONDS
    detector._beaten = clock.now - BEAT_SECONDS  # a beat in time
    with capture_logs() as lines:
        detector.beat()
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "event loop stalled"),
        ("info", "event loop kept waiting by the computer"),
    ]
    assert [(line["stalled_ms"], line["cpu_ms"], line["stalls"]) for line in lines] == [(50, 40, 2), (80, 10, 2)]


def test_stalls_are_told_once_a_minute_and_then_begin_anew(watched: tuple[StallDetector, Clock, Clock]) -> None:
    detector, clock, cpu_clock = watched
    told = []
    for beat in range(int(2.1 * LOG_SECONDS / BEAT_SECONDS)):
        late = 0.05 if beat in {10, 1.5 * LOG_SECONDS / BEAT_SECONDS} else 0.0
        clock.now += BEAT_SECONDS + late
        cpu_clock.now += late
        with capture_logs() as lines:
            detector.beat()
        told += [(int(clock.now // LOG_SECONDS), line["stalls"]) for line in lines]
    assert told == [(1, 1), (2, 1)]


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
