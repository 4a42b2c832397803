"""Jobs on hold outlive upgrades, restarts and kills, and their clients go on with them."""

from __future__ import annotations

import pytest

from tests.frontends.operators.speaking import Operator
from tests.house import Client, Place
from tests.process.test_upgrade import upgraded
from tests.processes import running
from tests.test_server import DESTROYED, QUEUED, READY, Clients, clients

__all__ = ["clients"]

MACHINE = 12


async def held(client: Client, job_id: int) -> bool:
    status = await client.call("get_job_state", job_id)
    return status["state"] == QUEUED and "On hold, by " in (status["reason"] or "")


@pytest.mark.parametrize("how", ["upgrade", "restart", "kill"])
async def test_a_hold_outlives_the_process_and_so_does_its_release(place: Place, clients: Clients, how: str) -> None:
    async with place.simulator():
        async with running(place) as server, Operator.of(place) as operator:
            client = await clients.connect(server)
            before, job_id, other = [await client.create(MACHINE, max_runtime=3600) for _ in range(3)]
            await client.until(before, READY)
            assert await operator.ask("hold jobs", job_ids=[job_id, other], reason="night") == [job_id, other]
            assert await operator.ask("extend jobs", job_ids=[job_id], seconds=60.0) == [job_id]
            assert await operator.ask("release jobs", job_ids=[other]) == [other]
            if how == "upgrade":
                await upgraded(server)
                assert await held(client, job_id)
                await goes_on(place, client, before, job_id, other)
                return
            await (server.stop() if how == "restart" else server.kill())
        async with running(place) as server:
            await goes_on(place, await clients.connect(server), before, job_id, other)


async def goes_on(place: Place, client: Client, before: int, job_id: int, other: int) -> None:
    async with Operator.of(place) as operator:
        assert await held(client, job_id)
        await client.call("destroy_job", before)
        await client.until(other, READY)
        assert await held(client, job_id)
        view = await operator.ask("job", job_id=job_id)
        assert (view["held"]["reason"], view["max_runtime"]) == ("night", 3660)
        await client.call("job_keepalive", job_id)
        await client.call("destroy_job", other)
        assert await operator.ask("release jobs", job_ids=[job_id]) == [job_id]
        await client.until(job_id, READY)
        await client.call("destroy_job", job_id)
        assert (await client.call("get_job_state", job_id))["state"] == DESTROYED
