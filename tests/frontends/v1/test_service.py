"""What connections share: notifications, limits, listening, hand-over."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from spalloc_server.application.commands import Kind
from spalloc_server.config.options import Access, Limits
from spalloc_server.errors import ListenError
from spalloc_server.frontends import listener
from spalloc_server.frontends.listener import listening_sockets
from spalloc_server.frontends.v1.commands import Call
from spalloc_server.frontends.v1.connection import Connection, ConnectionState
from spalloc_server.frontends.v1.door import Request
from spalloc_server.frontends.v1.outgoing import PENDING_BYTES
from spalloc_server.frontends.v1.replies import reply
from tests.frontends.v1.stand_in import Line, Running, described, request, running
from tests.hardware.name_service import hanging_names
from tests.house import PATIENCE


async def watcher(run: Running, command: str = "notify_job", *args: object) -> Line:
    line = await run.connect()
    assert await line.ask(command, *args) == {"return": None}
    return line


async def test_watchers_hear_of_what_they_watch_and_of_nothing_else() -> None:
    async with running() as run:
        everything = await watcher(run, "notify_job", None)
        one = await watcher(run, "notify_job", 2)
        machines = await watcher(run, "notify_machine")
        machine = await watcher(run, "notify_machine", "a")
        run.publish({3, 2, 1}, {"b"})
        await run.until(lambda: not any(each.outgoing._notifying for each in run.service.connections))
        run.publish(set(), {"a"})
        assert await everything.receive() == {"jobs_changed": [1, 2, 3]}
        assert await one.receive() == {"jobs_changed": [2]}
        assert await machines.receive() == {"machines_changed": ["b"]}
        assert await machines.receive() == {"machines_changed": ["a"]}
        assert await machine.receive() == {"machines_changed": ["a"]}


async def test_jobs_that_have_ended_are_notified_and_then_no_longer_count_as_watched() -> None:
    async with running(Limits(watches_per_connection=2)) as run:
        line = await watcher(run, "notify_job", 1)
        await line.ask("notify_job", 2)
        assert "exception" in await line.ask("notify_job", 3)
        run.publish({1, 2}, set(), [1])
        assert await line.receive() == {"jobs_changed": [1, 2]}
        assert await line.ask("notify_job", 3) == {"return": None}
        run.publish({1, 2, 3}, set())
        assert await line.receive() == {"jobs_changed": [2, 3]}


async def test_a_client_that_stops_watching_hears_no_more() -> None:
    async with running() as run:
        line = await watcher(run, "notify_job", 2)
        await line.ask("notify_machine")
        await line.ask("no_notify_job", 2)
        await line.ask("no_notify_machine")
        run.publish({2}, {"a"})
        assert await line.ask("version") == {"return": "1.0.0"}


async def test_stopping_to_watch_one_of_all_changes_nothing() -> None:
    async with running() as run:
        line = await watcher(run)
        await line.ask("no_notify_job", 2)
        run.publish({2}, set())
        assert await line.receive() == {"jobs_changed": [2]}


async def test_changes_that_come_before_a_watcher_is_notified_are_merged() -> None:
    async with running() as run:
        line = await watcher(run)
        run.publish({1}, set())
        run.publish({2}, set())
        assert await line.receive() == {"jobs_changed": [1, 2]}


ALIVE = Request(Call("job_keepalive", [1]))

STUFFING = len(reply([described(job_id, "x" * 1_000_000) for job_id in range(1, 11)]))
"""Bytes of the reply that a stuffed client has not read."""


async def stuffed(run: Running) -> Line:
    """A watcher of all jobs that asked for more than it reads."""
    line = await watcher(run)
    [connection] = run.service.connections
    run.core.jobs = ["x" * 1_000_000] * 10
    await line.send(request("list_jobs"))
    await run.until(lambda: connection._transport.get_write_buffer_size() > 0)
    return line


async def test_notifications_of_a_slow_reader_are_merged_and_none_is_lost() -> None:
    async with running() as run:
        line = await stuffed(run)
        for job_id in range(1, 1001):
            run.publish({job_id, 1 + job_id % 7}, {"m"})
        async with asyncio.timeout(PATIENCE):
            await line.reader.readexactly(STUFFING)
        assert await line.receive() == {"jobs_changed": list(range(1, 1001))}
        assert await line.ask("version") == {"return": "1.0.0"}


async def test_a_slow_reader_over_the_bound_is_disconnected_and_the_log_says_so() -> None:
    async with running(Limits(write_buffer_bytes=10 * PENDING_BYTES)) as run:
        await stuffed(run)
        with capture_logs() as logs:
            run.publish(set(range(10)), set())
            assert logs == []
            run.publish({10}, set())
            await run.until(lambda: not run.service.connections)
        assert "write_buffer_bytes" in logs[0]["reason"]
        assert not run.application.subscriptions._kinds[Kind.JOB].of_all


async def test_a_client_that_reads_nothing_of_a_long_reply_is_disconnected_but_a_slow_one_is_not() -> None:
    async with running(Limits(write_buffer_bytes=1000)) as run:
        await stuffed(run)
        [connection] = run.service.connections
        unsent = connection._transport.get_write_buffer_size()
        with capture_logs() as logs:
            connection.outgoing._await_progress(unsent + 1)
            assert logs == []
            connection.outgoing._await_progress(unsent)
            await run.until(lambda: not run.service.connections)
        assert "does not read" in logs[0]["reason"]


async def stuffed_by(run: Running, size: int) -> tuple[Line, Connection]:
    """A client that has asked for about so many bytes and reads nothing, and the server's end of it."""
    before = set(run.service.connections)
    line = await run.connect()
    await line.ask("version")
    [connection] = run.service.connections - before
    run.core.jobs = ["x" * size]
    await line.send(request("list_jobs"))
    await run.until(lambda: connection._transport.get_write_buffer_size() > 0)
    return line, connection


async def test_of_all_who_do_not_read_the_one_who_keeps_most_for_longest_is_disconnected() -> None:
    now = 100.0
    async with running(Limits(unsent_bytes=35_000_000), clock=lambda: now) as run:
        _, small = await stuffed_by(run, 8_000_000)
        now += 1
        _, large = await stuffed_by(run, 14_000_000)
        now += 10
        with capture_logs() as logs:
            line, fresh = await stuffed_by(run, 14_000_000)
            await run.until(lambda: large not in run.service.connections)
        assert "unsent_bytes" in logs[0]["reason"]
        assert logs[0]["peer"] == large.peer
        assert run.service.connections == {small, fresh}
        assert run.service.context.backlog.bytes <= 35_000_000
        async with asyncio.timeout(PATIENCE):
            await line.reader.readexactly(14_000_000)
        assert (await line.reader.readline()).endswith(b"}]}\n")
        assert await line.ask("version") == {"return": "1.0.0"}
        assert run.service.context.backlog._kept.keys() == {small.outgoing}
        small.abort()
        await run.until(lambda: run.service.connections == {fresh})
        assert run.service.context.backlog.bytes == 0


async def test_replies_that_wait_for_a_commit_count_as_unread() -> None:
    async with running(Limits(unsent_bytes=1_000_000)) as run:
        run.commits.on = True
        run.core.jobs = ["x" * 400_000]
        lines = [await run.connect() for _ in range(3)]
        with capture_logs() as logs:
            for line in lines:
                await line.send(request("create_job", owner="me"), *[request("list_jobs")] * 1000)
            await run.until(lambda: bool(logs))
        assert "unsent_bytes" in logs[0]["reason"]
        assert 0 < run.service.context.backlog.bytes <= 1_000_000


async def test_changes_that_a_client_was_not_notified_of_count_as_unread() -> None:
    async with running() as run:
        await stuffed(run)
        before = run.service.context.backlog.bytes
        run.publish(range(100), set())
        await run.until(lambda: run.service.context.backlog.bytes == before + 100 * PENDING_BYTES)
        assert run.service.context.backlog.bytes == before + 100 * PENDING_BYTES


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
async def test_connections_over_a_limit_are_refused_until_others_leave(limit: str) -> None:
    async with running(Limits(**{limit: 2})) as run:
        first, second = await run.connect(), await run.connect()
        assert await first.ask("version") == await second.ask("version") == {"return": "1.0.0"}
        with capture_logs() as logs:
            refused = await run.connect()
            await run.until(lambda: bool(logs))
            assert await refused.receive() is None
        assert f"limit {limit}" in logs[0]["reason"]
        await first.close()
        await run.until(lambda: len(run.service.connections) == 1)
        assert await (await run.connect()).ask("version") == {"return": "1.0.0"}


async def test_all_addresses_that_one_home_has_of_ipv6_count_as_one() -> None:
    async with running(Limits(connections_per_address=1, commands_per_second=1.0)) as run:
        acceptor = run.service.acceptor
        there = acceptor.connection("2001:db8:1:2::1", "there")
        assert "limit connections_per_address" in (acceptor._refusal("2001:db8:1:2:ffff::7") or "")
        assert acceptor._refusal("2001:db8:1:3::1") is None
        waits = [run.service.context.door.charge(there, ALIVE) for _ in range(10)]
        elsewhere = acceptor.connection("2001:db8:1:2:ffff::7", "elsewhere")
        assert run.service.context.door.charge(elsewhere, ALIVE) > waits[-1] > 0
        for each in (there, elsewhere):
            acceptor._leave(each.host)
        assert acceptor._refusal("2001:db8:1:2:ffff::7") is None


async def test_limits_may_be_assigned_anew() -> None:
    async with running() as run:
        line = await run.connect()
        run.service.configure(Limits(watches_per_connection=1, connections=1), Access())
        assert await line.ask("notify_job", 1) == {"return": None}
        assert "most that one may" in (await line.ask("notify_job", 2))["exception"]


async def test_stopping_sends_what_is_on_its_way_and_disconnects() -> None:
    async with running() as run:
        lines = [await watcher(run) for _ in range(3)]
        run.publish({1}, set())
        await run.service.stop()
        assert not run.service.connections
        assert [await line.receive_all() for line in lines] == [[{"jobs_changed": [1]}]] * 3
        with pytest.raises(ConnectionError):
            await run.connect()


async def test_a_connection_moves_to_another_service_and_nothing_is_lost() -> None:
    async with running() as old, running() as new:
        line = await stuffed(old)
        await line.send(request("version"))
        [connection] = old.service.connections
        await old.until(lambda: not connection._receiving)
        line.writer.write(b'{"command": ')
        old.publish({5}, {"unwatched"})
        exported = connection.export()
        assert exported is not None
        descriptor, state = exported
        sock = socket.socket(fileno=os.dup(descriptor))
        assert state.jobs is None
        assert state.machines == []
        assert state.changed_jobs == [5]
        connection.abort()
        await new.service.acceptor.adopt(sock, state)
        line.writer.write(b'"version"}\n')
        async with asyncio.timeout(PATIENCE):
            await line.reader.readexactly(STUFFING)
        assert await line.receive() == {"jobs_changed": [5]}
        assert await line.receive() == await line.receive() == {"return": "1.0.0"}
        new.publish({6}, set())
        assert await line.receive() == {"jobs_changed": [6]}


async def test_a_connection_that_cannot_be_adopted_does_not_count() -> None:
    async with running() as run:
        with socket.socket(type=socket.SOCK_DGRAM) as no_connection, pytest.raises(ValueError, match="Stream Socket"):
            await run.service.acceptor.adopt(no_connection, ConnectionState())
        assert run.service.acceptor.counted == 0


def test_the_same_port_listens_in_both_families_where_the_computer_has_both() -> None:
    sockets = listening_sockets("", 0)
    try:
        assert sockets[0].family == socket.AF_INET
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()


@contextmanager
def listening(ip: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = listening_sockets(ip, port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("ip", ["::", "0:0:0:0:0:0:0:0"])
def test_every_interface_is_every_interface_however_it_is_spelled(ip: str) -> None:
    with listening("") as usual:
        families = [sock.family for sock in usual]
    with listening(ip) as sockets:
        assert [sock.family for sock in sockets] == families
        with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1])):
            pass


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_a_server_that_published_clients_cannot_reach_says_so() -> None:
    with capture_logs() as lines, listening("::1"):
        pass
    assert [line["event"].partition(":")[0] for line in lines] == ["listening on IPv6 only"]


def test_an_ipv6_address_keeps_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[Any] = []
    address = ("fe80::1", 0, 0, 7)
    answer = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)

    def listen(_family: int, address: Any, _receive_bytes: int | None) -> socket.socket:
        bound.append(address)
        return socket.socket()

    monkeypatch.setattr(listener, "_listening", listen)
    with listening("fe80::1%eth0", 4711):
        assert bound == [("fe80::1", 4711, 0, 7)]


def test_a_name_to_listen_at_that_is_never_answered_for_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LOOKUP_SECONDS", 0.01)
    with hanging_names(), pytest.raises(ListenError, match=r"the name service does not answer within 0\.01 s"):
        listening_sockets("server.hangs", 0)


def test_a_port_in_use_is_one_clear_error() -> None:
    [taken] = listening_sockets("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with (
        taken,
        pytest.raises(
            ListenError, match=f"cannot listen on port {port} of 127.0.0.1: it is in use: stop .*SIGUSR2.*supervisor"
        ),
    ):
        listening_sockets("127.0.0.1", port)


def test_a_port_in_use_is_told_with_what_chooses_it() -> None:
    [taken] = listening_sockets("127.0.0.1", 0)
    with taken, pytest.raises(ListenError, match=r"choose another with \[web\] port;"):
        listening_sockets("127.0.0.1", taken.getsockname()[1], setting="[web] port")


@pytest.mark.parametrize("ip", ["192.0.2.1", "no such address"])
def test_an_address_of_another_computer_is_one_clear_error(ip: str) -> None:
    with pytest.raises(ListenError, match="must be an address of this computer"):
        listening_sockets(ip, 0)
