"""kill -9, again and again, of a server that clients use: nothing that was acknowledged is ever lost.

By turns the process is killed from outside at a random moment, also while it starts, and from inside: in the k-th
operation on its state's files, with the help of a library that is preloaded (`killer.c`, which needs a C compiler). Now
and then it begins anew with `--cold-start`, and is killed while it renames the old state's files.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from spalloc_server.simulator.simulator import Simulator
from tests.house import Client
from tests.processes import ServerProcess
from tests.torture.halls import Hall
from tests.torture.ledger import QUEUED, READY, Ledger, LedgerUser

USERS = 4
SETTLED_SECONDS = 30.0


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("killer") / "killer.so"
    source = Path(__file__).with_name("killer.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Campaign:
    """One server's state, its hardware, and what it has acknowledged; killed many times."""

    def __init__(self, folder: Path, killer: Path, seed: int) -> None:
        self.hall = Hall(folder, frames=1)
        self.acknowledged = 0
        self.starts: list[float] = []
        """Seconds from starting a process to its serving."""
        self.deaths: Counter[str] = Counter()
        self._killer = killer
        self._rng = random.Random(seed)
        self._ledger = Ledger()
        self._left_on: set[tuple[str, int]] = set()
        """Boards of jobs that were forgotten at a cold start; they stay on until somebody gets them."""

    async def run(self, kills: int) -> None:
        """Kill the server so many times; each time, start it again and look."""
        async with self.hall.simulator() as simulator:
            for number in range(kills):
                if number % 10 == 3:
                    await self._killed_renaming(simulator)
                else:
                    await (self._killed_inside() if number % 2 else self._killed_outside())
                if number % 5 == 0:
                    await self._look(simulator)
            await self._look(simulator)
            assert simulator.counters.errors == 0

    async def _killed_outside(self) -> None:
        if self._rng.random() < 0.2:
            with suppress(TimeoutError, EOFError):
                async with asyncio.timeout(self._rng.uniform(0.1, 0.6)):
                    server = await self._start()
                    await server.kill()
            self.deaths["while it started"] += 1
            return
        server = await self._start()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rng.uniform(0, 0.1)):
                    await self._use(server)
        finally:
            await server.kill()
        self.deaths["at a random moment"] += 1

    async def _killed_inside(self) -> None:
        when = {
            "LD_PRELOAD": str(self._killer),
            "KILL_FILES": self.hall.state.name,
            "KILL_AT": str(self._rng.randint(1, 100)),
        } | ({"KILL_HALF": "1"} if self._rng.random() < 0.5 else {})
        try:
            server = await self._start(**when)
        except EOFError:
            self.deaths["in a write while it started"] += 1
            return
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                await self._use(server)
        finally:
            await server.kill()
        self.deaths["in a write of a commit"] += 1

    async def _killed_renaming(self, simulator: Simulator) -> None:
        """Set the state aside, be killed in it, and have either the old state, a clear refusal, or a new one."""
        nth = str(self._rng.randint(1, 3))
        preload = {"LD_PRELOAD": str(self._killer), "KILL_FILES": self.hall.state.name}
        with suppress(EOFError):
            server = await self._start("--cold-start", KILL_ONLY="rename", KILL_AT=nth, **preload)
            await server.kill()  # there were fewer files
            self._begin_anew(simulator, numbers_go_on=True)
            return
        self.deaths["in a renaming"] += 1
        if self.hall.state.exists():
            return  # the old state, which the next start holds against the ledger
        if log_of(self.hall.state).exists():
            with pytest.raises(EOFError):
                await self._start()
            assert "its log" in (self.hall.folder / "log").read_text().splitlines()[-1]
        await (await self._start("--cold-start")).kill()
        self._begin_anew(simulator, numbers_go_on=False)

    def _begin_anew(self, simulator: Simulator, *, numbers_go_on: bool) -> None:
        self._left_on |= simulator.boards_on()
        self._ledger.begin_anew(numbers_go_on=numbers_go_on)

    async def _start(self, *options: str, **environment: str) -> ServerProcess:
        begun = time.monotonic()
        server = await ServerProcess.start(self.hall, *options, **environment)
        self.starts.append(time.monotonic() - begun)
        return server

    async def _use(self, server: ServerProcess) -> None:
        """Let users work until the server dies, after holding what it says against the ledger."""
        clients: list[Client] = []
        try:
            for _ in range(USERS):
                clients.append(await Client.connect(server.address))  # noqa: PERF401 - all are to be closed
            self._ledger.check(await clients[0].call("list_jobs"))
            jobs = sorted(self._ledger.live)
            users = [
                LedgerUser(self._ledger, client, jobs[number::USERS], self._rng)
                for number, client in enumerate(clients)
            ]
            working = [asyncio.create_task(user.run()) for user in users]
            try:
                await asyncio.wait(working)
            finally:
                for task in working:
                    task.cancel()
                results = await asyncio.gather(*working, return_exceptions=True)
                self.acknowledged += sum(user.acknowledged for user in users)
            for result in results:  # nobody may be told anything else
                assert isinstance(result, EOFError | ConnectionError | asyncio.CancelledError), result
        except (EOFError, ConnectionError):
            pass
        finally:
            for client in clients:
                await client.close()

    async def _look(self, simulator: Simulator) -> None:
        """Once everything has settled, exactly the boards of live jobs are on."""
        server = await self._start()
        client = await Client.connect(server.address)
        try:
            jobs = await client.call("list_jobs")
            self._ledger.check(jobs)
            async with asyncio.timeout(SETTLED_SECONDS):
                while not self._settled(jobs, simulator):
                    await asyncio.sleep(0.02)
                    jobs = await client.call("list_jobs")
        finally:
            await client.close()
            await server.kill()

    def _settled(self, jobs: list[dict[str, object]], simulator: Simulator) -> bool:
        ready = [job for job in jobs if job["state"] == READY]
        wanted = {self.hall.boards[tuple(board)] for job in ready if job["power"] for board in job["boards"]}  # type: ignore[attr-defined]
        on = simulator.boards_on()
        return all(job["state"] in (QUEUED, READY) for job in jobs) and wanted <= on <= wanted | self._left_on


def log_of(state: Path) -> Path:
    """Where SQLite keeps the newest commits."""
    return state.with_name(state.name + "-wal")


@pytest.mark.timeout(240)
async def test_a_server_that_is_killed_keeps_what_it_acknowledged(tmp_path: Path, killer: Path) -> None:
    campaign = Campaign(tmp_path, killer, seed=1)
    await campaign.run(kills=6)
    assert campaign.acknowledged > 10


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
async def test_a_server_killed_a_thousand_times_in_all(
    tmp_path: Path, killer: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Campaign(tmp_path, killer, seed)
    await campaign.run(kills=100)
    with capsys.disabled():
        print(
            f"\nseed {seed}: 100 kills ({', '.join(f'{count} {how}' for how, count in campaign.deaths.items())}),"
            f" {campaign.acknowledged} acknowledged changes, 0 violations; starts: median"
            f" {statistics.median(campaign.starts):.2f} s, longest {max(campaign.starts):.2f} s",
            end=" ",
        )
    assert campaign.acknowledged > 100
