"""A small client of the line protocol, for commands that take the part of a user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import msgspec

from spalloc_server.core.model import JobState
from spalloc_server.errors import SpallocServerError

__all__ = ["Client", "ClientError"]

REPLY_SECONDS = 10.0
"""`demo`: the longest wait for a reply, as a client."""

REPLY_BYTES = 16 * 2**20
"""`demo`: the longest reply that is read, such as a list of many jobs."""

LOOK_SECONDS = 15.0
"""`demo`: from one request for the state of a job that is waited for to the next. It also keeps the job alive."""


class ClientError(SpallocServerError):
    """The server is gone, does not answer, or refuses a command."""


class Client:
    """One connection to a server, while entered with `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, host: str, port: int) -> AsyncIterator[Self]:
        """Connect for the time of an `async with`."""
        try:
            reader, writer = await asyncio.open_connection(host, port, limit=REPLY_BYTES)
        except OSError as exc:
            raise ClientError(f"cannot connect to {host}:{port}: {exc}") from exc
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def call(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Send a command; its reply.

        Raises:
            ClientError: it was refused, or none came in time.
        """
        self._writer.write(msgspec.json.encode({"command": command, "args": args, "kwargs": kwargs}) + b"\n")
        try:
            while "return" not in (answer := await self._line(REPLY_SECONDS)):
                if "exception" in answer:
                    raise ClientError(f"{command}: {answer['exception']}")
        except TimeoutError as exc:
            raise ClientError(f"{command}: the server did not answer within {REPLY_SECONDS:.0f} s") from exc
        return answer["return"]

    async def wait_for_job(self, job_id: int, *states: JobState) -> dict[str, Any]:
        """Wait until the job is in one of the states; its status then (`get_job_state`)."""
        await self.call("notify_job", job_id)
        while (status := await self.call("get_job_state", job_id))["state"] not in states:
            try:
                await self._line(LOOK_SECONDS)
            except TimeoutError:
                continue
        await self.call("no_notify_job", job_id)
        return dict(status)

    async def _line(self, seconds: float) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            try:
                line = await self._reader.readline()
            except OSError as exc:  # in here, for one that ran out of time is an OSError, too
                raise ClientError(f"the connection to the server is lost: {exc}") from exc
        if not line.endswith(b"\n"):
            raise ClientError("the server has closed the connection")
        return msgspec.json.decode(line, type=dict[str, Any])
