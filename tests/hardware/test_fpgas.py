"""What boards' FPGAs tell, whatever their BMP answers."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from spalloc_server.hardware.bmp import Bmp
from spalloc_server.hardware.fpgas import Fpgas
from spalloc_server.hardware.scp import FLAG_REGISTER, BadPacket, Command, Version
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links
from tests.house import PATIENCE


class Registers:
    """A BMP that answers from a table of registers, four bytes each unless `size` says otherwise."""

    host = "b"
    timings: Timings = Timings()

    def __init__(self, version: tuple[int, int, int] = (2, 1, 2), size: int = 4) -> None:
        self.version, self.size = version, size
        self.registers = {(fpga, FLAG_REGISTER): fpga for fpga in range(3)}
        self.lost_writes = 0
        self.told: list[int] = []

    async def command(
        self, board: int, command: Command, address: int = 0, _size: int = 0, fpga: int = 0, data: bytes = b""
    ) -> bytes:
        self.told.append(command)
        if command == Command.VERSION:
            return Version(version=self.version).encode()
        if command == Command.FPGA_WRITE:
            if self.lost_writes:
                self.lost_writes -= 1
            else:
                self.registers[fpga, address] = int.from_bytes(data, "little")
            return b""
        return self.registers.get((fpga, address), 0).to_bytes(4, "little").ljust(self.size, b"x")[: self.size]


def fpgas_of(registers: Registers) -> Fpgas:
    return Fpgas(cast("Bmp", registers))


@pytest.mark.parametrize("size", [4, 5, 8])
async def test_an_answer_may_be_longer_than_a_register(size: int) -> None:
    fpgas = fpgas_of(Registers(size=size))
    assert await fpgas.fault(3) is None
    assert await fpgas.stop_link(3, Links.north) is None


@pytest.mark.parametrize("size", [4, 5, 8])
async def test_only_the_first_four_bytes_of_an_answer_tell_whether_a_link_is_stopped(size: int) -> None:
    registers = Registers(size=size)
    registers.lost_writes = 100
    assert await fpgas_of(registers).stop_link(3, Links.north) == "its register keeps reading 0"


@pytest.mark.parametrize("size", [0, 3])
async def test_an_answer_that_is_shorter_than_a_register_is_a_fault(size: int) -> None:
    fpgas = fpgas_of(Registers(size=size))
    told = f"BMP b reads {size} bytes of an FPGA register of board 3"
    assert await fpgas.fault(3) == told
    assert await fpgas.stop_link(3, Links.north) == told


@pytest.mark.parametrize(
    ("version", "readable"), [((1, 36, 0), False), ((2, 0, 0), True), ((3, 0, 0), True), ((10, 1, 1), True)]
)
async def test_the_registers_of_boards_are_read_from_major_version_2_on(
    version: tuple[int, int, int], readable: bool
) -> None:
    registers = Registers(version)
    fpgas = fpgas_of(registers)
    assert fpgas.readable(3), "as long as nothing else is known"
    for _ in range(2):
        await fpgas.learn_version(3)
    assert registers.told == [Command.VERSION]
    assert fpgas.readable(3) == readable
    fpgas.forget()
    assert fpgas.readable(3)
    await fpgas.learn_version(3)
    told = "power-on was not answered (and the BMP is too old to look for its effect)"
    assert await fpgas.fault(3) == (None if readable else told)


@pytest.mark.parametrize("fpga", range(3))
@pytest.mark.parametrize("flags", [0xFFFFFFFF, 0x13, 0x10, 0x11, 0x12])
async def test_the_two_lowest_flags_of_an_fpga_are_its_number(fpga: int, flags: int) -> None:
    registers = Registers()
    registers.registers[fpga, FLAG_REGISTER] = flags
    told = f"FPGA {fpga} reports number {flags & 3} (flags {flags:#x}): a wrong bit file, or none"
    assert await fpgas_of(registers).fault(3) == (None if flags & 3 == fpga else told)


async def test_a_marked_board_that_was_not_reset_is_told_from_one_that_was() -> None:
    registers = Registers()
    fpgas = fpgas_of(registers)
    await fpgas.prepare(3, off=False)
    stopped = {key: value for key, value in registers.registers.items() if key[1] != FLAG_REGISTER}
    assert stopped == {(1, 0x5C): 1}
    assert await fpgas.fault(3) == "power-on did not reset the board"
    assert await fpgas.fault(4) is None, "it was not marked"
    del registers.registers[1, 0x5C]
    assert await fpgas.fault(3) is None
    registers.registers[1, 0x5C] = 1
    assert await fpgas.fault(3) is None, "it was reset, and its links may be stopped by now"
    await fpgas.prepare(3, off=False)
    fpgas.unmark([3])
    assert await fpgas.fault(3) is None, "it was off, which starts all links as well"


@pytest.mark.parametrize(("lost", "told"), [(0, None), (2, None), (3, "its register keeps reading 0")])
async def test_a_link_is_stopped_until_it_reads_so_for_a_few_times(lost: int, told: str | None) -> None:
    registers = Registers()
    registers.lost_writes = lost
    assert await fpgas_of(registers).stop_link(3, Links.east) == told
    assert registers.registers.get((0, 0x5C), 0) == (told is None)
    assert registers.told.count(Command.FPGA_WRITE) == min(lost + 1, 3)


async def test_a_board_whose_bmp_refuses_is_not_marked_and_its_fault_is_the_refusal() -> None:
    class Refusing(Registers):
        async def command(self, *_: Any, **__: Any) -> bytes:
            raise BadPacket("odd")

    fpgas = fpgas_of(Refusing())
    await fpgas.prepare(3, off=False)
    await fpgas.learn_version(3)
    assert await fpgas.fault(3) == "odd"
    assert await fpgas.stop_link(3, Links.east) == "odd"


async def test_boards_that_are_right_are_not_waited_for() -> None:
    registers = Registers()
    registers.timings = Timings(poll_s=3600.0)
    failing = {3: "", 4: ""}
    async with asyncio.timeout(PATIENCE):
        await fpgas_of(registers).verify(failing, 7200.0, lambda: True)
    assert failing == {}
