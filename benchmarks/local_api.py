"""The local API socket as a front process uses it: many requests of many clients over one connection.

A server in a process of its own, with simulated hardware beside it, is asked by a plain asyncio client that keeps so
many requests in flight and says that it is a front process. Processor time is the server's, from /proc.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.awake import cores_awake
from benchmarks.subjects import LIVE, Subject, hardware, ours
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.state_file import state_path

SECONDS = 4.0
QUICK_SECONDS = 1.5
IN_FLIGHT = (1, 32, 256)
MOST_MICROSECONDS = 25.0
"""Processor time that a look at a job may cost, with 32 in flight."""

PROGRAMS = {"front": "spalloc_web", "operator": "benchmark"}


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.number = 0
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.listener = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, path: Path, program: str) -> Client:
        client = cls(*await asyncio.open_unix_connection(path, limit=2**24))
        client.writer.write(json.dumps({"hello": {"protocol": 1, "version": "0", "program": program}}).encode() + b"\n")
        return client

    def send(self, tail: bytes) -> asyncio.Future[Any]:
        """Ask; `tail` is the line behind the number."""
        self.number += 1
        future = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        self.writer.write(b'{"id":%d,%s\n' % (self.number, tail))
        return future

    async def _listen(self) -> None:
        await self.reader.readline()  # the hello
        while line := await self.reader.readline():
            if (future := self.waiting.pop(int(line[6 : line.index(b",")]), None)) is not None:
                future.set_result(line)

    async def close(self) -> None:
        self.writer.close()
        await self.listener


def tail_of(command: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"command": command, **more}, separators=(",", ":")).encode()[1:]


async def load_with(
    client: Client, server: Subject, in_flight: int, seconds: float, make: Callable[[], bytes]
) -> tuple[float, float, float]:
    """(requests a second, microseconds of the server's processor time each, 99th percentile of seconds)."""
    end, times = time.perf_counter() + seconds, []

    async def one() -> None:
        while (begun := time.perf_counter()) < end:
            line = await client.send(make())
            assert b'"return"' in line, line
            times.append(time.perf_counter() - begun)

    before, begun = server.cpu(), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(in_flight)))
    spent, took = server.cpu() - before, time.perf_counter() - begun
    return len(times) / took, 1e6 * spent / len(times), sorted(times)[len(times) * 99 // 100]


async def measure(path: Path, server: Subject, seconds: float) -> str | None:
    operator = await Client.connect(path, PROGRAMS["operator"])
    front = await Client.connect(path, PROGRAMS["front"])
    behalf = {"for": {"account": "ann", "address": "127.0.0.1"}}
    await operator.send(tail_of({"command": "create account", "name": "ann"}))
    request = {"owner": "ann", "boards": 1, "tags": [LIVE]}
    create = {"command": "create job", "request": request, "keepalive": None, "original": {"num-boards": 1}}
    made = json.loads(await front.send(tail_of(create, once=secrets.token_hex(16), **behalf)))["return"]

    print("| request | in flight | a second | CPU of the server, us | p99, ms |\n|---|---|---|---|---|")
    looks = {
        "own job": tail_of({"command": "own job", "job_id": made}, **behalf),
        "keep job alive": tail_of({"command": "keep job alive", "job_id": made}, **behalf),
    }
    failed = None
    for name, tail in looks.items():
        for in_flight in IN_FLIGHT:
            rate, spent, p99 = await load_with(front, server, in_flight, seconds, lambda tail=tail: tail)  # type: ignore[misc]
            print(f"| {name} | {in_flight} | {rate:,.0f} | {spent:.1f} | {1e3 * p99:.2f} |", flush=True)
            if (name, in_flight) == ("own job", 32) and spent > MOST_MICROSECONDS:
                failed = f"a look at a job costs {spent:.1f} us, and may cost {MOST_MICROSECONDS:.0f}"
    for name, once in (("create job", False), ("create job, once", True)):

        def make(once: bool = once) -> bytes:
            return tail_of(create, **({"once": secrets.token_hex(16)} if once else {}), **behalf)

        rate, spent, p99 = await load_with(front, server, 8, seconds, make)
        print(f"| {name} | 8 | {rate:,.0f} | {spent:.1f} | {1e3 * p99:.2f} |", flush=True)
    for client in (front, operator):
        await client.close()
    return failed


def main(*, quick: bool) -> str | None:
    """Print a table; what is slower than it may be."""
    with tempfile.TemporaryDirectory() as folder, cores_awake():
        directory = Path(folder)
        with hardware(directory) as config, ours(config, directory) as server:
            path = socket_path(state_path(directory / "unlimited.py"))
            while not path.exists():  # the port is bound before
                time.sleep(0.02)
            return asyncio.run(measure(path, server, QUICK_SECONDS if quick else SECONDS))
