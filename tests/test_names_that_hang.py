"""BMPs with names that the name service never answers for: they cost their own frames, and nobody else anything."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.process.upgrade import WARM_SECONDS
from tests.hardware.name_service import NameService, hanging_names
from tests.house import PATIENCE, Place
from tests.processes import running
from tests.test_server import DESTROYED, READY, Clients, clients, until

__all__ = ["clients"]

MANY = 40
"""More names than any pool of threads has."""

STOP_SECONDS = 10.0
"""A stop of a server whose BMPs have nothing to do takes less, also on a busy computer."""


class Street(Place):
    """A machine of many frames of one triad. The first has a BMP; the names of all others are never answered for."""

    def write(self, *, hanging: int = MANY, ip: str = "127.0.0.1") -> None:
        boards = [(0, y, z) for y in range(1 + hanging) for z in range(3)]
        locations = {board: (0, board[1], board[2]) for board in boards}
        bmps = {(0, 0): self.hosts[0]} | {(0, frame): f"bmp-{frame}.hangs" for frame in range(1, 1 + hanging)}
        hosts = {board: "board-{}-{}-{}".format(*board) for board in boards}
        self.config.write_text(
            f"machine = Machine('m', board_locations={locations}, bmp_ips={bmps}, spinnaker_ips={hosts})\n"
            f"configuration = Configuration([machine], ip={ip!r}, seconds_before_free=0, timeout_check_interval=0.05)\n"
        )
        self.config.chmod(0o600)


@pytest.fixture
def street(tmp_path: Path) -> Street:
    street = Street(tmp_path)
    street.write()
    return street


@pytest.fixture
def service() -> Iterator[NameService]:
    with hanging_names() as service:
        yield service


async def test_a_frame_by_its_name_works_although_all_others_hang(
    street: Street, clients: Clients, service: NameService
) -> None:
    street.config.write_text(street.config.read_text().replace(repr(street.hosts[0]), "'good.lab'"))
    service.addresses["good.lab"] = street.hosts[0]
    async with street.simulator(), street.serving() as server:
        client = await clients.connect(server)
        await client.until(await client.create(0, 0, 0), READY)
        machine = server.controller.machines["m"]
        await until(lambda: len(server.controller.board_views("m")) - len(in_service(server)) == 3 * MANY)
        reasons = {view.out_of_service for view in server.controller.board_views("m") if view.y > 0}
    assert reasons == {
        f"BMP {bmp} cannot be reached: the name service does not answer within 5 s"
        for frame, bmp in machine.bmp_ips.items()
        if frame != (0, 0)
    }


def in_service(server: Any) -> list[Any]:
    return [view for view in server.controller.board_views("m") if view.out_of_service is None]


async def test_a_reload_brings_in_names_that_hang_and_takes_them_out_again(
    street: Street, clients: Clients, service: NameService
) -> None:
    street.write(hanging=0)
    async with street.simulator(), street.serving() as server:
        client = await clients.connect(server)
        street.write()
        server.reload()
        await until(lambda: len(service.asked) > MANY)
        job_id = await client.create(0, 0, 0)
        await client.until(job_id, READY)
        street.write(hanging=0, ip="server.hangs")
        begun = time.monotonic()
        server.reload()
        assert time.monotonic() - begun < PATIENCE / 2
        assert len(await client.call("list_machines")) == 1, "the address is bad: all is as before"
        street.write(hanging=0)
        server.reload()
        assert await client.call("list_jobs"), "its board is still there"
        await client.call("destroy_job", job_id)
        await client.until(await client.create(0, 0, 0), READY)


async def test_a_job_that_needs_a_frame_whose_name_hangs_ends_when_its_user_says_so(
    street: Street, clients: Clients, service: NameService
) -> None:
    async with street.simulator(), street.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create(0, 1, 0)
        await until(lambda: "bmp-1.hangs" in service.asked)
        await client.call("destroy_job", job_id)
        await client.until(job_id, DESTROYED)


@pytest.mark.parametrize("signals", [1, 2])
async def test_names_that_hang_do_not_keep_a_server_from_ending(street: Street, clients: Clients, signals: int) -> None:
    async with street.simulator(), running(street, HANGING_NAMES="yes") as server:
        client = await clients.connect(server)
        await client.until(await client.create(0, 0, 0), READY)
        begun = time.monotonic()
        for _ in range(signals):
            with suppress(ProcessLookupError):  # one was enough
                server.signal(signal.SIGTERM)
            await asyncio.sleep(0.05)
        assert await server.ended() == 0
        assert time.monotonic() - begun < STOP_SECONDS


async def test_names_that_hang_do_not_keep_a_server_from_being_upgraded(street: Street, clients: Clients) -> None:
    async with street.simulator(), running(street, HANGING_NAMES="yes", WARM_SECONDS=str(WARM_SECONDS)) as server:
        client = await clients.connect(server)
        job_id = await client.create(0, 0, 0)
        await client.until(job_id, READY)
        old = server.pid
        server.signal(signal.SIGUSR2)
        assert await server.serves() != old
        await client.call("power_on_job_boards", job_id)
        await client.until(job_id, READY)
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        await server.ended()
        assert time.monotonic() - begun < STOP_SECONDS
