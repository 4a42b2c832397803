"""How fast the journal commits, and how long a start takes with much history: `python -m benchmarks.storage`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Changes, JobRow
from spalloc_server.storage.sqlite import SqliteJournal

CHUNK = 1000
"""Rows in a batch while the database is filled."""


def a_job(job_id: int, ended_at: float | None = None) -> JobRow:
    """A job of 24 boards."""
    return JobRow(
        job_id=job_id,
        owner=(owner := f"user{job_id % 50}@example.org"),
        request=Request(owner=owner, boards=24, tags=DEFAULT_TAGS, min_ratio=0.333, max_dead_boards=0),
        args=[24],
        kwargs={"tags": ["default"], "min_ratio": 0.333, "max_dead_boards": 0, "require_torus": False},
        keepalive=60.0,
        keepalivehost="192.0.2.7",
        state=3 if ended_at is None else 4,
        power=True if ended_at is None else None,
        created_at=1.7e9 + job_id,
        allocated_at=1.7e9 + job_id + 1,
        ready_at=1.7e9 + job_id + 20,
        ended_at=ended_at,
        reason=None if ended_at is None else "Finished.",
        allocation=Allocation(
            machine="hall",
            x=0,
            y=0,
            width=2,
            height=4,
            boards=tuple((x, y, z) for x in range(2) for y in range(4) for z in range(3)),
        ),
        placements=1,
        board_seconds=86400.0 if ended_at is not None else 0.0,
    )


async def write_all(journal: SqliteJournal, batches: list[Changes]) -> float:
    """Seconds until the last of these is durable."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()
    begun = time.perf_counter()
    for batch in batches[:-1]:
        journal.write(batch, lambda _: None)
    journal.write(batches[-1], done.set_result)
    assert await done is None
    return time.perf_counter() - begun


def sync_latency(directory: Path) -> float:
    """Median seconds of a bare write of one page and its sync."""
    latencies = []
    with (directory / "bare").open("wb", buffering=0) as file:
        for _ in range(100):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            latencies.append(time.perf_counter() - begun)
    return sorted(latencies)[50]


async def commits(path: Path) -> None:
    """Latency of single commits, and rows a second of grouped ones."""
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    latencies = sorted([await write_all(journal, [Changes(jobs={n: a_job(n)})]) for n in range(1, 201)])
    print(f"one commit:      median {latencies[100] * 1e3:.2f} ms, 99th of 100 {latencies[197] * 1e3:.2f} ms")
    print(f"  a bare sync:   median {sync_latency(path.parent) * 1e3:.2f} ms")
    batches = [Changes(jobs={n: a_job(n)}) for n in range(1, 20_001)]
    seconds = await write_all(journal, batches)
    print(f"grouped commits: {len(batches) / seconds:,.0f} rows/s (one row a batch, encoding included)")
    await journal.close()


async def fill(path: Path, jobs: Iterable[JobRow]) -> None:
    """Store these jobs."""
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    remaining = iter(jobs)
    while chunk := {job.job_id: job for job in islice(remaining, CHUNK)}:
        await write_all(journal, [Changes(jobs=chunk)])
    await journal.close()


async def start(path: Path) -> tuple[float, float, int]:
    """Seconds to the snapshot, the part of it for opening and checking, and how many jobs there are."""
    begun = time.perf_counter()
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    opened = time.perf_counter()
    jobs = len(journal.load(max_retired=1200).jobs)
    loaded = time.perf_counter()
    await journal.close()
    return loaded - begun, opened - begun, jobs


def starts(path: Path, live: int, history: int) -> None:
    """Time from opening to the snapshot, for growing history."""
    asyncio.run(fill(path, (a_job(history + n) for n in range(1, live + 1))))
    filled = 0
    for target in (0, history // 10, history):
        asyncio.run(fill(path, (a_job(n, 1.7e9 + n) for n in range(filled + 1, target + 1))))
        filled = target
        total, opening, jobs = min(asyncio.run(start(path)) for _ in range(3))
        print(
            f"start:           {total * 1e3:.0f} ms to {jobs:,} jobs in memory, {opening * 1e3:.0f} ms of it to open "
            f"and check; {live:,} live, {target:,} of history, {path.stat().st_size / 1e6:,.0f} MB"
        )


def main(*, quick: bool = False) -> None:
    """Print all figures."""
    live, history = (1_000, 20_000) if quick else (10_000, 1_000_000)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(commits(Path(directory) / "commits.db"))
        starts(Path(directory) / "starts.db", live, history)


if __name__ == "__main__":
    main()
