"""Clocks that jump at restarts and upgrades, state files that are taken away, bits that flip: nothing goes unsaid.

One server's state lives through many rounds. In each, users work, something is done to the clock, to the files or to
what a kill -9 has left of the log, and what the server says afterwards is held against what it acknowledged. Where
something is missing the server must have said so, and give no number of a job again. It never ends by itself, and
SIGTERM ends it within its deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from spalloc_server.storage.files import beside
from tests.house import Client
from tests.processes import ServerProcess, events
from tests.torture.halls import Hall
from tests.torture.ledger import Ledger, LedgerUser

ROUNDS = 30
"""Of one seed."""

USERS = 3
ONCE_SECONDS = 15.0
"""From one SIGTERM to the end: simulated BMPs finish at once."""

DAY = 86400.0
STEPS = (-3650 * DAY, -30 * DAY, -3600.0, -1.5, 0.0, 2.0, 3600.0, 3 * DAY, 30 * DAY, 3650 * DAY)


LOCK_GONE = "the lock file was removed"
REFUSED = "state cannot be written"
WELL = "state can be written again"
FAILED = "upgrade failed"
MISSING = "commits are missing"
"""How lines of the log begin."""


class Campaign:
    """One server's state, and what it has acknowledged."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.hall = Hall(folder, frames=1)
        self.acknowledged = 0
        self.done: Counter[str] = Counter()
        self.longest = 0.0
        """Seconds from SIGTERM to the end."""
        self._rng = random.Random(seed)
        self._ledger = Ledger()
        self._boot = 0
        self._highest = 0
        """The highest number of a job that was acknowledged."""
        self._server: ServerProcess

    async def run(self, rounds: int) -> None:
        """So many rounds."""
        async with self.hall.simulator() as simulator:
            self._server = await ServerProcess.start(self.hall)
            try:
                for _ in range(rounds):
                    do = self._rng.choice([self._restart, self._restart, self._upgrade, self._take_away, self._flip])
                    self.done[do.__name__.strip("_")] += 1
                    await self._use()
                    await do()
                    await self._look()
            finally:
                await self._server.kill()
            assert simulator.counters.errors == 0

    # ------------------------------------------------------------------------------------------- what is done to it

    async def _restart(self) -> None:
        """Stop it, or kill it, and start it with another clock."""
        await (self._stop() if self._rng.random() < 0.6 else self._server.kill())
        self._set_clock(may_reboot=True)
        self._server = await ServerProcess.start(self.hall)

    async def _upgrade(self) -> None:
        """Have a new process with another clock take over."""
        self._set_clock(may_reboot=False)
        await self._upgraded()

    async def _take_away(self) -> None:
        """Remove or replace files under it; put them back, or not."""
        locks, refusals, failures = map(self._count, (LOCK_GONE, REFUSED, FAILED))
        file = beside(self.hall.state, self._rng.choice(["", "-wal", "-shm", ".lock"]))
        kept = self.hall.folder / "kept"
        os.link(file, kept)
        file.unlink()
        if self._rng.random() < 0.5:
            shutil.copyfile(kept, file)
        if file.name.endswith(".lock"):
            kept.unlink()
            await self._until_told(LOCK_GONE, locks)
            await self._upgraded()
            return
        await self._until_told(REFUSED, refusals)
        self._server.signal(signal.SIGUSR2)
        await self._until_told(FAILED, failures)
        if self._rng.random() < 0.6:
            before = self._count(WELL)
            kept.rename(file)
            await self._until_told(WELL, before)
            await self._upgraded()
        else:  # what was acknowledged is in the file that was kept, which the next server gets
            await (self._stop() if self._rng.random() < 0.5 else self._server.kill())
            kept.rename(file)
            self._server = await ServerProcess.start(self.hall)

    async def _flip(self) -> None:
        """Kill it, and flip a bit of the log that it leaves."""
        await self._server.kill()
        log = beside(self.hall.state, "-wal")
        sound = log.read_bytes() if log.exists() else b""
        if sound:
            content = bytearray(sound)
            content[self._rng.randrange(len(content))] ^= 1 << self._rng.randrange(8)
            log.write_bytes(content)
        self._set_clock(may_reboot=True)
        try:
            self._server = await ServerProcess.start(self.hall)
        except EOFError:
            last = (self.hall.folder / "log").read_text().splitlines()[-1]
            assert "is damaged" in last, last
            self.done["refused"] += 1
            log.write_bytes(sound)
            self._server = await ServerProcess.start(self.hall)

    def _set_clock(self, *, may_reboot: bool) -> None:
        if may_reboot and self._rng.random() < 0.3:
            self._boot += 1
        (self.hall.folder / "clock").write_text(json.dumps([self._rng.choice(STEPS), f"boot {self._boot}"]))

    # ------------------------------------------------------------------------------------------------ what it must do

    async def _use(self) -> None:
        """Let users work for a moment."""
        clients = [await Client.connect(self._server.address) for _ in range(USERS)]
        jobs = sorted(self._ledger.live)
        users = [
            LedgerUser(self._ledger, client, jobs[number::USERS], self._rng) for number, client in enumerate(clients)
        ]
        working = [asyncio.create_task(user.run()) for user in users]
        try:
            await asyncio.wait(working, timeout=self._rng.uniform(0.05, 0.3))
        finally:
            for task in working:
                task.cancel()
            for result in await asyncio.gather(*working, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError), result
            self.acknowledged += sum(user.acknowledged for user in users)
            self._highest = max([self._highest, *self._ledger.live, *self._ledger.ended])
            for client in clients:
                await client.close()

    async def _look(self) -> None:
        """Hold what it says against what was acknowledged; what is missing was told, and its numbers are not given."""
        client = await Client.connect(self._server.address)
        found = await client.call("list_jobs")
        missing = self._count(MISSING)
        if missing > self.done["missing"]:
            self.done["missing"] = missing
            self._ledger.begin_anew(numbers_go_on=False)
            self._ledger.live = {job["job_id"] for job in found}
        else:
            self._ledger.check(found)
        job_id = await client.create(1, max_runtime=1e6)
        assert job_id > self._highest, "a number is given again"
        self._highest = job_id
        await client.call("destroy_job", job_id)
        self._ledger.ended.add(job_id)
        await client.close()

    async def _upgraded(self) -> None:
        before = self._server.pid
        self._server.signal(signal.SIGUSR2)
        assert await self._server.serves() != before

    async def _stop(self) -> None:
        begun = time.monotonic()
        async with asyncio.timeout(ONCE_SECONDS):
            await self._server.stop()
        self.longest = max(self.longest, time.monotonic() - begun)

    def _count(self, event: str) -> int:
        return sum(entry["event"].startswith(event) for entry in events(self.hall))

    async def _until_told(self, event: str, before: int) -> None:
        async with asyncio.timeout(ONCE_SECONDS):
            while self._count(event) <= before:  # noqa: ASYNC110 - a file tells nobody when it grows
                await asyncio.sleep(0.02)


async def test_a_state_lives_through_clocks_that_jump_and_files_that_are_spoilt(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=1)
    await campaign.run(rounds=6)
    assert campaign.acknowledged > 10


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
async def test_three_hundred_rounds_of_clocks_that_jump_and_files_that_are_spoilt(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Campaign(tmp_path, seed)
    await campaign.run(ROUNDS)
    with capsys.disabled():
        print(
            f"\nseed {seed}: {ROUNDS} rounds ({', '.join(f'{count} {what}' for what, count in campaign.done.items())}),"
            f" {campaign.acknowledged} acknowledged changes, 0 lost without a word, 0 exits; a stop took"
            f" {campaign.longest:.1f} s at most",
            end=" ",
        )
    assert campaign.acknowledged > 30
