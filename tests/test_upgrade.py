"""A new process takes over, and clients notice nothing; where it cannot, the old one goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.house import Place
from tests.processes import ServerProcess, events, running
from tests.test_server import READY, Clients, until


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
    haste = {"SHORT_UPGRADE": "2"} if "hangs" in fault or "nonsense" in fault else {}
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
        (place.folder / "fault").unlink()
        if not haste:
            await upgraded(server)
        assert len(await client.call("list_jobs")) == 2


async def test_nothing_is_left_open_in_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        for _ in range(20):
            await clients.connect(server)
        await upgraded(server)
        before = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        await upgraded(server)
        assert len(list(Path(f"/proc/{server.pid}/fd").iterdir())) <= before
