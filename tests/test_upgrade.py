"""A new process takes over, and clients notice nothing; where it cannot, the old one goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from spalloc_server import upgrade
from spalloc_server.errors import UpgradeError
from spalloc_server.hardware.simulated_frame import SimulatedTimings
from spalloc_server.protocol.connection import ConnectionState
from spalloc_server.upgrade import CHUNK, FORMAT, Heritage, Predecessor, Warm, _Channel
from tests.house import PATIENCE, Place
from tests.processes import ServerProcess, events, running
from tests.test_server import READY, Clients, until
from tests.torture.halls import Hall


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.configure()
    return place


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


async def upgraded(server: ServerProcess) -> None:
    before = server.pid
    server.signal(signal.SIGUSR2)
    assert await server.serves() != before


async def test_clients_and_their_watches_move_to_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator() as simulator, running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(12)
        await client.until(job_id, READY)
        cycles = simulator.power_cycles()
        watcher = await clients.connect(server)
        await watcher.call("notify_job", job_id)
        waiting = asyncio.create_task(watcher.line())
        await upgraded(server)
        assert (await client.call("get_job_state", job_id))["state"] == READY
        assert simulator.power_cycles() == cycles
        await client.call("destroy_job", job_id, "enough")
        assert await waiting == {"jobs_changed": [job_id]}
        newcomer = await clients.connect(server)
        assert await newcomer.call("version") == "1.0.0"
        assert simulator.counters.overlaps == 0


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


FAULTS = {
    "exits at once": "has ended",
    "hangs": "says nothing",
    "talks nonsense": "nonsense",
    "is of another format": "cannot take over from version",
    "exits once warm": "has ended",
    "exits instead of being ready": "has ended",
    "hangs once warm": "timed out",
    "brings the state to a newer schema": "has ended",
}
"""How a successor may fail (`tests.launcher`), and a word of what the log says then."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_new_process_that_fails_changes_nothing(place: Place, clients: Clients, fault: str) -> None:
    haste = {"hangs": {"WARM_SECONDS": "1"}, "hangs once warm": {"HANDOVER_SECONDS": "0.5"}}.get(fault, {})
    async with place.simulator() as simulator, running(place, **haste) as server:
        client = await clients.connect(server)
        job_id = await client.create(12)
        await client.until(job_id, READY)
        cycles = simulator.power_cycles()
        (place.folder / "fault").write_text(fault)
        server.signal(signal.SIGUSR2)
        await until(lambda: any(event["event"].startswith("upgrade failed") for event in events(place)))
        [failure] = [event for event in events(place) if event["event"].startswith("upgrade failed")]
        assert FAULTS[fault] in failure["error"]
        assert (await client.call("get_job_state", job_id))["state"] == READY
        assert await client.create(3) == job_id + 1
        assert await (await clients.connect(server)).call("version") == "1.0.0"
        assert simulator.power_cycles() == cycles
        if fault == "exits once warm":
            (place.folder / "fault").unlink()
            await upgraded(server)
            assert len(await client.call("list_jobs")) == 2


async def test_nothing_is_left_open_in_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        for _ in range(20):
            await clients.connect(server)
        await upgraded(server)
        before = open_files(server)
        await upgraded(server)
        assert open_files(server) <= before + 10  # some come and go; connections that leak would be 20


async def test_replies_that_were_not_read_yet_come_once_and_whole(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        await (await clients.connect(server)).create(3)
        client = await clients.connect(server)
        client._reader._transport.pause_reading()  # type: ignore[attr-defined]
        count = 20_000  # more than the buffers of both ends take
        client._writer.write(b'{"command": "list_machines"}\n' * count + b'{"command": "version"}\n')
        await asyncio.sleep(0.5)
        await upgraded(server)
        client._reader._transport.resume_reading()  # type: ignore[attr-defined]
        replies = [await client.line() for _ in range(count + 1)]
        assert all(reply == replies[0] for reply in replies[:-1])
        assert replies[-1] == {"return": "1.0.0"}


async def test_a_bmp_in_the_middle_of_a_power_on_is_left_to_finish_it(tmp_path: Path, clients: Clients) -> None:
    hall = Hall(tmp_path, frames=2)
    slow = SimulatedTimings(power_on=2.0, power_on_others=2.0)
    async with hall.simulator(slow) as simulator, running(hall) as server:
        client = await clients.connect(server)
        job_id = await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        await upgraded(server)
        assert (await client.until(job_id, READY))["power"] is True
        assert simulator.counters.overlaps == 0


async def test_a_cold_start_is_not_repeated_by_an_upgrade(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place, "--cold-start") as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        await upgraded(server)
        assert [job["job_id"] for job in await client.call("list_jobs")] == [job_id]


async def test_a_changed_config_is_applied_by_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        await client.call("notify_job", job_id)
        place.configure(name="other")
        await upgraded(server)
        assert await client.line() == {"jobs_changed": [job_id]}
        assert (await client.call("get_job_state", job_id))["reason"] == "Machine removed."


@pytest.fixture
def channels() -> Iterator[tuple[_Channel, _Channel]]:
    """Both ends of the way between an old process and a new one."""
    old, new = map(_Channel, socket.socketpair())
    with old.socket, new.socket:
        old.allow(PATIENCE)
        new.allow(PATIENCE)
        yield old, new


def test_a_new_process_refuses_a_format_that_it_does_not_know(channels: tuple[_Channel, _Channel]) -> None:
    old, new = channels
    with tempfile.TemporaryFile() as lock:
        old.send(Heritage(format=FORMAT + 1, listening=("", 0), clients=0, busy=[]), [lock.fileno()])
        with pytest.raises(UpgradeError, match=f"in format {FORMAT + 1}, not {FORMAT}"):
            Predecessor(new)
    assert old.receive(Warm)[0].formats == [FORMAT]


def test_fields_that_another_version_adds_are_passed_over(channels: tuple[_Channel, _Channel]) -> None:
    old, new = channels
    data = msgspec.msgpack.encode({"type": "Warm", "formats": [1, 2], "version": "9.0.0", "colour": "green"})
    new.socket.sendall(struct.pack("!II", len(data), 0) + data)
    assert old.receive(Warm) == (Warm(formats=[1, 2], version="9.0.0"), [])


@pytest.mark.parametrize("nonsense", [b"\0\0\0\3\0\0\0\0abc", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, b"\xff" * 8])
def test_nonsense_is_one_clear_error(channels: tuple[_Channel, _Channel], nonsense: bytes) -> None:
    old, new = channels
    new.socket.sendall(nonsense)
    new.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(UpgradeError, match=r"the other process (sends nonsense|has ended)"):
        old.receive(Warm)


def test_a_process_that_says_nothing_is_not_waited_for_for_ever(channels: tuple[_Channel, _Channel]) -> None:
    old, _ = channels
    old.allow(0.01)
    with pytest.raises(UpgradeError, match="says nothing"):
        old.receive(Warm)


def test_many_files_and_long_messages_arrive_whole(channels: tuple[_Channel, _Channel]) -> None:
    old, new = channels
    states = [ConnectionState(unsent=bytes([number]) * 100_000, jobs=None, machines=["m"]) for number in range(CHUNK)]
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(1) as other:
        sending = other.submit(old.send, upgrade.Clients(states=states), [file.fileno()] * CHUNK)
        clients, descriptors = new.receive(upgrade.Clients)
        sending.result(PATIENCE)
        assert clients.states == states
        assert all(os.path.sameopenfile(file.fileno(), descriptor) for descriptor in descriptors)
        assert not any(map(os.get_inheritable, descriptors))
    assert len(descriptors) == CHUNK
    for descriptor in descriptors:
        os.close(descriptor)
