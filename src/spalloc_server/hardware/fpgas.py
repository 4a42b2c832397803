"""What can be read of a frame's boards: their firmware's version, their FPGAs, and the links that these stop.

Theory of operation. The FPGAs' registers say whether a board is up and was reset. BMPs of older firmware cannot reach
them, and are not asked. A board that is on already looks right before its reset, too. So it is *marked* first, by
stopping one of its links: power-up starts all links again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

from spalloc_server.hardware.bmp import Bmp, Refused
from spalloc_server.hardware.scp import FLAG_REGISTER, BadPacket, Command, Version, stop_register
from spalloc_server.links import Links

__all__ = ["Fpgas"]

_FPGAS: Final = (0, 1, 2)
_MARK: Final = stop_register(Links.south_west)
_FIRST_WITH_FPGA_REGISTERS: Final = 2


class Fpgas:
    """The FPGAs of one frame's boards. Everything raises `Silent` where the BMP is or falls silent."""

    def __init__(self, bmp: Bmp) -> None:
        self._bmp = bmp
        self._majors: dict[int, int] = {}
        self._marked: set[int] = set()

    def forget(self) -> None:
        """Forget the versions of boards, which may have been exchanged."""
        self._majors.clear()

    def unmark(self, boards: Iterable[int]) -> None:
        """Note that these boards are off, and so no longer marked."""
        self._marked.difference_update(boards)

    async def learn_version(self, board: int) -> None:
        """Ask a board for its firmware's version, unless it is known."""
        if board not in self._majors:
            with contextlib.suppress(Refused, BadPacket):  # verification will say what is wrong with the board
                answer = await self._bmp.command(board, Command.VERSION)
                self._majors[board] = Version.decode(answer).version[0]

    def readable(self, board: int) -> bool:
        """Whether the board's BMP can read the FPGAs' registers; true as long as its version is not known."""
        return self._majors.get(board, _FIRST_WITH_FPGA_REGISTERS) >= _FIRST_WITH_FPGA_REGISTERS

    async def mark(self, board: int) -> None:
        """Make sure that a board that is on now will look different once it has been reset."""
        if not self.readable(board):
            return
        fpga, _ = _MARK
        with contextlib.suppress(Refused, BadPacket):  # then its reset is not looked for
            if await self._read(board, fpga, FLAG_REGISTER) & 3 == fpga:
                await self._stop(board, *_MARK)
                self._marked.add(board)

    async def fault(self, board: int) -> str | None:
        """Return what is wrong with a board that should be on and just reset; None for nothing."""
        try:
            if not self.readable(board):
                return "power-on was not answered (and the BMP is too old to look for its effect)"
            for fpga in _FPGAS:
                flags = await self._read(board, fpga, FLAG_REGISTER)
                if flags & 3 != fpga:
                    return f"FPGA {fpga} reports number {flags & 3} (flags {flags:#x}): a wrong bit file, or none"
            if board in self._marked:
                if await self._read(board, *_MARK):
                    return "power-on did not reset the board"
                self._marked.discard(board)
        except (Refused, BadPacket) as exc:
            return str(exc)
        return None

    async def stop_link(self, board: int, link: Links) -> str | None:
        """Stop a link, and read back that it is stopped; return what is wrong, or None."""
        fpga, address = stop_register(link)
        reason = ""
        for _ in range(self._bmp.timings.link_tries):
            try:
                await self._stop(board, fpga, address)
                if await self._read(board, fpga, address):
                    return None
                reason = "its register keeps reading 0"
            except (Refused, BadPacket) as exc:
                reason = str(exc)
        return reason

    async def _read(self, board: int, fpga: int, address: int) -> int:
        payload = await self._bmp.command(board, Command.FPGA_READ, address, 4, fpga)
        if len(payload) < 4:
            raise BadPacket(f"BMP {self._bmp.host} reads {len(payload)} bytes of an FPGA register of board {board}")
        return int.from_bytes(payload[:4], "little")

    async def _stop(self, board: int, fpga: int, address: int) -> None:
        await self._bmp.command(board, Command.FPGA_WRITE, address, 4, fpga, (1).to_bytes(4, "little"))
