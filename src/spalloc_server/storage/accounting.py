"""What history says of the use of machines: the columns that reports read, and how old rows become sums of days.

Theory of operation. A job that has ended is in one of two places: in the history, or in the sums of the days on which
it had boards. Pruning moves it from one to the other in one transaction, so whatever happens it is counted once. A sum
is for a day, an owner, a machine and a class of sizes. Board-seconds count on the days on which the boards were held;
the job itself, and how long it waited, count on the day on which it ended. Days are those of the server's time zone.

A job's board-seconds are those of its `earlier` holdings, which are few and in the row, and all others are of its last
one. Rows from before schema 7 do not tell earlier ones apart.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import Holding
from spalloc_server.core.model.reasons import FAILURES
from spalloc_server.storage.rows import Line

__all__ = [
    "COLUMNS",
    "FAILED",
    "SIZE",
    "SIZES",
    "UNKNOWN",
    "Ended",
    "local",
    "midnights",
    "pieces",
    "prune",
    "rounded",
    "size_class",
]

SIZES: Final = (0, 1, 3, 12, 24, 48, 120, 600, 2**53)
"""The most boards of each class of sizes; 0 is for jobs that never had any."""

UNKNOWN: Final = ""
"""The machine of jobs that never had boards."""

LONGEST: Final = 20 * 366 * 86400.0
"""Seconds. A row is damaged that says that a job has had boards for longer."""

SIZE = """
    CASE WHEN machine IS NULL THEN 0 WHEN boards IS NULL THEN 3 * width * height
    ELSE length(boards) - length(replace(boards, ']', '')) - 1 END
"""
"""How many boards a job had last, in SQL."""

FAILED = " OR ".join(f"reason GLOB '{text}*'" for text in FAILURES)
"""Whether hardware or the server has failed a job, in SQL."""

COLUMNS = f"""
    owner, machine, created_at, allocated_at, ended_at, board_seconds, earlier, placements, {SIZE},
    coalesce({FAILED}, 0)
"""
"""What `Ended` is made of."""


class Ended(NamedTuple):
    """What reports need of a job that has ended."""

    owner: str
    machine: str | None
    created_at: float
    allocated_at: float | None
    ended_at: float
    board_seconds: float
    earlier: str | None
    placements: int
    boards: int
    failed: int

    @property
    def holdings(self) -> list[tuple[str, int, float, float, float]]:
        """(machine, boards, begin, end, board-seconds) of each time that it had boards."""
        earlier = [] if self.earlier is None else msgspec.json.decode(self.earlier, type=list[Holding])
        parts = [
            (each.machine, each.boards, each.began, each.ended, each.boards * (each.ended - each.began))
            for each in earlier
        ]
        rest = self.board_seconds - sum(part[4] for part in parts)
        if self.machine is not None and self.allocated_at is not None:
            parts.append((self.machine, self.boards, self.allocated_at, self.ended_at, rest))
        elif self.earlier is None and rest > 0:  # before schema 7; where it had its boards is not known
            parts.append((UNKNOWN, 0, self.allocated_at or self.ended_at, self.ended_at, rest))
        return parts

    @property
    def waited(self) -> float | None:
        """Seconds until it had boards for the first time; None where it never had any."""
        if self.allocated_at is None:
            return None
        began = [] if self.earlier is None else msgspec.json.decode(self.earlier, type=list[Holding])
        return max(0.0, (began[0].began if began else self.allocated_at) - self.created_at)


def size_class(boards: int) -> int:
    """The class of sizes that this many boards are of, by its largest."""
    return SIZES[bisect_left(SIZES, boards)]


def rounded(seconds: float) -> int:
    """A wait to three digits: so finely are waits told apart in sums."""
    unit = 1
    while seconds >= 1000 * unit:
        unit *= 10
    return int(seconds / unit) * unit


def local(time: float) -> datetime:
    """A time by the calendar and the clock of this process's time zone."""
    return datetime.fromtimestamp(time)  # noqa: DTZ006 - that is meant


def midnights(since: float, until: float) -> list[float]:
    """The begins of the local calendar days from the one of `since` on, up to the first at or after `until`."""
    day = local(since).replace(hour=0, minute=0, second=0, microsecond=0)
    found = [day.timestamp()]
    while found[-1] < until:
        day += timedelta(days=1)  # by the calendar: a day may have 23 hours, or 25
        found.append(day.timestamp())
    return found


def pieces(begin: float, end: float, amount: float, bounds: list[float]) -> Iterator[tuple[int, float]]:
    """Divide what was used from `begin` to `end` among the spans between `bounds`: (number of the span, its part).

    What lies outside of all of them is left out. What took no time is of the span in which it was.
    """
    first = bisect_right(bounds, begin) - 1
    if end <= begin:
        if 0 <= first < len(bounds) - 1:
            yield first, amount
        return
    for span in range(max(0, first), len(bounds) - 1):
        if bounds[span] >= end:
            return
        inside = min(end, bounds[span + 1]) - max(begin, bounds[span])
        if inside > 0:
            yield span, amount * (inside / (end - begin))


class _Sum:
    def __init__(self) -> None:
        self.jobs = self.started = self.failed = self.again = 0
        self.board_seconds = self.waited = self.longest = 0.0
        self.waits: dict[int, int] = {}

    def line(self, key: tuple[str, str, str, int]) -> Line:
        waits = msgspec.json.encode({str(wait): number for wait, number in sorted(self.waits.items())}).decode()
        numbers = (self.jobs, self.started, self.failed, self.again, self.board_seconds, self.waited, self.longest)
        return (*key, *numbers, waits)


_KEY = "day, owner, machine, size"
_OLD = f"SELECT job_id, {COLUMNS} FROM history WHERE ended_at < ? ORDER BY ended_at LIMIT ?"  # noqa: S608
_READ = f"SELECT waits FROM days WHERE ({_KEY}) = (?, ?, ?, ?)"  # noqa: S608
_ADD = f"""
    INSERT INTO days ({_KEY}, jobs, started, failed, again, board_seconds, waited, longest, waits)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT ({_KEY}) DO UPDATE SET
    jobs = jobs + excluded.jobs, started = started + excluded.started, failed = failed + excluded.failed,
    again = again + excluded.again, board_seconds = board_seconds + excluded.board_seconds,
    waited = waited + excluded.waited, longest = max(longest, excluded.longest), waits = excluded.waits
"""  # noqa: S608


def prune(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Move jobs that ended before this time to the sums, at most so many; how many.

    To be called within a transaction. A row that makes no sense is deleted all the same, and counts nothing.
    """
    strict, connection.text_factory = connection.text_factory, lambda text: text.decode(errors="replace")
    try:
        old = connection.execute(_OLD, (before, most)).fetchall()
    finally:
        connection.text_factory = strict
    sums: dict[tuple[str, str, str, int], _Sum] = {}
    for _, *columns in old:
        try:
            _add(sums, Ended(*columns))
        except (TypeError, ValueError, OverflowError, OSError, msgspec.MsgspecError):
            continue
    for key, each in sums.items():
        if (found := connection.execute(_READ, key).fetchone()) is not None:
            for wait, number in msgspec.json.decode(found[0], type=dict[str, int]).items():
                each.waits[int(wait)] = each.waits.get(int(wait), 0) + number
        connection.execute(_ADD, each.line(key))
    connection.executemany("DELETE FROM history WHERE job_id = ?", [line[:1] for line in old])
    return len(old)


def _add(sums: dict[tuple[str, str, str, int], _Sum], job: Ended) -> None:
    holdings, waited = job.holdings, job.waited
    begin = min([job.ended_at, *(holding[2] for holding in holdings)])
    if not (0 <= job.ended_at - begin <= LONGEST and 0 <= job.board_seconds <= LONGEST * MAX_NUMBER):
        raise ValueError("it has held its boards for longer than there have been any")
    bounds = midnights(begin, job.ended_at + 1e-6)
    days = [local(each).date().isoformat() for each in bounds]
    parts = [
        ((days[span], job.owner, machine, size_class(boards)), part)
        for machine, boards, began, ended, amount in holdings
        for span, part in pieces(began, ended, amount, bounds)
    ]
    machine, boards = holdings[-1][:2] if holdings else (UNKNOWN, 0)
    day = days[bisect_right(bounds, job.ended_at) - 1]
    of_end = sums.setdefault((day, job.owner, machine, size_class(boards)), _Sum())
    of_end.jobs += 1
    of_end.failed += job.failed
    of_end.again += max(0, job.placements - 1)
    if waited is not None:
        of_end.started += 1
        of_end.waited += waited
        of_end.longest = max(of_end.longest, waited)
        of_end.waits[rounded(waited)] = of_end.waits.get(rounded(waited), 0) + 1
    for key, part in parts:
        sums.setdefault(key, _Sum()).board_seconds += part
