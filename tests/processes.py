"""Servers as processes of their own: started, signalled, killed, upgraded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.house import PATIENCE, Place
from tests.sinks import closing


class ServerProcess:
    """`tests.launcher` at a place, and the processes that take over from it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.address = ("", 0)

    @classmethod
    async def start(cls, place: Place, *options: str, **environment: str) -> ServerProcess:
        """Start a server with these options of the command line, and wait until it serves."""
        command = [place.python, "-m", "tests.launcher", str(place.config), *options]
        sink = place.sink
        if sink is not None and sink.number is None:
            command = closing(2, *command)
        with (place.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=place.installed, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
                stderr=log if sink is None else sink.number,
            )  # fmt: skip
        server = cls(process)
        try:
            await server.serves()
        except BaseException:
            await server.kill()
            raise
        return server

    async def serves(self) -> int:
        """Wait until a process serves, the first or one that took over; its number."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        if not line:
            raise EOFError("the server has ended")
        self.pid, *address = json.loads(line)
        self.address = (address[0], address[1])
        return self.pid

    def signal(self, number: int) -> None:
        """Send the process that serves a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """kill -9, and wait for the end of all processes."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """Stop gracefully, and wait for the end of all processes."""
        self.signal(signal.SIGTERM)
        await self.ended()

    async def ended(self) -> int | None:
        """Wait for the end of all processes; the exit status of the first."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await self._process.stdout.read()
            return await self._process.wait()


@asynccontextmanager
async def running(place: Place, *options: str, **environment: str) -> AsyncIterator[ServerProcess]:
    """A server process; killed at the end."""
    server = await ServerProcess.start(place, *options, **environment)
    try:
        yield server
    finally:
        await server.kill()


def events(place: Place) -> list[dict[str, str]]:
    """What the log of a place's server processes tells so far."""
    *lines, _being_written = (place.folder / "log").read_text().split("\n")
    return [json.loads(line) for line in lines if line.startswith("{")]
