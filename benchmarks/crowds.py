"""Many clients at once, and bad ones: what the others notice of them, and what they cost.

The crowds are plain sockets of this process; what others notice is measured by the load generator, which sends 200
`get_job_state` a second meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.generator import Generator
from benchmarks.subjects import Subject, request
from spalloc_server.frontends.v1.commands import COMMANDS, decode
from spalloc_server.frontends.v1.lines import GarbageError

__all__ = ["ATTACKS", "LIVE_JOBS", "Sizes", "allow_files", "attack_it", "list_polling", "notice", "run"]

LIVE_JOBS = 5_000
"""At which many clients poll `list_jobs`."""

STATE = request("get_job_state", 1)
OTHER_FILES = 500
"""Open files that are not to be connections; where the system allows too few, fewer connections are measured."""

SLOW_READERS = 20
SENDERS = 100
FUZZED_TOGETHER = 100
"""Lines on one connection, the last of which is no request."""

SEED = 7
HARMLESS = (
    *("version", "get_job_state", "job_keepalive", "get_job_machine_info", "no_notify_job", "no_notify_machine"),
    *("list_machines", "get_board_position", "get_board_at_position", "where_is", "report_problem"),
)
"""Commands that do nothing to jobs, whatever they are given."""

JUNK = (
    *("null", "true", "-1", "0", "2.5", "1e308", "99999999999999999999", '""', '"live"', '"\\u0000\\ud83d\\ude00"'),
    *("[]", "{}", "[[[[[[]]]]]]", '{"a":{"b":[null]}}', f'"{"x" * 300}"'),
)
BUT_NEWLINE = bytes(set(range(256)) - {ord("\n")})
PER_ADDRESS = 2_000
"""Connections from one of the loopback addresses."""

PATIENCE = 30.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    reconnecting: int = 2_000
    idle: int = 10_000
    watchers: tuple[int, ...] = (1_000, 4_000)
    endless_bytes: int = 1_000_000_000
    fuzzed_lines: int = 1_000_000
    seconds: float = 5.0

    @classmethod
    def quick(cls) -> Sizes:
        """For development."""
        return cls(idle=3_000, watchers=(1_000,), endless_bytes=100_000_000, fuzzed_lines=50_000, seconds=2.0)


def allow_files() -> None:
    """Have as many open files as the system allows; the servers that are started later inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
    """Crowds of good clients, one after another; prints what they cost. The server is new, and so is its memory."""
    idle(subject, generator, sizes)
    quiet = generator.run(subject.port, STATE, clients=20, rate=200, seconds=sizes.seconds)
    print(f"{subject.name}: p99 with nobody else {quiet.lines[0].p99 * 1e3:.2f} ms")
    reconnect(subject, sizes.reconnecting)
    for count in sizes.watchers:
        watch(subject, count)


def attack_it(subject: Subject, generator: Generator, sizes: Sizes) -> None:
    """Bad clients, one kind after another; prints what others notice of them."""
    for name, attack in ATTACKS.items():
        with notice(subject, generator, sizes) as noticed:
            attack(subject, sizes)
        print(
            f"{subject.name}: {name}: others' p99 {noticed.p99_ms:.2f} ms, longest {noticed.longest_ms:.1f} ms, "
            f"{noticed.errors} errors, memory {noticed.growth_mib:+.1f} MiB at the most"
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
    count = min(sizes.idle, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES)
    with crowd(subject, count, request("version").encode() + b"\n") as clients:
        await_lines(clients, 1)
        each = (subject.memory() - before) / count / 1024
        print(f"{subject.name}: {count:,} idle connections cost {each:.1f} KiB each")
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
    """By how much the server's memory grew, at the most."""


@contextlib.contextmanager
def notice(subject: Subject, generator: Generator, sizes: Sizes) -> Iterator[Noticed]:
    """What others notice meanwhile, known afterwards."""
    noticed = Noticed()
    before = peak = subject.memory()
    over = threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, subject.memory())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        load = generator.begin(subject.port, STATE, clients=20, rate=200, seconds=sizes.seconds)
        yield noticed
        seen = generator.end(load)
    finally:
        over.set()
        looking.join()
    noticed.p99_ms, noticed.longest_ms = seen.lines[0].p99 * 1e3, seen.lines[0].max * 1e3
    noticed.errors, noticed.growth_mib = seen.errors, (peak - before) / 2**20


def slow_readers(subject: Subject, sizes: Sizes) -> None:
    """Watch all jobs, ask for all of them again and again, and read nothing, while jobs come and go."""
    asking = f"{request('notify_job')}\n{request('list_jobs')}\n".encode() * 500
    with crowd(subject, SLOW_READERS, b"") as clients:
        for _ in until(sizes.seconds):
            push(clients, asking)
            subject.ask("create_job", 1, owner="watched", keepalive=None, machine="nowhere")


def senders(subject: Subject, sizes: Sizes) -> None:
    """Send requests as fast as they are taken, of all kinds, and read nothing."""
    asking = "".join(f"{line}\n" for line in (STATE, request("list_machines"), request("version", "misfit"))).encode()
    with crowd(subject, SENDERS, b"") as clients:
        for _ in until(sizes.seconds):
            push(clients, asking * 500)


def half_line(subject: Subject, sizes: Sizes) -> None:
    """Sends half a request, and waits."""
    with subject.connect() as sock:
        sock.sendall(STATE[:20].encode())
        time.sleep(sizes.seconds)


def endless_line(subject: Subject, sizes: Sizes) -> None:
    """Sends a line that never ends; connects again whenever it is disconnected, until so much has been sent."""
    left, data = sizes.endless_bytes, b"x" * 2**20
    while left > 0:
        with subject.connect() as sock, contextlib.suppress(ConnectionError):
            while left > 0:
                left -= sock.send(data)


def fuzzed_lines(subject: Subject, sizes: Sizes) -> None:
    """Sends requests with random damage: some that are answered, and then one that is none, on each connection.

    So the server decodes every line: each of the first is answered, and for the last the client is disconnected.
    """
    chance = random.Random(SEED)
    answered = 0
    for _ in range(sizes.fuzzed_lines // FUZZED_TOGETHER):
        lines = [odd_request(chance) for _ in range(FUZZED_TOGETHER - 1)]
        with subject.connect() as sock:
            sock.sendall("".join(lines).encode() + garbage(chance) + b"\n")
            replies = 0
            while data := sock.recv(65536):
                replies += data.count(b"\n")
        assert replies == len(lines), f"{replies} replies to {len(lines)} requests"
        answered += replies
    assert answered == sizes.fuzzed_lines // FUZZED_TOGETHER * (FUZZED_TOGETHER - 1)


def nothing(subject: Subject, sizes: Sizes) -> None:
    """A thousand connections that do nothing."""
    with crowd(subject, 1_000, b""):
        time.sleep(sizes.seconds)


def odd_request(chance: random.Random) -> str:
    """A line that is a request, with arguments of which most make no sense; it changes nothing."""
    args = ",".join(chance.choices(JUNK, k=chance.randrange(5)))
    name = chance.choice(("machine", "x", "owner", "job_id", "client", "\u00e9"))
    return f'{{"command":"{chance.choice(HARMLESS)}","args":[{args}],"kwargs":{{"{name}":{chance.choice(JUNK)}}}}}\n'


def garbage(chance: random.Random) -> bytes:
    """A line that is no request: one with a few bytes changed."""
    while True:
        line = bytearray(STATE.encode())
        for _ in range(chance.randrange(1, 4)):
            line[chance.randrange(len(line))] = chance.choice(BUT_NEWLINE)
        try:
            if decode(line).command not in COMMANDS:
                return bytes(line)
        except GarbageError:
            return bytes(line)


ATTACKS: dict[str, Callable[[Subject, Sizes], None]] = {
    "20 watchers that ask for all jobs and read nothing": slow_readers,
    "100 clients that send and read nothing": senders,
    "half a line": half_line,
    "1,000 connections that do nothing": nothing,
    "a line without an end": endless_line,
    "fuzzed lines": fuzzed_lines,
}


def until(seconds: float) -> Iterator[None]:
    """Again and again, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def push(clients: list[socket.socket], data: bytes) -> None:
    """Send each client's server as much of `data`, whole lines or not, as is taken now."""
    for sock in clients:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock.send(data)
    time.sleep(0.001)


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
