"""A core that remembers what it was asked, and a service on loopback with clients of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import Mock

from spalloc_server.application.admission import Admission
from spalloc_server.application.api import Application
from spalloc_server.application.commands import Kind
from spalloc_server.application.commits import Commits as RealCommits
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.config.options import Access, Limits
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.replies import JobDescription, JobMachineInfo, JobStatus
from spalloc_server.core.model.request import Request
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.frontends.v1.service import Service
from spalloc_server.hardware.switchboard import Hardware
from tests.house import PATIENCE


class StandIn:
    """Answers like a core, and keeps `calls`: (command, args, kwargs)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.jobs: list[Any] = []
        self.result: Any = None
        self.creators: dict[int, str] = {}
        self.state = Controller().state

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def command(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return self.result

        return command

    def submit(
        self,
        request: Request,
        *,
        keepalive: float | None,
        host: str | None,
        args: list[Any],
        kwargs: dict[str, Any],
        **_rest: Any,
    ) -> int:
        self.calls.append(("submit", (request, keepalive, host, args, kwargs), {}))
        self.jobs.append(request.owner)
        return len(self.jobs)

    def is_of_account(self, _: int) -> bool:
        return False

    def get_job_state(self, job_id: int, look: bool = False, **kwargs: Any) -> JobStatus:
        assert not look
        self.calls.append(("get_job_state", (job_id,), kwargs))
        known = 1 <= job_id <= len(self.jobs)
        return JobStatus(JobState.queued if known else JobState.unknown)

    def renew(self, job_id: int, host: str | None, *, look: bool = False, of_accounts: bool = True) -> int:
        assert not look
        assert not of_accounts, "the protocol knows no log-in"
        self.calls.append(("renew", (job_id, host), {}))
        return len(self.jobs)

    def job_revisions(self) -> list[tuple[int, int]]:
        return [(number, id(job)) for number, job in enumerate(self.jobs, start=1)]

    def describe_job(self, job_id: int) -> JobDescription:
        return described(job_id, self.jobs[job_id - 1])

    def get_job_machine_info(self, job_id: int, **kwargs: Any) -> JobMachineInfo:
        return JobMachineInfo()

    def created_from(self, job_id: int) -> str | None:
        return self.creators.get(job_id)

    def list_machines(self) -> list[Any]:
        msg = "a defect"
        raise KeyError(msg)

    def as_core(self) -> Controller:
        return cast("Controller", self)


def described(job_id: int, owner: str) -> JobDescription:
    """A job that waits, as `list_jobs` tells of it."""
    return JobDescription(
        job_id=job_id,
        owner=owner,
        start_time=0.0,
        keepalive=None,
        state=int(JobState.queued),
        power=None,
        args=(),
        kwargs={},
        allocated_machine_name=None,
        boards=None,
        keepalivehost=None,
    )


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
    application: Application
    core: StandIn
    commits: Commits
    port: int
    lines: list[Line] = field(default_factory=list)

    async def connect(self) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self.lines.append(line)
        return line

    def publish(self, jobs: Collection[int] = (), machines: Collection[str] = (), ended: Iterable[int] = ()) -> None:
        """As if a commit had changed these."""
        self.application.subscriptions.publish(Kind.JOB, jobs, ended)
        self.application.subscriptions.publish(Kind.MACHINE, machines)

    def allow(self, access: Access) -> None:
        """As if the configuration had changed."""
        self.service.configure(self.service.context.limits, access)
        self.application.authorisation.access = access

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - the code under test has no event for this
                await asyncio.sleep(0)


@asynccontextmanager
async def running(
    limits: Limits | None = None, clock: Callable[[], float] | None = None, core: StandIn | None = None
) -> AsyncIterator[Running]:
    core, commits = core or StandIn(), Commits()
    limits, clock = limits or Limits(), clock or time.monotonic
    application = an_application(core.as_core(), commits.hold)
    application.admission = Admission(limits.commands_per_second, limits.creates_per_second, clock=clock)
    service = Service(application, limits, clock=clock)
    sockets = listening_sockets("127.0.0.1", 0)
    service.acceptor.listen(sockets)
    run = Running(service, application, core, commits, sockets[0].getsockname()[1])
    try:
        yield run
    finally:
        for line in run.lines:
            await line.close()
        await service.stop()


def an_application(core: Controller, hold: Callable[[], int | None] = lambda: None) -> Application:
    """What performs commands on `core`; there is neither hardware nor a journal."""
    commits = Mock(spec=RealCommits)
    return Application(core, cast("Hardware", None), commits, Subscriptions(), accounts=Mock(), hold=hold)


def request(command: str, *args: Any, **kwargs: Any) -> bytes:
    return json.dumps({"command": command, "args": args, "kwargs": kwargs}).encode()
