"""Fast transfers through gatherers and monitors, over any network."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator

import pytest

from spalloc_server.coordinates import Chip
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.boards import fast, memory
from spalloc_server.frontends.http.boards.fast import Core, Gatherer
from spalloc_server.simulator.applications import Incoming, Signal
from tests.frontends.http.boards.scamp_boards import Hall, a_hall, hasty
from tests.frontends.http.boards.stand_in import who
from tests.simulator.machines import Client
from tests.simulator.test_applications import give_data, load, signal

__all__ = ["hasty"]

ME = who()
SDRAM = 0x60400000
ETHERNET: Chip = (8, 4)
GATHERER = Gatherer(Core(8, 4, 3), ETHERNET, 4)
MONITOR = Core(10, 5, 2)
USER_1 = 0xE5007000 + 116


def started(hall: Hall) -> None:
    """Run a gatherer with tag 4 on core 3 of the second board, and a monitor on core 2 of its chip (2, 1)."""
    client = Client(hall.system)
    give_data(client, 3, (0xFFFFFFF8, 0, 0, 0, 0, 4), app=16, chip=ETHERNET)
    give_data(client, 2, (9, 9, 9), app=16, chip=MONITOR[:2])
    load(client, 3, app=16, chip=ETHERNET)
    load(client, 2, app=16, chip=MONITOR[:2])
    signal(client, Signal.START, 16)


async def out(hall: Hall, size: int, address: int = SDRAM, gatherer: Gatherer = GATHERER) -> bytes:
    parts = await hall.access.fast_stream(ME, 1, gatherer, MONITOR, address, size)
    return b"".join([part async for part in parts])


def memory_of(hall: Hall, address: int, size: int) -> bytes:
    chip = hall.system.chip_at(*MONITOR[:2])
    assert chip is not None
    return chip.read(address, size)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("loss", "doubled", "swapped"), [(0.0, 0.0, 0.0), (0.02, 0.0, 0.0), (0.0, 0.2, 0.2), (0.15, 0.1, 0.1)]
)
@pytest.mark.parametrize("size", [1, 4, 260, 264, 265, 50_003])
async def test_data_is_written_and_read_whatever_the_network_does(
    loss: float, doubled: float, swapped: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FAST_BYTES", 20_000)
    monkeypatch.setattr(fast, "MAX_QUIET", 100)
    async with a_hall() as hall:
        started(hall)
        hall.loss, hall.doubled, hall.swapped = loss, doubled, swapped
        for number in range(2):
            data = random.Random(size + number).randbytes(size)
            await hall.access.fast_write(ME, 1, GATHERER, *MONITOR[:2], SDRAM + 4, data)
            assert memory_of(hall, SDRAM, size + 8) == bytes(4) + data + bytes(4)
            assert await out(hall, size, SDRAM + 4) == data
        pieces = -(-size // 20_000)
        assert memory_of(hall, USER_1 + 128 * MONITOR.p, 4) == struct.pack("<I", 2 * pieces), "a number each"


async def test_data_is_taken_from_a_request_as_it_comes() -> None:
    async def body() -> AsyncIterator[bytes]:
        for number in range(10):
            yield bytes((number,)) * 1001

    async with a_hall() as hall:
        started(hall)
        await hall.access.fast_write(ME, 1, GATHERER, *MONITOR[:2], SDRAM, body())
        assert memory_of(hall, SDRAM, 10_010) == b"".join(bytes((number,)) * 1001 for number in range(10))
        assert await out(hall, 0) == b""


@pytest.mark.parametrize(
    ("gatherer", "text"),
    [
        (GATHERER._replace(ethernet=(0, 8)), "is no Ethernet chip"),
        (GATHERER._replace(address="10.0.0.1"), "is not at this address"),
        (GATHERER._replace(ethernet=(0, 0)), "is not on the board"),
        (GATHERER._replace(tag=99), "refuses to set tag 99"),
    ],
)
async def test_nothing_is_sent_but_to_the_boards_of_the_job(gatherer: Gatherer, text: str) -> None:
    async with a_hall() as hall:
        started(hall)
        with pytest.raises(RefusedError, match=text):
            await hall.access.fast_write(ME, 1, gatherer, *MONITOR[:2], SDRAM, b"data")
        assert memory_of(hall, SDRAM, 4) == bytes(4)


async def test_the_address_of_the_board_may_be_told() -> None:
    async with a_hall() as hall:
        started(hall)
        machine = hall.asking.machines[1]
        assert machine is not None
        gatherer = GATHERER._replace(address=machine.connections[1][1])
        assert await out(hall, 4, gatherer=gatherer) == bytes(4)


async def test_a_monitor_that_is_not_the_jobs_is_refused() -> None:
    async with a_hall() as hall:
        with pytest.raises(RefusedError, match="is not the job's"):
            await hall.access.fast_stream(ME, 1, GATHERER, Core(200, 0, 1), SDRAM, 4)


@pytest.mark.usefixtures("hasty")
async def test_boards_and_programs_that_do_not_answer_are_told_of() -> None:
    async with a_hall() as hall:
        with pytest.raises(RefusedError, match="does not answer in a fast transfer"):
            await out(hall, 400)
        with pytest.raises(RefusedError, match="does not answer in a fast transfer"):
            await hall.access.fast_write(ME, 1, GATHERER, *MONITOR[:2], SDRAM, bytes(400))
        hall.silent = True
        with pytest.raises(RefusedError, match="does not answer"):
            await out(hall, 400)
        hall.silent = False
        started(hall)
        assert await out(hall, 400) == bytes(400)


@pytest.mark.usefixtures("hasty")
async def test_a_gatherer_that_never_has_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from spalloc_server.simulator import fast_data

    monkeypatch.setattr(
        fast_data, "_told", lambda incoming: iter([struct.pack("<4I", 2002, incoming.transaction, 0, 0xFFFFFFFF)])
    )
    async with a_hall() as hall:
        started(hall)
        with pytest.raises(RefusedError, match="does not take data"):
            await hall.access.fast_write(ME, 1, GATHERER, *MONITOR[:2], SDRAM, bytes(200))


@pytest.mark.usefixtures("hasty")
async def test_a_gatherer_that_says_that_it_has_nothing_gets_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from spalloc_server.simulator import fast_data

    real, asked = fast_data._told, []

    def told(incoming: Incoming) -> object:
        asked.append(incoming)
        if len(asked) > 1:
            return real(incoming)
        incoming.have.clear()
        return iter([struct.pack("<3I", 2002, incoming.transaction, 0xFFFFFFFE)])

    monkeypatch.setattr(fast_data, "_told", told)
    async with a_hall() as hall:
        started(hall)
        await hall.access.fast_write(ME, 1, GATHERER, *MONITOR[:2], SDRAM, b"data" * 300)
        assert memory_of(hall, SDRAM, 1200) == b"data" * 300
