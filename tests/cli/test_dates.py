"""Dates and times as people write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import given, strategies as st

from spalloc_server.cli.dates import parse_time

NOW = 1_774_783_800.0  # Sunday, 2026-03-29 13:30 in Berlin, where clocks were set forward that night


pytestmark = pytest.mark.usefixtures("in_berlin")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-03-29 13:30"),
        ("today", "2026-03-29 00:00"),
        ("Yesterday", "2026-03-28 00:00"),
        ("this week", "2026-03-23 00:00"),
        ("last week", "2026-03-16 00:00"),
        ("this month", "2026-03-01 00:00"),
        ("  last   month ", "2026-02-01 00:00"),
        ("this year", "2026-01-01 00:00"),
        ("last year", "2025-01-01 00:00"),
        ("saturday", "2026-03-28 00:00"),
        ("last sunday", "2026-03-22 00:00"),
        ("2026-11-01", "2026-11-01 00:00"),
        ("2026-11-01 14:30", "2026-11-01 14:30"),
        ("2026-11-01T14:30:15", "2026-11-01 14:30:15"),
        ("2026-11", "2026-11-01 00:00"),
        ("2025", "2025-01-01 00:00"),
        ("09:05", "2026-03-29 09:05"),
        ("7d", "2026-03-22 12:30"),
        ("36h", "2026-03-28 00:30"),
        ("2 weeks ago", "2026-03-15 12:30"),
        ("90 min", "2026-03-29 12:00"),
        ("1 hour", "2026-03-29 12:30"),
        ("1.5d", "2026-03-28 00:30"),
    ],
)
def test_a_text_names_a_moment_of_this_time_zone(text: str, moment: str) -> None:
    assert datetime.fromtimestamp(parse_time(text, NOW)) == datetime.fromisoformat(moment)  # noqa: DTZ006 - as told


@pytest.mark.parametrize(
    "text",
    ["", "gestern", "2026-13-01", "2026-02-30", "25:00", "7", "7m", "-3d", "99999999999d", "last 3", "1e9d", "\0"],
)
def test_what_names_none_is_told_with_what_would(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; right would be 2026-11-01,"):
        parse_time(text, NOW)


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,6}[-:. ][a-z0-9]{1,6}", fullmatch=True))
def test_no_text_leads_to_anything_else(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_time(text, NOW), float)
