"""A server process whose log cannot be written: it serves, is upgraded and stops as any other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest

from spalloc_server.server import DRAIN_SECONDS
from tests.house import PATIENCE, Place
from tests.processes import events, running
from tests.sinks import KINDS, Sink
from tests.test_server import Clients, clients, until

__all__ = ["clients"]

READY = 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_that_cannot_be_written_changes_nothing(place: Place, clients: Clients, kind: str) -> None:
    with Sink(kind) as place.sink:
        async with place.simulator(), running(place) as server:
            client = await clients.connect(server)
            await client.until(await client.create(3), READY)
            for _ in range(3):
                stranger = await clients.connect(server)
                stranger._writer.write(b"nonsense\n")
                with pytest.raises(EOFError):
                    await stranger.line()
            server.signal(signal.SIGUSR1)
            server.signal(signal.SIGHUP)
            assert [job["job_id"] for job in await client.call("list_jobs")] == [1]
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0


@pytest.mark.parametrize("kind", ["closed", "full pipe"])
async def test_it_is_upgraded_with_a_log_that_cannot_be_written(place: Place, clients: Clients, kind: str) -> None:
    with Sink(kind) as place.sink:
        async with place.simulator(), running(place) as server:
            client = await clients.connect(server)
            await client.until(await client.create(3), READY)
            old = server.pid
            server.signal(signal.SIGUSR2)
            assert await server.serves() != old
            assert [job["job_id"] for job in await client.call("list_jobs")] == [1]
            await server.stop()


@pytest.mark.parametrize("kind", ["full pipe", "full terminal", "no reader"])
async def test_two_signals_end_it_at_once_while_a_bmp_does_not_answer_and_its_log_hangs(
    place: Place, clients: Clients, kind: str
) -> None:
    with Sink(kind) as place.sink:
        async with running(place) as server:  # there is no BMP, so a graceful stop would wait for it
            client = await clients.connect(server)
            await client.create(3)
            server.signal(signal.SIGTERM)
            await refused(server.address)
            begun = time.monotonic()
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
            assert time.monotonic() - begun < DRAIN_SECONDS / 2


async def refused(address: tuple[str, int]) -> None:
    """Wait until nobody listens there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:  # it stopped listening in the middle of this
                continue
            writer.close()


class Reader:
    """Reads a pipe with a server's log, line by line."""

    def __init__(self, sink: Sink) -> None:
        self.rest = b""
        self.lines: list[str] = []
        self._sink = sink

    def read(self) -> bool:
        """Read what is there; whether it was anything."""
        try:
            data = self._sink.read()
        except BlockingIOError:
            return False
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return bool(data)

    def events(self) -> list[str]:
        self.read()
        return [json.loads(line)["event"] for line in self.lines]


async def test_a_pipe_that_is_read_again_gets_what_waited_and_the_next_process_writes_there_too(
    place: Place, clients: Clients
) -> None:
    with Sink("pipe") as place.sink:
        reader = Reader(place.sink)
        async with place.simulator(), running(place) as server:
            await until(lambda: "serving" in reader.events())
            for number in range(60):  # more than the pipe takes
                place.configure(tags=f"tag{number}")
                server.signal(signal.SIGHUP)
                await asyncio.sleep(0.01)
            client = await clients.connect(server)
            assert (await client.call("list_machines"))[0]["name"] == "m"
            server.signal(signal.SIGUSR2)
            await server.serves()
            await until(lambda: "upgrade done: the new process serves" in reader.events())
            await until(lambda: reader.events().count("serving") == 2)
            assert "lines of the log were lost" not in reader.events()
            reloads = reader.events().count("configuration reloaded")
            server.signal(signal.SIGHUP)
            await until(lambda: reader.events().count("configuration reloaded") > reloads)
            await server.stop()
        assert reader.rest == b""


async def test_the_log_of_the_last_moments_is_there_after_the_end(place: Place) -> None:
    with Sink("pipe") as place.sink:
        reader = Reader(place.sink)
        async with running(place) as server:
            await until(lambda: "serving" in reader.events())
            place.config.write_text("machine = 1")
            server.signal(signal.SIGHUP)
            server.signal(signal.SIGTERM)
            await server.ended()
        assert reader.events()[-2:] == [
            "configuration not changed: the file is bad",
            "stopped: jobs keep their boards",
        ]


async def test_a_job_log_that_nobody_reads_holds_up_no_upgrade_and_no_stop(place: Place, clients: Clients) -> None:
    pipe = place.folder / "jobs"
    os.mkfifo(pipe)
    async with place.simulator(), running(place, "--job-log", str(pipe)) as server:
        client = await clients.connect(server)
        await client.until(await client.create(3), READY)
        server.signal(signal.SIGUSR2)
        await server.serves()
        await client.call("destroy_job", 1)
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
    refused = [entry for entry in events(place) if entry["event"] == "job log cannot be written"]
    assert [entry["error"] for entry in refused] == ["nobody reads from it"] * 2, "each process says so once"
    assert sum(int(entry.get("events", 0)) for entry in events(place)) >= 4
