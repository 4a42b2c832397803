"""The load of a soak: clients of all kinds, each with a rate of its own, whatever the others do.

Theory of operation. A kind of client is a function that does one thing from beginning to end: it connects, asks,
checks what it is answered, and leaves, well or badly. `Load` begins so many of each a second, and counts. Whoever is
answered what is wrong, or raises, has found a fault; it is kept with what it was about, and the load goes on.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, ClassVar, Self
from urllib.parse import urlencode, urlsplit

from spalloc_server.hardware.scp import SCP_PORT
from tests.house import PATIENCE, Client as V1Client

ROOT = "/spalloc/srv/spalloc"
USER, PASSWORD = "alice", "correct-horse-battery"
"""Who works, and logs in again and again: the table of the account's sessions is full after half an hour."""
SDRAM = 0x60100000
MAX_FAULTS = 20
"""That are kept."""

MOST = 64
"""Clients of one kind at a time."""

POLLS = 30
"""Clients that poll all the while."""

NETWORKS = 16
"""Addresses that wrong passwords come from."""

READY, DESTROYED = 3, 4

RATES: dict[str, float] = {
    "looks by TLS": 100.0,
    "looks without TLS": 50.0,
    "looks over new connections": 4.0,
    "passwords and tokens": 4.0,
    "jobs by REST": 3.0,
    "jobs by v1": 2.0,
    "jobs that are refused": 2.0,
    "polls that their clients leave": 4.0,
    "memory": 4.0,
    "WebSockets": 3.0,
    "WebSockets whose job ends": 1.0,
    "log-ins": 0.5,
    "wrong passwords": 0.5,
    "half-open requests": 2.0,
    "half-open handshakes": 2.0,
    "requests that are none": 2.0,
}
"""A second, on average."""

VERSION = struct.pack("<2x8B2H3I", 0x87, 255, 0, 255, 0, 0, 0, 0, 0, 1, 0, 0, 0)
"""A command that asks a board for its version."""

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


class Connection:
    """A connection that carries requests of HTTP, or a WebSocket."""

    answers: ClassVar[int] = 0
    """That came over all of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, *, tls: bool, host: str | None = None) -> Self:
        source = None if host is None else (host, 0)
        async with asyncio.timeout(PATIENCE):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=TLS if tls else None, local_addr=source))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self, method: str, path: str, *headers: str, body: bytes | None = None) -> Answer:
        """Send a request, and read its answer."""
        length = [] if body is None else [f"Content-Length: {len(body)}"]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, *length, "", ""])
        self._writer.write(head.encode() + (body or b""))
        return await self.answer()

    async def answer(self) -> Answer:
        """Read an answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
            body = await self._reader.readexactly(int(length[1])) if length else b""
        Connection.answers += 1
        return Answer(int(head.split(maxsplit=2)[1]), head, body)

    async def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame of a WebSocket."""
        async with asyncio.timeout(PATIENCE):
            first, length = await self._reader.readexactly(2)
            if length == 126:
                (length,) = struct.unpack(">H", await self._reader.readexactly(2))
            return first & 0xF, await self._reader.readexactly(length)

    def send_frame(self, payload: bytes, opcode: int = 2) -> None:
        """Send a frame, masked with zeros."""
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        self._writer.write(bytes([0x80 | opcode]) + size + bytes(4) + payload)

    async def ended(self) -> None:
        """Wait until the other end closes."""
        async with asyncio.timeout(PATIENCE):
            await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        await self._closed()

    async def reset(self) -> None:
        """Be gone, as a computer that is switched off and on again."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        await self._closed()

    async def _closed(self) -> None:
        with suppress(OSError):  # ssl.SSLError is one
            await self._writer.wait_closed()


class Answer:
    """What was answered."""

    def __init__(self, status: int, head: str, body: bytes) -> None:
        self.status, self.head, self.body = status, head, body

    def header(self, name: str) -> str:
        found = re.search(rf"(?i)\r\n{name}: *([^\r]*)", self.head)
        assert found is not None, self.head
        return found[1]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Load:
    """Clients of one server and its front process.

    Args:
        port: of HTTP.
        v1: address of the other door.
        token: of the user.
    """

    def __init__(self, port: int, v1: tuple[str, int], token: str) -> None:
        self.done: Counter[str] = Counter()
        """Clients that came and left, by kind."""
        self.faults: list[str] = []
        self._port, self._v1 = port, v1
        self._bearer = f"Authorization: Bearer {token}"
        self._json = "Content-Type: application/json"
        self._kept = 0
        """A job that lives all the while; its board is booted."""
        self._cookie = ""
        self._numbers = count()
        self._stopping = asyncio.Event()
        self._lasting: dict[bool, Connection] = {}
        self._locks = {True: asyncio.Lock(), False: asyncio.Lock()}

    # -- the course

    async def run(self, seconds: float, boot: Callable[[str], None], look: Callable[[float], Awaitable[None]]) -> None:
        """Have all kinds of clients come for so long, and wait until the last has left.

        Args:
            seconds: how long.
            boot: boots the board at an address.
            look: is awaited with the time since it began, again and again.
        """
        self._stopping.clear()
        async with self._connection(tls=True) as it:
            self._kept = await self._ready(it, keepalive=300)
            machine = await self._told(it, f"{ROOT}/jobs/{self._kept}/machine")
            await asyncio.to_thread(boot, machine.json["connections"][0][1])
        self._cookie, _ = await self._log_in(USER)
        self._lasting = {tls: await Connection.open(self._port, tls=tls) for tls in (True, False)}
        async with asyncio.TaskGroup() as polls:
            for _ in range(POLLS):
                polls.create_task(self._one("polls", self._poll()))
            async with asyncio.TaskGroup() as clients:
                for kind, rate in RATES.items():
                    clients.create_task(self._come(kind, rate, KINDS[kind]))
                begun = time.monotonic()
                while (passed := time.monotonic() - begun) < seconds:
                    await look(passed)
                self._stopping.set()
            async with self._connection(tls=True) as it:
                expect(await it.ask("DELETE", f"{ROOT}/jobs/{self._kept}", self._bearer), 204)
        for connection in self._lasting.values():
            await connection.close()

    async def _come(self, kind: str, rate: float, client: Callable[[Load, int], Awaitable[None]]) -> None:
        """Begin clients of one kind, each at its time; none while too many of them are there."""
        loop, there = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        due = loop.time()
        for number in count():
            due = max(due + 1 / rate, loop.time() - 1)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(0.0, due - loop.time()))
            if self._stopping.is_set():
                break
            if len(there) < MOST:
                task = loop.create_task(self._one(kind, client(self, number)))
                there.add(task)
                task.add_done_callback(there.discard)
        if there:
            await asyncio.wait(there)

    async def _one(self, kind: str, client: Awaitable[None]) -> None:
        try:
            await client
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
            self.faults = [*self.faults, f"{kind}: {exc!r}"][:MAX_FAULTS]
        self.done[kind] += 1

    # -- what clients do alike

    @asynccontextmanager
    async def _connection(self, *, tls: bool) -> AsyncIterator[Connection]:
        it = await Connection.open(self._port, tls=tls)
        try:
            yield it
        finally:
            await it.close()

    async def _told(self, it: Connection, path: str, *headers: str) -> Answer:
        """What a GET is answered, which must be with 200."""
        answer = await it.ask("GET", path, *(headers or (self._bearer,)))
        expect(answer, 200)
        return answer

    async def _ready(self, it: Connection, *, keepalive: int = 60) -> int:
        """Have a job that is ready; its number."""
        body = json.dumps({"num-boards": 1, "keepalive-interval": f"PT{keepalive}S", "tags": ["default"]})
        answer = await it.ask("POST", f"{ROOT}/jobs", self._bearer, self._json, body=body.encode())
        expect(answer, 201)
        path = urlsplit(answer.header("location")).path
        while (await self._told(it, f"{path}?wait=true")).json["state"] != "READY":
            pass
        return int(path.rpartition("/")[2])

    async def _log_in(self, user: str) -> tuple[str, str]:
        """Log in as a published client; (the header of the session, the CSRF token)."""
        async with self._connection(tls=True) as it:
            page = await it.ask("GET", "/spalloc/system/login.html")
            found = re.search(rb'name="_csrf" value="([^"]*)"', page.body)
            assert found is not None, page.head
            form = {"_csrf": found[1].decode(), "username": user, "password": PASSWORD, "submit": "submit"}
            answer = await it.ask(
                "POST",
                "/spalloc/system/perform_login",
                f"Cookie: {page.header('set-cookie').partition(';')[0]}",
                "Content-Type: application/x-www-form-urlencoded",
                body=urlencode(form).encode(),
            )
            expect(answer, 302)
            cookie = f"Cookie: {answer.header('set-cookie').partition(';')[0]}"
            root = await self._told(it, f"{ROOT}/", cookie)
        return cookie, root.json["csrf-token"]

    async def _websocket(self, it: Connection, job: int) -> bytes:
        """Open a WebSocket to a job's boards, and a channel; its number."""
        handshake = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        expect(await it.ask("GET", f"/spalloc/proxy/{job}", self._bearer, *handshake), 101)
        it.send_frame(struct.pack("<5I", 0, 7, 0, 0, SCP_PORT))
        _, opened = await it.frame()
        assert opened[:8] == struct.pack("<2I", 0, 7), opened
        return opened[8:]

    # -- kinds of clients

    async def _poll(self) -> None:
        """Wait for changes of the job that lives all the while, and of the list."""
        tls = next(self._numbers) % 2 == 0
        path = f"{ROOT}/jobs/{self._kept}" if next(self._numbers) % 4 else f"{ROOT}/jobs"
        async with self._connection(tls=tls) as it:
            while not self._stopping.is_set():
                await self._told(it, f"{path}?wait=true", self._cookie)

    async def look(self, number: int, *, tls: bool) -> None:
        """Look at a job over a connection that lasts."""
        async with self._locks[tls]:
            path = ("", "/machine", "?wait=false")[number % 3]
            await self._told(self._lasting[tls], f"{ROOT}/jobs/{self._kept}{path}", self._cookie)

    async def look_anew(self, number: int) -> None:
        """Look at machines over a connection of its own."""
        async with self._connection(tls=number % 2 == 0) as it:
            await self._told(it, f"{ROOT}/{('machines', 'machines/hall/chip?x=1&y=2')[number % 4 // 2]}", self._cookie)
            await self._told(it, "/metrics")

    async def say_who(self, number: int) -> None:
        """Say who asks, in each way."""
        basic = f"Authorization: Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        async with self._connection(tls=number % 4 > 0) as it:
            await self._told(it, f"{ROOT}/", basic if number % 2 else self._bearer)

    async def have_a_job(self, number: int) -> None:
        """Have a job and end it, by REST."""
        async with self._connection(tls=number % 2 == 0) as it:
            job = f"{ROOT}/jobs/{await self._ready(it)}"
            await self._told(it, f"{job}/machine")
            expect(
                await it.ask("PUT", f"{job}/keepalive", self._bearer, "Content-Type: text/plain", body=b"alive"), 200
            )
            expect(await it.ask("DELETE", f"{job}?reason=enough", self._bearer), 204)
            assert (await self._told(it, job)).json["state"] == "DESTROYED"

    async def have_a_job_by_v1(self, number: int) -> None:
        """Have a job and end it, by the line protocol; now and then its lease ends it, once its client has left."""
        client = await V1Client.connect(self._v1)
        try:
            job = await client.create(1, keepalive=10.0)
            await client.until(job, READY)
            if number % 4:
                await client.call("destroy_job", job)
                await client.until(job, DESTROYED)
        finally:
            await client.close()

    async def be_refused(self, number: int) -> None:
        """Ask for what is not to be had."""
        async with self._connection(tls=number % 2 == 0) as it:
            expect(await it.ask("POST", f"{ROOT}/jobs", self._bearer, self._json, body=b'{"num-boards": 99}'), 400)
            expect(await it.ask("POST", f"{ROOT}/jobs", self._bearer, self._json, body=b"{" * 5000), 400)
            expect(await it.ask("GET", f"{ROOT}/jobs/999999999", self._bearer), 404)
            expect(await it.ask("DELETE", f"{ROOT}/jobs/{self._kept}", self._cookie), 403)
            expect(await it.ask("GET", f"{ROOT}/admin/", self._bearer), 403)
            expect(await it.ask("GET", f"{ROOT}/"), 401)

    async def leave_a_poll(self, number: int) -> None:
        """Wait for a change, and be gone before it comes."""
        it = await Connection.open(self._port, tls=number % 2 == 0)
        it.write(f"GET {ROOT}/jobs/{self._kept}?wait=true HTTP/1.1\r\nHost: h\r\n{self._cookie}\r\n\r\n".encode())
        await asyncio.sleep(0.3)
        await (it.reset() if number % 4 < 2 else it.close())

    async def use_memory(self, number: int) -> None:
        """Write memory and read it back; leave in the midst of an answer, now and then."""
        data = bytes([number % 251]) * (256 << number % 6)
        path = f"{ROOT}/jobs/{self._kept}/memory?x=0&y=0&address={SDRAM + (number % 64 << 16)}"
        it = await Connection.open(self._port, tls=number % 2 == 0)
        expect(await it.ask("POST", path, self._bearer, "Content-Type: application/octet-stream", body=data), 202)
        if number % 8 == 0:
            it.write(f"GET {path}&size=1000000 HTTP/1.1\r\nHost: h\r\n{self._bearer}\r\n\r\n".encode())
            await asyncio.sleep(0.1)
            await it.reset()
            return
        assert (await self._told(it, f"{path}&size={len(data)}")).body == data
        await it.close()

    async def use_proxy(self, number: int) -> None:
        """Speak to a board through a WebSocket, and leave in one of four ways."""
        it = await Connection.open(self._port, tls=number % 2 == 0)
        channel = await self._websocket(it, self._kept)
        for _ in range(5):
            it.send_frame(struct.pack("<I", 2) + channel + VERSION)
            _, heard = await it.frame()
            assert heard[:8] == struct.pack("<I", 2) + channel, heard
            assert b"SpiNNaker" in heard, heard
        match number % 4:
            case 0:
                it.send_frame(struct.pack("<2I", 1, 9) + channel)
                assert (await it.frame())[1][:8] == struct.pack("<2I", 1, 9)
                it.send_frame(struct.pack(">H", 1000), opcode=8)
                assert (await it.frame())[0] == 8
                await it.close()
            case 1:
                it.send_frame(b"?")
                assert (await it.frame())[1][:2] == struct.pack(">H", 1007)
                await it.close()
            case 2:
                await it.close()
            case _:
                await it.reset()

    async def lose_boards(self, number: int) -> None:
        """Have a job end while a WebSocket leads to its boards."""
        tls = number % 2 == 0
        async with self._connection(tls=tls) as it, self._connection(tls=tls) as other:
            job = await self._ready(other)
            await self._websocket(it, job)
            expect(await other.ask("DELETE", f"{ROOT}/jobs/{job}", self._bearer), 204)
            opcode, payload = await it.frame()
            assert (opcode, payload[:2]) == (8, struct.pack(">H", 1000)), payload

    async def log_in(self, number: int) -> None:
        """Begin a session, and end every other one."""
        cookie, csrf = await self._log_in(USER)
        if number % 2:
            async with self._connection(tls=True) as it:
                form = urlencode({"_csrf": csrf}).encode()
                kind = "Content-Type: application/x-www-form-urlencoded"
                expect(await it.ask("POST", "/spalloc/system/perform_logout", cookie, kind, body=form), 302)
                expect(await it.ask("GET", f"{ROOT}/", cookie), 401)

    async def guess(self, number: int) -> None:
        """Try a wrong password, from one of several addresses."""
        name = f"{USER}:{number}" if number % 2 else f"nobody{number % 9}:x"
        basic = f"Authorization: Basic {base64.b64encode(name.encode()).decode()}"
        it = await Connection.open(self._port, tls=True, host=f"127.0.1.{1 + number % NETWORKS}")
        expect(await it.ask("GET", f"{ROOT}/", basic), 401, 429, 503)
        await it.close()

    async def half_a_request(self, number: int) -> None:
        """Begin a request and never end it; be closed, or leave."""
        it = await Connection.open(self._port, tls=number % 2 == 0)
        it.write(
            (
                b"GET / HTTP/1.1\r\nHost:",
                f"PUT {ROOT}/jobs/1/keepalive HTTP/1.1\r\n{self._bearer}\r\nContent-Length: 9\r\n\r\nal".encode(),
            )[number % 4 // 2]
        )
        if number % 3:
            await it.ended()
            await it.close()
        else:
            await it.reset()

    async def half_a_handshake(self, number: int) -> None:
        """Begin with TLS, or with nothing, and say no more; be closed, or leave."""
        it = await Connection.open(self._port, tls=False)
        it.write((b"\x16\x03\x01\x02\x00\x01", b"\x16")[number % 2])
        if number % 3:
            await it.ended()
            await it.close()
        else:
            await it.reset()

    async def make_no_sense(self, number: int) -> None:
        """Send what is no request, or a head that is too long."""
        it = await Connection.open(self._port, tls=number % 2 == 0)
        if number % 4 < 2:
            it.write(b"\0\1\2 nonsense\r\n\r\n")
            expect(await it.answer(), 400)
        else:
            expect(await it.ask("GET", "/", f"X: {'y' * 20_000}"), 431)
        await it.ended()
        await it.close()


def expect(answer: Answer, *statuses: int) -> None:
    """Complain where the status is none of these."""
    assert answer.status in statuses, f"{answer.head.splitlines()[0]} {answer.body[:200]!r}"


KINDS: dict[str, Callable[[Load, int], Awaitable[None]]] = {
    "looks by TLS": partial(Load.look, tls=True),
    "looks without TLS": partial(Load.look, tls=False),
    "looks over new connections": Load.look_anew,
    "passwords and tokens": Load.say_who,
    "jobs by REST": Load.have_a_job,
    "jobs by v1": Load.have_a_job_by_v1,
    "jobs that are refused": Load.be_refused,
    "polls that their clients leave": Load.leave_a_poll,
    "memory": Load.use_memory,
    "WebSockets": Load.use_proxy,
    "WebSockets whose job ends": Load.lose_boards,
    "log-ins": Load.log_in,
    "wrong passwords": Load.guess,
    "half-open requests": Load.half_a_request,
    "half-open handshakes": Load.half_a_handshake,
    "requests that are none": Load.make_no_sense,
}
"""What a client of each kind does; its number decides between variants."""
