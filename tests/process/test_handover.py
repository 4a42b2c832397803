"""Messages and open files arrive whole at the other process, and nonsense is told from them."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from spalloc_server.errors import UpgradeError
from spalloc_server.frontends.v1.connection import ConnectionState
from spalloc_server.process import upgrade
from spalloc_server.process.handover import FORMAT, Channel, Clients, Go, Operators, Ready, Takeover, Warm
from spalloc_server.process.upgrade import CHUNK, Predecessor
from spalloc_server.storage.commit_count import Count
from tests.frontends.v1.stand_in import Line, Running, StandIn, request, running
from tests.house import PATIENCE


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of the way between an old process and a new one."""
    old, new = map(Channel, socket.socketpair())
    with old.socket, new.socket:
        old.allow(PATIENCE)
        new.allow(PATIENCE)
        yield old, new


def test_a_new_process_refuses_a_format_that_it_does_not_know(channels: tuple[Channel, Channel]) -> None:
    old, new = channels
    with tempfile.TemporaryFile() as lock:
        old.send(Takeover(format=FORMAT + 1, listening=("", 0), clients=0, busy=[]), [lock.fileno()])
        with pytest.raises(UpgradeError, match=f"in format {FORMAT + 1}, not {FORMAT}"):
            Predecessor(new)
    assert old.receive(Warm)[0].formats == [FORMAT]


def test_fields_that_another_version_adds_are_passed_over(channels: tuple[Channel, Channel]) -> None:
    old, new = channels
    data = msgspec.msgpack.encode({"type": "Warm", "formats": [1, 2], "version": "9.0.0", "colour": "green"})
    new.socket.sendall(struct.pack("!II", len(data), 0) + data)
    assert old.receive(Warm) == (Warm(formats=[1, 2], version="9.0.0"), [])


SAID: dict[str, tuple[msgspec.Struct, dict[str, object]]] = {
    "Warm": (Warm(formats=[1], version="7", operators=True), {"formats": [1], "version": "7", "operators": True}),
    "Heritage": (
        Takeover(format=1, listening=("", 1), clients=2, busy=["a"], operators=True, left=Count("ab", 3, 4)),
        {
            "format": 1,
            "listening": ["", 1],
            "clients": 2,
            "busy": ["a"],
            "operators": True,
            "left": {"state": "ab", "number": 3, "next_job": 4},
        },
    ),
    "Clients": (
        Clients(states=[ConnectionState(unread=b"a", unsent=b"b", jobs=None, machines=["m"], changed_jobs=[1])]),
        {
            "states": [
                {
                    "unread": b"a",
                    "unsent": b"b",
                    "jobs": None,
                    "machines": ["m"],
                    "changed_jobs": [1],
                    "changed_machines": [],
                }
            ]
        },
    ),
    "Operators": (Operators(unread=[b"a"]), {"unread": [b"a"]}),
    "Ready": (Ready(), {}),
    "Go": (Go(), {}),
}
"""What goes over the wire in format 1, which processes of earlier versions read and write."""


@pytest.mark.parametrize("tag", SAID)
def test_other_versions_read_and_write_what_this_one_does(tag: str) -> None:
    message, fields = SAID[tag]
    wire: dict[str, object] = {"type": tag, **fields}
    assert FORMAT == 1
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message)) == wire
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(wire), type=type(message)) == message


@pytest.mark.parametrize("nonsense", [b"\0\0\0\3\0\0\0\0abc", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, b"\xff" * 8])
def test_nonsense_is_one_clear_error(channels: tuple[Channel, Channel], nonsense: bytes) -> None:
    old, new = channels
    new.socket.sendall(nonsense)
    new.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(UpgradeError, match=r"the other process (sends nonsense|has ended)"):
        old.receive(Warm)


def test_a_process_that_says_nothing_is_not_waited_for_for_ever(channels: tuple[Channel, Channel]) -> None:
    old, _ = channels
    old.allow(0.01)
    with pytest.raises(UpgradeError, match="says nothing"):
        old.receive(Warm)


def test_many_files_and_long_messages_arrive_whole(channels: tuple[Channel, Channel]) -> None:
    old, new = channels
    states = [ConnectionState(unsent=bytes([number]) * 100_000, jobs=None, machines=["m"]) for number in range(CHUNK)]
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(1) as other:
        sending = other.submit(old.send, Clients(states=states), [file.fileno()] * CHUNK)
        clients, descriptors = new.receive(Clients)
        sending.result(PATIENCE)
        assert clients.states == states
        assert all(os.path.sameopenfile(file.fileno(), descriptor) for descriptor in descriptors)
        assert not any(map(os.get_inheritable, descriptors))
    assert len(descriptors) == CHUNK
    for descriptor in descriptors:
        os.close(descriptor)


class Announcing(StandIn):
    """Has watchers notified of each job at once."""

    run: Running

    def submit(self, *args: Any, **kwargs: Any) -> int:
        job_id = super().submit(*args, **kwargs)
        self.run.publish({job_id})
        return job_id


async def test_no_client_is_answered_before_all_connections_are_there(
    channels: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "CHUNK", 1)
    asks = ConnectionState(unread=request("create_job", owner="me") + b"\n")
    old, new = channels
    core = Announcing()
    async with running(core=core) as run:
        core.run = run
        with socket.create_server(("127.0.0.1", 0)) as server:
            ends = [(socket.create_connection(server.getsockname()), server.accept()[0]) for _ in range(2)]
        with tempfile.TemporaryFile() as lock:
            old.send(Takeover(format=FORMAT, listening=("", 0), clients=2, busy=[]), [lock.fileno()])
            old.send(Clients(states=[asks, ConnectionState(jobs=None)]), [theirs.fileno() for _, theirs in ends])
            predecessor = Predecessor(new)
        os.close(predecessor.lock)
        for _, theirs in ends:
            theirs.close()
        asking, watching = [Line(*await asyncio.open_connection(sock=ours)) for ours, _ in ends]
        run.lines += [asking, watching]
        await predecessor.go_on(run.service)
        assert await asking.receive() == {"return": 1}
        assert await watching.receive() == {"jobs_changed": [1]}
