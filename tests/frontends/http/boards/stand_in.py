"""A server that knows a few jobs, for what speaks to boards; boards that are UDP sockets; and a client of the proxy."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from spalloc_server.application.command_kinds import Command
from spalloc_server.application.commands import KeepAlive
from spalloc_server.application.own_job_commands import JobDetails, OwnJobDetails, OwnJobMachine, SubMachine
from spalloc_server.config.options import Web
from spalloc_server.coordinates import Chip
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebCaller, WebSettings
from spalloc_server.frontends.http.boards.proxy import make_proxy
from spalloc_server.frontends.local_api import Behalf
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE

T = TypeVar("T")

OWNER = "ann"


def who(name: str = OWNER) -> WebCaller:
    """A user who has logged in."""
    return WebCaller(name=name, role="user", behalf=Behalf(account=name, address="10.0.0.7"))


def sub_machine(hosts: dict[Chip, str], width: int = 1, height: int = 1) -> SubMachine:
    """The boards of a job, at these hosts."""
    return SubMachine(
        machine="m",
        width=width,
        height=height,
        depth=1 if len(hosts) == 1 else 3,
        power=True,
        boards=[(0, 0, number) for number in range(len(hosts))],
        connections=list(hosts.items()),
    )


class StandIn:
    """An `Asking` whose server has the jobs of `machines`, all of them `OWNER`'s."""

    def __init__(self, machines: dict[int, SubMachine | None], *, keepalive: float | None = 60.0, **web: Any) -> None:
        self.settings = WebSettings(web=Web(**web), version="1", state="/tmp/state")
        self.machines = machines
        self.keepalive = keepalive
        self.kept_alive: list[int] = []
        self.asked: list[Command] = []
        self.refusal: RefusedError | None = None
        """What everything is answered with."""
        self.away = False
        self.following = 0
        self._revision = 0
        self._news = asyncio.Condition()

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        self.asked.append(command)
        await asyncio.sleep(0)
        if self.away:
            raise ServerAwayError("the server is away")
        if self.refusal is not None:
            raise self.refusal
        assert behalf is not None
        job_id = getattr(command, "job_id", None)
        if behalf.account != OWNER or job_id not in self.machines:
            raise RefusedError("no-such", f"there is no job {job_id}")
        answer: Any = None
        match command:
            case OwnJobDetails():
                answer = details(job_id, self.keepalive)
            case OwnJobMachine():
                answer = self.machines[job_id]
            case KeepAlive():
                self.kept_alive.append(job_id)
        return answer  # type: ignore[no-any-return]

    async def changed(self, key: str, since: int, seconds: float) -> int:
        raise NotImplementedError

    async def follow(self, key: str) -> AsyncIterator[int]:
        self.following += 1
        try:
            known = -1
            while True:
                async with self._news:
                    await self._news.wait_for(lambda: known != self._revision)  # noqa: B023 - it is called here
                    known = self._revision
                yield known
        finally:
            self.following -= 1

    async def change(self) -> None:
        """All jobs may have changed."""
        async with self._news:
            self._revision += 1
            self._news.notify_all()


def details(job_id: int, keepalive: float | None) -> JobDetails:
    return JobDetails(
        job_id=job_id,
        owner=OWNER,
        state=3,
        power=True,
        created_at=0.0,
        ended_at=None,
        reason=None,
        keepalive=keepalive,
        keepalive_host=None,
        kept_alive_at=None,
        machine="m",
        original=None,
        revision=1,
    )


# -------------------------------------------------------------------- boards


@dataclass
class FakeBoard:
    """A UDP socket that keeps what it gets, and answers it."""

    host: str
    port: int
    answer: Callable[[bytes], list[bytes]] = lambda datagram: [datagram]
    got: list[bytes] = field(default_factory=list)
    sources: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((self.host, self.port))
        self.port = self.socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self.socket, self._readable)

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                datagram, source = self.socket.recvfrom(65536)
                self.got.append(datagram)
                self.sources.append(source)
                for each in self.answer(datagram):
                    with suppress(OSError):
                        self.socket.sendto(each, source)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


@asynccontextmanager
async def boards(count: int = 1, port: int = 0) -> AsyncIterator[list[FakeBoard]]:
    """Boards that echo, each at an address of its own, at a port that all of them have."""
    made: list[FakeBoard] = []
    try:
        for host in loopback_hosts(count):
            made.append(FakeBoard(host, made[0].port if made else port))
        yield made
    finally:
        for board in made:
            board.close()


# -------------------------------------------------------------------- a client of the proxy


class Refused(Exception):
    """The WebSocket was not accepted."""

    def __init__(self, status: int, text: str, headers: dict[bytes, bytes]) -> None:
        super().__init__(f"{status} {text}")
        self.status, self.text, self.headers = status, text, headers


class ProxyClient:
    """One WebSocket at the proxy, by the events of ASGI."""

    def __init__(
        self,
        proxy: ASGIApp,
        job_id: object = 1,
        *,
        caller: WebCaller | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        extensions: dict[str, Any] | None = None,
    ) -> None:
        self.to_proxy: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.from_proxy: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.reads = asyncio.Event()
        """While it is not set, the client reads nothing."""
        self.reads.set()
        self.to_proxy.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": f"/spalloc/proxy/{job_id}",
            "headers": headers or [],
            "state": {"caller": caller},
            "extensions": {"websocket.http.response": {}, **(extensions or {})},
        }
        self.task = asyncio.create_task(self._run(proxy, scope))
        self._correlation = 0

    async def _run(self, proxy: ASGIApp, scope: dict[str, Any]) -> None:
        await proxy(scope, self.to_proxy.get, self._sent)

    async def _sent(self, event: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.from_proxy.put_nowait(event)
        if event["type"] == "websocket.close":
            self.to_proxy.put_nowait({"type": "websocket.disconnect", "code": event["code"]})

    async def accepted(self) -> Self:
        event = await self.event()
        if event["type"] == "websocket.http.response.start":
            body = await self.event()
            raise Refused(event["status"], body["body"].decode().strip(), dict(event["headers"]))
        assert event["type"] == "websocket.accept"
        return self

    async def event(self) -> MutableMapping[str, Any]:
        """The next event; what the proxy failed with, where it did."""
        waiting = asyncio.ensure_future(self.from_proxy.get())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.task.result()
            raise EOFError
        return waiting.result()

    def send(self, message: bytes) -> None:
        self.to_proxy.put_nowait({"type": "websocket.receive", "bytes": message})

    async def message(self) -> bytes:
        event = await self.event()
        assert event["type"] == "websocket.send", event
        return bytes(event["bytes"])

    async def closed(self) -> tuple[int, str]:
        """The status and reason that the WebSocket is closed with, once the proxy is done."""
        while (event := await self.event())["type"] != "websocket.close":
            pass
        async with asyncio.timeout(PATIENCE):
            await self.task
        return event["code"], event["reason"]

    async def leave(self) -> None:
        self.to_proxy.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(PATIENCE):
            await self.task

    # the messages of the protocol

    async def call(self, operation: int, *words: int) -> bytes:
        self._correlation += 1
        self.send(struct.pack(f"<{2 + len(words)}I", operation, self._correlation, *words))
        reply = await self.message()
        assert struct.unpack_from("<I", reply, 4) == (self._correlation,)
        return reply

    async def open(self, x: int = 0, y: int = 0, port: int = 17893) -> int:
        reply = await self.call(0, x, y, port)
        assert len(reply) == 12, reply
        return int.from_bytes(reply[8:], "little")

    async def open_unconnected(self) -> tuple[int, str, int]:
        reply = await self.call(3)
        assert len(reply) == 20, reply
        number, address, port = struct.unpack_from("<I4sI", reply, 8)
        return number, socket.inet_ntoa(address), port

    async def close(self, channel: int) -> int:
        return int.from_bytes((await self.call(1, channel))[8:], "little")

    def tell(self, channel: int, payload: bytes) -> None:
        self.send(struct.pack("<2I", 2, channel) + payload)

    def tell_to(self, channel: int, payload: bytes, x: int = 0, y: int = 0, port: int = 17893) -> None:
        self.send(struct.pack("<5I", 4, channel, x, y, port) + payload)

    async def heard(self) -> tuple[int, bytes]:
        """(channel, payload) of a datagram from a board."""
        message = await self.message()
        operation, channel = struct.unpack_from("<2I", message)
        assert operation == 2
        return channel, message[8:]


@asynccontextmanager
async def a_client(asking: StandIn, job_id: int = 1, **options: Any) -> AsyncIterator[ProxyClient]:
    """A client of a proxy of its own, accepted; it leaves at the end."""
    client = await ProxyClient(make_proxy(asking), job_id, **{"caller": who(), **options}).accepted()
    try:
        yield client
    finally:
        if not client.task.done():
            client.reads.set()
            await client.leave()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition of which nobody is told."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
