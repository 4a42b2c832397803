"""One frame: the order in which its boards are switched, and what switching takes.

Theory of operation. A frame keeps its work in the order in which it was asked for. Work starts as soon as no earlier
work that shares a board with it is unfinished; so work on the same boards happens strictly in order, while a board
that takes its time, or never comes up, holds up nobody else's boards. All of it shares the frame's one BMP, which
does one command at a time.

Power-on is one command for all of the work's boards. Its answer alone does not say whether it worked: the BMP of board
0 passes the command on and answers before the other boards have come up, the answer may get lost, and FPGAs may load
the wrong bit file. So the FPGAs' identities are read (`fpgas`) until they are right, and only the boards that failed
are powered on again. Where the answer to a power-on is lost, reading them says which boards it reached; it is never
simply sent again. Links are stopped after that, and read back.

Power-off is idempotent, and is repeated until it is confirmed, since only then may its boards be given to anybody. A
power-off that waits takes up all later ones of the same job and boards, which bounds them. Power-ons, in contrast,
fail at once in a frame that is *out*. One that is overtaken by a later operation of the same job on the same boards is
void: it stops where it stands, without an outcome.

A frame is out, by its own fault and not its boards', while its BMP is silent, and while it has a *power fault*: the BMP
answers all else, but refuses power commands or loses them. A silent BMP is back once it answers a probe. A power fault
is over once a power command is answered; so a power-off that harms nobody is tried, ever less often. Where there is
none, the fault counts as over after the pause, until the first power command is lost. The pauses grow until a board has
come up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from spalloc_server.core.model import BoardFailure, FrameWork
from spalloc_server.errors import HardwareError
from spalloc_server.hardware.bmp import Bmp, FindAddress, NoAnswer, Refused, Silent
from spalloc_server.hardware.fpgas import NOT_RESET, Fpgas
from spalloc_server.hardware.scp import SCP_PORT, Command, power_arguments
from spalloc_server.hardware.timings import Timings
from spalloc_server.log.defects import DefectLog

__all__ = ["MAX_QUEUE", "Done", "Frame", "Work"]

MAX_QUEUE: Final = 1000
"""Unfinished work in a frame; further power-ons fail at once. Power-offs of one job, and boards that wait, are
one."""

_BOARDS: Final = frozenset(range(24))

Done = Callable[[tuple[BoardFailure, ...] | None], None]
"""Called once, with the boards that failed; with None where the work was void."""


@dataclass(slots=True, eq=False)
class Work:
    """One frame's part of an operation, and how far it has got."""

    job_id: int
    on: bool
    todo: FrameWork
    done: list[Done]
    """Of this work, and of later work that was merged into it."""
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
        find_address: FindAddress | None = None,
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self.bmp = Bmp(host, timings, lambda _reason: self._report(), port=port, find_address=find_address)
        self.flash = asyncio.Lock()
        """To be held from reading flash to having written it."""
        self.watched = False
        """Whether to ask for signs of life while there is nothing to do."""
        self.dropped = False
        """Whether nobody will use the frame any more: once its work is done, it is not asked whether it is back."""
        self._spawn = spawn
        self._on_frame = on_frame
        self._fpgas = Fpgas(self.bmp)
        self._works: list[Work] = []
        self._off: set[int] = set()
        """Boards whose last power command switched them off."""
        self._power_fault: str | None = None
        self._lost = 0
        """Power commands in a row that had no answer."""
        self._pause_s = timings.probe_first_s
        self._looks = 0
        self._reported: str | None = None
        self._trouble = asyncio.Event()

    @property
    def out(self) -> str | None:
        """Why nothing can be switched on; None where it can."""
        return self.bmp.silent or self._power_fault

    @property
    def waiting(self) -> int:
        """How much work is unfinished."""
        return len(self._works)

    def busy(self) -> bool:
        """Whether there is work that does not wait for a frame that is out."""
        return any(work.running or self.out is None for work in self._works)

    def submit(self, work: Work) -> None:
        """Take `work` on. Its `done` is called later, never from here."""
        boards = set(work.todo.boards)
        for older in self._works:
            if older.on and older.job_id == work.job_id and boards.issuperset(older.todo.boards):
                older.void = True
        if not work.on and (waiting := self._waiting_like(work)):
            waiting.done += work.done
            self._start()
            return
        self._works.append(work)
        if not boards <= _BOARDS:
            self._refuse(work, f"a frame's boards have the numbers 0 to {max(_BOARDS)}")
        elif work.on and len(self._works) > MAX_QUEUE:
            self._refuse(work, f"there is too much to do in the frame of BMP {self.bmp.host}", frame_fault=True)
        self._start()

    def _waiting_like(self, work: Work) -> Work | None:
        """Return a power-off of the same job and boards that has not begun, and that only void work follows."""
        boards = set(work.todo.boards)
        for older in reversed(self._works):
            if not older.void and not boards.isdisjoint(older.todo.boards):
                same = (older.on, older.job_id, set(older.todo.boards)) == (work.on, work.job_id, boards)
                return older if same and not older.running else None
        return None

    async def keep_watch(self) -> None:
        """Check that an idle BMP still answers, and, ever less often, whether a frame that is out is back."""
        await self._defects.lasting(f"watch over BMP {self.bmp.host}", self._watch)

    async def _watch(self) -> None:
        timings = self.bmp.timings
        pause_s = timings.probe_first_s
        while True:
            if self.bmp.silent is not None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, timings.probe_longest_s)
                if self._wanted() and await self.bmp.probe():
                    self._came_back()
            elif self._power_fault is not None:
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, timings.probe_longest_s)
                if self._wanted():
                    await self._look_again()
            else:
                pause_s = timings.probe_first_s
                await self._await_trouble(timings.heartbeat_s)
                if self.watched and self.bmp.silence_s() >= timings.heartbeat_s:
                    await self.greet()

    def _wanted(self) -> bool:
        return not self.dropped or any(work.done for work in self._works)

    async def greet(self) -> None:
        """Ask the BMP for a sign of life; without one it counts as silent."""
        with contextlib.suppress(Silent):  # which reports itself
            await self._ask_version()

    # --- the order of work ---

    def _start(self) -> None:
        """Start all work that shares no board with earlier work; end what is void or cannot be done."""
        taken: set[int] = set()
        for work in self._works:
            if not work.running:
                if work.void or (work.on and self.out is not None):
                    self._refuse(work, self.out or "void", frame_fault=True)
                elif self.out is None and taken.isdisjoint(work.todo.boards):
                    work.running = True
                    self._spawn(self._run(work))
            taken.update(work.todo.boards)

    def _refuse(self, work: Work, reason: str, *, frame_fault: bool = False) -> None:
        work.running = True
        self._spawn(self._end(work, dict.fromkeys(work.todo.boards, reason), frame_fault=frame_fault))

    async def _run(self, work: Work) -> None:
        try:
            reasons = await (self._switch_on(work) if work.on else self._switch_off(work))
        except HardwareError as exc:  # the frame is out
            fault = str(exc)
        except Exception as exc:  # noqa: BLE001 - a defect of this very code, which says nothing of the boards
            self._defects.note("work in a frame failed", exc, bmp=self.bmp.host, boards=list(work.todo.boards))
            fault = "internal error of the server"
            if not work.on:
                await asyncio.sleep(self.bmp.timings.probe_longest_s)
        else:
            await self._end(work, reasons)
            return
        if work.on:
            await self._end(work, dict.fromkeys(work.todo.boards, fault), frame_fault=True)
        else:
            work.running = False  # until the frame is back
            self._start()

    async def _end(self, work: Work, reasons: dict[int, str], *, frame_fault: bool = False) -> None:
        self._works.remove(work)
        self._start()
        failures = tuple(BoardFailure(self.bmp.host, board, reason, frame_fault) for board, reason in reasons.items())
        for done in work.done:
            with self._defects.contained("an outcome could not be delivered", bmp=self.bmp.host):
                done(None if work.void else failures)

    # --- frames that are out ---

    def _came_back(self) -> None:
        self._fpgas.forget()
        self._off.clear()
        self._report()

    def _power_failed(self, reason: str) -> NoAnswer:
        """Take the frame out because of power commands, although its BMP answers; return what to raise."""
        if self._power_fault is None:
            self._power_fault = reason
            self._report()
        return NoAnswer(reason)

    def _report(self) -> None:
        """Report whether the frame is out, and why, if that has changed; go on with its work."""
        if self.out is not None:
            self._trouble.set()
        if self.out != self._reported:
            self._reported = self.out
            with self._defects.contained("a frame's condition could not be reported", bmp=self.bmp.host):
                self._on_frame(self.bmp.host, self.out)
        self._start()

    async def _await_trouble(self, at_most_s: float) -> None:
        self._trouble.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._trouble.wait()

    async def _look_again(self) -> None:
        """Look whether a power fault is over, by a power-off that harms nobody; where there is none, assume it."""
        if self._power_fault is None:
            return
        if works := self._harmless():
            work = works[self._looks % len(works)]
            self._looks += 1
            work.running = True
            await self._run(work)
        else:
            self._power_fault = None
            self._report()

    def _harmless(self) -> list[Work]:
        """Return power-offs that wait, and one that is made up here, of all boards that are off already."""
        taken: set[int] = set()
        works = []
        for work in self._works:
            if not work.on and not work.running and taken.isdisjoint(work.todo.boards):
                works.append(work)
            taken.update(work.todo.boards)
        if idle := self._off - taken:
            works.append(Work(0, on=False, todo=FrameWork(self.bmp.host, tuple(sorted(idle))), done=[]))
            self._works.append(works[-1])
        return works

    # --- switching ---

    async def _switch_on(self, work: Work) -> dict[int, str]:
        """Power on, verify, stop links; return a reason for each board that failed."""
        timings = self.bmp.timings
        # This finds a dead BMP sooner than power commands would, and a lost answer to it costs little
        await self._ask_version()
        await asyncio.sleep(timings.consider_s)
        failing = {} if work.void else dict.fromkeys(work.todo.boards, "")
        for board in failing:
            await self._fpgas.learn_version(board)
            await self._fpgas.prepare(board, off=board in self._off)
        answered = lost = 0
        while failing and not work.void:
            if answered == timings.power_on_tries:
                break
            if lost == timings.power_losses:  # although others of the frame were answered meanwhile
                return dict.fromkeys(failing, f"power-on was not answered, {lost} times")
            was_answered = await self._power(failing, on=True)
            for board in failing:
                await self._fpgas.learn_version(board)
            if was_answered:
                answered, lost = answered + 1, 0
                await self._fpgas.settle(failing)
                await self._verify(work, failing, timings.verify_s + self._stagger_s(failing))
                if not work.void:
                    await self._judge_marks(work, failing)
            else:
                lost += 1
                await self._verify(work, failing, 0.0)
        self._fpgas.tell_of_others()
        if work.void:
            return {}
        if len(failing) < len(work.todo.boards):
            self._pause_s = timings.probe_first_s
        if failing:
            return {board: f"{reason}, after {answered} power-ons" for board, reason in failing.items()}
        return await self._fpgas.stop_links(work.todo.stopped, lambda: not work.void)

    async def _switch_off(self, work: Work) -> dict[int, str]:
        """Power off until the BMP confirms it; do nothing where all of a job's boards are off already."""
        boards, losses = work.todo.boards, self.bmp.timings.power_losses
        if work.job_id and self._off.issuperset(boards):
            return {}
        for _ in range(losses):
            if self.bmp.silence_s() > self.bmp.timings.fresh_s:
                await self._ask_version()
            if await self._power(boards, on=False):
                self._off.update(boards)
                self._fpgas.unmark(boards)
                return {}
        raise self._power_failed(f"BMP {self.bmp.host} does not answer to power-offs ({losses} were lost)")

    async def _ask_version(self) -> None:
        with contextlib.suppress(Refused):  # a sign of life
            await self.bmp.command(0, Command.VERSION)

    async def _power(self, boards: Collection[int], *, on: bool) -> bool:
        """Send one power command; whether it was answered. `NoAnswer` where the frame is out, or is now."""
        timings = self.bmp.timings
        delay_ms = timings.stagger_ms if on else 0
        arg1, arg2 = power_arguments(tuple(boards), on=on, delay_ms=delay_ms)
        self._off.difference_update(boards)
        self._fpgas.switched(boards)
        for attempt in range(timings.power_on_tries):
            if attempt:
                await asyncio.sleep(timings.refusal_pause_s)
            try:
                await self.bmp.command(0, Command.POWER, arg1, arg2, extra_s=self._stagger_s(boards))
            except Silent:
                raise
            except NoAnswer:
                self._lost = min(self._lost + 1, timings.power_losses)
                if self._lost < timings.power_losses:
                    return False
                reason = f"BMP {self.bmp.host} answers, but not to power commands ({self._lost} were lost)"
                raise self._power_failed(reason) from None
            except Refused as exc:
                reason = str(exc)
            else:
                self._lost = 0
                if self._power_fault is not None:
                    self._power_fault = None
                    self._report()
                return True
        raise self._power_failed(reason)

    def _stagger_s(self, boards: Collection[int]) -> float:
        return self.bmp.timings.stagger_ms * max(boards, default=0) / 1000

    async def _verify(self, work: Work, failing: dict[int, str], within_s: float) -> None:
        await self._fpgas.verify(failing, within_s, lambda: not work.void)

    async def _judge_marks(self, work: Work, failing: dict[int, str]) -> None:
        """Find out whether boards were not reset, or only keep their registers: switch them off in between."""
        marked = [board for board, reason in failing.items() if reason == NOT_RESET]
        if not marked:
            return
        if not (await self._power(marked, on=False) and await self._power(marked, on=True)):
            return
        still = dict.fromkeys(marked, NOT_RESET)
        await self._verify(work, still, self.bmp.timings.verify_s + self._stagger_s(still))
        if work.void:
            return
        keeping = [board for board, reason in still.items() if reason == NOT_RESET]
        self._fpgas.keep_registers(keeping)
        for board in marked:
            if board in keeping or board not in still:
                del failing[board]
            else:
                failing[board] = still[board]
