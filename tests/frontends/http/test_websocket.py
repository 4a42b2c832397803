"""WebSockets: by ASGI, and by direct calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from spalloc_server.frontends.http import turns, websocket as module
from spalloc_server.frontends.http.answers import Receive, Scope, Send, text
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client, Door, door

ASK = (
    b"GET /ws?a=1 HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """By ASGI."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message["bytes"] == b"close":
            await send({"type": "websocket.close", "code": 1007})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def quick_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """By direct calls."""

    def take(data: bytes) -> None:
        if data == b"raise":
            raise ValueError
        if data == b"close":
            pipe.close(1007, "")
        pipe.send(data)

    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    pipe = scope["extensions"]["spalloc.pipe"]()
    await pipe.run(take)


@asynccontextmanager
async def websocket(door: Door, **options: Any) -> AsyncIterator[ClientConnection]:
    host, port = door.acceptor.address
    async with connect(f"ws://{host}:{port}/ws?a=1", compression=None, **options) as client:
        yield client


@pytest.mark.parametrize("app", [echo, quick_echo])
async def test_messages_go_to_and_fro_in_order(app: Any) -> None:
    async with door(app) as it, websocket(it) as client:
        sent = [b"x" * size for size in (0, 1, 125, 126, 300, 65535, 65536)]
        for message in sent:
            await client.send(message)
        assert [await client.recv() for _ in sent] == sent


@pytest.mark.parametrize("app", [echo, quick_echo])
async def test_a_message_in_fragments_is_one_message(app: Any) -> None:
    async with door(app) as it, websocket(it) as client:
        await client.send([b"ab", b"cd", b"ef"])
        assert await client.recv() == b"abcdef"


async def test_others_have_their_turn_while_a_client_sends_many_small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    loop, order = asyncio.get_running_loop(), list[str]()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await _scope["extensions"]["spalloc.pipe"]().run(lambda data: order.append(data.decode()))

    def other() -> None:
        order.append("other")
        loop.call_soon(other) if order.count("last") == 0 else None

    frame = Frame(Opcode.BINARY, b"many").serialize(mask=True)
    flood = frame * (4 * module.SLICE_BYTES // len(frame)) + Frame(Opcode.BINARY, b"last").serialize(mask=True)
    async with door(app) as it, websocket(it):
        (protocol,) = it.home.websockets
        protocol.data_received(flood)
        other()
        protocol.data_received(Frame(Opcode.BINARY, b"behind").serialize(mask=True))  # TLS may have more all the same
        await until(lambda: order[-1:] == ["behind"] or order.count("behind") == 1)
    told = [each for each in order if each != "other"]
    assert told == ["many"] * (len(told) - 2) + ["last", "behind"]
    assert order[: order.index("last")].count("other") >= 3


async def test_empty_fragments_of_a_message_are_not_kept() -> None:
    async with door(quick_echo) as it, websocket(it) as client:
        (protocol,) = it.home.websockets
        first, more = Frame(Opcode.BINARY, b"", fin=False), Frame(Opcode.CONT, b"", fin=False)
        protocol.data_received(first.serialize(mask=True) + more.serialize(mask=True) * 1000)
        await until(lambda: not protocol._rest)
        assert not protocol._parts
        protocol.data_received(Frame(Opcode.CONT, b"end").serialize(mask=True))
        assert await client.recv() == b"end"


@pytest.mark.parametrize("app", [echo, quick_echo])
@pytest.mark.parametrize(("sent", "code"), [(b"close", 1007), ("text", 1003), (b"x" * 70000, 1009)])
async def test_a_websocket_is_closed_with_a_code(app: Any, sent: Any, code: int) -> None:
    async with door(app) as it, websocket(it) as client:
        await client.send(sent)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        await until(lambda: it.home.connections == it.acceptor.counted == 0)


@pytest.mark.parametrize("app", [echo, quick_echo])
async def test_the_app_hears_that_the_client_has_closed_or_gone(app: Any) -> None:
    async with door(app) as it:
        async with websocket(it):
            pass
        await until(lambda: not it.home.state.tasks)
        async with websocket(it) as client:
            client.transport.abort()
            await until(lambda: not it.home.state.tasks)
        assert it.defects.count == 0


async def test_what_the_app_raises_closes_the_websocket() -> None:
    async with door(quick_echo) as it, websocket(it) as client:
        await client.send(b"raise")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert it.defects.count == 1


async def test_pings_are_answered() -> None:
    async with door(quick_echo) as it, websocket(it) as client:
        await (await client.ping())


async def test_the_app_may_refuse_with_a_status_and_a_text() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["path"], scope["query_string"], scope["scheme"]) == ("/ws", b"a=1", "ws")
        await text(404, "no such job")(scope, receive, send)

    async with door(refusing) as it:
        with pytest.raises(InvalidStatus) as refused:
            async with websocket(it):
                pass
        assert refused.value.response.status_code == 404
        assert refused.value.response.body == b"no such job"


async def test_a_handshake_that_is_wrong_is_refused() -> None:
    async with door(echo) as it:
        client = await Client.connect(it)
        client.send(ASK.replace(b"AAAA", b"", 1))
        assert (await client.answer())[0] == 400
        assert await client.ended()


async def test_what_is_sent_right_behind_the_handshake_is_not_lost() -> None:
    async with door(quick_echo) as it:
        client = await Client.connect(it)
        client.send(ASK + b"\x82\x83\0\0\0\0abc")
        assert (await client.answer())[0] == 101
        assert await client.reader.readexactly(5) == b"\x82\x03abc"


async def test_a_client_that_reads_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNREAD_SECONDS", 0.1)

    async def floods(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        pipe = scope["extensions"]["spalloc.pipe"]()
        while pipe._open:
            if pipe.queued < 2 * 2**20:
                pipe.send(b"x" * 2**15)
            await asyncio.sleep(0)

    async with door(floods) as it:
        client = await Client.connect(it, limit=1024)
        client.send(ASK)
        await until(lambda: it.home.websockets)
        await until(lambda: not it.home.websockets)
