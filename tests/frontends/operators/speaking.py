"""A client of the local API socket that does what it is told, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from spalloc_server.frontends.local_api import PROTOCOL, socket_path
from tests.house import PATIENCE, Place

HELLO = json.dumps({"hello": {"protocol": PROTOCOL, "version": "0", "program": "test"}}).encode() + b"\n"


def line_of(command: dict[str, Any], number: int = 1, **more: Any) -> bytes:
    """A request as it goes over the wire."""
    return json.dumps({"id": number, "command": command, **more}).encode() + b"\n"


def lines_of(command: dict[str, Any], number: int) -> bytes:
    """So many requests of one connection."""
    return b"".join(line_of(command, each) for each in range(1, number + 1))


class Operator:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.number = 1_000_000
        self.changed: list[str] = []
        """What the server has said to have changed."""

    @classmethod
    async def connect(cls, place: Place, sent: bytes = HELLO) -> Operator:
        return await cls.at(socket_path(place.state), sent)

    @classmethod
    async def at(cls, path: Path, sent: bytes = HELLO) -> Operator:
        operator = cls(*await asyncio.open_unix_connection(path, limit=2**24))
        operator.writer.write(sent)
        return operator

    @classmethod
    @asynccontextmanager
    async def of(cls, place: Place) -> AsyncIterator[Operator]:
        operator = await cls.connect(place)
        try:
            yield operator
        finally:
            operator.writer.close()
            await operator.writer.wait_closed()

    @classmethod
    async def among(cls, place: Place, stack: AsyncExitStack, sent: bytes = HELLO) -> Operator:
        """A connection that is closed with `stack`."""
        operator = await cls.connect(place, sent)
        stack.callback(operator.writer.close)
        return operator

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        self.writer.close()

    async def line(self) -> dict[str, Any]:
        """The next line that is neither a hello nor a change."""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = json.loads(await self.reader.readline())
                if "changed" in line:
                    self.changed += line["changed"]
                elif "hello" not in line:
                    return dict(line)

    async def reply(self, number: int) -> dict[str, Any]:
        """The reply to a request; whatever comes before it is passed over."""
        while True:
            line = await self.line()
            if line.get("id", number) == number:
                line.pop("id", None)
                return line

    async def say(self, command: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The reply to a command: `return`, `error` or `exception`."""
        self.number += 1
        self.send(line_of(command, self.number, **more))
        return await self.reply(self.number)

    async def ask(self, command: str, **fields: Any) -> Any:
        """What a command returns."""
        reply = await self.say({"command": command, **fields})
        if "return" not in reply:
            raise RuntimeError(reply.get("exception") or reply["error"]["text"])
        return reply["return"]

    async def machine(self, wanted: Callable[[Any], bool]) -> Any:
        """The one machine, once it is as wanted."""
        async with asyncio.timeout(PATIENCE):
            while True:
                (machine,) = await self.ask("machines")
                if wanted(machine):
                    return machine
                await asyncio.sleep(0.01)
