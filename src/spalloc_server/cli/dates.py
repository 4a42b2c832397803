"""Dates, times and lengths of time as people write them: `2026-11-01`, `yesterday`, `last month`, `7d`, `1h30m`.

Theory of operation. Each text names a moment. Where it names a day, a week, a month or a year, that is its begin, as
with Slurm's `sacct`: so `--since "last month" --until "this month"` is all of last month, and `--until 2026-11-01`
leaves that day out. Days are those of this terminal's time zone (`TZ`), whether they have 24 hours or not. Weeks begin
on Monday.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta

import click

from spalloc_server.config.options import MAX_SECONDS
from spalloc_server.storage.accounting import local

__all__ = ["length", "parse_time", "when"]

EXAMPLES = "2026-11-01, '2026-11-01 14:30', 14:30, today, yesterday, monday, 'last month', 'this year', 7d or 36h"

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LENGTHS = {**_UNITS, "m": 60}
"""In a length of time `m` is a minute; before a moment it might be taken for a month."""
_LONG = {"second": "s", "sec": "s", "minute": "min", "hour": "h", "day": "d", "week": "w"}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([a-z]+?)s?(?: ago)?")
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m", "%Y")


def parse_time(text: str, now: float) -> float:
    """Return the moment that `text` names, in seconds since the epoch.

    Args:
        text: as people write it.
        now: the present.

    Raises:
        ValueError: it names none; the text is for its author.
    """
    said = " ".join(text.lower().split())
    try:
        found = _moment(said, local(now))
        return now - found if isinstance(found, float) else found.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time; right would be {EXAMPLES}") from None


def _moment(said: str, now: datetime) -> datetime | float:
    """The moment that is named; or how many seconds ago it was."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    week, month, year = today - timedelta(days=today.weekday()), today.replace(day=1), today.replace(month=1, day=1)
    names: dict[str, Callable[[], datetime]] = {
        "now": lambda: now,
        "today": lambda: today,
        "yesterday": lambda: today - timedelta(days=1),
        "this week": lambda: week,
        "last week": lambda: week - timedelta(days=7),
        "this month": lambda: month,
        "last month": lambda: (month - timedelta(days=1)).replace(day=1),
        "this year": lambda: year,
        "last year": lambda: year.replace(year=year.year - 1),
    }
    if said in names:
        return names[said]()
    weekday = said.removeprefix("last ")
    if weekday in _WEEKDAYS:  # the last one before today
        return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(weekday) - 1) % 7 + 1)
    if (ago := _AGO.fullmatch(said)) and (unit := _LONG.get(ago[2], ago[2])) in _UNITS:
        return float(ago[1]) * _UNITS[unit]
    if clock := re.fullmatch(r"(\d{1,2}):(\d\d)", said):
        return today.replace(hour=int(clock[1]), minute=int(clock[2]))
    said = re.sub(r"(\d)t(\d)", r"\1 \2", said)
    for form in _FORMATS:
        try:
            return datetime.strptime(said, form)  # noqa: DTZ007 - local time is meant
        except ValueError:
            continue
    return datetime.combine(date.fromisoformat(said), datetime.min.time())


def when(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """The value of an option that is a moment: seconds since the epoch."""
    try:
        return None if text is None else parse_time(text, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def length(_context: click.Context, _option: click.Parameter, value: str) -> float:
    """The value of an option that is a length of time: seconds, more than none."""
    text = value.replace(" ", "")
    text += "s" if text[-1:].isdecimal() and not re.search("[a-z]", text) else ""
    parts = re.findall(r"(\d{1,12}(?:\.\d{1,12})?)([a-z]+)", text)
    seconds = sum(float(number) * _LENGTHS.get(_LONG.get(unit, unit), math.nan) for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds <= MAX_SECONDS:
        raise click.BadParameter(f"{value!r} is no length of time: give seconds, or for example 30min, 1h30m or 2d")
    return seconds
