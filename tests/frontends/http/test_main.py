"""A front process in the test's own event loop: what becomes of clients when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from spalloc_server.config.options import Web
from spalloc_server.frontends.http import app, listener, main
from spalloc_server.frontends.http.answers import ASGIApp, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import Asking
from spalloc_server.frontends.http.main import Front
from tests.frontends.http.fake_socket import FakeServer, Poke, fake_server, until
from tests.frontends.http.serving import Client
from tests.house import PATIENCE


def parts(asking: Asking, _grants: object) -> dict[str, ASGIApp]:
    """A long poll, a command that changes something, and a WebSocket."""

    async def poll(scope: Scope, receive: Receive, send: Send) -> None:
        await text(200, str(await asking.changed("job/7", 100, PATIENCE)))(scope, receive, send)

    async def poke(scope: Scope, receive: Receive, send: Send) -> None:
        await text(200, str(await asking.ask(Poke(what=5), int)))(scope, receive, send)

    async def websocket(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return {"/poll": poll, "/poke": poke, "/ws": websocket}


@asynccontextmanager
async def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **web: Any
) -> AsyncIterator[tuple[FakeServer, Front, Client]]:
    """A server, a front process, and a client of it; the front process ends at the end, if it has not."""
    monkeypatch.setattr(app, "_parts", parts)
    monkeypatch.setattr(app, "Authentication", lambda inner, *_: inner)
    front = Front(tmp_path / "state", of_server=False, notify=lambda *_: None)
    async with fake_server(tmp_path, ip="127.0.0.1", port=0, **web) as server:
        running = asyncio.create_task(front.run())
        await until(lambda: front.address[1] or running.done())
        client = Client(*await asyncio.open_connection(*front.address))
        try:
            yield server, front, client
        finally:
            client.close()
            front.stop()
            async with asyncio.timeout(PATIENCE):
                await running


async def test_long_polls_are_answered_when_it_is_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as (server, front, client):
        asked = asyncio.create_task(client.get("/poll"))
        await until(lambda: any("job/7" in said["command"]["keys"] for said in server.commands("subscribe")))
        begun = asyncio.get_running_loop().time()
        front.stop()
        assert await asked == (200, b"100")
        assert b"connection: close" in client.head
        assert asyncio.get_running_loop().time() - begun < main.STOP_SECONDS


async def test_the_log_tells_that_a_reload_lets_others_overhear_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "is_loopback", lambda _: False)
    with capture_logs() as lines:
        async with serving(tmp_path, monkeypatch, plain_http=False) as (server, front, client):
            assert (await client.get("/healthz"))[0] == 403
            for seconds in (60.0, 70.0):
                server.web = Web(ip="127.0.0.1", port=0, plain_http=True, idle_seconds=seconds)
                server.change("server")
                await until(lambda seconds=seconds: front._home.web.idle_seconds == seconds)  # type: ignore[misc]
    assert len([line for line in lines if "without TLS is served to other computers" in line["event"]]) == 1


@pytest.mark.parametrize("first", ["the server", "the front"])
async def test_requests_do_not_wait_for_a_server_that_ends_along_with_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr("spalloc_server.frontends.http.connection.LAST_SECONDS", 0.1)
    monkeypatch.setattr(main, "STOP_SECONDS", PATIENCE)
    async with serving(tmp_path, monkeypatch, hold_seconds=PATIENCE) as (server, front, client):
        server.silent = True
        client.send(b"POST /poke HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: server.commands("poke"))
        if first == "the front":
            front.stop()
            await until(lambda: front._home.draining)
        await server.die()
        await until(lambda: not front._connection.there)
        front.stop() if first == "the server" else None
        assert (await client.answer())[0] == 503
        assert b"retry-after" in client.head


async def test_websockets_are_closed_with_the_code_of_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as (_, front, _):
        async with connect("ws://{}:{}/ws".format(*front.address)) as websocket:
            front.stop()
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


async def test_a_long_poll_and_a_websocket_outlive_a_server_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as (server, front, client):
        asked = asyncio.create_task(client.get("/poll"))
        async with connect("ws://{}:{}/ws".format(*front.address)) as websocket:
            await until(lambda: any("job/7" in said["command"]["keys"] for said in server.commands("subscribe")))
            await server.die()
            server.revisions["job/7"] = 7  # another process counts anew
            await (await websocket.ping())
            assert not asked.done()
            await server.start()
            assert await asked == (200, b"7")
            await (await websocket.ping())


async def test_a_client_notices_nothing_of_a_server_that_dies_between_commit_and_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as (server, _, client):
        answer = server.answers["poke"]
        server.answers["poke"] = lambda _: ConnectionError()
        client.send(b"POST /poke HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: server.commands("poke"))
        await server.die()
        server.answers["poke"] = answer
        await server.start()
        assert await client.answer() == (200, b"5")
        first, second = server.commands("poke")
        assert first["once"] == second["once"]


async def test_requests_that_cannot_wait_longer_are_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, hold_seconds=0.1) as (server, _, client):
        await server.die()
        client.send(b"POST /poke HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answer())[0] == 503
        assert b"retry-after: 5" in client.head
