"""What a client sees over TCP, well-behaved or not."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs

from spalloc_server.application.admission import CREATE_BURST, Admission
from spalloc_server.config.options import Limits
from spalloc_server.frontends.listener import RECEIVE_BYTES
from spalloc_server.frontends.v1 import connection as connection_module
from spalloc_server.frontends.v1.connection import TURN_COMMANDS, Connection
from spalloc_server.frontends.v1.service import Service
from spalloc_server.frontends.v1.turns import TURN_SECONDS
from tests.frontends.v1.stand_in import StandIn, an_application, request, running
from tests.house import PATIENCE

VERSION = {"return": "1.0.0"}


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_replies_come_in_the_order_of_the_requests() -> None:
    async with running() as run:
        line = await run.connect()
        await line.send(*(request("create_job", owner="me") for _ in range(3 * TURN_COMMANDS)))
        replies = [await line.receive() for _ in range(3 * TURN_COMMANDS)]
        assert [reply["return"] for reply in replies] == list(range(1, 3 * TURN_COMMANDS + 1))


async def test_blank_lines_are_skipped() -> None:
    async with running() as run:
        line = await run.connect()
        await line.send(b"", b"  \r", request("version"))
        assert await line.receive() == VERSION


async def test_commands_carry_the_address_of_their_sender() -> None:
    async with running() as run:
        await (await run.connect()).ask("job_keepalive", 3)
        assert run.core.calls == [("renew", (3, "127.0.0.1"), {})]


@pytest.mark.parametrize(
    ("garbage", "reason", "shown"),
    [
        (b"nonsense", "not a request: JSON is malformed", "nonsense"),
        (b"\xff" * 200 + b"{", "not a request", "..."),
        (b'{"command": "reboot"}', "unknown command", "reboot"),
        (b'{"command": "version", "args": 1}', "Expected `array`", "version"),
        (b"x" * 5000, "a line of more than 1000 bytes", "xxx..."),
    ],
)
async def test_garbage_disconnects_its_sender_and_the_log_says_why(garbage: bytes, reason: str, shown: str) -> None:
    async with running(Limits(line_bytes=1000)) as run:
        line, other = await run.connect(), await run.connect()
        with capture_logs() as logs:
            await line.send(request("version"), garbage, request("version"))
            assert await line.receive_all() == [VERSION]
        [entry] = [entry for entry in logs if entry["log_level"] == "warning"]
        assert entry["event"] == "client disconnected"
        assert entry["peer"].startswith("127.0.0.1:")
        assert reason in entry["reason"]
        assert shown in entry["line"]
        assert len(entry["line"]) < 600
        assert await other.ask("version") == VERSION


async def test_a_line_that_never_ends_disconnects_its_sender() -> None:
    async with running() as run:
        line = await run.connect()
        with capture_logs() as logs:
            line.writer.write(b"x" * (Limits().line_bytes + 1))
            assert await line.receive_all() == []
        assert "a line of more than 65536 bytes" in logs[0]["reason"]


async def test_a_half_closed_connection_is_answered_and_then_closed() -> None:
    async with running() as run:
        line = await run.connect()
        await line.send(*[request("version")] * (2 * TURN_COMMANDS))
        line.writer.write_eof()
        assert await line.receive_all() == [VERSION] * (2 * TURN_COMMANDS)
        await run.until(lambda: not run.service.connections)


async def test_a_half_closed_connection_waits_for_its_commits() -> None:
    async with running() as run:
        run.commits.on = True
        line = await run.connect()
        await line.send(request("create_job", owner="me"))
        line.writer.write_eof()
        await run.until(lambda: bool(run.commits.tickets))
        run.service.committed(1)
        assert await line.receive_all() == [{"return": 1}]


async def test_replies_to_changes_wait_for_their_commit_and_later_replies_behind_them() -> None:
    async with running() as run:
        run.commits.on = True
        line, other = await run.connect(), await run.connect()
        await line.send(request("version"), request("create_job", owner="me"), request("get_job_state", 1))
        assert await line.receive() == VERSION
        assert (await other.ask("get_job_state", 1))["return"]["state"] == 1
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.01)
        run.service.committed(1)
        assert await line.receive() == {"return": 1}
        assert (await line.receive())["return"]["state"] == 1


@pytest.mark.parametrize(
    "command", ["create_job", "power_on_job_boards", "power_off_job_boards", "destroy_job", "report_problem"]
)
async def test_the_reply_to_everything_that_changes_something_waits_for_its_commit(command: str) -> None:
    async with running() as run:
        run.commits.on = True
        line, other = await run.connect(), await run.connect()
        arguments = {"owner": "me"} if command == "create_job" else {}
        await line.send(request(command, *([] if arguments else [1]), **arguments))
        await run.until(lambda: bool(run.core.calls))
        assert await other.ask("version") == VERSION
        assert run.commits.tickets == [1]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.01)
        run.service.committed(1)
        assert "return" in await line.receive()


async def test_a_commit_releases_all_earlier_tickets_and_no_later_one() -> None:
    async with running() as run:
        run.commits.on = True
        lines = [await run.connect() for _ in range(3)]
        for number, line in enumerate(lines, start=1):
            await line.send(request("create_job", owner="me"))
            await run.until(lambda number=number: len(run.commits.tickets) == number)  # type: ignore[misc]
        run.service.committed(2)
        assert [await line.receive() for line in lines[:2]] == [{"return": 1}, {"return": 2}]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lines[2].reader.read(1), 0.01)
        run.service.committed(3)
        assert await lines[2].receive() == {"return": 3}


async def test_only_clients_that_changed_something_are_told_of_a_commit_that_fails() -> None:
    async with running() as run:
        run.commits.on = True
        line = await run.connect()
        await line.send(request("create_job", owner="me"), request("version"), request("destroy_job", 1))
        await run.until(lambda: len(run.commits.tickets) == 2)
        run.service.committed(1, "disk full")
        assert await line.receive() == {"exception": "The server could not store this: disk full"}
        assert await line.receive() == VERSION
        run.service.committed(2)
        assert await line.receive() == {"return": None}


async def test_changes_can_be_refused_for_a_time_while_questions_are_answered() -> None:
    async with running() as run:
        line = await run.connect()
        run.application.refuse_changes("the disk is full")
        assert await line.ask("create_job", owner="me") == {"exception": "the disk is full"}
        for command in ("destroy_job", "power_on_job_boards", "power_off_job_boards", "report_problem"):
            assert await line.ask(command, 1) == {"exception": "the disk is full"}
        assert await line.ask("version") == VERSION
        run.application.refuse_changes(None)
        assert await line.ask("create_job", owner="me") == {"return": 1}
        assert [call[0] for call in run.core.calls] == ["submit"]


async def test_no_more_is_read_while_too_many_replies_wait_for_commits() -> None:
    async with running(Limits(pending_replies=2)) as run:
        run.commits.on = True
        line = await run.connect()
        await line.send(*[request("create_job", owner="me")] * 5)
        await run.until(lambda: len(run.commits.tickets) == 2)
        assert await (await run.connect()).ask("version") == VERSION
        assert len(run.core.jobs) == 2
        for ticket in range(1, 6):
            await run.until(lambda ticket=ticket: len(run.commits.tickets) >= ticket)  # type: ignore[misc]
            run.service.committed(ticket)
        assert [(await line.receive())["return"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_a_client_that_does_not_read_its_replies_is_not_read_either() -> None:
    async with running() as run:
        run.core.jobs = ["x" * 100_000]
        line = await run.connect()
        asked = 2000  # 200 MB of replies, much more than sockets hold
        await line.send(*[request("list_jobs")] * asked)
        [connection] = run.service.connections
        await run.until(lambda: not connection._transport.is_reading())
        assert connection._transport.get_write_buffer_size() <= 300_000
        other = await run.connect()
        assert await other.ask("version") == VERSION
        run.core.jobs = []
        run.core.jobs, replies = ["small"], 0
        while replies < asked:
            async with asyncio.timeout(PATIENCE):
                replies += (await line.reader.read(1 << 20)).count(b"\n")
        assert await line.ask("version") == VERSION


@pytest.mark.slow
async def test_a_connection_that_stands_in_line_receives_no_more_than_once() -> None:
    async with running() as run:
        line = await run.connect()
        await line.ask("version")
        [connection] = run.service.connections
        connection._queued = True  # as if its turn never came
        sending = asyncio.create_task(line.send(*[request("version")] * 200_000))
        await run.until(lambda: not connection._transport.is_reading())
        await asyncio.wait({sending}, timeout=0.1)
        assert not sending.done()
        assert len(connection._lines.unread) <= 4 * RECEIVE_BYTES
        connection._queued = False
        connection.take_turn()
        for _ in range(200_000):
            assert await line.reader.readline() == b'{"return":"1.0.0"}\n'
        await sending


class Slow(StandIn):
    """To end a job takes longer than a turn."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def destroy_job(self, job_id: int, reason: str | None) -> None:
        self.calls.append(("destroy_job", (job_id, reason), {}))
        self.clock.now += TURN_SECONDS * 2


async def test_one_client_has_no_more_than_its_turn_however_many_commands_it_sends() -> None:
    core, wire = Slow(clock := FakeClock()), Wire()
    connection = connected(wire, Service(an_application(core.as_core()), Limits(), clock=clock))
    connection.data_received((request("destroy_job", 1) + b"\n") * 5)
    called = [len(core.calls)]
    for _ in range(4):
        await asyncio.sleep(0)
        called.append(len(core.calls))
    assert called == [1, 2, 3, 4, 5]
    connection.connection_lost(None)


async def test_others_are_served_while_one_client_asks_for_much() -> None:
    async with running() as run:
        greedy, modest = await run.connect(), await run.connect()
        await modest.ask("version")
        await greedy.send(*[request("job_keepalive", 1)] * 5000)
        await modest.ask("job_keepalive", 2)
        before = [call[1] for call in run.core.calls].index((2, "127.0.0.1"))
        assert before < 5000
        assert [await greedy.receive() for _ in range(5000)] == [{"return": None}] * 5000


async def test_commands_over_the_rate_wait_and_keepalives_are_counted_apart() -> None:
    clock = FakeClock()
    async with running(Limits(commands_per_second=10.0), clock) as run:
        line, keepalive = await run.connect(), await run.connect()
        await line.send(*[request("version")] * 30)
        assert [await line.receive() for _ in range(21)] == [VERSION] * 21  # two seconds' worth, and the one too many
        [busy] = [each for each in run.service.connections if each._delay is not None]
        assert run.application.admission.delay("127.0.0.1") == pytest.approx(0.1)
        assert not busy._transport.is_reading()
        for _ in range(2):  # the first would be answered anyway, and only the second wait
            assert await keepalive.ask("job_keepalive", 1) == {"return": None}
        assert [each for each in run.service.connections if each._delay is not None] == [busy]
        clock.now += 2.0
        assert [await line.receive() for _ in range(9)] == [VERSION] * 9


async def test_the_end_of_a_turn_does_not_end_the_wait_for_the_rate() -> None:
    rate = TURN_COMMANDS / 2 - 0.4  # the last command of the first turn is the first that has to be waited for
    limits, wire = Limits(commands_per_second=rate), Wire()
    application = an_application(StandIn().as_core())
    application.admission = Admission(rate, clock=FakeClock())
    connection = connected(wire, Service(application, limits, clock=FakeClock()))
    connection.data_received((request("version") + b"\n") * (TURN_COMMANDS + 1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert wire.sent.count(b"\n") == TURN_COMMANDS
    assert connection._delay is not None
    connection.connection_lost(None)


@pytest.mark.slow
async def test_reconnecting_is_no_way_around_the_rate() -> None:
    async with running(Limits(commands_per_second=10.0), FakeClock()) as run:
        line = await run.connect()
        for _ in range(25):
            assert await line.ask("version") == VERSION
        await line.close()
        await run.until(lambda: not run.service.connections)
        assert run.application.admission.delay("127.0.0.1") == pytest.approx(0.5)


async def test_a_campaign_waits_for_nothing_and_who_creates_jobs_without_end_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "CREATE_SECONDS", 0.01)
    clock = FakeClock()
    async with running(Limits(), clock) as run:
        campaign = await run.connect()
        await campaign.send(*[request("create_job", owner="me")] * (CREATE_BURST + 2))
        assert [await campaign.receive() for _ in range(CREATE_BURST)] == [
            {"return": n + 1} for n in range(CREATE_BURST)
        ]
        await campaign.receive()  # the one that is too many
        await run.until(lambda: any(each._delay is not None for each in run.service.connections))
        other = await run.connect()
        assert await other.ask("version") == VERSION
        await other.send(request("create_job", owner="me"))
        for _ in range(3):
            again = await run.connect()  # which is no way around
            await again.send(request("create_job", owner="me"))
        await run.until(lambda: sum(each._delay is not None for each in run.service.connections) == 5)
        assert len(run.core.jobs) == CREATE_BURST + 1
        keepalive = await run.connect()
        assert await keepalive.ask("job_keepalive", 1) == {"return": None}
        clock.now += 60
        assert "return" in await campaign.receive()
        assert "return" in await other.receive()


async def test_a_job_that_waits_to_be_created_goes_along_at_an_upgrade() -> None:
    async with running(Limits(creates_per_second=1e-3), FakeClock()) as run:
        line = await run.connect()
        await line.send(*[request("create_job", owner="me")] * (CREATE_BURST + 2))
        await run.until(lambda: any(each._delay is not None for each in run.service.connections))
        for sock in run.service.freeze():
            sock.close()
        (connection,) = run.service.connections
        exported = connection.export()
        assert exported is not None
        assert exported[1].unread == request("create_job", owner="me") + b"\n"


@settings(max_examples=25)
@given(data=st.data())
def test_replies_do_not_depend_on_how_the_bytes_arrive(data: st.DataObject) -> None:
    requests = [request("create_job", owner="me"), request("get_job_state", 1), request("version"), b"", b" "]
    lines = data.draw(st.lists(st.sampled_from(requests), max_size=8))
    sent = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))

    async def replies(chunks: list[bytes]) -> list[Any]:
        wire = Wire()
        connection = connected(wire, Service(an_application(StandIn().as_core()), Limits(), clock=FakeClock()))
        for chunk in chunks:
            connection.data_received(chunk)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return [json.loads(line) for line in wire.sent.splitlines()]

    whole = asyncio.run(replies([sent]))
    assert len(whole) == sum(bool(line.strip()) for line in lines)
    assert asyncio.run(replies([sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)])) == whole


@settings(max_examples=50)
@given(chunks=st.lists(st.binary(max_size=40) | st.sampled_from([request("version") + b"\n", b"{", b"\n"])))
def test_garbage_never_raises(chunks: list[bytes]) -> None:
    async def feed() -> Wire:
        wire = Wire()
        connection = connected(wire, Service(an_application(StandIn().as_core()), Limits(line_bytes=100)))
        for chunk in chunks:
            if not wire.is_closing():
                connection.data_received(chunk)
        connection.connection_lost(None)
        return wire

    with capture_logs() as logs:
        wire = asyncio.run(feed())
    assert wire.is_closing() == any(entry["log_level"] == "warning" for entry in logs)
    assert all("exc_info" not in entry for entry in logs)


class Wire(asyncio.Transport):
    """A transport that takes everything."""

    def __init__(self) -> None:
        super().__init__({"socket": Mock(spec=socket.socket)})
        self.sent = b""
        self._open = True

    def write(self, data: Any) -> None:
        self.sent += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert self._open

    def resume_reading(self) -> None:
        assert self._open

    def close(self) -> None:
        self._open = False

    abort = close

    def is_closing(self) -> bool:
        return not self._open


def connected(wire: Wire, service: Service) -> Connection:
    """A connection at a transport that a test reads."""
    connection = service.acceptor.connection("127.0.0.1", "127.0.0.1:1")
    connection.connection_made(wire)
    return connection
