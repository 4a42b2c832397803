"""How soon a real server, with its journal on a real disk, does what hardware and jobs wait for; -s shows figures."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

import pytest

from spalloc_server.controller import steady_time
from spalloc_server.server import Server
from tests.house import PATIENCE, Client, Place

READY, DESTROYED = 3, 4
TIMES = 50

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]


def fsync_ms(folder: Path) -> float:
    """What the disk takes for a synchronized write, which the server cannot change."""
    times = []
    with (folder / "written").open("wb", buffering=0) as file:
        for _ in range(20):
            began = time.perf_counter()
            file.write(bytes(8192))
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


async def until_free(server: Server, boards: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            (machine,) = server.controller.machine_views()
            if machine.boards.get("free") == boards:
                return
            await asyncio.sleep(0.001)


async def until_resting(server: Server) -> list[float]:
    """When each board's rest ends, once all of them rest."""
    async with asyncio.timeout(PATIENCE):
        while True:
            rests = [view.rests_until for view in server.controller.board_views()]
            if None not in rests:
                return [rest for rest in rests if rest is not None]
            await asyncio.sleep(0.001)


async def test_an_allocation_is_a_datagram_within_5_milliseconds(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure()
    waits = []
    async with place.simulator() as simulator, place.serving() as server:
        client = await Client.connect(server.address)
        commands = simulator.frames[place.hosts[0]].commands
        ahead = steady_time() - time.monotonic()
        for _ in range(TIMES):
            await until_free(server, 12)
            seen = commands[-1][0] if commands else 0.0
            job_id = await client.create(3)
            await client.until(job_id, READY)
            allocated_at = server.controller.job_view(job_id).allocated_at
            assert allocated_at is not None
            first = next(when for when, _ in commands if when > seen)
            waits.append(1000 * (first + ahead - allocated_at))
            await client.call("destroy_job", job_id)
        await client.close()
    disk = fsync_ms(tmp_path)
    print(
        "\nfrom allocation, through the journal, to the first datagram at the BMP: "
        f"lower quartile {statistics.quantiles(waits)[0]:.2f} ms, median {statistics.median(waits):.2f} ms, "
        f"longest of {TIMES} {max(waits):.2f} ms; "
        f"of this, {disk:.2f} ms are the disk's own for one fsync"
    )
    assert statistics.quantiles(waits)[0] - disk < 5  # other programs on this computer only make it longer


async def test_boards_that_have_rested_go_to_the_next_job_within_10_milliseconds(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure(seconds_before_free=0.05)
    waits = []
    async with place.simulator(), place.serving() as server:
        client = await Client.connect(server.address)
        running = await client.create(12)
        for _ in range(TIMES):
            waiting = await client.create(12)
            await client.until(running, READY)
            await client.call("destroy_job", running)
            rests = await until_resting(server)
            await client.until(waiting, READY)
            allocated_at = server.controller.job_view(waiting).allocated_at
            assert allocated_at is not None
            waits.append(1000 * (allocated_at - max(rests)))
            running = waiting
        await client.close()
    print(
        f"\nfrom the end of their rest to the next job: median {statistics.median(waits):.2f} ms, "
        f"longest of {TIMES} {max(waits):.2f} ms"
    )
    assert statistics.median(waits) < 10
