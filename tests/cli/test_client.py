"""The client that the demo's users have."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spalloc_server.cli import client
from spalloc_server.cli.client import Client, ClientError
from spalloc_server.controller import JobState
from tests.house import PATIENCE


@asynccontextmanager
async def answering(*script: str | None) -> AsyncIterator[tuple[Client, list[str]]]:
    """A client of a server that answers each line with the next of these, None with silence, and then hangs up."""
    asked: list[str] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in script:
            asked.append(json.loads(await reader.readline())["command"])
            writer.write((answer or "").encode())
        if script[-1] is None:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        async with Client.connect(*server.sockets[0].getsockname()) as connected:
            yield connected, asked
        await over.wait()


async def test_notifications_do_not_hide_the_reply() -> None:
    async with answering('{"jobs_changed": [3]}\n{"return": 7}\n') as (user, asked):
        assert await user.call("create_job", 24, owner="me") == 7
        assert asked == ["create_job"]


async def test_a_job_is_waited_for_by_notification() -> None:
    script = (
        '{"return": null}\n',
        '{"return": {"state": 2}}\n{"jobs_changed": [3]}\n',
        '{"return": {"state": 3, "power": true}}\n',
        '{"return": null}\n',
    )
    async with answering(*script) as (user, asked):
        assert await user.wait_for_job(3, JobState.ready) == {"state": 3, "power": True}
        assert asked == ["notify_job", "get_job_state", "get_job_state", "no_notify_job"]


async def test_a_job_is_looked_at_even_if_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_SECONDS", 0.01)
    script = ('{"return": null}\n', '{"return": {"state": 1}}\n', '{"return": {"state": 4}}\n', '{"return": null}\n')
    async with answering(*script) as (user, _):
        assert (await user.wait_for_job(3, JobState.destroyed))["state"] == 4


async def test_a_refusal_is_an_error() -> None:
    async with answering('{"exception": "no owner"}\n') as (user, _):
        with pytest.raises(ClientError, match="create_job: no owner"):
            await user.call("create_job")


async def test_a_server_that_hangs_up_is_an_error() -> None:
    async with answering("") as (user, _):
        with pytest.raises(ClientError, match="closed the connection"):
            await user.call("version")


async def test_a_server_that_is_killed_before_it_has_read_all_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with Client.connect(*listener.getsockname()) as user:
            server, _ = listener.accept()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets at its close
            server.close()
            with pytest.raises(ClientError, match="connection to the server is lost"):
                await user.call("version")


async def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REPLY_SECONDS", 0.01)
    async with answering(None) as (user, _):
        with pytest.raises(ClientError, match="did not answer within"):
            await user.call("version")


async def test_no_server_is_an_error() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    with pytest.raises(ClientError, match="cannot connect to"):
        async with Client.connect(*address):
            raise AssertionError("connected to nobody")
