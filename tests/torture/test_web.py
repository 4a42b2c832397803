"""A published client holds boards by HTTP while the server is upgraded, restarted and killed, and the front replaced.

Theory of operation. As at a site with two units: the server, and `spalloc_web`, which it does not start. The hardware
is a third process, and the client a fourth: it uses its boards in rounds, and tells of each. After each event it must
get through some more rounds, so that each event hits traffic, and the next one a client that works.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.config.load import load
from spalloc_server.frontends.front_lock import front_folder, holder, trusting
from tests.conformance.environments import environment
from tests.conformance.hall import spinnman, write_hall
from tests.conformance.rest_client import RestClient
from tests.conformance.servers import free_port, listens, simulated_hardware
from tests.frontends.http.fake_socket import until
from tests.house import PATIENCE, Place
from tests.processes import ServerProcess
from tests.torture.halls import admin_says

HERE = Path(__file__).parent
USER, PASSWORD = "alice", "correct-horse-battery"
ROUNDS_BETWEEN = 2
"""Rounds that the client gets through after each event."""
ROUND_SECONDS = 120.0
"""The longest that one may take."""
COMPLAINT = re.compile(r"(WARNING|ERROR|CRITICAL): |Traceback|Warning: ")

WHOLE = {"upgrade": 20, "restart": 5, "kill": 5, "replace": 3}
SHORT = {"upgrade": 2, "restart": 1, "kill": 1, "replace": 1}


class Site(Place):
    """Two units, and their hardware."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, hosts=[])
        self.port = free_port()
        write_hall(24, folder)
        with self.config.open("a") as config:
            config.write(f'[web]\nip = "127.0.0.1"\nport = {self.port}\nstart = false\nrequests_per_second = 0\n')
        self.config.chmod(0o600)
        self.url = f"http://127.0.0.1:{self.port}/spalloc"
        self.fronts: list[asyncio.subprocess.Process] = []
        self.server: ServerProcess

    @property
    def config(self) -> Path:
        return self.folder / "hall.toml"

    @property
    def state(self) -> Path:
        return self.folder / ".hall.toml.state.db"

    @property
    def trust(self) -> dict[str, str]:
        """The environment variables by which published clients trust the server's certificate."""
        return trusting(front_folder(self.state))

    @property
    def front(self) -> int:
        """Number of the front process that accepts clients; 0 while none does."""
        found = holder(front_folder(self.state))
        return 0 if found is None else found.pid

    async def start_front(self) -> None:
        """Start `spalloc_web`, and wait until it serves."""
        code = "from spalloc_server.cli.start import web; web()"
        with (self.folder / "web.log").open("ab") as log:
            command = [sys.executable, "-c", code, "--config", str(self.config), "--log-format", "json"]
            self.fronts.append(await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log))
        await until(lambda: self.front and listens(self.port))

    async def happen(self, event: str) -> None:
        """Do to the processes what is named."""
        if event == "upgrade":
            before = self.server.pid
            self.server.signal(signal.SIGUSR2)
            assert await self.server.serves() != before
        elif event == "replace":
            before = self.front
            os.kill(before, signal.SIGUSR2)
            await until(lambda: self.front not in {0, before})
        else:
            await (self.server.kill() if event == "kill" else self.server.stop())
            self.server = await ServerProcess.start(self)

    async def admin(self, *arguments: str, given: str = "") -> str:
        """What `spalloc-admin` says."""
        return await admin_says(self.config, *arguments, given=given)

    async def jobs(self) -> dict[int, str]:
        """State of each job that lives."""
        return {job["job_id"]: job["state"] for job in json.loads(await self.admin("jobs", "--json"))}


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """Both units run, with an account; all processes are killed at the end."""
    it = Site(folder)
    (machine,) = load(it.config).machines
    with simulated_hardware(it.config, machine.bmp_ips.values(), folder, "--boards"):
        it.server = await ServerProcess.start(it)
        try:
            await it.start_front()
            await it.admin("user", "add", USER, given=PASSWORD)
            yield it
        finally:
            await it.server.kill()
            for front in it.fronts:
                with suppress(ProcessLookupError):
                    front.kill()
                await front.wait()
            if pid := it.front:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Client:
    """A program that uses boards in rounds, until a file tells it to stop."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._stop = folder / "stop"
        self.said: list[str] = []
        self.rounds = 0
        self.result: dict[str, Any] = {}

    @classmethod
    async def start(cls, it: Site, python: Path, script: str, *arguments: str) -> Client:
        """Run a script; its last argument is the file."""
        process = await asyncio.create_subprocess_exec(
            *(str(python), str(HERE / script), *arguments, str(it.folder / "stop")),
            cwd=it.folder,
            env={"HOME": str(it.folder), "PATH": "/usr/bin:/bin", **it.trust},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        return cls(process, it.folder)

    async def round(self, number: int) -> None:
        """Wait until so many rounds are done."""
        async with asyncio.timeout(ROUND_SECONDS * (1 + number - self.rounds)):
            while self.rounds < number:
                assert await self._hear(), "\n".join(self.said[-60:])

    async def end(self) -> dict[str, Any]:
        """Have it end; its result."""
        self._stop.touch()
        async with asyncio.timeout(2 * ROUND_SECONDS):
            while await self._hear():
                pass
            assert await self._process.wait() == 0, "\n".join(self.said[-60:])
        return self.result

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _hear(self) -> bool:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        kind, _, rest = line.rstrip().partition(" ")
        if kind == "ROUND":
            self.rounds = int(rest)
        elif kind == "RESULT":
            self.result = json.loads(rest)
        else:
            self.said.append(line.rstrip())
        return bool(line)


async def torture(it: Site, client: Client, counts: dict[str, int], seed: int = 1) -> dict[str, Any]:
    """Have everything happen in a random order, while a client works; its result."""
    events = [event for event, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(events)
    try:
        await client.round(1)
        for event in events:
            await it.happen(event)
            await client.round(client.rounds + ROUNDS_BETWEEN)
        assert list((await it.jobs()).values()) == ["ready"]
        result = await client.end()
    finally:
        await client.kill()
    assert await it.jobs() == {}
    return result


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("counts", [SHORT, WHOLE], ids=["short", "whole"])
async def test_spinnman_uses_its_boards_all_the_while(tmp_path: Path, counts: dict[str, int]) -> None:
    async with site(tmp_path) as it:
        client = await Client.start(it, spinnman("1!7.4.1"), "drive_boards.py", it.url, USER, PASSWORD)
        result = await torture(it, client, counts)
    assert result == {
        "errors": [],
        "warnings": [],
        "same": True,
        "chips": 3 * 48,
        "state": "DESTROYED",
    }


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("counts", [SHORT, WHOLE], ids=["short", "whole"])
async def test_a_script_of_pynn_ends_with_its_data(tmp_path: Path, counts: dict[str, int]) -> None:
    async with site(tmp_path) as it:
        url = it.url.replace("://", f"://{USER}:{PASSWORD}@")
        (tmp_path / ".spynnaker.cfg").write_text(f"[Machine]\nversion = 5\nspalloc_server = {url}\n")
        python = environment("spynnaker-7.4.1", "sPyNNaker==1!7.4.1")
        client = await Client.start(it, python, "drive_pynn.py")
        result = await torture(it, client, counts)
    assert [line for line in client.said if COMPLAINT.search(line)] == []
    assert result == {"wrong": [], "segments": 1}


@pytest.mark.timeout(240)
async def test_a_job_outlives_a_front_that_is_killed_and_its_owner_ends_it(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        owner = await asyncio.to_thread(RestClient, it.url, USER, PASSWORD)

        async def send(method: str, path: str, body: Any = None) -> Any:
            headers = {"Content-Type": "application/json"} if body else {}
            return await asyncio.to_thread(
                owner.send, method, path, json.dumps(body).encode() if body else None, headers
            )

        made = await send("POST", "jobs", {"num-boards": 1, "keepalive-interval": "PT60S", "tags": ["default"]})
        assert made.status == 201
        job = made.headers["location"].rstrip("/").rpartition("/")[2]
        while (await send("GET", f"jobs/{job}?wait=true")).json["state"] != "READY":
            pass
        (front,) = it.fronts
        front.kill()
        await front.wait()
        assert await it.jobs() == {int(job): "ready"}
        await it.start_front()
        async with asyncio.timeout(PATIENCE):
            assert (await send("GET", f"jobs/{job}")).json["state"] == "READY"
            assert (await send("DELETE", f"jobs/{job}")).status == 204
        assert await it.jobs() == {}
