"""Many clients at once, and bad ones: what the others notice of them, and what they cost.

The crowds are plain sockets of this process; what others notice is measured by the load generator, which sends 200
`get_job_state` a second meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.generator import Generator
from benchmarks.subjects import Subject, request

__all__ = ["ATTACKS", "LIVE_JOBS", "Sizes", "list_polling", "notice", "run"]

LIVE_JOBS = 5_000
"""At which many clients poll `list_jobs`."""

STATE = request("get_job_state", 1)
PER_ADDRESS = 2_000
"""Connections from one of the loopback addresses."""

PATIENCE = 30.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    reconnecting: int = 2_000
    idle: int = 9_000
    watchers: tuple[int, ...] = (1_000, 4_000)
    endless_bytes: int = 1_000_000_000
    fuzzed_lines: int = 1_000_000
    seconds: float = 5.0

    @classmethod
    def quick(cls) -> Sizes:
        """For development."""
        return cls(idle=3_000, watchers=(1_000,), endless_bytes=100_000_000, fuzzed_lines=50_000, seconds=2.0)


def list_polling(subject: Subject, generator: Generator, seconds: float) -> None:
    """50 clients that ask for all jobs every second, and what others notice."""
    before = subject.cpu()
    polling = generator.begin(subject.port, request("list_jobs"), clients=50, rate=50, seconds=max(3.0, seconds))
    others = generator.run(subject.port, STATE, clients=20, rate=200, seconds=max(3.0, seconds))
    polled = generator.end(polling)
    print(
        f"{subject.name}: {polled.calls} list_jobs of {subject.live:,} jobs by 50 clients in {polled.seconds:.1f} s "
        f"(p99 {polled.lines[0].p99 * 1e3:.1f} ms), {subject.cpu() - before:.2f} s of CPU; "
        f"others' p99 {others.lines[0].p99 * 1e3:.2f} ms"
    )


def run(subject: Subject, generator: Generator, sizes: Sizes) -> None:
    """All crowds, one after another; prints what they cost."""
    quiet = generator.run(subject.port, STATE, clients=20, rate=200, seconds=sizes.seconds)
    print(f"{subject.name}: p99 with nobody else {quiet.lines[0].p99 * 1e3:.2f} ms")
    reconnect(subject, sizes.reconnecting)
    for count in sizes.watchers:
        watch(subject, count)
    idle(subject, generator, sizes)
    for name, attack in ATTACKS.items():
        with notice(subject, generator, sizes) as noticed:
            attack(subject, sizes)
        print(
            f"{subject.name}: {name}: others' p99 {noticed.p99_ms:.2f} ms, longest {noticed.longest_ms:.1f} ms, "
            f"{noticed.errors} errors, memory {noticed.growth_mib:+.1f} MiB"
        )


def reconnect(subject: Subject, count: int) -> None:
    """All connect at once and ask two questions, as published clients do."""
    question = f"{request('version')}\n{STATE}\n".encode()
    begun = time.perf_counter()
    with crowd(subject, count, question) as clients:
        await_lines(clients, 2)
        print(f"{subject.name}: {count:,} clients that connect at once served in {time.perf_counter() - begun:.2f} s")


def watch(subject: Subject, count: int) -> None:
    """How long it takes until all have been told of a change."""
    with crowd(subject, count, request("notify_job").encode() + b"\n") as clients:
        await_lines(clients, 1)
        latencies = []
        for _ in range(10):
            job_id = subject.ask("create_job", 1, owner="watched", keepalive=None, machine="nowhere")
            await_lines(clients, 1)
            begun = time.perf_counter()
            subject.ask("create_job", 1, owner="watched", keepalive=None, machine="nowhere")
            await_lines(clients, 1)
            latencies.append(time.perf_counter() - begun)
            assert isinstance(job_id, int)
        middle, worst = sorted(latencies)[5] * 1e3, max(latencies) * 1e3
        print(f"{subject.name}: {count:,} watchers told of a change within {middle:.0f} ms, at worst {worst:.0f} ms")


def idle(subject: Subject, generator: Generator, sizes: Sizes) -> None:
    """What connections cost that do nothing."""
    before = subject.memory()
    with crowd(subject, sizes.idle, request("version").encode() + b"\n") as clients:
        await_lines(clients, 1)
        each = (subject.memory() - before) / sizes.idle / 1024
        print(f"{subject.name}: {sizes.idle:,} idle connections cost {each:.1f} KiB each")
        load = generator.run(subject.port, STATE, clients=20, rate=200, seconds=sizes.seconds)
        print(f"{subject.name}: others' p99 beside them {load.lines[0].p99 * 1e3:.2f} ms")
        others = generator.begin(subject.port, STATE, clients=20, rate=200, seconds=2.0)
        time.sleep(0.5)
    left = generator.end(others)
    print(f"{subject.name}: when they all leave at once, others wait {left.lines[0].max * 1e3:.0f} ms at the longest")


@dataclass
class Noticed:
    """What others noticed of an attack."""

    p99_ms: float = 0.0
    longest_ms: float = 0.0
    errors: int = 0
    growth_mib: float = 0.0
    """By how much the server's memory grew."""


@contextlib.contextmanager
def notice(subject: Subject, generator: Generator, sizes: Sizes) -> Iterator[Noticed]:
    """What others notice meanwhile, known afterwards."""
    noticed = Noticed()
    before = subject.memory()
    load = generator.begin(subject.port, STATE, clients=20, rate=200, seconds=sizes.seconds)
    yield noticed
    seen = generator.end(load)
    noticed.p99_ms, noticed.longest_ms = seen.lines[0].p99 * 1e3, seen.lines[0].max * 1e3
    noticed.errors, noticed.growth_mib = seen.errors, (subject.memory() - before) / 2**20


def slow_reader(subject: Subject, sizes: Sizes) -> None:
    """Asks for everything and reads nothing."""
    with subject.connect() as sock:
        sock.settimeout(sizes.seconds / 2)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(1000):
                sock.sendall((request("list_machines") + "\n").encode() * 1000)


def half_line(subject: Subject, sizes: Sizes) -> None:
    """Sends half a request, and waits."""
    with subject.connect() as sock:
        sock.sendall(STATE[:20].encode())
        time.sleep(sizes.seconds)


def endless_line(subject: Subject, sizes: Sizes) -> None:
    """Sends a line that never ends."""
    with subject.connect() as sock, contextlib.suppress(ConnectionError):
        for _ in range(sizes.endless_bytes // 2**20):
            sock.sendall(b"x" * 2**20)


def fuzzed_lines(subject: Subject, sizes: Sizes) -> None:
    """Sends requests with random damage; connects again whenever it is disconnected."""
    left = sizes.fuzzed_lines
    while left > 0:
        lines = b"".join(damaged(STATE.encode()) + b"\n" for _ in range(100))
        left -= 100
        with subject.connect() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(lines)


def nothing(subject: Subject, sizes: Sizes) -> None:
    """A thousand connections that do nothing."""
    with crowd(subject, 1_000, b""):
        time.sleep(sizes.seconds)


def damaged(line: bytes) -> bytes:
    """`line` with one byte changed, which four times of five is noticed."""
    place, value = os.urandom(2)
    return line[: place % len(line)] + bytes([value]) + line[place % len(line) + 1 :]


ATTACKS: dict[str, Callable[[Subject, Sizes], None]] = {
    "a client that reads nothing": slow_reader,
    "half a line": half_line,
    "1,000 connections that do nothing": nothing,
    "a line without an end": endless_line,
    "fuzzed lines": fuzzed_lines,
}


@contextlib.contextmanager
def crowd(subject: Subject, count: int, hello: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, begun at once, each of which has sent `hello`."""
    clients: list[socket.socket] = []
    poll = select.poll()
    try:
        for number in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
            sock.connect_ex(("127.0.0.1", subject.port))
            clients.append(sock)
            poll.register(sock, select.POLLOUT)
        waiting = {sock.fileno(): sock for sock in clients}
        deadline = time.monotonic() + PATIENCE
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} clients could not connect"
            for fd, _ in poll.poll(1000):
                poll.unregister(fd)
                waiting.pop(fd).sendall(hello)
        yield clients
    finally:
        for sock in clients:
            sock.close()


def await_lines(clients: list[socket.socket], count: int) -> None:
    """Read so many lines from each of `clients`."""
    left = dict.fromkeys((sock.fileno() for sock in clients), count)
    by_fd = {sock.fileno(): sock for sock in clients}
    poll = select.epoll()
    for sock in clients:
        poll.register(sock, select.EPOLLIN)
    deadline = time.monotonic() + PATIENCE
    with poll:
        while left:
            assert time.monotonic() < deadline, f"{len(left)} clients wait in vain"
            for fd, _ in poll.poll(1, 4096):
                data = by_fd[fd].recv(65536)
                assert data, "the server closed a connection"
                left[fd] -= data.count(b"\n")
                if left[fd] <= 0:
                    del left[fd]
                    poll.unregister(fd)
