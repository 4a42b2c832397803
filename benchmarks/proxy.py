"""The WebSocket proxy: datagrams a second through it, what one costs, and how long it takes.

The proxy is served as by the front process, in a process of its own without a server behind it; boards that echo are
another, and the clients are this one. Rates are of both directions together. Beside them stands a WebSocket that echoes
by itself, served in the same way, but by the events of ASGI. What others notice of such traffic is in `web`, which has
these boards and clients as processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

HOST = "127.0.0.1"
BOARDS = [f"127.94.0.{number}" for number in range(2, 10)]
CHIPS = [(0, 0), (8, 4), (4, 8), (12, 0), (20, 4), (16, 8), (24, 0), (32, 4)]
"""Where `BOARDS` are in the job."""
BOARD_PORT = 17893
PAYLOAD = 290
"""Bytes of a datagram: a command with 256 bytes of memory, about."""

TICK = os.sysconf("SC_CLK_TCK")
ROUNDS = 3
IN_FLIGHT = 8
"""Datagrams of each of the clients that are a process of their own."""


def main(*, quick: bool) -> None:
    """Measure rates and round trips, by TLS and plainly."""
    uvloop.run(measure(1.0 if quick else 4.0))


async def measure(seconds: float) -> None:
    """Print two tables."""
    with tempfile.TemporaryDirectory() as folder, process("boards", *BOARDS):
        certificate = Path(folder) / "certificate.pem"
        certificate.write_bytes(_certificate())
        print("| served by | sockets x in flight | datagrams/s | microseconds of the proxy's CPU each |")
        print("|---|---|---|---|")
        trips = []
        for tls in (True, False):
            port = _free_port()
            given = [str(certificate)] if tls else []
            with process("serve", str(port), *given) as served:
                pid = served.pid
                name = "TLS" if tls else "plain"
                for path in ("spalloc/proxy/1", "echo"):
                    for in_flight in (8, 1):
                        rate, cpu = await _rate(port, tls, path, in_flight, seconds, pid)
                        what = name if path != "echo" else f"{name}, echoed without boards"
                        print(f"| {what} | 8 x {in_flight} | {rate:,.0f} | {cpu:.1f} |", flush=True)
                trips.append((name, await _round_trips(port, tls, seconds)))
        direct = await _direct_round_trips(seconds)
    print("\n| 1,000 datagrams a second, one socket | median | p99 |\n|---|---|---|")
    for name, times in [("UDP without the proxy", direct), *trips]:
        print(f"| {name} | {statistics.median(times) * 1e3:.3f} ms | {_p99(times) * 1e3:.3f} ms |")


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


async def _rate(port: int, tls: bool, path: str, in_flight: int, seconds: float, pid: int) -> tuple[float, float]:
    """(datagrams a second of both directions, microseconds of CPU each) with 8 sockets; the best of a few rounds."""
    found = []
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(port, tls, path, chip)) for chip in CHIPS]
        for client in clients:
            client.begin(in_flight)
        for _ in range(ROUNDS):
            before, cpu, began = sum(client.heard for client in clients), _processor(pid), time.monotonic()
            await asyncio.sleep(seconds)
            heard = sum(client.heard for client in clients) - before
            took, spent = time.monotonic() - began, _processor(pid) - cpu
            found.append((2 * heard / took, spent / max(1, 2 * heard) * 1e6))
        if any(client.transport.is_closing() for client in clients):
            raise ConnectionError("a WebSocket was closed")
    return max(found)


async def _round_trips(port: int, tls: bool, seconds: float) -> list[float]:
    async with _client(port, tls, "spalloc/proxy/1", CHIPS[0]) as client:
        client.waits = asyncio.Event()
        times = []
        for _ in range(int(seconds * 1000)):
            began = time.perf_counter()
            client.waits.clear()
            client.begin(1)
            async with asyncio.timeout(5):
                await client.waits.wait()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, 0.001 - times[-1]))
    return times


async def _direct_round_trips(seconds: float) -> list[float]:
    loop, times = asyncio.get_running_loop(), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.connect((BOARDS[0], BOARD_PORT))
        for _ in range(int(seconds * 1000)):
            began = time.perf_counter()
            channel.send(bytes(PAYLOAD))
            await loop.sock_recv(channel, 2048)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, 0.001 - times[-1]))
    return times


# -------------------------------------------------------------------- clients


class Client(asyncio.Protocol):
    """A WebSocket whose every message that comes is answered with one more; all have the same length."""

    def __init__(self, path: str, header: str = "") -> None:
        self.path = path
        self._header = header
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard = 0
        self.frame = b""
        self.waits: asyncio.Event | None = None
        self._rest = 0
        self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(
            f"GET /{self.path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"{self._header}\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._length:
            self._rest += len(data)
            count, self._rest = divmod(self._rest, self._length)
            self.heard += count
            if self.waits is not None:
                self.waits.set()
            elif count:
                self.transport.write(self.frame * count)
        elif not self.ready.done():
            if b" 101 " not in data:
                self.ready.set_exception(ConnectionError(data.decode()))
                return
            self.ready.set_result(None)
        else:  # the answer to an open
            self.channel = data[-4:]
            self.opened.set()

    async def prepare(self, x: int, y: int) -> None:
        """Open a channel, and make the message that is sent over it."""
        await self.ready
        channel = b"\0\0\0\0"
        if self.path != "echo":
            self.opened = asyncio.Event()
            words = b"".join(word.to_bytes(4, "little") for word in (0, 1, x, y, BOARD_PORT))
            self.transport.write(_frame(words))
            await self.opened.wait()
            channel = self.channel
        message = b"\x02\0\0\0" + channel + bytes(PAYLOAD)
        self.frame = _frame(message)
        self._length = len(message) + 4

    def begin(self, in_flight: int) -> None:
        """Send the first messages."""
        self.transport.write(self.frame * in_flight)


def _frame(message: bytes) -> bytes:
    """A client's frame, masked with zeros, which costs nothing to do and as much to undo."""
    length = len(message)
    size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return b"\x82" + size + bytes(4) + message


@contextlib.asynccontextmanager
async def _client(port: int, tls: bool, path: str, chip: tuple[int, int], header: str = "") -> AsyncIterator[Client]:
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(lambda: Client(path, header), HOST, port, ssl=context)
    try:
        await client.prepare(*chip)
        yield client
    finally:
        transport.abort()


async def load(port: int, path: str, cookie: str, chips: Sequence[tuple[int, int]]) -> None:
    """Be clients of a job whose boards echo, each with `IN_FLIGHT`, until standard input ends; then tell the rate."""
    async with contextlib.AsyncExitStack() as stack:
        header = f"{cookie}\r\n"
        clients = [await stack.enter_async_context(_client(port, True, path, chip, header)) for chip in chips]
        for client in clients:
            client.begin(IN_FLIGHT)
        before, began = sum(client.heard for client in clients), time.monotonic()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        if any(client.transport.is_closing() for client in clients):
            raise ConnectionError("a WebSocket was closed")
        print(2 * (sum(client.heard for client in clients) - before) / (time.monotonic() - began))


# -------------------------------------------------------------------- the other processes


async def serve(port: int, certificate: str | None) -> None:
    """Serve the proxy, and an echo."""
    from benchmarks import door
    from spalloc_server.frontends.http.boards.proxy import make_proxy
    from tests.frontends.http.boards.stand_in import StandIn, sub_machine, who

    proxy = make_proxy(StandIn({1: sub_machine(dict(zip(CHIPS, BOARDS, strict=True)), width=3)}))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["path"] != "/echo":
            scope["state"]["caller"] = who()
            await proxy(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": event["bytes"]})

    await door.serve(app, HOST, port, certificate)


async def echo(hosts: Sequence[str]) -> None:
    """Be the boards: send back whatever comes."""

    def readable(board: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(64):
                board.sendto(*board.recvfrom(2048))

    loop = asyncio.get_running_loop()
    for host in hosts:
        board = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        board.setblocking(False)
        board.bind((host, BOARD_PORT))
        loop.add_reader(board, readable, board)
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of the other processes, once it is ready."""
    command = [sys.executable, "-m", "benchmarks.proxy", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def _certificate() -> bytes:
    """A key and a certificate for localhost, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("process", nargs="*", help="what the processes of the benchmark are given")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    match options.process:
        case ["boards", *hosts]:
            uvloop.run(echo(hosts))
        case ["load", port, path, cookie, *chips]:
            uvloop.run(
                load(int(port), path, cookie, [(int(x), int(y)) for x, _, y in (chip.partition(",") for chip in chips)])
            )
        case ["serve", port, *certificate]:
            uvloop.run(serve(int(port), *(certificate or [None])))
        case _:
            main(quick=options.quick)
