"""A server with `[web]` and its front process, which outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spalloc_server.frontends.front_lock import front_folder, holder
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client
from tests.house import Place
from tests.processes import ServerProcess, events, running


class Hall:
    """A place with a server and its front process."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.place.configure()
        config = self.place.config.read_text()
        self.place.config.write_text(
            config.replace("ip='127.0.0.1',", "ip='127.0.0.1', web=Web(ip='127.0.0.1', port=0),")
        )

    def told(self, event: str) -> list[dict[str, str]]:
        """The lines of the log that tell of an event."""
        return [line for line in events(self.place) if line["event"] == event]

    @property
    def front(self) -> int:
        """The front process that serves; 0 while there is none."""
        found = holder(front_folder(self.place.state))
        return 0 if found is None else found.pid

    async def client(self) -> Client:
        """A client, once the front process serves."""
        await until(lambda: self.told("serving HTTP"))
        host, _, port = self.told("serving HTTP")[-1]["address"].rpartition(":")
        return Client(*await asyncio.open_connection(host, port))


@asynccontextmanager
async def hall(folder: Path) -> AsyncIterator[tuple[Hall, Client, ServerProcess]]:
    """A hall that serves, and a client; all is killed at the end."""
    it = Hall(folder)
    async with running(it.place) as server:
        client = await it.client()
        try:
            yield it, client, server
        finally:
            client.close()
            if it.front:
                os.kill(it.front, signal.SIGKILL)


async def test_it_outlives_a_server_that_is_killed_and_is_adopted_by_the_next(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        front = it.front
        assert (await client.get("/spalloc/system/login.html"))[0] == 200
        await server.kill()
        assert await client.get("/healthz") == (200, b"ok")
        waiting = asyncio.create_task(client.get("/spalloc/system/login.html"))
        async with running(it.place):
            assert (await waiting)[0] == 200
            await until(lambda: len(it.told("connected to the server")) == 2)
            assert it.front == front
            assert len(it.told("a front process is started")) == 1


async def test_an_upgrade_of_the_server_leaves_it_and_a_reload_changes_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        front = it.front
        server.signal(signal.SIGUSR2)
        await server.serves()
        assert await client.get("/readyz") == (200, b"ok")
        assert it.front == front
        it.place.config.write_text(
            it.place.config.read_text().replace("web=Web(ip='127.0.0.1'", "web=Web(ip='127.0.0.3'")
        )
        server.signal(signal.SIGHUP)
        await until(lambda: len(it.told("serving HTTP")) == 2)
        assert it.told("serving HTTP")[-1]["address"].startswith("127.0.0.3:")


async def test_a_server_that_is_stopped_stops_it(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, client, server):
        await server.stop()
        await until(lambda: not it.front)
        assert await client.ended()


async def test_a_front_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with hall(tmp_path) as (it, _, _):
        os.kill(it.front, signal.SIGKILL)
        await until(lambda: len(it.told("serving HTTP")) == 2)
        (ended,) = it.told("the front process has ended: it is started again")
        assert int(ended["status"]) == -signal.SIGKILL
        client = await it.client()
        assert await client.get("/readyz") == (200, b"ok")
        client.close()
