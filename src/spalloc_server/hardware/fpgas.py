"""What can be read of a frame's boards: their firmware's version, their FPGAs, and the links that these stop.

Theory of operation. The FPGAs' registers say whether a board is up and was reset. BMPs of older firmware cannot reach
them, and are not asked. A board that is on already looks right before its reset, too. So it is *marked* first, by
stopping one of its links: power-up starts all links again. Where a mark outlives even a power-off, as on hardware that
keeps its registers, marks tell nothing of that board.

A board that was switched off here and is on at its next power-on, or whose stopped link runs, tells that somebody else
drives this BMP. Nothing can be done about that but to say so, once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from spalloc_server.hardware.bmp import Bmp, Refused
from spalloc_server.hardware.scp import FLAG_REGISTER, BadPacket, Command, Version, stop_register
from spalloc_server.links import Links
from spalloc_server.log.logger import get_logger

__all__ = ["NOT_RESET", "Fpgas"]

NOT_RESET: Final = "power-on did not reset the board"
"""What is wrong with a board whose mark is still there."""

log = get_logger(__name__)

_FPGAS: Final = (0, 1, 2)
_MARK: Final = stop_register(Links.south_west)
_FIRST_WITH_FPGA_REGISTERS: Final = 2


class Fpgas:
    """The FPGAs of one frame's boards. Everything raises `Silent` where the BMP is or falls silent."""

    def __init__(self, bmp: Bmp) -> None:
        self._bmp = bmp
        self._majors: dict[int, int] = {}
        self._marked: set[int] = set()
        self._keeping: set[int] = set()
        """Boards that keep their registers while they are off."""
        self._stopped: dict[int, set[Links]] = {}
        """Links that were stopped since their board was switched on last."""
        self._meddled: set[int] = set()
        """Boards that are about to be switched on, and are not as they were left."""
        self._told_of_others = self._told_of_keeping = False

    def forget(self) -> None:
        """Forget all of boards, which may have been switched by hand, or exchanged."""
        self._majors.clear()
        self._keeping.clear()
        self._stopped.clear()

    def switched(self, boards: Iterable[int]) -> None:
        """Note that these boards are told to switch on or off: all of their links will run."""
        for board in boards:
            self._stopped.pop(board, None)

    def keep_registers(self, boards: list[int]) -> None:
        """Mark these boards no more, whose marks have outlived a power-off, and say so, once."""
        self._keeping.update(boards)
        self._marked.difference_update(boards)
        if boards and not self._told_of_keeping:
            self._told_of_keeping = True
            log.warning("boards keep their FPGAs' registers while off", bmp=self._bmp.host, boards=boards)

    def tell_of_others(self) -> None:
        """Say, once, that boards were not as this server left them; registers that are kept only look like that."""
        meddled = sorted(self._meddled - self._keeping)
        self._meddled.clear()
        if meddled and not self._told_of_others:
            self._told_of_others = True
            log.warning("somebody else switches boards of this frame", bmp=self._bmp.host, boards=meddled)

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

    async def prepare(self, board: int, *, off: bool) -> None:
        """Make sure that a board will look different once it has been switched on; see whether it is as it was left.

        `off` says that it was switched off.
        """
        links_run = await self._links_run(board)
        if links_run or (await self._mark(board) and off):
            self._meddled.add(board)

    async def _mark(self, board: int) -> bool:
        """Mark a board that is on; whether that was done."""
        if not self.readable(board) or board in self._keeping:
            return False
        fpga, _ = _MARK
        with contextlib.suppress(Refused, BadPacket):  # then its reset is not looked for
            if await self._read(board, fpga, FLAG_REGISTER) & 3 == fpga:
                await self._stop(board, *_MARK)
                self._marked.add(board)
                return True
        return False

    async def _links_run(self, board: int) -> bool:
        """Whether links run that were stopped; those of a board that is off do not."""
        with contextlib.suppress(Refused, BadPacket):
            for link in self._stopped.get(board, ()):
                if not await self._read(board, *stop_register(link)):
                    return True
        return False

    async def settle(self, failing: dict[int, str]) -> None:
        """Wait, and then assume that boards work whose FPGAs cannot be read."""
        blind = [board for board in failing if not self.readable(board)]
        if blind:
            await asyncio.sleep(self._bmp.timings.settle_s)
        for board in blind:
            del failing[board]

    async def verify(self, failing: dict[int, str], within_s: float, wanted: Callable[[], bool]) -> None:
        """Drop boards from `failing` as their FPGAs prove right, and give a reason to those left at the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while failing and wanted():
            last = loop.time() >= deadline
            for board in list(failing):
                reason = await self.fault(board)
                if reason is None:
                    del failing[board]
                    continue
                failing[board] = reason
                if not last:
                    break  # boards come up together: there is no use in asking all of the others, too
            if last or not failing:
                return
            await asyncio.sleep(self._bmp.timings.poll_s)

    async def stop_links(self, stopped: Iterable[tuple[int, Links]], wanted: Callable[[], bool]) -> dict[int, str]:
        """Stop links (of boards); return a reason for each board where that failed."""
        failures: dict[int, str] = {}
        for board, link in stopped:
            if wanted() and self.readable(board):
                reason = await self.stop_link(board, link)
                if reason is None:
                    self._stopped.setdefault(board, set()).add(link)
                else:
                    failures[board] = f"link {link.name} cannot be stopped: {reason}"
        return failures

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
                    return NOT_RESET
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
