"""A look at hardware from outside, as a driver would have it: which boards are on, and which links they stop."""

from __future__ import annotations

from typing import Final

from spalloc_server.config.settings import Configuration
from spalloc_server.hardware.bmp import Bmp
from spalloc_server.hardware.scp import FLAG_REGISTER, Command, stop_register
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links

__all__ = ["look_at_hardware"]

FPGA_OFF: Final = 0xFFFFFFFF
"""What a register of a board that is off reads as."""


async def look_at_hardware(configuration: Configuration) -> tuple[int, int]:
    """Return (boards that are on, links that they stop) of all machines.

    `HardwareError` where a BMP is silent.
    """
    on = stopped = 0
    for machine in configuration.machines:
        for frame, boards in machine.frames.items():
            bmp = Bmp(machine.bmp_ips[frame], Timings(), lambda _: None)
            try:
                for board in boards:
                    number = machine.board_locations[board][2]
                    if await _read(bmp, number, 0, FLAG_REGISTER) == FPGA_OFF:
                        continue
                    on += 1
                    for link in Links:
                        stopped += await _read(bmp, number, *stop_register(link)) & 1
            finally:
                bmp.close()
    return on, stopped


async def _read(bmp: Bmp, board: int, fpga: int, address: int) -> int:
    return int.from_bytes(await bmp.command(board, Command.FPGA_READ, address, 4, fpga), "little")
