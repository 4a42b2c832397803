"""One frame: the order in which its boards are switched, and what switching takes.

Theory of operation. A frame keeps its work in the order in which it was asked for. Work starts as soon as no earlier
work that shares a board with it is unfinished; so work on the same boards happens strictly in order, while a board
that takes its time, or never comes up, holds up nobody else's boards. All of it shares the frame's one BMP, which
does one command at a time.

Power-on is one command for all of the work's boards. It cannot be told by its answer alone: the BMP of board 0 passes
the command on and answers before the other boards have come up, the answer may get lost, and FPGAs may load the wrong
bit file. So the FPGAs' identities are read until they are right, and only the boards that failed are powered on again.
A board that is on already would look right before its reset as much as after. So it is *marked* first, by stopping
one of its links: power-up starts all links again. Where the answer to a power-on is lost, the same look says which
boards it reached; it is never simply sent again. Links are stopped after that, and read back.

Power-off is idempotent, and is repeated until it is answered. It is never given up because a BMP is silent: it waits
until the BMP answers again, since only then may its boards be given to anybody. There is at most one such power-off
a board, which bounds them. Power-ons, in contrast, fail at once in a silent frame. One that is overtaken by a later
operation of the same job on the same boards is void: it stops where it stands, and nobody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from spalloc_server.core.messages import BoardFailure, FrameWork
from spalloc_server.errors import HardwareError
from spalloc_server.hardware.bmp import Bmp, NoAnswer, Refused, Silent
from spalloc_server.hardware.scp import (
    FLAG_REGISTER,
    SCP_PORT,
    BadPacket,
    Command,
    Version,
    power_arguments,
    stop_register,
)
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links

__all__ = ["MAX_QUEUE", "Frame", "Work"]

MAX_QUEUE: Final = 1000
"""Most unfinished work in a frame; further power-ons fail at once. (Power-offs are bounded by the boards.)"""

_BOARDS: Final = frozenset(range(24))
_FPGAS: Final = (0, 1, 2)
_MARK: Final = stop_register(Links.south_west)
_FIRST_WITH_FPGA_REGISTERS: Final = 2


@dataclass(slots=True, eq=False)
class Work:
    """One frame's part of an operation, and how far it has got."""

    job_id: int
    on: bool
    todo: FrameWork
    done: Callable[[tuple[BoardFailure, ...] | None], None]
    """Called once, with the boards that failed; with None where the work was void."""
    running: bool = False
    void: bool = False


class Frame:
    """The boards of one frame. Everything happens in tasks that `spawn` starts."""

    def __init__(
        self,
        host: str,
        timings: Timings,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_frame: Callable[[str, str | None], None],
        *,
        port: int = SCP_PORT,
    ) -> None:
        self.bmp = Bmp(host, timings, self._fell_silent, port=port)
        self.watched = False
        """Whether to ask for signs of life while there is nothing to do."""
        self._timings = timings
        self._spawn = spawn
        self._on_frame = on_frame
        self._works: list[Work] = []
        self._silenced = asyncio.Event()
        self._majors: dict[int, int] = {}
        self._off: set[int] = set()
        self._marked: set[int] = set()

    @property
    def waiting(self) -> int:
        """How much work is unfinished."""
        return len(self._works)

    def busy(self) -> bool:
        """Whether there is work that does not wait for a silent BMP."""
        return any(work.running or self.bmp.silent is None for work in self._works)

    def submit(self, work: Work) -> None:
        """Take `work` on. Its `done` is called later, never from here."""
        boards = set(work.todo.boards)
        for older in self._works:
            if older.on and older.job_id == work.job_id and boards.issuperset(older.todo.boards):
                older.void = True
        self._works.append(work)
        if not boards <= _BOARDS:
            self._refuse(work, f"a frame's boards have the numbers 0 to {max(_BOARDS)}")
        elif work.on and len(self._works) > MAX_QUEUE:
            self._refuse(work, f"there is too much to do in the frame of BMP {self.bmp.host}", frame_fault=True)
        self._start()

    async def keep_watch(self) -> None:
        """Ask an idle BMP for signs of life, and a silent one, ever less often, whether it is back. For ever."""
        pause_s = self._timings.probe_first_s
        while True:
            if self.bmp.silent is None:
                pause_s = self._timings.probe_first_s
                await self._await_silence(self._timings.heartbeat_s)
                if self.watched and self.bmp.silence_s() >= self._timings.heartbeat_s:
                    await self.greet()
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._timings.probe_longest_s)
            if await self.bmp.probe():
                self._came_back()

    async def greet(self) -> None:
        """Ask the BMP for a sign of life; without one it counts as silent."""
        with contextlib.suppress(HardwareError):  # silence reports itself, and a refusal is a sign of life
            await self.bmp.command(0, Command.VERSION)

    # --- the order of work ---

    def _start(self) -> None:
        """Start all work that shares no board with earlier work; end what is void or cannot be done."""
        taken: set[int] = set()
        for work in self._works:
            if not work.running:
                if work.void or (work.on and self.bmp.silent is not None):
                    self._refuse(work, self.bmp.silent or "void", frame_fault=True)
                elif self.bmp.silent is None and taken.isdisjoint(work.todo.boards):
                    work.running = True
                    self._spawn(self._run(work))
            taken.update(work.todo.boards)

    def _refuse(self, work: Work, reason: str, *, frame_fault: bool = False) -> None:
        work.running = True
        self._spawn(self._end(work, dict.fromkeys(work.todo.boards, reason), frame_fault=frame_fault))

    async def _run(self, work: Work) -> None:
        frame_fault = False
        try:
            failures = await (self._switch_on(work) if work.on else self._switch_off(work))
        except NoAnswer as exc:
            if not work.on:
                work.running = False  # until the BMP is back
                self._start()
                return
            failures, frame_fault = dict.fromkeys(work.todo.boards, str(exc)), True
        except HardwareError as exc:
            failures = dict.fromkeys(work.todo.boards, str(exc))
        await self._end(work, failures, frame_fault=frame_fault)

    async def _end(self, work: Work, reasons: dict[int, str], *, frame_fault: bool = False) -> None:
        self._works.remove(work)
        self._start()
        failures = (BoardFailure(self.bmp.host, board, reason, frame_fault) for board, reason in reasons.items())
        work.done(None if work.void else tuple(failures))

    def _fell_silent(self, reason: str) -> None:
        self._silenced.set()
        self._on_frame(self.bmp.host, reason)
        self._start()

    def _came_back(self) -> None:
        self._silenced.clear()
        self._majors.clear()
        self._off.clear()
        self._on_frame(self.bmp.host, None)
        self._start()

    async def _await_silence(self, at_most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._silenced.wait()

    # --- switching ---

    async def _switch_on(self, work: Work) -> dict[int, str]:
        """Power on, verify, stop links; return a reason for each board that failed."""
        # A lost answer to this costs little, and finds a dead BMP sooner than power commands would
        await self.bmp.command(0, Command.VERSION)
        await asyncio.sleep(self._timings.consider_s)
        failing = {} if work.void else dict.fromkeys(work.todo.boards, "")
        for board in failing:
            await self._mark(board)
        answered = lost = 0
        while failing and not work.void:
            if lost == self._timings.power_losses:
                raise self._deaf(lost)
            if answered == self._timings.power_on_tries:
                return {board: f"{reason}, after {answered} power-ons" for board, reason in failing.items()}
            was_answered = await self._power(failing, on=True)
            for board in failing:
                await self._learn_version(board)
            if was_answered:
                answered, lost = answered + 1, 0
                await self._settle(failing)
                await self._verify(work, failing, self._timings.verify_s + self._stagger_s(failing))
            else:
                lost += 1
                await self._verify(work, failing, 0.0)
        return {} if work.void else await self._stop_links(work)

    async def _switch_off(self, work: Work) -> dict[int, str]:
        """Power off until the BMP confirms it."""
        boards = work.todo.boards
        for _ in range(self._timings.power_losses):
            if self.bmp.silence_s() > self._timings.fresh_s:
                await self.bmp.command(0, Command.VERSION)
            if await self._power(boards, on=False):
                self._off.update(boards)
                self._marked.difference_update(boards)
                return {}
        raise self._deaf(self._timings.power_losses)

    def _deaf(self, lost: int) -> Silent:
        """Take the BMP for silent, although it answers, because that many power commands had no answer."""
        reason = f"BMP {self.bmp.host} answers, but not to power commands ({lost} were lost)"
        self.bmp.fall_silent(reason)
        return Silent(reason)

    async def _power(self, boards: Collection[int], *, on: bool) -> bool:
        """Send one power command; whether it was answered."""
        delay_ms = self._timings.stagger_ms if on else 0
        arg1, arg2 = power_arguments(tuple(boards), on=on, delay_ms=delay_ms)
        self._off.difference_update(boards)
        for attempt in range(self._timings.power_on_tries):
            if attempt:
                await asyncio.sleep(self._timings.refusal_pause_s)
            try:
                await self.bmp.command(0, Command.POWER, arg1, arg2, extra_s=self._stagger_s(boards))
            except Silent:
                raise
            except NoAnswer:
                return False
            except Refused as exc:
                refusal = exc
            else:
                return True
        raise refusal

    def _stagger_s(self, boards: Collection[int]) -> float:
        return self._timings.stagger_ms * max(boards, default=0) / 1000

    async def _mark(self, board: int) -> None:
        """Make sure that a board that is on now will look different once it has been reset."""
        if board in self._off:
            return
        fpga, _ = _MARK
        with contextlib.suppress(Refused, BadPacket):  # then its reset is not looked for
            if await self._read(board, fpga, FLAG_REGISTER) & 3 == fpga:
                await self._stop(board, *_MARK)
                self._marked.add(board)

    async def _settle(self, failing: dict[int, str]) -> None:
        """Take the boards for good whose FPGAs cannot be read, after giving them time."""
        blind = [board for board in failing if not self._is_modern(board)]
        if blind:
            await asyncio.sleep(self._timings.settle_s)
        for board in blind:
            del failing[board]

    async def _verify(self, work: Work, failing: dict[int, str], within_s: float) -> None:
        """Drop boards from `failing` as their FPGAs prove right, and give a reason to those left at the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while failing and not work.void:
            last = loop.time() >= deadline
            for board in list(failing):
                reason = await self._fault(board)
                if reason is None:
                    del failing[board]
                    continue
                failing[board] = reason
                if not last:
                    break  # boards come up together: there is no use in asking all of the others, too
            if last:
                return
            await asyncio.sleep(self._timings.poll_s)

    async def _fault(self, board: int) -> str | None:
        """What is wrong with a board that should be on and freshly reset, if anything."""
        try:
            if not self._is_modern(board):
                return "power-on was not answered (and the BMP is too old to look for its effect)"
            for fpga in _FPGAS:
                flags = await self._read(board, fpga, FLAG_REGISTER)
                if flags & 3 != fpga:
                    return f"FPGA {fpga} takes itself for number {flags & 3} (flags {flags:#x})"
            if board in self._marked:
                if await self._read(board, *_MARK):
                    return "power-on did not reset the board"
                self._marked.discard(board)
        except (Refused, BadPacket) as exc:
            return str(exc)
        return None

    async def _stop_links(self, work: Work) -> dict[int, str]:
        """Stop the links that leave the job; return a reason for each board where that failed."""
        failures: dict[int, str] = {}
        for board, link in work.todo.stopped:
            if not work.void and self._is_modern(board):
                reason = await self._stop_link(board, link)
                if reason is not None:
                    failures[board] = f"link {link.name} cannot be stopped: {reason}"
        return failures

    async def _stop_link(self, board: int, link: Links) -> str | None:
        """Stop a link and read back that it is stopped; what is wrong, if it is not."""
        fpga, address = stop_register(link)
        reason = ""
        for _ in range(self._timings.link_tries):
            try:
                await self._stop(board, fpga, address)
                if await self._read(board, fpga, address):
                    return None
                reason = "its register keeps reading 0"
            except (Refused, BadPacket) as exc:
                reason = str(exc)
        return reason

    async def _learn_version(self, board: int) -> None:
        if board not in self._majors:
            try:
                answer = await self.bmp.command(board, Command.VERSION)
                self._majors[board] = Version.decode(answer).version[0]
            except (Refused, BadPacket):
                pass  # verification will say what is wrong with the board

    def _is_modern(self, board: int) -> bool:
        """Whether the board's BMP reaches the FPGAs' registers."""
        return self._majors.get(board, _FIRST_WITH_FPGA_REGISTERS) >= _FIRST_WITH_FPGA_REGISTERS

    async def _read(self, board: int, fpga: int, address: int) -> int:
        payload = await self.bmp.command(board, Command.FPGA_READ, address, 4, fpga)
        if len(payload) < 4:
            raise BadPacket(f"BMP {self.bmp.host} reads {len(payload)} bytes of an FPGA register of board {board}")
        return int.from_bytes(payload[:4], "little")

    async def _stop(self, board: int, fpga: int, address: int) -> None:
        await self.bmp.command(board, Command.FPGA_WRITE, address, 4, fpga, (1).to_bytes(4, "little"))
