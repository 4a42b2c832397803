"""Reports: who has used the machines, how much, and how long they waited for it.

Theory of operation. What is asked for is a period, and what its figures are grouped by. Jobs that have ended, and how
long they waited, count in the period in which they ended; board-seconds count where the boards were held, those of jobs
that still run up to the present. Jobs that have left the history are in sums of days (`accounting`): such a day counts
where its begin is in the period. How boards spend their time, jobs apart, is in sums of hours (`core.board_time`); of
an hour that is partly in the period, so much of it counts.

There may be millions of rows. So columns are fetched, and no rows made of them; and a part of a job is worked out only
where the job reaches over the border of a period, or has had boards in several places.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, pairwise
from math import fsum
from typing import Any

import msgspec

from spalloc_server.core.model import BoardTimeRow
from spalloc_server.storage.accounting import COLUMNS, FAILED, SIZE, SIZES, UNKNOWN, Ended, local, pieces, size_class
from spalloc_server.storage.rows import TABLES

__all__ = ["BY", "BoardTime", "Figures", "Report", "Waits", "report"]

BY = ("owner", "machine", "size", "day", "hour")
"""What a report can be grouped by."""

SCANNED = 0.3
"""Part of the history from which on it is read from end to end, which is quicker than along its index."""

MERGED = 500
"""Sorted runs of waits above which they are sorted into one."""

_NAMES = ["none", *(str(high) if low + 1 == high else f"{low + 1}-{high}" for low, high in pairwise(SIZES[:-1]))]
SIZE_NAMES = dict(zip(SIZES, [*_NAMES, f"over {SIZES[-2]}"], strict=True))
"""What classes of sizes are called."""

_TIMES = ("boards", "in_use", "cooling", "out")
_KEYS = {"owner": "owner", "machine": f"coalesce(machine, '{UNKNOWN}')", "size": SIZE}
_ODD = (
    f"CASE WHEN reason IS NULL AND placements <= 1 THEN 0 ELSE coalesce({FAILED}, 0) + 2 * max(0, placements - 1) END"
)
"""1 for a job that has failed, and 2 for each time that it was given other boards."""
_SIMPLE = """
    ended_at >= 0 AND ended_at < :until AND earlier IS NULL AND (allocated_at >= :since OR allocated_at IS NULL)
    AND (machine IS NOT NULL OR board_seconds = 0)
"""
"""That a job had boards in one place, and all the time in the period. Its end must not be before 1970, since all other
jobs stand in the column of these ends by their numbers, below 0."""


class Waits(msgspec.Struct):
    """Seconds that jobs waited for their boards."""

    mean: float
    median: float
    p95: float
    longest: float


class BoardTime(msgspec.Struct):
    """Board-seconds of machines, as far as they are known."""

    boards: float = 0.0
    """All that there were."""
    in_use: float = 0.0
    cooling: float = 0.0
    out: float = 0.0


class Figures(msgspec.Struct):
    """What is known of one group, or of all."""

    jobs: int = 0
    """Those that ended."""
    started: int = 0
    """Those among them that had boards."""
    failed: int = 0
    """Those among them that hardware or the server failed."""
    again: int = 0
    """How often jobs were given other boards, since theirs had failed."""
    board_seconds: float = 0.0
    waits: Waits | None = None
    """None where no job started."""
    board_time: BoardTime | None = None
    """None where the groups are not of machines or times."""
    utilisation: float | None = None
    """The part of all board-seconds that jobs had; None where they are not known."""

    def spent(self, time: BoardTime) -> None:
        """Take in how boards spent their time."""
        self.board_time, self.utilisation = time, time.in_use / time.boards if time.boards else None


class Report(msgspec.Struct):
    """A report. Times are seconds since the Unix epoch."""

    since: float
    until: float
    by: str
    groups: dict[str, Figures]
    """By owner, machine, size (`4-12`), day (`2026-11-01`) or hour (`2026-11-01 14:00`)."""
    total: Figures
    running: int
    """Jobs that have boards now."""
    sums_until: str | None
    """The last day of which some of it is from sums of days; None where there is none."""


@dataclass
class _Group:
    jobs: int = 0
    failed: int = 0
    again: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    longest: float = 0.0
    waits: list[list[float]] = field(default_factory=list)
    """Some at a time, each sorted, so that two groups are one without sorting anew."""

    def waited_for(self, waits: Iterable[float | None]) -> None:
        """Take in waits of jobs; None of those that never had boards."""
        run = sorted([wait for wait in waits if wait is not None])
        if run and run[0] < 0:  # a clock was set
            run = [max(0.0, wait) for wait in run]
        if run:
            self.waits.append(run)
            self.waited += fsum(run)
            self.longest = max(self.longest, run[-1])

    def add(self, other: _Group) -> None:
        self.jobs += other.jobs
        self.failed += other.failed
        self.again += other.again
        self.seconds += other.seconds
        self.waited += other.waited
        self.longest = max(self.longest, other.longest)
        self.waits += other.waits

    def figures(self) -> Figures:
        if len(self.waits) > MERGED:
            self.waits = [sorted(chain.from_iterable(self.waits))]
        started = sum(map(len, self.waits))
        figures = Figures(self.jobs, started, self.failed, self.again, self.seconds)
        if started:
            median, p95 = self._ranked(started // 2), self._ranked(int(0.95 * started))
            figures.waits = Waits(self.waited / started, median, p95, self.longest)
        return figures

    def _ranked(self, rank: int) -> float:
        """The wait that so many others do not exceed: halves the interval that it is in."""
        low, high = -1.0, max(run[-1] for run in self.waits)
        while low < (middle := (low + high) / 2) < high:
            if sum(bisect_right(run, middle) for run in self.waits) > rank:
                high = middle
            else:
                low = middle
        return high


def report(
    connection: sqlite3.Connection, by: str, bounds: Sequence[float], names: Sequence[str], now: float
) -> Report:
    """Return what is known of a period.

    Args:
        connection: to the state; all that is read is of one moment.
        by: one of `BY`.
        bounds: begin and end of the period; or, by days or hours, the begin of each, and the end of the last.
        names: of the days or hours.
        now: until when live jobs have had their boards.
    """
    connection.execute("BEGIN")
    try:
        return _Reporting(connection, by, list(bounds), list(names), now).run()
    finally:
        connection.execute("ROLLBACK")


class _Reporting:
    def __init__(
        self, connection: sqlite3.Connection, by: str, bounds: list[float], names: list[str], now: float
    ) -> None:
        self._connection = connection
        self._by = by
        self._bounds = bounds
        self._names = names
        self._now = now
        self._groups: dict[str, _Group] = {}
        self._period = {"since": bounds[0], "until": bounds[-1]}

    def run(self) -> Report:
        running = self._live_jobs()
        self._ended_jobs()
        sums_until = self._sums()
        groups, everything = {name: group.figures() for name, group in self._groups.items()}, _Group()
        for group in self._groups.values():
            everything.add(group)
        total = everything.figures()
        all_time, times = self._board_times()
        total.spent(all_time)
        for name, time in times.items():
            groups.setdefault(name, Figures()).spent(time)
        ordered = {name: groups[name] for name in sorted(groups, key=lambda name: self._place(name, groups[name]))}
        return Report(self._bounds[0], self._bounds[-1], self._by, ordered, total, running, sums_until)

    def _place(self, name: str, figures: Figures) -> tuple[Any, ...]:
        if self._names:
            return (self._names.index(name),)
        return (list(SIZE_NAMES.values()).index(name),) if self._by == "size" else (-figures.board_seconds, name)

    def _group(self, name: str) -> _Group:
        if (group := self._groups.get(name)) is None:
            group = self._groups[name] = _Group()
        return group

    def _name(self, owner: str, machine: str | None, size: int, span: int) -> str:
        """The group of boards of this owner, machine and class of sizes, in this span."""
        if self._names:
            return self._names[span]
        return {"owner": owner, "machine": machine or UNKNOWN, "size": SIZE_NAMES[size]}[self._by]

    # ---------------------------------------------------------------- jobs

    def _ended_jobs(self) -> None:
        """Count the jobs of history: these loops are what a report takes."""
        low, high = self._connection.execute("SELECT min(ended_at), max(ended_at) FROM history").fetchone()
        many = low is not None and high - self._period["since"] > SCANNED * (high - low)
        key = "ended_at" if self._names else _KEYS[self._by]
        began = ", allocated_at" if self._names else ""
        query = f"""
            SELECT CASE WHEN {_SIMPLE} THEN {key} ELSE -job_id END, allocated_at - created_at, board_seconds,
            {_ODD}{began} FROM history
            WHERE {"+" if many else ""}ended_at >= :since AND +coalesce(allocated_at, ended_at) < :until
        """  # noqa: S608 - and the `+` keeps SQLite from using the index
        lines = self._connection.execute(query, self._period)
        others = self._jobs_by_time(lines) if self._names else self._jobs_by_key(lines)
        for job_id in others:
            line = self._connection.execute(f"SELECT {COLUMNS} FROM history WHERE job_id = ?", (job_id,))  # noqa: S608
            self._count(Ended(*line.fetchone()))

    def _jobs_by_key(self, lines: Iterable[tuple[Any, ...]]) -> list[int]:
        """Count those that are simple; the numbers of the others, whose keys they are, below zero."""
        found: dict[Any, tuple[list[float | None], list[float]]] = {}
        others, odd_ones = [], []
        for key, wait, seconds, odd in lines:
            try:
                waits, used = found[key]
            except KeyError:
                if isinstance(key, int) and key < 0:
                    others.append(-key)
                    continue
                waits, used = found[key] = [], []
            if odd:
                odd_ones.append((key, odd))
            waits.append(wait)
            used.append(seconds)
        names = {key: SIZE_NAMES[size_class(key)] if self._by == "size" else key for key in found}
        for key, (waits, used) in found.items():
            group = self._group(names[key])
            group.add(_Group(len(waits), seconds=fsum(used)))
            group.waited_for(waits)
        for key, odd in odd_ones:
            self._group(names[key]).failed += odd & 1
            self._group(names[key]).again += odd >> 1
        return others

    def _jobs_by_time(self, lines: Iterable[tuple[Any, ...]]) -> list[int]:
        """The same by days or hours."""
        bounds, others = self._bounds, []
        groups = [_Group() for _ in self._names]
        waits: list[list[float | None]] = [[] for _ in self._names]
        used: list[list[float]] = [[] for _ in self._names]
        for ended, wait, seconds, odd, began in lines:
            if ended < 0:
                others.append(-ended)
                continue
            span = bisect_right(bounds, ended) - 1
            waits[span].append(wait)
            if odd:
                groups[span].failed += odd & 1
                groups[span].again += odd >> 1
            if began is None or began >= bounds[span]:
                used[span].append(seconds)
            else:
                for each, part in pieces(began, ended, seconds, bounds):
                    groups[each].seconds += part
        for name, group, waited, held in zip(self._names, groups, waits, used, strict=True):
            group.jobs = len(waited)
            group.seconds += fsum(held)
            if group.jobs or group.seconds:
                group.waited_for(waited)
                self._group(name).add(group)
        return others

    def _count(self, job: Ended, *, live: bool = False) -> None:
        holdings = job.holdings
        for machine, boards, began, ended, amount in holdings:
            for span, part in pieces(began, ended, amount, self._bounds):
                self._group(self._name(job.owner, machine, size_class(boards), span)).seconds += part
        if not live and self._period["since"] <= job.ended_at < self._period["until"]:
            machine, boards = holdings[-1][:2] if holdings else (UNKNOWN, 0)
            span = bisect_right(self._bounds, job.ended_at) - 1
            group = self._group(self._name(job.owner, machine, size_class(boards), span))
            group.add(_Group(1, job.failed, max(0, job.placements - 1)))
            group.waited_for([job.waited])

    def _live_jobs(self) -> int:
        """Count what live jobs have had; how many have boards."""
        running = 0
        for line in self._connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE allocated_at IS NOT NULL"):  # noqa: S608
            job = Ended(*line)
            now = max(self._now, job.allocated_at or 0.0)
            used = job.board_seconds
            if job.machine is not None and job.allocated_at is not None:
                used += job.boards * (now - job.allocated_at)
                running += 1
            self._count(job._replace(ended_at=now, board_seconds=used), live=True)
        return running

    def _sums(self) -> str | None:
        """Count the days of jobs that have left the history; the last day."""
        last = None
        since, until = (local(self._period[name]) for name in ("since", "until"))
        query = "SELECT * FROM days WHERE day >= ? AND day <= ? ORDER BY day"
        for line in self._connection.execute(query, (since.date().isoformat(), until.date().isoformat())):
            day, owner, machine, size, jobs, _, failed, again, seconds, waited, longest, waits = line
            begin = datetime.fromisoformat(day).timestamp()
            if not self._period["since"] <= begin < self._period["until"]:
                continue
            group = self._group(self._name(owner, machine, size, bisect_right(self._bounds, begin) - 1))
            group.add(_Group(jobs, failed, again, seconds, waited, longest))
            counted = msgspec.json.decode(waits, type=dict[str, int])
            if counted:
                group.waits.append(sorted(float(wait) for wait, number in counted.items() for _ in range(number)))
            last = day
        return last

    # ---------------------------------------------------------------- boards

    def _board_times(self) -> tuple[BoardTime, dict[str, BoardTime]]:
        """How boards spent their time: of all machines, and by group where those are of machines or times."""
        everything, groups = BoardTime(), dict[str, BoardTime]()
        for row in self._board_time_rows():
            for kind in _TIMES:
                for span, part in pieces(row.began, row.until, getattr(row, f"{kind}_s"), self._bounds):
                    times = [everything]
                    if self._names or self._by == "machine":
                        times.append(groups.setdefault(self._name("", row.machine, 0, span), BoardTime()))
                    for time in times:
                        setattr(time, kind, getattr(time, kind) + part)
        return everything, groups

    def _board_time_rows(self) -> Iterable[BoardTimeRow]:
        columns = ", ".join(TABLES["board_time"])
        query = f"SELECT {columns} FROM board_time WHERE until > :since AND began < :until"  # noqa: S608
        for line in self._connection.execute(query, self._period):
            yield BoardTimeRow(**dict(zip(TABLES["board_time"], line, strict=True)))
        for (value,) in self._connection.execute("SELECT value FROM facts WHERE name GLOB 'board_time/*'"):
            with suppress(msgspec.MsgspecError):
                row = msgspec.json.decode(value, type=BoardTimeRow)
                yield row
                seconds = max(0.0, self._now - row.until)
                more = {f"{kind}_s": getattr(row, kind) * seconds for kind in _TIMES}
                yield msgspec.structs.replace(row, began=row.until, until=row.until + seconds, **more)
