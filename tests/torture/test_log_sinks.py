"""Logs that cannot be written, round after round: no job is lost, no server ends, and SIGTERM always ends it.

In each round a server process starts, with standard error and a job log that fail or hang in a way that the seed
chooses: disks that are full, pipes that nobody reads or somebody reads now and then, terminals that are gone, closed
descriptors, paths that are folders; or files whose every write may fail, take a part or hang, by a library that is
preloaded (`stubborn.c`, which needs a C compiler). Users work meanwhile, signals and nonsense make the server log, the
job log is rotated, and now and then a new process takes over. In the middle of that it is told to stop, once or twice,
and the next round's server is held against what this one acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.house import Client
from tests.processes import ServerProcess
from tests.sinks import KINDS, Sink
from tests.torture.halls import Hall
from tests.torture.ledger import Ledger, LedgerUser

ROUNDS = 100
"""Of `make torture`."""

USERS = 3
ONCE_SECONDS, TWICE_SECONDS = 15.0, 5.0
"""From one SIGTERM, or the second, to the end: simulated BMPs finish at once."""

JOB_LOGS = ("file", "file", "pipe that nobody reads", "full pipe", "folder", "no folder", "full disk", "none")


@pytest.fixture(scope="session")
def stubborn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("stubborn") / "stubborn.so"
    source = Path(__file__).with_name("stubborn.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Campaign:
    """One server's state, its hardware, and what it has acknowledged; many processes with bad logs."""

    def __init__(self, folder: Path, stubborn: Path, seed: int) -> None:
        self.hall = Hall(folder, frames=1)
        self.acknowledged = 0
        self.kinds: Counter[str] = Counter()
        self.longest = {1: 0.0, 2: 0.0}
        """Seconds from the last SIGTERM to the end, by how many there were."""
        self._stubborn = stubborn
        self._rng = random.Random(seed)
        self._ledger = Ledger()

    async def run(self, rounds: int) -> None:
        """So many rounds, and a last one with logs that work."""
        async with self.hall.simulator():
            for _ in range(rounds):
                kind = self._rng.choice([*KINDS, "read now and then", "stubborn", "stubborn"])
                await self._round(kind, self._rng.choice(JOB_LOGS))
            await self._round("file", "file")

    async def _round(self, kind: str, job_log: str) -> None:
        self.kinds[kind] += 1
        environment: dict[str, str] = {}
        if kind == "stubborn":
            seed = str(self._rng.randrange(2**31))
            environment = {"LD_PRELOAD": str(self._stubborn), "STUBBORN_SEED": seed, "STUBBORN_FILES": "jobs"}
        with self._open_job_log(job_log) as path, self._open_sink(kind) as sink:
            self.hall.sink = sink
            server = await ServerProcess.start(self.hall, *path, **environment)
            using = asyncio.create_task(self._use(server))
            others = [asyncio.create_task(self._disturb(server))]
            if sink is not None and kind == "read now and then":
                others.append(asyncio.create_task(self._read(sink)))
            try:
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))
                await self._stop(server, using, others[0])
            finally:
                for task in others:
                    task.cancel()
                await server.kill()
                for result in await asyncio.gather(*others, return_exceptions=True):
                    assert isinstance(result, asyncio.CancelledError), result
            with suppress(asyncio.CancelledError):
                await using

    @contextmanager
    def _open_job_log(self, kind: str) -> Iterator[list[str]]:
        """Options for a job log of this kind."""
        folder = self.hall.folder / "jobs"
        folder.mkdir(exist_ok=True)
        path = {
            "pipe that nobody reads": folder / "pipe",
            "full pipe": folder / "pipe",
            "folder": folder,
            "no folder": folder / "none" / "log",
            "full disk": Path("/dev/full"),
        }.get(kind, folder / "log")
        if "pipe" in kind and not path.exists():
            os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "full pipe" else None
        try:
            yield [] if kind == "none" else ["--job-log", str(path)]
        finally:
            if reader is not None:
                os.close(reader)

    @contextmanager
    def _open_sink(self, kind: str) -> Iterator[Sink | None]:
        """Where the log goes; None for the file beside the config."""
        if kind in {"stubborn", "file"}:
            yield None
        else:
            with Sink(kind) as sink:
                yield sink

    async def _use(self, server: ServerProcess) -> None:
        """Let users work until the server ends, after holding what it says against the ledger."""
        clients: list[Client] = []
        users: list[LedgerUser] = []
        try:
            for _ in range(USERS):
                clients.append(await Client.connect(server.address))  # noqa: PERF401 - all are to be closed
            self._ledger.check(await clients[0].call("list_jobs"))
            jobs = sorted(self._ledger.live)
            users = [
                LedgerUser(self._ledger, client, jobs[number::USERS], self._rng)
                for number, client in enumerate(clients)
            ]
            for result in await asyncio.gather(*(user.run() for user in users), return_exceptions=True):
                assert isinstance(result, EOFError | ConnectionError), result
        except (EOFError, ConnectionError):
            pass  # it was stopped before all had come
        finally:
            self.acknowledged += sum(user.acknowledged for user in users)
            for client in clients:
                await client.close()

    async def _disturb(self, server: ServerProcess) -> None:
        """Send what makes it log, upgrade it now and then, and rotate its job log, until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(0, 0.02))
            chance = self._rng.random()
            if chance < 0.6:
                server.signal(self._rng.choice([signal.SIGHUP, signal.SIGUSR1]))
            elif chance < 0.9:
                _, writer = await asyncio.open_connection(*server.address)
                writer.write(b"nonsense " * self._rng.randrange(100) + b"\n")
                writer.close()
            elif chance < 0.95:
                self._rotate()
            elif chance > 0.98:
                server.signal(signal.SIGUSR2)
                await server.serves()

    def _rotate(self) -> None:
        path = self.hall.folder / "jobs" / "log"
        if path.exists():
            path.rename(path.with_name(f"log.{self._rng.randrange(1000)}"))

    async def _read(self, sink: Sink) -> None:
        """Read the log a little now and then, and at last let go of it."""
        while self._rng.random() > 0.02:
            await asyncio.sleep(self._rng.uniform(0, 0.05))
            with suppress(BlockingIOError):
                sink.read(self._rng.randrange(1, 3000))
        sink.let_go()
        await asyncio.Event().wait()

    async def _stop(self, server: ServerProcess, using: asyncio.Task[None], disturbing: asyncio.Task[None]) -> None:
        """SIGTERM, once or twice; it ends in time, and with status 0."""
        disturbing.cancel()
        await asyncio.wait([disturbing])
        times = self._rng.choice([1, 2])
        server.signal(signal.SIGTERM)
        if times == 2:
            await asyncio.sleep(self._rng.uniform(0.01, 0.1))
            with suppress(ProcessLookupError):
                server.signal(signal.SIGTERM)
        else:
            using.cancel()  # else they would give BMPs new work, and a graceful stop waits for that
        begun = time.monotonic()
        assert await server.ended() == 0
        seconds = time.monotonic() - begun
        assert seconds < (ONCE_SECONDS if times == 1 else TWICE_SECONDS)
        self.longest[times] = max(self.longest[times], seconds)

    def check_job_logs(self) -> int:
        """Hold every line of the job logs against what a line is; how many there are."""
        whole = 0
        for path in (self.hall.folder / "jobs").glob("log*"):
            for line in path.read_text().splitlines():
                assert line.count('{"time"') <= 1, "a torn line has swallowed another"
                whole += line.endswith("}") and json.loads(line)["job_id"] > 0
        return whole


@pytest.mark.timeout(240)
async def test_no_log_ends_a_server_or_loses_a_job(tmp_path: Path, stubborn: Path) -> None:
    campaign = Campaign(tmp_path, stubborn, seed=1)
    await campaign.run(rounds=5)
    assert campaign.acknowledged > 10
    assert campaign.check_job_logs() > 0


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(4))
async def test_a_hundred_rounds_in_all(
    tmp_path: Path, stubborn: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = Campaign(tmp_path, stubborn, seed)
    await campaign.run(rounds=ROUNDS // 4)
    kinds = campaign.kinds.items()
    with capsys.disabled():
        print(
            f"\nseed {seed}: {ROUNDS // 4} rounds ({', '.join(f'{count} {kind}' for kind, count in kinds)}),"
            f" {campaign.acknowledged} acknowledged changes, 0 jobs lost, 0 exits; longest end after one SIGTERM"
            f" {campaign.longest[1]:.2f} s, after two {campaign.longest[2]:.2f} s",
            end=" ",
        )
    assert campaign.acknowledged > 100
    assert campaign.check_job_logs() > 10
