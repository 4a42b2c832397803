"""How long reports on much history take, and how large that is: `python -m benchmarks reports`."""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.storage import a_job
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.rows import Changes, JobRow
from spalloc_server.storage.accounting import midnights
from spalloc_server.storage.reports import BY, report
from spalloc_server.storage.rows import encode
from spalloc_server.storage.state_file import connect, connect_to_read, transaction

SECONDS = 2.0
"""The most CPU time of a report on all of a million jobs."""

MEGABYTES = 300
"""The largest state of a million jobs that have ended."""

BEGIN = 1.7e9
SIZES = [(1, 1)] * 10 + [(1, 2)] * 4 + [(2, 2), (2, 4), (4, 4), (5, 8)]


def jobs(number: int) -> Iterator[JobRow]:
    """Jobs of 60 owners that have ended, as a year brings them."""
    rng = random.Random(1)
    at = BEGIN
    for job_id in range(1, number + 1):
        at += 30 * rng.random()
        width, height = rng.choice(SIZES)
        x, y = rng.randrange(15), rng.randrange(12)
        boards = tuple((i, j, z) for i in range(x, x + width) for j in range(y, y + height) for z in range(3))
        began, seconds = at + rng.expovariate(1 / 300), 6 + rng.expovariate(1 / 1800)
        owner = f"user{rng.randrange(60)}@example.org"
        row = a_job(job_id, began + seconds)
        yield msgspec.structs.replace(
            row,
            owner=owner,
            request=None if row.request is None else msgspec.structs.replace(row.request, owner=owner),
            kwargs={},
            created_at=at,
            allocated_at=began,
            ready_at=began + 5,
            board_seconds=len(boards) * seconds,
            allocation=Allocation(machine="hall", x=x, y=y, width=width, height=height, boards=boards),
        )


def fill(path: Path, number: int) -> None:
    """Make a state with these jobs."""
    remaining = jobs(number)
    with closing(connect(path)) as connection:
        while chunk := {job.job_id: job for job in islice(remaining, 5000)}:
            with transaction(connection):
                encode(Changes(jobs=chunk)).store(connection)


def timed(connection: sqlite3.Connection, by: str, since: float, until: float) -> tuple[float, float]:
    """Seconds of CPU that a report takes, and seconds."""
    bounds = midnights(since, until) if by == "day" else [since, until]
    names = [str(bound) for bound in bounds[:-1]] if by == "day" else []
    begun = time.process_time(), time.perf_counter()
    report(connection, by, bounds, names, until)
    return time.process_time() - begun[0], time.perf_counter() - begun[1]


def main(*, quick: bool = False) -> str | None:
    """Print all figures; return what is not as it must be."""
    number = 20_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "state.db"
        fill(path, number)
        megabytes = path.stat().st_size / 1e6
        print(f"{number:,} jobs: {megabytes:,.0f} MB")
        with closing(connect_to_read(path)) as connection:
            until = BEGIN + 30 * number
            longest = 0.0
            for by in BY[:-1]:
                cpu, seconds = min(timed(connection, by, BEGIN, until) for _ in range(3))
                longest = max(longest, cpu)
                middle = (BEGIN + until) / 2
                _, month = min(timed(connection, by, middle, middle + 30 * 86400) for _ in range(3))
                print(f"by {by:8} all {cpu:.2f} s of CPU, {seconds:.2f} s in all; a month of them {month:.2f} s")
    if not quick and (longest > SECONDS or megabytes > MEGABYTES):
        return f"a report on {number:,} jobs takes {longest:.2f} s, and their state {megabytes:.0f} MB"
    return None
