"""Memory and routers of jobs' boards: any bytes anywhere, over any network, and only while the job has the boards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.boards import memory, scamp
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.frontends.http.boards.pieces import blocks, pieces
from spalloc_server.frontends.http.boards.scamp import Board, Code, Command
from spalloc_server.hardware.scp import SCP_PORT
from tests.frontends.http.boards.scamp_boards import TRIAD, a_hall, hasty
from tests.frontends.http.boards.stand_in import StandIn, boards, open_files, sub_machine, until, who
from tests.simulator.test_boards import simulated

__all__ = ["hasty"]

SDRAM = 0x60000000
ME = who()


async def read(access: BoardAccess, chip: tuple[int, int], address: int, size: int) -> bytes:
    return await access.read(ME, 1, *chip, address, size)


async def in_chunks(data: bytes, *ends: int) -> AsyncIterator[bytes]:
    """The data as a request brings it."""
    for start, end in zip((0, *ends), (*ends, len(data)), strict=True):
        yield data[start:end]


# -------------------------------------------------------------------- cutting


@given(st.integers(0, 2**32 - 5000), st.integers(0, 5000))
def test_pieces_are_the_bytes_in_order_in_units_that_scamp_takes(address: int, size: int) -> None:
    at = address
    found = list(pieces(address, size))
    for start, length, unit in found:
        assert start == at
        assert 1 <= length <= 256
        assert start % (1 << unit) == length % (1 << unit) == 0
        at += length
    assert at == address + size
    assert sum(unit != 2 for *_, unit in found) <= 2, "all but the ends are words"
    assert len(found) <= size // 256 + 3


@given(st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=6), st.integers(4, 64))
async def test_blocks_are_the_data_however_it_comes(data: bytes, ends: list[int], length: int) -> None:
    ends = sorted(min(end, len(data)) for end in ends)
    for each in (data, in_chunks(data, *ends)):
        found = [block async for block in blocks(each, length)]
        assert b"".join(found) == data
        assert all(len(block) == length for block in found[:-1])


# -------------------------------------------------------------------- which board


async def test_a_chip_is_reached_through_its_board_and_255_255_through_the_first() -> None:
    async with a_hall() as hall:
        for chip, board in (((0, 0), 0), ((7, 7), 0), ((8, 4), 1), ((11, 7), 1), ((0, 4), 1), ((5, 9), 2), ((4, 8), 2)):
            hall.system.chip_at(*chip).write(SDRAM, bytes((*chip, board)))  # type: ignore[union-attr]
            before = hall.datagrams
            assert await read(hall.access, chip, SDRAM, 3) == bytes((*chip, board))
            assert hall.datagrams > before
            host = hall.asking.machines[1].connections[board][1]  # type: ignore[union-attr]
            assert host in hall.access._boards._boards
            hall.access.close()
        assert await read(hall.access, (255, 255), 0xF5007F02, 2) == bytes((12, 12))
        assert list(hall.access._boards._boards) == [hall.asking.machines[1].connections[0][1]]  # type: ignore[union-attr]


@pytest.mark.parametrize("chip", [(8, 8), (3, 7), (200, 0), (0, 255), (0, 256), (-1, 0)])
async def test_a_chip_that_the_job_has_not_is_refused(chip: tuple[int, int]) -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        with pytest.raises(RefusedError, match="none of the boards") as refused:
            await read(hall.access, chip, SDRAM, 4)
        assert (refused.value.kind, hall.datagrams) == ("bad-request", 0)


@pytest.mark.parametrize(("address", "size"), [(2**32 - 1, 2), (-4, 4), (5, 2**32), (2**40, 1), (SDRAM, -1)])
async def test_memory_that_no_chip_has_is_refused(address: int, size: int) -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        with pytest.raises(RefusedError) as refused:
            await read(hall.access, (0, 0), address, size)
        assert refused.value.kind == "bad-request"
        if 0 < size < 10:
            with pytest.raises(RefusedError):
                await hall.access.write(ME, 1, 0, 0, address, bytes(size))
        assert hall.datagrams == 0


async def test_jobs_of_others_and_jobs_without_boards_are_refused() -> None:
    access = BoardAccess(StandIn({1: sub_machine({(0, 0): "127.0.0.9"}), 2: None}))
    for job_id, caller, text in (
        (1, who("bob"), "no job 1"),
        (9, ME, "no job 9"),
        (2, ME, "job 2 has no boards"),
    ):
        for transfer in (
            access.read(caller, job_id, 0, 0, SDRAM, 4),
            access.write(caller, job_id, 0, 0, SDRAM, b"x"),
            access.reset_router(caller, job_id, {}),
        ):
            with pytest.raises(RefusedError, match=text) as refused:
                await transfer
            assert refused.value.kind == ("no-boards" if job_id == 2 else "no-such")


# -------------------------------------------------------------------- over any network


@pytest.mark.usefixtures("hasty")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=2000)), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.3]),
)
async def test_what_was_written_is_read_whatever_the_network_does(
    written: list[tuple[int, bytes]], seed: int, loss: float, doubled: float, swapped: float
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scamp, "TRIES", 1000)
        await _written_and_read(written, seed, loss, doubled, swapped)


async def _written_and_read(
    written: list[tuple[int, bytes]], seed: int, loss: float, doubled: float, swapped: float
) -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        hall.random.seed(seed)
        hall.loss, hall.doubled, hall.swapped = loss, doubled, swapped
        model = bytearray(5000)
        for at, data in written:
            await hall.access.write(ME, 1, 1, 1, SDRAM + at, in_chunks(data, len(data) // 3))
            model[at : at + len(data)] = data
            assert await read(hall.access, (1, 1), SDRAM + at, len(data)) == data
        assert await read(hall.access, (1, 1), SDRAM, 5000) == bytes(model)


@pytest.mark.slow
async def test_long_transfers_come_in_pieces_several_at_once_and_none_overtakes_the_other() -> None:
    async with a_hall() as hall:
        data = random.Random(2).randbytes(3 * memory.PIECE_BYTES // 2 + 1)
        chips = [(1, 1), (8, 5), (4, 9), (1, 1)]
        await asyncio.gather(
            *(hall.access.write(ME, 1, *chip, SDRAM + 0x100000 * number + 1, data) for number, chip in enumerate(chips))
        )
        parts = await hall.access.stream(ME, 1, 1, 1, SDRAM + 0x300001, len(data))
        found = [part async for part in parts]
        assert [len(part) for part in found] == [memory.PIECE_BYTES, memory.PIECE_BYTES // 2 + 1]
        assert b"".join(found) == data
        for number, chip in enumerate(chips):
            assert await read(hall.access, chip, SDRAM + 0x100000 * number + 1, len(data)) == data


async def test_no_bytes_are_read_and_written_as_well() -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        assert await read(hall.access, (0, 0), SDRAM, 0) == b""
        await hall.access.write(ME, 1, 0, 0, SDRAM, b"")
        assert hall.datagrams == 0


# -------------------------------------------------------------------- boards that do not answer, or refuse


@pytest.mark.usefixtures("hasty")
async def test_a_board_that_is_not_booted_is_told_of_and_all_hear_it_together() -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        hall.silent = True
        results = await asyncio.gather(
            *(read(hall.access, (0, 0), SDRAM, 10_000) for _ in range(5)), return_exceptions=True
        )
        for result in results:
            assert isinstance(result, RefusedError)
            assert result.kind == "hardware"
            assert "does not answer: it is off, or has not been booted" in str(result)
            assert len(str(result)) < 500
        assert hall.datagrams == scamp.IN_FLIGHT * scamp.TRIES, "who waited for others waited no second time"
        hall.silent = False
        assert await read(hall.access, (0, 0), SDRAM, 4) == bytes(4)


def test_a_client_hears_of_a_board_that_does_not_answer_before_its_10_seconds_are_over() -> None:
    assert 4 <= scamp.TRIES * scamp.RESEND_SECONDS <= 6


@pytest.mark.usefixtures("hasty")
async def test_a_board_that_is_off_is_told_of_although_it_refuses_datagrams() -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        hall.close()
        with pytest.raises(RefusedError, match="it is off"):
            await read(hall.access, (0, 0), SDRAM, 4)


@pytest.mark.usefixtures("hasty")
async def test_a_command_that_one_chip_does_not_answer_fails_alone() -> None:
    def answer(datagram: bytes) -> list[bytes]:
        address = int.from_bytes(datagram[14:18], "little")
        return [] if address == SDRAM + 256 else [datagram[:10] + b"\x80\0" + datagram[12:14] + bytes(256)]

    async with boards(port=SCP_PORT) as (board,):
        board.answer = answer
        access = BoardAccess(StandIn({1: sub_machine({(0, 0): board.host})}))
        waiting = asyncio.ensure_future(read(access, (0, 0), SDRAM, 1024))
        while not waiting.done():
            assert len(await read(access, (0, 0), SDRAM + 1024, 256)) == 256
        with pytest.raises(RefusedError, match=r"READ of 0x60000100 by chip \(0, 0\) at .* is not answered"):
            await waiting
        access.close()


@pytest.mark.usefixtures("hasty")
async def test_a_refusal_is_told_at_once_and_one_for_the_moment_is_tried_again() -> None:
    codes = [0x8D, 0x86, 0x80]

    def answer(datagram: bytes) -> list[bytes]:
        return [datagram[:10] + bytes((codes.pop(0), 0)) + datagram[12:14] + bytes(4)]

    async with boards(port=SCP_PORT) as (board,):
        board.answer = answer
        access = BoardAccess(StandIn({1: sub_machine({(0, 0): board.host})}))
        assert await read(access, (0, 0), SDRAM, 4) == bytes(4)
        assert len(board.got) == 3
        for code, word in ((0x84, "ARG"), (0x99, "0x99")):
            codes.append(code)
            with pytest.raises(RefusedError, match=f"READ of 0x60000000 by the Ethernet chip at .* is refused: {word}"):
                await read(access, (255, 255), SDRAM, 4)
        access.close()


@pytest.mark.usefixtures("hasty")
async def test_answers_of_no_command_and_of_another_length_are_dropped() -> None:
    def answer(datagram: bytes) -> list[bytes]:
        head = datagram[:10] + b"\x80\0"
        return [b"", b"x" * 13, head + b"\xff\xff" + bytes(4), head + datagram[12:14] + bytes(3), b"x" * 600] + [
            head + datagram[12:14] + bytes(4)
        ] * 2

    async with boards(port=SCP_PORT) as (board,):
        board.answer = answer
        access = BoardAccess(StandIn({1: sub_machine({(0, 0): board.host})}))
        for _ in range(20):
            assert await read(access, (0, 0), SDRAM, 4) == bytes(4)
        access.close()


async def test_a_socket_that_is_idle_is_closed_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scamp, "IDLE_SECONDS", 0.001)
    async with a_hall([(0, 0, 0)]) as hall:
        before = open_files()
        for _ in range(2):
            await read(hall.access, (0, 0), SDRAM, 4)
            await until(lambda: not len(hall.access._boards))
            assert open_files() == before


async def test_sockets_that_are_not_in_use_are_closed_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scamp, "MAX_OPEN", 2)
    async with a_hall() as hall:
        for chip in ((0, 0), (8, 4), (4, 8)):
            await read(hall.access, chip, SDRAM, 4)
        assert len(hall.access._boards) == 1


@pytest.mark.usefixtures("hasty")
async def test_a_transfer_that_is_given_up_leaves_the_board_to_others() -> None:
    async with boards(port=SCP_PORT) as (board,):
        board.answer = lambda _: []
        way = Board(board.host)
        long = asyncio.ensure_future(way.perform(iter([Command((0, 0), Code.READ, SDRAM, 4)] * 100)))
        await until(lambda: len(board.got) >= 8)
        long.cancel()
        await asyncio.wait({long})
        board.answer = lambda datagram: [datagram[:10] + b"\x80\0" + datagram[12:14] + bytes(4)]
        await way.perform(iter([Command((0, 0), Code.READ, SDRAM, 4)] * 100))
        way.close()
        assert way._socket is None


# -------------------------------------------------------------------- only while the job has the boards


@pytest.mark.parametrize("transfer", ["read", "write", "reset"])
async def test_a_transfer_ends_when_the_job_loses_its_boards(monkeypatch: pytest.MonkeyPatch, transfer: str) -> None:
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.01)
    async with a_hall([(0, 0, 0)]) as hall:
        hall.silent = True
        does: dict[str, Any] = {
            "read": lambda: read(hall.access, (0, 0), SDRAM, 100_000),
            "write": lambda: hall.access.write(ME, 1, 0, 0, SDRAM, bytes(100_000)),
            "reset": lambda: hall.access.reset_router(ME, 1, {}),
        }
        running = asyncio.ensure_future(does[transfer]())
        await until(lambda: hall.datagrams)
        hall.asking.away = True
        asked = len(hall.asking.asked)
        await until(lambda: len(hall.asking.asked) > asked + 3)
        assert not running.done(), "while the server is away nothing changes"
        hall.asking.machines[1] = sub_machine({(0, 0): "127.0.0.3"})
        hall.asking.away = False
        with pytest.raises(RefusedError, match="does not have these boards any more"):
            await running
        sent = hall.datagrams
        for _ in range(20):
            await asyncio.sleep(0)
        assert hall.datagrams == sent


async def test_each_piece_is_of_boards_that_the_job_still_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(memory, "PIECE_BYTES", 1000)
    async with a_hall([(0, 0, 0)]) as hall:
        parts = await hall.access.stream(ME, 1, 0, 0, SDRAM, 5000)
        assert len(await anext(parts)) == 1000
        del hall.asking.machines[1]
        with pytest.raises(RefusedError, match="no job 1"):
            await anext(parts)

        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            yield bytes(memory.BLOCK_BYTES)
            hall.asking.machines[1] = None
            sent = hall.datagrams
            yield bytes(memory.BLOCK_BYTES)

        hall.asking.machines[1] = sub_machine({(0, 0): hall.hosts[hall.system.sites[0]]})
        with pytest.raises(RefusedError, match="does not have these boards"):
            await hall.access.write(ME, 1, 0, 0, SDRAM, body())
        assert hall.datagrams == sent, "nothing goes to boards that may be somebody else's by now"


async def test_while_the_server_is_away_no_transfer_begins() -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        hall.asking.away = True
        with pytest.raises(ServerAwayError):
            await read(hall.access, (0, 0), SDRAM, 4)


async def test_transfers_are_limited_and_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TRANSFERS_PER_JOB", 2)
    monkeypatch.setattr(memory, "PIECE_BYTES", 100)
    async with a_hall([(0, 0, 0)]) as hall:
        first, second = [await hall.access.stream(ME, 1, 0, 0, SDRAM, 200) for _ in range(2)]
        third = asyncio.ensure_future(hall.access.stream(ME, 1, 0, 0, SDRAM, 50))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not third.done()
        assert [len(part) async for part in first] == [100, 100]
        assert [len(part) async for part in await third] == [50]
        monkeypatch.setattr(memory, "WAIT_SECONDS", 0.001)
        fourth = await hall.access.stream(ME, 1, 0, 0, SDRAM, 200)
        with pytest.raises(RefusedError, match="try again later") as refused:
            await hall.access.stream(ME, 1, 0, 0, SDRAM, 50)
        assert refused.value.kind == "busy"
        await fourth.aclose()
        await hall.access.stream(ME, 1, 0, 0, SDRAM, 50)
        await second.aclose()


async def test_an_account_has_some_of_the_places_whatever_jobs_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TRANSFERS_PER_ACCOUNT", 3)
    monkeypatch.setattr(memory, "PIECE_BYTES", 100)
    async with a_hall([(0, 0, 0)]) as hall:
        hall.asking.machines[2] = hall.asking.machines[1]
        held = [await hall.access.stream(ME, job, 0, 0, SDRAM, 200) for job in (1, 2, 1)]
        waiting = asyncio.ensure_future(hall.access.stream(ME, 2, 0, 0, SDRAM, 200))
        operator = WebCaller(name="eve", role="operator", behalf=ME.behalf)
        assert await hall.access.read(operator, 2, 0, 0, SDRAM, 4) == bytes(4)
        assert not waiting.done()
        await held[0].aclose()
        await (await waiting).aclose()
        for each in held[1:]:
            await each.aclose()
        assert not hall.access._room_of_accounts


async def test_who_may_not_use_a_job_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TRANSFERS_PER_JOB", 1)
    monkeypatch.setattr(memory, "PIECE_BYTES", 100)
    async with a_hall([(0, 0, 0)]) as hall:
        held = await hall.access.stream(ME, 1, 0, 0, SDRAM, 200)
        with pytest.raises(RefusedError, match="no job 1"):  # at once, although the job has no place left
            await hall.access.read(who("bob"), 1, 0, 0, SDRAM, 4)
        await held.aclose()


async def test_boards_that_are_lost_while_a_transfer_waits_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TRANSFERS_PER_JOB", 1)
    monkeypatch.setattr(memory, "PIECE_BYTES", 100)
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.0)
    async with a_hall([(0, 0, 0)]) as hall:
        held = await hall.access.stream(ME, 1, 0, 0, SDRAM, 200)
        waiting = asyncio.ensure_future(hall.access.write(ME, 1, 0, 0, SDRAM, b"data"))
        await until(lambda: hall.access._room_of_jobs[1]._waiters)
        hall.asking.machines[1] = None
        sent = hall.datagrams
        await held.aclose()
        with pytest.raises(RefusedError, match="does not have these boards any more"):
            await waiting
        assert hall.datagrams == sent


async def test_nothing_is_left_of_transfers() -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        await read(hall.access, (0, 0), SDRAM, 4)
        before = open_files(), len(asyncio.all_tasks())
        for number in range(100):
            parts = await hall.access.stream(ME, 1, 0, 0, SDRAM, 1000)
            if number % 2:
                await parts.aclose()
            await hall.access.write(ME, 1, 0, 0, SDRAM, bytes(1000))
        assert (open_files(), len(asyncio.all_tasks())) == before
        assert hall.access._room._value == memory.MAX_TRANSFERS
        assert not hall.access._room_of_jobs


# -------------------------------------------------------------------- routers


async def test_a_reset_clears_routes_and_counters_and_sets_filters_of_all_chips() -> None:
    async with a_hall() as hall:
        system = hall.system
        chips = [chip for number in range(144) if (chip := system.chip(number)) is not None]
        assert len(chips) == 144
        for chip in chips:
            chip.router.allocate(5, 17)
        await hall.access.reset_router(ME, 1, {14: 33535473, 15: 33519089, 3: 7})
        for chip in chips:
            assert chip.router.largest == 1023
            assert chip.read(0xE1000200 + 4 * 14, 8) == bytes.fromhex("f1b5ff01 f175ff01")
            assert chip.read(0xE1000200 + 4 * 3, 8) == b"\7" + bytes(7)
            assert chip.read(0xF100002C, 4) == b"\xff" * 4
        assert hall.datagrams == 1 + 12 + 144 * 4


@pytest.mark.parametrize("filters", [{16: 0}, {-1: 0}, {3: -1}, {3: 2**32}])
async def test_filters_that_are_none_are_refused(filters: dict[int, int]) -> None:
    async with a_hall([(0, 0, 0)]) as hall:
        with pytest.raises(RefusedError, match="from 0 to 15"):
            await hall.access.reset_router(ME, 1, filters)


async def test_boards_that_boot_are_read_written_and_reset() -> None:
    async with simulated() as place:
        await place.power(*TRIAD)
        chips = [(0, 0), (8, 4), (4, 8)]
        hosts = {chip: place.hosts[board] for chip, board in zip(chips, TRIAD, strict=True)}
        access = BoardAccess(StandIn({1: sub_machine(hosts)}))
        await place.boot((0, 0, 0))
        assert await place.booted((0, 0, 0)) == (12, 12)
        assert await read(access, (255, 255), 0xF5007F02, 2) == bytes((12, 12))
        await access.write(ME, 1, 9, 9, SDRAM + 3, b"hello")
        assert await read(access, (9, 9), SDRAM, 10) == b"\0\0\0hello\0\0"
        await access.reset_router(ME, 1, {15: 1})
        assert await read(access, (9, 9), 0xE1000200 + 60, 4) == b"\1\0\0\0"
        access.close()


async def test_a_reset_that_a_board_does_not_take_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_hall() as hall:
        monkeypatch.setattr(hall.system, "chip_at", _but_for((8, 5), hall.system.chip_at))
        with pytest.raises(RefusedError, match=r"by chip \(8, 5\) at .* is refused: ROUTE"):
            await hall.access.reset_router(ME, 1, {})


def _but_for(chip: tuple[int, int], chip_at: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    return lambda x, y: None if (x, y) == chip else chip_at(x, y)
