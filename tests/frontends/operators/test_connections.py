"""There is always room for one more operator, whatever the others do: an emergency stop gets through."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from spalloc_server.application import commands
from spalloc_server.cli.running_server import RunningServer
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.frontends.operators import connection as connection_module
from spalloc_server.frontends.operators.connection import UNREAD_SECONDS
from spalloc_server.frontends.operators.connections import MAX_CONNECTIONS
from spalloc_server.server import Server
from tests.frontends.operators.speaking import HELLO, Operator, line_of, lines_of
from tests.frontends.operators.test_service import A_BOARD
from tests.house import PATIENCE, Client, Place
from tests.processes import ServerProcess, running

STOP = {"command": "emergency-stop", "reason": "smoke"}
STOPS = HELLO + line_of(STOP)
ROOM = "closed to make room for another"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def crowd(
    place: Place, stack: AsyncExitStack, sent: bytes = HELLO, number: int = MAX_CONNECTIONS
) -> list[Operator]:
    """So many connections that have sent this much."""
    return [await Operator.among(place, stack, sent) for _ in range(number)]


async def stopped(place: Place, server: Server, stack: AsyncExitStack) -> None:
    """An emergency stop gets through at once: nothing that the others wait for ends in this time."""
    async with asyncio.timeout(UNREAD_SECONDS / 2):
        assert await (await Operator.among(place, stack)).say(STOP) == {"return": None}
    assert server.controller.stopped is not None


TEMPERATURES = {"command": "temperatures", "machine": "m"}
BOARDS = {"command": "boards"}
CYCLE = {"command": "power-cycle", **A_BOARD}
CROWDS = {
    "idle": b"",
    "half a line": b'{"command": "sta',
    "a line that has no end": b"x" * 100_000,
    "nonsense": b"\n\n\0\n",
    "half a request": HELLO + b'{"id": 1, "comm',
    "replies that nobody reads": HELLO + lines_of(BOARDS, 2000),
    "temperatures of a frame that says nothing": HELLO + line_of(TEMPERATURES),
    "power cycles that wait for their turn": HELLO + line_of(CYCLE),
    "temperatures, again and again": HELLO + lines_of(TEMPERATURES, 1000),
    "waiting for changes": HELLO + lines_of({"command": "wait", "key": "job/7", "since": 0}, 1000),
    "subscribed to everything": HELLO + line_of({"command": "subscribe", "keys": ["jobs", "machines", "server"]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("sent", CROWDS.values(), ids=CROWDS.keys())
async def test_an_emergency_stop_gets_through_a_crowd(place: Place, stack: AsyncExitStack, sent: bytes) -> None:
    async with place.simulator() as simulator, place.serving() as server:
        simulator.frames[place.hosts[0]].silence()
        everybody = await crowd(place, stack, sent, 3 * MAX_CONNECTIONS)
        await stopped(place, server, stack)
        assert len(server._operators.connections._open) <= MAX_CONNECTIONS
        del everybody


async def test_the_connection_that_has_been_idle_for_longest_makes_room_and_is_told_to_send_again(
    place: Place, stack: AsyncExitStack
) -> None:
    async with place.simulator(), place.serving():
        first, *others = await crowd(place, stack)
        for raw in (first, *others):
            await raw.say({"command": "machines"})
        await others[0].say({"command": "machines"})
        await first.say({"command": "machines"})
        newcomer = await Operator.among(place, stack)
        told = await others[1].line()
        assert ROOM in told["exception"]
        assert told["again"] is True
        for raw in (newcomer, first, others[0], others[-1]):
            assert "return" in await raw.say({"command": "machines"})


async def test_who_has_a_request_under_way_makes_room_last_and_the_request_goes_on(
    place: Place, stack: AsyncExitStack
) -> None:
    async with place.serving() as server:
        waiting = await Operator.among(place, stack, HELLO + line_of(TEMPERATURES))
        while not server._application.at_hardware.waiting:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        await crowd(place, stack, HELLO, MAX_CONNECTIONS + 5)
        assert all("does not answer" in view["error"] for view in (await waiting.line())["return"])


async def test_one_that_makes_room_with_a_request_under_way_is_told_to_look(
    place: Place, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        monkeypatch.setattr(server._hardware, "read_temperatures", lambda *_: asyncio.Event().wait())
        everybody = await crowd(place, stack, HELLO + line_of(TEMPERATURES))
        while server._application.at_hardware.waiting < MAX_CONNECTIONS:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        refused = await (await Operator.among(place, stack)).say(TEMPERATURES)
        assert "32 commands wait for hardware already" in refused["error"]["text"]
        assert (refused["error"]["code"], refused["error"]["again"]) == ("busy", True)
        await stopped(place, server, stack)
        told = await everybody[0].line()
        text = f"this connection was {ROOM}, as 32 were open while this was under way: look what has become of it"
        assert told == {"id": 1, "error": {"code": "outcome-unknown", "text": text, "again": False}}
        assert ROOM in (await everybody[0].line())["exception"]


@pytest.mark.slow
async def test_many_connections_that_come_and_go_keep_no_operator_out(place: Place) -> None:
    async with place.simulator(), place.serving() as server:
        ended = threading.Event()
        flood = [asyncio.create_task(asyncio.to_thread(connect_and_connect, place, ended)) for _ in range(2)]
        admin = RunningServer(socket_path(place.state), as_json=False)
        for _ in range(5):
            await asyncio.to_thread(admin.ask, commands.EmergencyStop(reason="smoke"), object)
            assert server.controller.stopped is not None
            await asyncio.to_thread(admin.ask, commands.Resume(), object)
        ended.set()
        assert sum(await asyncio.gather(*flood)) > MAX_CONNECTIONS


def connect_and_connect(place: Place, ended: threading.Event) -> int:
    """Keep the latest 100 connections open until told to end; how many there were."""
    kept: list[socket.socket] = []
    number = 0
    while not ended.is_set():
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(0.1)
        with suppress(OSError):
            sock.connect(str(socket_path(place.state)))
            number += 1
        kept.append(sock)
        if len(kept) > 100:
            kept.pop(0).close()
    for sock in kept:
        sock.close()
    return number


async def test_views_of_everything_do_not_keep_an_emergency_stop_waiting(
    place: Place, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        views, stop = server.controller.board_views, server.controller.emergency_stop
        asked = asked_before_stop = 0

        def counted(machine: str | None) -> Any:
            nonlocal asked
            asked += 1
            return views(machine)

        def noted(*, reason: str, by: str) -> None:
            nonlocal asked_before_stop
            asked_before_stop = asked
            stop(reason=reason, by=by)

        monkeypatch.setattr(server.controller, "board_views", counted)
        monkeypatch.setattr(server.controller, "emergency_stop", noted)
        await crowd(place, stack, HELLO + lines_of(BOARDS, 50), MAX_CONNECTIONS - 1)
        before = asked
        await stopped(place, server, stack)
        assert asked_before_stop - before < 100, "of 1550; more may be answered while the stop is stored"


async def test_a_client_that_sends_its_end_first_is_answered_all_the_same(place: Place, stack: AsyncExitStack) -> None:
    async with place.simulator(), place.serving() as server:
        sent = line_of({"command": "machines"}, 1) + line_of(STOP, 2) + b"half a li"
        raw = await Operator.among(place, stack, HELLO + sent)
        raw.writer.write_eof()
        replies = [await raw.line(), await raw.line()]
        assert {reply["id"]: reply["return"] is None for reply in replies} == {1: False, 2: True}
        assert await raw.reader.read() == b""
        assert server.controller.stopped is not None


async def test_a_line_that_is_too_long_is_refused_with_a_word(
    place: Place, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_LINE", 1000)
    async with place.simulator(), place.serving():
        for sent in (b"x" * 1001, b"x" * 1001 + b"\n", HELLO + b"x" * 1001):
            raw = await Operator.among(place, stack, sent)
            assert await raw.line() == {"exception": "a request is longer than 1000 bytes"}
            assert await raw.reader.read() == b""


@pytest.mark.parametrize("sent", [b"", b"half a li", HELLO, HELLO + b"half a li"])
async def test_a_connection_that_sends_no_request_is_closed_with_a_word(
    place: Place, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.2)
    async with place.simulator(), place.serving():
        raw = await Operator.among(place, stack, sent)
        assert "no whole request came" in (await raw.line())["exception"]
        assert await raw.reader.read() == b""


async def test_a_connection_that_reads_nothing_is_closed(
    place: Place, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "UNREAD_SECONDS", 0.05)
    async with place.simulator(), place.serving() as server:
        raw = await Operator.among(place, stack)
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(lines_of(BOARDS, 2000))
        async with asyncio.timeout(PATIENCE):
            while not server._operators.connections._open:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
            while server._operators.connections._open:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)


async def test_what_an_operator_asked_for_is_logged_though_the_operator_has_gone(
    place: Place, stack: AsyncExitStack
) -> None:
    async with place.simulator(), place.serving() as server:
        with structlog.testing.capture_logs() as log:
            raw = await Operator.among(place, stack, STOPS)
            raw.writer.close()
            async with asyncio.timeout(PATIENCE):
                while not any(entry["event"] == "command performed" for entry in log):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
        assert server.controller.stopped is not None


# -------------------------------------------------------------------- file descriptors


def numbers(server: ServerProcess) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{server.pid}/fd").iterdir()}


async def test_clients_leave_operators_the_last_file_descriptors(place: Place, stack: AsyncExitStack) -> None:
    async with place.simulator(), running(place) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (200, 200))
        everybody = [await Client.connect(server.address) for _ in range(150)]
        for client in everybody:
            stack.push_async_callback(client.close)
        assert await everybody[0].call("version") == "1.0.0"
        for raw in await crowd(place, stack, HELLO, MAX_CONNECTIONS):
            assert "return" in await raw.say({"command": "machines"})
        assert await (await Operator.among(place, stack)).say(STOP) == {"return": None}


async def test_without_any_file_descriptor_operators_get_through_one_after_the_other(
    place: Place, stack: AsyncExitStack
) -> None:
    async with place.simulator(), running(place) as server:
        open_ones = numbers(server)
        first_gap = next(number for number in range(1000) if number not in open_ones)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (first_gap, first_gap))
        one = await Operator.among(place, stack)
        assert "return" in await one.say({"command": "machines"})
        other = await Operator.among(place, stack)
        assert await other.say(STOP) == {"return": None}
        assert ROOM in (await one.line())["exception"]
        other.writer.close()
        for _ in range(3):
            raw = await Operator.among(place, stack)
            assert (await raw.ask("status"))["stopped"]["reason"] == "smoke"
            raw.writer.close()
        server.signal(signal.SIGTERM)
        await server.ended()
