"""A server that answers as it is told, at a Unix socket; and a front's parts that speak to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from spalloc_server.application.command_kinds import Look, Use
from spalloc_server.config.options import Web
from spalloc_server.frontends.http.asking import WebSettings
from spalloc_server.frontends.http.connection import Connection
from spalloc_server.frontends.local_api import PROTOCOL, Hello
from tests.house import PATIENCE


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - whatever it is, it tells nobody
            await asyncio.sleep(0.001)


SETTINGS = {"command": "web settings"}


class Peek(Look, frozen=True, tag="peek"):
    """Changes nothing."""

    what: Any = None


class Poke(Use, frozen=True, tag="poke"):
    """Changes something."""

    what: Any = None


class Touch(Use, frozen=True, tag="touch"):
    """Changes nothing that is stored, and may not be repeated."""

    changes = False


class FakeServer:
    """Answers lines; each command by the function of its name, which may be assigned."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version, self.web = "1.0", Web(plain_http=True)
        self.said: list[dict[str, Any]] = []
        """All requests that have come, over all connections."""
        self.revisions: dict[str, int] = {}
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "web settings": lambda _: WebSettings(web=self.web, version=self.version, state=str(path)),
            "subscribe": lambda command: {key: self.revisions.get(key, 100) for key in command["keys"]},
            "unsubscribe": lambda _: None,
            "peek": lambda command: command.get("what"),
            "poke": lambda command: command.get("what"),
        }
        self.silent = False
        """Whether it takes requests and answers none."""
        self._server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=2**24)

    async def die(self) -> None:
        """As with kill -9."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()
        self.path.unlink(missing_ok=True)

    def tell(self, line: object) -> None:
        """Send a line to all who are connected."""
        for writer in self.writers:
            writer.write(msgspec.json.encode(line) + b"\n")

    def change(self, *keys: str) -> None:
        """Something has changed."""
        for key in keys:
            self.revisions[key] = self.revisions.get(key, 100) + 1
        self.tell({"changed": list(keys)})

    def greet(self) -> None:
        self.tell({"hello": Hello(protocol=PROTOCOL, version=self.version, program="spalloc_server")})

    def commands(self, name: str) -> list[dict[str, Any]]:
        """All requests of this kind so far."""
        return [said for said in self.said if said["command"]["command"] == name]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())["hello"]
        assert hello["program"] == "spalloc_web"
        self.writers.append(writer)
        writer.write(
            msgspec.json.encode({"hello": Hello(protocol=PROTOCOL, version=self.version, program="spalloc_server")})
            + b"\n"
        )
        with suppress(asyncio.CancelledError):
            await self._answer_all(reader, writer)

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            self.said.append(request)
            if self.silent:
                continue
            answer = self.answers[request["command"]["command"]](request["command"])
            if isinstance(answer, Exception):
                writer.transport.abort()
            elif isinstance(answer, dict) and "error" in answer:
                writer.write(msgspec.json.encode({"id": request["id"], **answer}) + b"\n")
            else:
                writer.write(msgspec.json.encode({"id": request["id"], "return": answer}) + b"\n")


@asynccontextmanager
async def fake_server(folder: Path, **web: Any) -> AsyncIterator[FakeServer]:
    server = FakeServer(folder / "state.sock")
    server.web = Web(**{"plain_http": True, **web})
    await server.start()
    try:
        yield server
    finally:
        await server.die()


@asynccontextmanager
async def connected(server: FakeServer, **options: Any) -> AsyncIterator[Connection]:
    """A connection that knows the settings."""
    known = asyncio.Event()
    told = options.pop("on_settings", lambda _: None)

    def on_settings(settings: WebSettings | None) -> None:
        known.set()
        told(settings)

    connection = Connection(server.path, SETTINGS, on_settings=on_settings, **options)
    connection.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await known.wait()
        yield connection
    finally:
        await connection.close()
