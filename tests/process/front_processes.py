"""`spalloc_web` as processes, of a server that a test is itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from spalloc_server.frontends.front_lock import front_folder, holder
from tests.frontends.http.fake_socket import FakeServer, fake_server, until
from tests.frontends.http.serving import Client
from tests.house import PATIENCE


class Fronts:
    """The front processes of one state."""

    def __init__(self, server: FakeServer, folder: Path) -> None:
        self.server = server
        self.state = folder / "state"
        self.log = folder / "web.log"
        self.processes: list[asyncio.subprocess.Process] = []
        self.clients: list[Client] = []

    async def start(self, *options: str) -> asyncio.subprocess.Process:
        """Start a process; it may not serve yet."""
        code = "from spalloc_server.cli.start import web; web()"
        with self.log.open("a") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, "--state", str(self.state), "--log-format", "json", *options),
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log that tell of an event."""
        *whole, _being_written = self.log.read_text().split("\n")
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def serving(self, times: int = 1) -> tuple[str, int]:
        """Where they serve, once they do."""
        await until(lambda: len(self.events("serving HTTP")) >= times)
        host, _, port = self.events("serving HTTP")[-1]["address"].rpartition(":")
        return host, int(port)

    async def client(self, times: int = 1, **options: Any) -> Client:
        """One that is connected."""
        client = Client(*await asyncio.open_connection(*await self.serving(times), **options))
        self.clients.append(client)
        return client

    @property
    def pid(self) -> int:
        """Of the process that serves; 0 while none does."""
        found = holder(front_folder(self.state))
        return 0 if found is None else found.pid


@asynccontextmanager
async def fronts(folder: Path, **web: Any) -> AsyncIterator[Fronts]:
    """A server, and no front process yet; all of them are killed at the end."""
    async with fake_server(folder, ip="127.0.0.1", port=0, **web) as server:
        it = Fronts(server, folder)
        try:
            yield it
        finally:
            for client in it.clients:
                client.reset()
            for process in it.processes:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if pid := it.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def ended(process: asyncio.subprocess.Process) -> int:
    """The exit status of a process, once it has ended."""
    async with asyncio.timeout(PATIENCE):
        return await process.wait()
