"""Clients of the HTTP door, as a process of their own: `python -m benchmarks.web_clients KIND JSON`.

Theory of operation. One loop of epoll serves all connections, with blocking handshakes before, so that a request costs
a few system calls and little else. What a client does is a generator: it yields the bytes of a request and is sent the
answer, or yields the time until which it waits. Standard output says `begun` when the clients are connected, and at the
end what was measured, as JSON; so whoever measures processor time knows when.
"""

from __future__ import annotations

import heapq
import json
import re
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

__all__ = ["Answer", "Clients", "Script", "request"]

HOST = "127.0.0.1"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
LOCATION = re.compile(rb"(?i)\r\nlocation: *https?://[^/]+([^\r]+)")

Answer: TypeAlias = tuple[int, bytes, bytes]
"""(status, head, body)."""

Script: TypeAlias = Generator[bytes | float, Answer | None, None]


def request(method: str, path: str, *headers: str, body: str = "") -> bytes:
    """The bytes of a request."""
    length = [f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HOST}", *headers, *length, "", body]).encode()


class Clients:
    """Connections that follow their scripts."""

    def __init__(self, port: int, *, tls: bool) -> None:
        self.errors = 0
        """Answers that a script did not expect; scripts count them."""
        self.running = 0
        """Scripts that have not ended."""
        self._port = port
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.create_default_context()
            self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._epoll = select.epoll()
        self._of: dict[int, tuple[socket.socket, Script, bytearray]] = {}
        self._waiting: list[tuple[float, int]] = []

    def connect(self, script: Script) -> None:
        """Connect one more client; it begins in `run`."""
        sock = socket.create_connection((HOST, self._port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            sock = self._context.wrap_socket(sock)
        number = sock.fileno()
        self._of[number] = (sock, script, bytearray())
        self._epoll.register(number, select.EPOLLIN)
        self.running += 1
        heapq.heappush(self._waiting, (0.0, number))

    def run(self, go_on: Callable[[], bool] = lambda: True, *, wait: float = 0.1) -> None:
        """Serve until all scripts have ended, or until `go_on` says no; it is asked in each turn."""
        while self.running and go_on():
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                self._next(heapq.heappop(self._waiting)[1], None)
            due = self._waiting[0][0] - now if self._waiting else wait
            for number, _ in self._epoll.poll(max(0.0, min(due, wait))):
                self._receive(number)

    def _receive(self, number: int) -> None:
        sock, _, received = self._of[number]
        sock.setblocking(False)
        try:
            data = sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        if not data:
            raise ConnectionError("the server closed a connection")
        received += data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(received[:end])
        length = LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(received) >= whole:
            answer = (int(head[9:12]), head, bytes(received[end + 4 : whole]))
            del received[:whole]
            self._next(number, answer)

    def _next(self, number: int, answer: Answer | None) -> None:
        sock, script, _ = self._of[number]
        try:
            todo = script.send(answer)
        except StopIteration:
            self.running -= 1
            self._epoll.unregister(number)
            return
        if isinstance(todo, bytes):
            sock.setblocking(True)
            sock.sendall(todo)
        else:
            heapq.heappush(self._waiting, (todo, number))


def _told(clients: Clients, times: list[float], began: float) -> dict[str, Any]:
    times.sort()
    last = max(0, len(times) - 1)
    return {
        "count": len(times),
        "seconds": time.monotonic() - began,
        "errors": clients.errors,
        "cpu": time.process_time(),
        "p50": times[last // 2] if times else 0.0,
        "p99": times[int(last * 0.99)] if times else 0.0,
        "max": times[-1] if times else 0.0,
    }


def get(port: int, tls: bool, what: str, clients: int, seconds: float, rate: float) -> dict[str, Any]:
    """Ask for the same again and again; at `rate` a second all together, or as fast as answers come where that is 0."""
    all_clients, times = Clients(port, tls=tls), []
    stop = float("inf")

    def script(number: int) -> Script:
        due = time.monotonic() + (number / rate if rate else 0.0)
        while due < stop:
            if rate:
                yield due
            answer = yield what.encode()
            assert answer is not None
            times.append(time.monotonic() - due)
            all_clients.errors += answer[0] != 200
            due = due + clients / rate if rate else time.monotonic()

    for number in range(clients):
        all_clients.connect(script(number))
    print("begun", flush=True)
    began = time.monotonic()
    stop = began + seconds
    all_clients.run(wait=1.0)
    return _told(all_clients, times, began)


def jobs(port: int, tls: bool, create: str, destroy: str, clients: int, seconds: float) -> dict[str, Any]:
    """Create and destroy jobs; `destroy` has `%s` for the path. A time is that of both."""
    all_clients, times = Clients(port, tls=tls), []
    stop = float("inf")

    def script() -> Script:
        while (now := time.monotonic()) < stop:
            created = yield create.encode()
            assert created is not None
            made = LOCATION.search(created[1])
            if created[0] != 201 or made is None:
                raise ConnectionError(f"a job was not created: {created}")
            ended = yield (destroy % made[1].decode()).encode()
            assert ended is not None
            all_clients.errors += ended[0] != 204
            times.append(time.monotonic() - now)

    for _ in range(clients):
        all_clients.connect(script())
    print("begun", flush=True)
    began = time.monotonic()
    stop = began + seconds
    all_clients.run(wait=1.0)
    return _told(all_clients, times, began)


def ready(port: int, tls: bool, create: str, look: str, destroy: str, count: int) -> dict[str, Any]:
    """Create a job and look at it every millisecond until it is READY; a time is that from before to after."""
    all_clients, times = Clients(port, tls=tls), []

    def script() -> Script:
        for _ in range(count):
            now = time.monotonic()
            created = yield create.encode()
            assert created is not None
            made = LOCATION.search(created[1])
            assert made is not None, created
            path = made[1].decode()
            while (state := (yield (look % path).encode())) is not None and b'"READY"' not in state[2]:
                yield time.monotonic() + 0.001
            times.append(time.monotonic() - now)
            ended = yield (destroy % path).encode()
            all_clients.errors += ended is None or ended[0] != 204
            yield time.monotonic() + 0.3  # until its boards are free

    all_clients.connect(script())
    print("begun", flush=True)
    began = time.monotonic()
    all_clients.run()
    return _told(all_clients, times, began)


def polls(port: int, tls: bool, looks: Sequence[str], each: int) -> dict[str, Any]:
    """Wait for each of these jobs with so many clients, which ask again until it is destroyed.

    `begun` when all wait. Returns, for each job, when the last client heard, on the monotonic clock. The clients stay
    connected, as programs do that go on with their work.
    """
    all_clients = Clients(port, tls=tls)
    heard = [0.0] * len(looks)

    def script(number: int) -> Script:
        while (answer := (yield looks[number].encode())) is not None and b'"DESTROYED"' not in answer[2]:
            all_clients.errors += answer[0] != 200
        heard[number] = time.monotonic()

    for _ in range(each):
        for number in range(len(looks)):
            all_clients.connect(script(number))
            turns = iter((True, False))
            all_clients.run(lambda turns=turns: next(turns), wait=0.0)  # type: ignore[misc]
    print("begun", flush=True)
    all_clients.run(wait=1.0)
    CONNECTED.append(all_clients)
    return {"heard": heard, "errors": all_clients.errors}


CONNECTED: list[Clients] = []
"""Those that stay so when they have nothing more to ask."""

KINDS: dict[str, Callable[..., dict[str, Any]]] = {"get": get, "jobs": jobs, "ready": ready, "polls": polls}

if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](**json.loads(sys.stdin.readline()))), flush=True)
    if CONNECTED:
        signal.pause()  # until it is killed
