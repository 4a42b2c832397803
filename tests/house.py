"""A whole server with simulated hardware in one event loop, and a client that speaks the protocol."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from spalloc_server.hardware.timings import Timings
from spalloc_server.server import Server
from spalloc_server.simulator.simulator import Simulator
from tests.hardware.addresses import loopback_hosts
from tests.sinks import Sink

ROOT = Path(__file__).parents[1]

PATIENCE = 60.0
"""Seconds after which a test that waits for something has failed: also where ten programs share two cores."""

HASTE = Timings(reply_s=0.05, poll_s=0.005, power_reply_s=1.0, probe_first_s=0.05, probe_longest_s=0.2)
"""Simulated BMPs answer at once."""


class Client:
    """Sends commands; keeps the notifications that come between replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.notifications: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, address: tuple[str, int], **options: Any) -> Self:
        return cls(*await asyncio.open_connection(*address, limit=2**24, **options))

    async def line(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            line = await self._reader.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    async def call(self, command: str, *args: Any, **kwargs: Any) -> Any:
        self._writer.write(json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode() + b"\n")
        while True:
            line = await self.line()
            if "exception" in line:
                raise RuntimeError(line["exception"])
            if "return" in line:
                return line["return"]
            self.notifications.append(line)

    async def until(self, job_id: int, state: int) -> dict[str, Any]:
        """Wait as published clients do: watch the job, and look again whenever something is told."""
        await self.call("notify_job", job_id)
        while (status := await self.call("get_job_state", job_id))["state"] != state:
            await self.line()
        return dict(status)

    async def create(self, *args: Any, **kwargs: Any) -> int:
        return int(await self.call("create_job", *args, **{"owner": "me", "keepalive": None, **kwargs}))

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass
class Place:
    """Where a test's server keeps its files, and its simulated BMPs."""

    folder: Path
    hosts: list[str] = field(default_factory=lambda: loopback_hosts(2))
    sink: Sink | None = None
    """Where the log of a server process goes; None for the file `log`."""
    python: str = sys.executable
    """Runs server processes."""
    installed: Path = ROOT
    """The folder that has their `tests`, and, where the environment says so, their sources."""

    @property
    def config(self) -> Path:
        return self.folder / "config.py"

    @property
    def state(self) -> Path:
        return self.folder / ".config.py.state.db"

    def configure(
        self, width: int = 2, height: int = 2, *, name: str = "m", tags: str = "default", seconds_before_free: float = 0
    ) -> None:
        """Write a config file: one machine in one frame, whose second BMP address is not used."""
        boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
        locations = {board: (0, 0, number) for number, board in enumerate(boards)}
        hosts = {board: "board-{}-{}-{}".format(*board) for board in boards}
        self.config.write_text(
            f"machine = Machine({name!r}, tags={{{tags!r}}}, board_locations={locations},"
            f" bmp_ips={{(0, 0): {self.hosts[0]!r}}}, spinnaker_ips={hosts})\n"
            f"configuration = Configuration([machine], ip='127.0.0.1', seconds_before_free={seconds_before_free},"
            " timeout_check_interval=0.05)\n"
        )
        self.config.chmod(0o600)

    @asynccontextmanager
    async def simulator(self) -> AsyncIterator[Simulator]:
        """The frame's BMP, with all its boards."""
        async with Simulator({self.hosts[0]: range(24)}) as simulator:
            yield simulator

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[Server]:
        """A server that is ready; it is stopped gracefully at the end."""
        server = Server(self.config, **{"timings": HASTE, "port": 0, **options})
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(on_ready=ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            await running
        try:
            yield server
        finally:
            server.stop()
            async with asyncio.timeout(PATIENCE):
                await running
