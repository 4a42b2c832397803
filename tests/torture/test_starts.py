"""How long a start takes, from starting the process to serving: with many live jobs, and with much or no history."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from spalloc_server.config.load import load
from spalloc_server.controller import Controller
from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.power import Outcome
from spalloc_server.core.model.rows import Changes
from spalloc_server.storage.sqlite import SqliteJournal
from tests.house import Client
from tests.processes import ServerProcess
from tests.storage.journals import stored
from tests.storage.workload import a_job
from tests.torture.halls import Hall

CHUNK = 10_000
"""Rows written at once."""


async def fill(hall: Hall, *, live: int, history: int) -> None:
    """Begin a state with so many live jobs, as many of them running as there are boards, and lines of history."""
    core = Controller(next_id=history + 1)
    core.configure(load(hall.config))
    for number in range(live):
        core.create_job(owner=f"user {number % 50}", keepalive=None)
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    core.check()
    journal = SqliteJournal.open(hall.state, read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, core.take_changes())
    yesterday = time.time() - 86400
    for begin in range(1, history + 1, CHUNK):
        jobs = range(begin, min(begin + CHUNK, history + 1))
        await stored(
            journal, Changes(jobs={job_id: a_job(job_id, ended_at=yesterday + job_id / 100) for job_id in jobs})
        )
    await journal.close()


async def starts(hall: Hall, *, live: int, times: int) -> tuple[float, float]:
    """(seconds, seconds of a processor) of the start that is least disturbed by other programs.

    Every other one follows a kill -9, after which SQLite's log is read, too.
    """
    seconds, busy = [], []
    for number in range(times):
        begun = time.monotonic()
        server = await ServerProcess.start(hall)
        client = await Client.connect(server.address)
        seconds.append(time.monotonic() - begun)
        busy.append(processor_seconds(server.pid))
        try:
            assert len(await client.call("list_jobs")) == live
            await client.create(1)
            live += 1
        finally:
            await client.close()
            await (server.stop() if number % 2 else server.kill())
    return min(seconds), min(busy)


def processor_seconds(pid: int) -> float:
    """Seconds of a processor that a process has taken so far, itself and for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(folder: Path, *, frames: int, live: int, history: int, times: int) -> tuple[float, float]:
    hall = Hall(folder, frames=frames)
    await fill(hall, live=live, history=history)
    async with hall.simulator():
        return await starts(hall, live=live, times=times)


async def test_a_start_finds_all_live_jobs_behind_much_history(tmp_path: Path) -> None:
    assert await measured(tmp_path, frames=2, live=200, history=2000, times=2) < (10, 10)


@pytest.mark.torture
async def test_ten_thousand_jobs_start_within_a_second_whatever_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "old").mkdir()
    young = await measured(tmp_path / "young", frames=50, live=10_000, history=0, times=7)
    old = await measured(tmp_path / "old", frames=50, live=10_000, history=1_000_000, times=7)
    with capsys.disabled():
        for seconds, busy, what in ((*young, "no history"), (*old, "1,000,000 lines of history")):
            print(f"\n10,000 live jobs, {what}: {seconds:.2f} s, of which {busy:.2f} s of a processor", end=" ")
    assert old[0] < 1  # of several starts, that which other programs disturbed least
    assert old[1] < 1
    assert old[1] < young[1] + 0.2
