"""A door that serves an app of a test at a free port, and a client that says what it is told, byte by byte."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from spalloc_server.config.options import Web
from spalloc_server.frontends.http.answers import ASGIApp, Receive, Scope, Send, text
from spalloc_server.frontends.http.home import Home
from spalloc_server.frontends.http.listener import Acceptor
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.log.defects import DefectLog
from tests.frontends.http.fake_socket import until
from tests.house import PATIENCE


class Door:
    """What serves."""

    def __init__(self, app: ASGIApp, **web: Any) -> None:
        self.defects = DefectLog()
        self.home = Home(app, Web(**web), self.defects)
        self.acceptor = Acceptor(self.home, refuse_plain)
        self.clients: list[Client] = []


refuse_plain = text(403, "not without TLS")


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that tells what it was asked."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    told = text(200, f"{scope['scheme']} {scope['method']} {scope['path']} {body.decode()}")
    await told(scope, receive, send)


@asynccontextmanager
async def door(app: ASGIApp = tell, *, tls: ssl.SSLContext | None = None, **web: Any) -> AsyncIterator[Door]:
    it = Door(app, **web)
    it.acceptor.tls = tls
    it.acceptor.listen(listening_sockets("127.0.0.1", 0))
    try:
        yield it
    finally:
        it.acceptor.close()
        for client in it.clients:
            client.reset()
        for connection in tuple(it.home.state.connections):
            connection.transport.abort()
        for websocket in tuple(it.home.websockets):
            websocket._transport.abort()
        await until(lambda: not it.acceptor.counted and not it.home.state.tasks)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, door: Door, **options: Any) -> Self:
        client = cls(*await asyncio.open_connection(*door.acceptor.address, **options))
        door.clients.append(client)
        return client

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """(status, body) of the next answer."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        self.head = head
        return int(head.split()[1]), body

    async def get(self, path: str = "/", *headers: str) -> tuple[int, bytes]:
        self.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: h", *headers, "", ""]).encode())
        return await self.answer()

    async def ended(self) -> bool:
        """Whether the other end has closed the connection, once it has."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                return await self.reader.read() == b""
        return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()
