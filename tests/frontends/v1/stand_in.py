"""A core that remembers what it was asked, and a service on loopback with clients of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from spalloc_server.config.options import Access, Limits
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.replies import JobMachineInfo, JobStatus
from spalloc_server.errors import RequestError
from spalloc_server.frontends.v1.listener import listening_sockets
from spalloc_server.frontends.v1.service import Service

PATIENCE = 10.0
"""Seconds after which a test gives up waiting; none waits so long."""


class StandIn:
    """Answers like a core, and keeps `calls`: (command, args, kwargs)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.jobs: list[Any] = []
        self.result: Any = None
        self.creators: dict[int, str] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def command(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return self.result

        return command

    def create_job(self, *args: Any, **kwargs: Any) -> int:
        if "owner" not in kwargs:
            raise RequestError("owner must be specified for all jobs")
        self.calls.append(("create_job", args, kwargs))
        self.jobs.append(kwargs["owner"])
        return len(self.jobs)

    def get_job_state(self, job_id: int, **kwargs: Any) -> JobStatus:
        self.calls.append(("get_job_state", (job_id,), kwargs))
        known = 1 <= job_id <= len(self.jobs)
        return JobStatus(JobState.queued if known else JobState.unknown)

    def encoded_job_state(self, job_id: int, keepalivehost: str, encode: Callable[[JobStatus], bytes]) -> bytes:
        return encode(self.get_job_state(job_id, keepalivehost=keepalivehost))

    def get_job_machine_info(self, job_id: int, **kwargs: Any) -> JobMachineInfo:
        return JobMachineInfo()

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def created_from(self, job_id: int) -> str | None:
        return self.creators.get(job_id)

    def encoded_jobs(self, encode: Callable[[Any], bytes]) -> list[bytes]:
        return [encode(job) for job in self.jobs]

    def list_machines(self) -> list[Any]:
        msg = "a defect"
        raise KeyError(msg)

    def as_core(self) -> Controller:
        return cast("Controller", self)


@dataclass
class Commits:
    """Hands out tickets while `on`, for the test to commit them."""

    on: bool = False
    tickets: list[int] = field(default_factory=list)

    def hold(self) -> int | None:
        if not self.on:
            return None
        self.tickets.append(len(self.tickets) + 1)
        return self.tickets[-1]


@dataclass
class Line:
    """A client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *lines: bytes) -> None:
        self.writer.write(b"".join(line + b"\n" for line in lines))
        await self.writer.drain()

    async def ask(self, command: str, *args: Any, **kwargs: Any) -> Any:
        await self.send(request(command, *args, **kwargs))
        return await self.receive()

    async def receive(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        return json.loads(line) if line else None

    async def receive_all(self) -> list[Any]:
        """All lines until the server closes the connection."""
        async with asyncio.timeout(PATIENCE):
            return [json.loads(line) for line in (await self.reader.read()).splitlines()]

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class Running:
    """A service that listens on a port of its own."""

    service: Service
    core: StandIn
    commits: Commits
    port: int
    lines: list[Line] = field(default_factory=list)

    async def connect(self) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self.lines.append(line)
        return line

    def allow(self, access: Access) -> None:
        """As if the configuration had changed."""
        self.service.configure(self.service.context.limits, access)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - the code under test has no event for this
                await asyncio.sleep(0)


@asynccontextmanager
async def running(
    limits: Limits | None = None, clock: Callable[[], float] | None = None, core: StandIn | None = None
) -> AsyncIterator[Running]:
    core, commits = core or StandIn(), Commits()
    service = Service(core.as_core(), limits or Limits(), commits.hold, clock=clock or time.monotonic)
    sockets = listening_sockets("127.0.0.1", 0)
    service.acceptor.listen(sockets)
    run = Running(service, core, commits, sockets[0].getsockname()[1])
    try:
        yield run
    finally:
        for line in run.lines:
            await line.close()
        await service.stop()


def request(command: str, *args: Any, **kwargs: Any) -> bytes:
    return json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode()
