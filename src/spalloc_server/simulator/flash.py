"""The flash memories of a simulated board's BMP: one sector, its buffer, and the serial flash."""

from __future__ import annotations

import struct
from typing import Final

from spalloc_server.hardware.scp import Command, Request, ResponseCode

__all__ = ["SimulatedFlash"]

SECTOR, SECTOR_BYTES = 0x1000, 0x1000
BUFFER: Final = 0x10001000
"""Address of the buffer from which the sector is written."""
SERIAL_BYTES: Final = 0x200


class SimulatedFlash:
    """All of it is erased at first."""

    def __init__(self) -> None:
        self.sector = bytearray(b"\xff" * SECTOR_BYTES)
        self.serial = bytearray(b"\xff" * SERIAL_BYTES)
        self._buffer = bytearray(SECTOR_BYTES)

    def information(self) -> bytes:
        """The serial information, which has the address of the buffer."""
        return struct.pack("<8I", 5, 1, 2, 3, 4, BUFFER, 0, 0)

    def do(self, request: Request) -> tuple[ResponseCode, bytes]:
        """Do a command that is about memory; the code and payload of the answer."""
        address, length = request.arg1, request.arg2
        match request.command:
            case Command.READ if address >= SECTOR and address + length <= SECTOR + SECTOR_BYTES:
                return ResponseCode.OK, bytes(self.sector[address - SECTOR : address - SECTOR + length])
            case Command.WRITE if address >= BUFFER and address + length <= BUFFER + SECTOR_BYTES:
                self._buffer[address - BUFFER : address - BUFFER + length] = request.data[:length]
                return ResponseCode.OK, b""
            case Command.FLASH_WRITE if (address, length, request.arg3) == (SECTOR, SECTOR_BYTES, 1):
                self.sector[:] = self._buffer
                return ResponseCode.OK, b""
            case Command.SERIAL_FLASH if request.arg3 == 0 and address + length <= SERIAL_BYTES:
                return ResponseCode.OK, bytes(self.serial[address : address + length])
            case Command.SERIAL_FLASH if request.arg3 == 1 and address + length <= SERIAL_BYTES:
                self.serial[address : address + length] = request.data[:length]
                return ResponseCode.OK, b""
        return ResponseCode.ARG, b""
