"""Rows of the state damaged at random, then a start: never refused, and no more is lost than what was damaged.

Each round has a server make jobs, boards on their way back, records of boards and operators' words, and stops it. Then
random columns of random rows are damaged, but no row of a job of the victim's. The next server serves: the victim's
jobs are as they were, no board is given twice, what makes no sense is named, and SIGTERM ends it in time.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.damaged_rows import Damage
from tests.house import Client
from tests.processes import ServerProcess, events
from tests.torture.halls import Hall

READY = 3
STOP_SECONDS = 15.0
"""Within which SIGTERM must have ended a server, although the computer is busy."""


class Rounds:
    """Damage to one server's state, again and again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.hall = Hall(folder, frames=1)
        self._rng = random.Random(seed)
        self.set_aside: Counter[str] = Counter()
        self.longest_stop = 0.0
        self.damaged = 0
        self._victims: dict[int, Any] = {}
        self._highest = 0

    async def run(self, rounds: int) -> None:
        async with self.hall.simulator():
            for _ in range(rounds):
                await self._use()
                damage = Damage(self.hall.state, self._rng, set(self._victims))
                damage.do(self._rng.randint(1, 4))
                self.damaged += len(damage.done)
                try:
                    await self._look()
                except BaseException as exc:
                    exc.add_note("\n".join(damage.done))
                    raise

    async def _use(self) -> None:
        """Leave rows of every kind behind."""
        server = await ServerProcess.start(self.hall, "--log-format", "json")
        client = await Client.connect(server.address)
        try:
            for job in await client.call("list_jobs"):
                if job["job_id"] not in self._victims:
                    await client.call("destroy_job", job["job_id"])
            while len(self._victims) < 2:
                job_id = await client.create(self._rng.choice((1, 2)), owner="victim")
                await client.until(job_id, READY)
                self._victims[job_id] = (await client.call("get_job_machine_info", job_id))["boards"]
            jobs = [
                await client.create(self._rng.choice((1, 2, 3, 30)), owner=f"o{n}", max_runtime=5000) for n in range(4)
            ]
            await client.call("report_problem", "board-3-1-2", None, None, None, "does not boot")
            await client.call("destroy_job", jobs[0])
            self._highest = max(self._highest, *jobs)
        finally:
            await client.close()
            await self._stop(server, kill=self._rng.random() < 0.5)

    async def _look(self) -> None:
        before = len(events(self.hall))
        server = await ServerProcess.start(self.hall, "--log-format", "json")
        client = await Client.connect(server.address)
        try:
            jobs = {job["job_id"]: job for job in await client.call("list_jobs")}
            for job_id, boards in self._victims.items():
                assert jobs[job_id]["state"] == READY, "a job of others is lost"
                assert sorted(jobs[job_id]["boards"]) == sorted(boards)
            held = [tuple(board) for job in jobs.values() for board in job["boards"] or ()]
            assert len(held) == len(set(held)), "a board is given twice"
            number = await client.create(1, owner="new")
            assert number > self._highest, "a number is used again"
            self._highest = number
            await client.call("destroy_job", number)
        finally:
            await client.close()
            await self._stop(server, kill=False)
        for event in events(self.hall)[before:]:
            assert "failed" not in event["event"], event
            if event["event"].startswith("stored row set aside"):
                assert event["reason"]
                self.set_aside[event["table"]] += 1

    async def _stop(self, server: ServerProcess, *, kill: bool) -> None:
        if kill:
            await server.kill()
            return
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            await server.ended()
        self.longest_stop = max(self.longest_stop, time.monotonic() - begun)


@pytest.mark.timeout(240)
async def test_damaged_rows_cost_no_more_than_themselves(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, seed=1000)
    await rounds.run(4)
    assert rounds.damaged > 0


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
async def test_a_hundred_rounds_in_all(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = Rounds(tmp_path, seed)
    await rounds.run(10)
    with capsys.disabled():
        print(
            f"\nseed {seed}: 10 rounds, {rounds.damaged} columns damaged, set aside: {dict(rounds.set_aside)},"
            f" 0 refused starts, 0 jobs of others lost, 0 boards given twice; longest stop {rounds.longest_stop:.1f} s",
            end=" ",
        )
