"""No client loses a job because the server was too busy to hear of it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from spalloc_server.frontends.v1 import turns
from spalloc_server.process import expiry
from tests.house import Client, Place

KEEPALIVE = 0.4
STALL = 0.8


@contextmanager
def keeping_alive(address: tuple[str, int], job_id: int) -> Iterator[None]:
    """Keep a job alive from a thread of its own, whatever the event loop does."""
    line = json.dumps({"command": "job_keepalive", "args": [job_id]}).encode() + b"\n"
    enough = threading.Event()

    def keep() -> None:
        with socket.create_connection(address) as sock:
            while not enough.wait(KEEPALIVE / 8):
                sock.sendall(line)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_keepalives_that_arrive_while_the_loop_stands_still_count(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "READ_GRACE", 0.0)  # as if the loop stood still for all of it too
    place = Place(tmp_path)
    place.configure()

    async def stand_still_and_go_on() -> None:
        async with place.simulator(), place.serving() as server:
            client = await Client.connect(server.address)
            kept, forgotten = await client.create(keepalive=KEEPALIVE), await client.create(keepalive=KEEPALIVE)
            with keeping_alive(server.address, kept):
                time.sleep(STALL)  # noqa: ASYNC251 - this is the stall
                while (await client.call("list_jobs"))[-1]["job_id"] == forgotten:
                    pass  # asking about the job itself would keep it alive
                assert [job["job_id"] for job in await client.call("list_jobs")] == [kept]
            await client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(stand_still_and_go_on())


CROWD = 40
CROWD_KEEPALIVE = 2.0
"""Long enough for all of them to be made, one by one, on a busy computer."""
CROWD_STALL = 2.5


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_keepalives_of_clients_that_stand_in_line_count(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "READ_GRACE", 0.0)
    monkeypatch.setattr(turns, "TURN_SECONDS", -1.0)  # one client a turn, as if each took long
    place = Place(tmp_path)
    place.configure()

    async def stand_still_and_go_on() -> None:
        async with place.simulator(), place.serving() as server:
            clients = [await Client.connect(server.address) for _ in range(CROWD)]
            jobs = [await client.create(keepalive=CROWD_KEEPALIVE) for client in clients]
            asked = [
                asyncio.create_task(client.call("job_keepalive", job))
                for client, job in zip(clients, jobs, strict=True)
            ]
            await asyncio.sleep(0)  # they send it
            time.sleep(CROWD_STALL)  # noqa: ASYNC251 - this is the stall
            await asyncio.gather(*asked)
            assert [job["job_id"] for job in await clients[0].call("list_jobs")] == jobs
            for client in clients:
                await client.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(stand_still_and_go_on())
