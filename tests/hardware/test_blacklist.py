"""Blacklists as text, as bytes, and in a simulated board's flash."""

from __future__ import annotations

import asyncio
import struct
import zlib

import pytest
from hypothesis import given, settings, strategies as st

from spalloc_server.errors import HardwareError, RequestError
from spalloc_server.hardware.blacklist import decode, encode, read_blacklist, write_blacklist
from spalloc_server.hardware.scp import Command, Request, ResponseCode
from spalloc_server.simulator.frame import SimulatedFrame
from tests.hardware.virtual import Bench, on_bench

CHIPS = [(x, y) for x in range(8) for y in range(8) if -3 <= x - y <= 4]


def line(chip: tuple[int, int], cores: set[int], links: set[int]) -> str:
    parts = [f"chip {chip[0]} {chip[1]}"]
    parts += [f"core {','.join(map(str, sorted(cores)))}"] if cores else []
    parts += [f"link {','.join(map(str, sorted(links)))}"] if links or not cores else []
    return " ".join(parts)


lists = st.lists(
    st.tuples(st.sampled_from(CHIPS), st.sets(st.integers(0, 17), max_size=17), st.sets(st.integers(0, 5), min_size=1)),
    max_size=48,
    unique_by=lambda entry: entry[0],
).map(lambda entries: [line(*entry) for entry in entries])


@given(lists)
@settings(max_examples=50)
def test_what_is_encoded_is_decoded(lines: list[str]) -> None:
    area = encode(lines)
    assert len(area) == 256
    assert decode(area) == lines


def test_the_layout_is_that_of_the_firmware() -> None:
    words = struct.unpack_from("<4I", encode(["chip 3 4 core 5,17 link 0", "chip 0 0 dead", "chip 7 7 link 5"]))
    assert words == (3, 3 << 27 | 4 << 24 | 1 << 18 | 1 << 17 | 1 << 5, 0x3FFFF, 7 << 27 | 7 << 24 | 1 << 23)
    assert decode(b"\xff" * 256) == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["chip 3 4"], "no line of a blacklist"),
        (["core 3"], "no line of a blacklist"),
        (["chip 0 7 dead"], "no chip 0 7 on a board"),
        (["chip 1 1 core 18"], "cores are numbered 0 to 17"),
        (["chip 1 1 link 6"], "links are numbered 0 to 5"),
        (["chip 1 1 dead", "chip 1 1 link 2"], "named twice"),
    ],
)
def test_lines_that_cannot_be_are_refused(lines: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        encode(lines)


def test_bytes_that_are_no_list_are_refused() -> None:
    with pytest.raises(HardwareError, match="no blacklist"):
        decode(struct.pack("<I", 64).ljust(256, b"\0"))


def test_a_list_has_as_many_entries_as_its_bytes_hold() -> None:
    full = struct.pack("<64I", 63, *range(63))
    assert len(decode(full)) == 63
    assert decode(struct.pack("<I", 0).ljust(256, b"\xff")) == []
    with pytest.raises(RequestError, match="at most 63 lines, not 64"):
        encode(["chip 1 1 dead"] * 64)
    with pytest.raises(RequestError, match="named twice"):
        encode(["chip 1 1 dead"] * 63)


@pytest.mark.parametrize("chip", [(x, y) for x in range(10) for y in range(10)], ids=str)
def test_the_chips_of_a_board_have_lines_and_no_others(chip: tuple[int, int]) -> None:
    text = "chip {} {} core 0".format(*chip)
    if chip in CHIPS:
        assert decode(encode([text])) == [text]
    else:
        with pytest.raises(RequestError, match=f"there is no chip {chip[0]} {chip[1]} on a board"):
            encode([text])


@on_bench()
async def test_a_blacklist_is_written_to_flash_with_its_checksum_and_its_copy(bench: Bench) -> None:
    async def ask(command: int, arg1: int = 0, arg2: int = 0, arg3: int = 0, data: bytes = b"") -> bytes:
        return await bench.hardware.ask("a", 5, command, arg1, arg2, arg3, data)

    flash = bench.frame().boards[5].flash
    flash.sector[:4] = b"keep"
    assert await read_blacklist(ask) == []
    lines = ["chip 1 2 dead", "chip 3 4 core 1 link 2"]
    assert await write_blacklist(ask, lines) == lines
    assert await read_blacklist(ask) == lines
    assert flash.sector[:4] == b"keep"
    assert struct.unpack_from("<I", flash.sector, 0xFFC) == (~zlib.crc32(flash.sector[:0xFFC]) & 0xFFFFFFFF,)
    assert flash.serial[0x100:0x200] == encode(lines)


@on_bench()
async def test_flash_is_erased_once_though_its_answer_is_lost_and_read_back_tells_that_it_was(bench: Bench) -> None:
    bench.frame().lose_answers(command=Command.FLASH_WRITE, times=1)
    lines = ["chip 1 2 dead"]
    assert await bench.hardware.write_blacklist("a", 5, lines) == lines
    assert len(bench.commands("a", Command.FLASH_WRITE)) == 1


@on_bench()
async def test_flash_that_was_not_written_is_told_by_what_is_read_back(bench: Bench) -> None:
    bench.frame().refuse(ResponseCode.P2P_TIMEOUT, command=Command.FLASH_WRITE, times=1)
    with pytest.raises(HardwareError, match="does not read as it was written"):
        await bench.hardware.write_blacklist("a", 5, ["chip 1 2 dead"])


@on_bench()
async def test_blacklists_of_one_frame_are_written_one_after_the_other(bench: Bench) -> None:
    lists = [[f"chip {n} {n} dead"] for n in range(8)]
    async with asyncio.TaskGroup() as group:
        writes = [group.create_task(bench.hardware.write_blacklist("a", 5, lines)) for lines in lists]
    assert [write.result() for write in writes] == lists
    flash = bench.frame().boards[5].flash
    assert struct.unpack_from("<I", flash.sector, 0xFFC) == (~zlib.crc32(flash.sector[:0xFFC]) & 0xFFFFFFFF,)


def test_memory_that_is_not_there_is_refused() -> None:
    frame = SimulatedFrame()
    for request in (Request(1, 2, 1, 0x9000, 4), Request(1, 3, 2, 0x1000, 4), Request(1, 53, 3, 0, 4, 2)):
        answer = frame.handle(request.encode(), 0.0)
        assert answer is not None
        assert struct.unpack_from("<H", answer.datagram, 10) == (ResponseCode.ARG,)
