"""What users are told of a job that waits."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from spalloc_server.application.waits import between, in_words
from spalloc_server.core.model.forecast import Forecast

NOON = 1_700_049_600.0  # Wed 15 November 2023, 12:00 UTC
HOUR = 3600.0


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (HOUR / 2, "Wed 12:00 to 12:30 UTC"),
        (20 * HOUR, "Wed 12:00 to Thu 08:00 UTC"),
        (7 * 24 * HOUR, "15 Nov 12:00 to 22 Nov 12:00 UTC"),
    ],
)
def test_two_times_are_told_as_shortly_as_is_clear(seconds: float, told: str) -> None:
    assert between(NOON, NOON + seconds) == told


def test_place_start_and_reason_are_one_line() -> None:
    forecast = Forecast(
        position=2, queued=5, earliest=NOON, start=NOON + 60, latest=NOON + HOUR, why="it waits for boards of job 1"
    )
    assert in_words(forecast) == (
        "number 2 of 5 in the queue, probably starts Wed 12:00 to 13:00 UTC, it waits for boards of job 1"
    )


def test_an_estimate_is_told_as_one() -> None:
    forecast = Forecast(
        position=99, queued=100, earliest=NOON, start=NOON, latest=NOON, estimated=True, why="98 others go before it"
    )
    assert ", roughly starts " in in_words(forecast)


def test_where_nothing_can_be_predicted_the_reason_stands_alone() -> None:
    forecast = Forecast(position=1, queued=1, why="m is drained by eve: dust")
    assert in_words(forecast) == "number 1 of 1 in the queue, m is drained by eve: dust"
