"""All the hardware, as the server sees it: switch a job's boards, and report how that ended.

Theory of operation. A `Switch` is split into its frames, which work in parallel and never wait for each other; once
the last of them is done the `Outcome` goes to a callback. Frames come into being when first needed and open their
sockets when they first send, so a machine of fifty frames costs nothing at the start and a BMP that cannot be reached
is only a reason to report. Nothing here blocks or raises at the caller: everything runs in tasks of one task group,
which lives as long as the `async with` block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from spalloc_server.core.model import BoardFailure, Outcome, Switch
from spalloc_server.errors import HardwareError
from spalloc_server.hardware.blacklist import write_blacklist
from spalloc_server.hardware.bmp import FindAddress
from spalloc_server.hardware.frame import Frame, Work
from spalloc_server.hardware.names import Names
from spalloc_server.hardware.scp import SCP_PORT, Adc, Command, InfoType
from spalloc_server.hardware.timings import Timings
from spalloc_server.log.defects import DefectLog

__all__ = ["FrameStatus", "Hardware"]

MAX_ASKED: Final = 64
"""Operators' commands that may wait for one BMP."""


@dataclass(frozen=True, slots=True)
class FrameStatus:
    """How a frame is doing."""

    bmp: str
    out: str | None
    """Why nothing can be switched on in it; None while it can, or its BMP has not been asked yet."""
    waiting: int
    """Operations that are unfinished."""
    commands: int
    """Commands given to the BMP so far."""
    resends: int
    """Datagrams that had to be sent again."""
    strays: int
    """Datagrams received that were not waited for."""


@dataclass(slots=True)
class _Operation:
    """A switch under way."""

    frames_left: int
    failures: list[BoardFailure] = field(default_factory=list)
    void: bool = False


class Hardware:
    """Switches boards. To be used within its `async with` block.

    Args:
        on_outcome: called with the outcome of every `Switch`, once, unless it was void.
        on_frame: called with a BMP's host and why nothing can be switched on in its frame; None when it can again.
        timings: how patient to be.
        port: UDP port of all BMPs.
        find_address: looks up the names of BMPs; by default, the system's name service does.
        defects: where defects are noted.
    """

    def __init__(
        self,
        on_outcome: Callable[[Outcome], None],
        on_frame: Callable[[str, str | None], None],
        *,
        timings: Timings | None = None,
        port: int = SCP_PORT,
        find_address: FindAddress | None = None,
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self._find_address = find_address or Names().address
        self._on_outcome = on_outcome
        self._on_frame = on_frame
        self._timings = timings or Timings()
        self._port = port
        self._frames: dict[str, Frame] = {}
        self._operations: dict[int, _Operation] = {}
        self._asked = 0
        self._retired = False
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for frame in self._frames.values():
            frame.bmp.close()
        await self._group.__aexit__(kind, exc, traceback)

    def switch(self, switch: Switch) -> None:
        """Begin to switch boards. The outcome comes later, never from within this call."""
        self._operations[switch.operation] = _Operation(len(switch.frames))
        if not switch.frames:
            asyncio.get_running_loop().call_soon(self._conclude, switch.operation)
        for todo in switch.frames:
            done = partial(self._on_part, switch.operation)
            self._frame(todo.bmp).submit(Work(switch.job_id, switch.on, todo, [done]))

    def watch(self, hosts: Iterable[str]) -> None:
        """Ask these BMPs, and from now on no others without work, for signs of life: at once, and then while idle."""
        wanted = set(hosts)
        for host in sorted(wanted - self._frames.keys()):
            self._spawn(self._frame(host).greet())
        for host, frame in self._frames.items():
            frame.watched = host in wanted
            frame.dropped = not frame.watched

    def set_timings(self, timings: Timings) -> None:
        """Use these timings from now on; BMPs that are in use keep their time-outs and tries."""
        self._timings = timings
        for frame in self._frames.values():
            frame.bmp.timings = timings

    def frames(self) -> dict[str, FrameStatus]:
        """Return the status of each frame that has been used or watched, by the host of its BMP."""
        return {
            host: FrameStatus(host, frame.out, frame.waiting, frame.bmp.commands, frame.bmp.resends, frame.bmp.strays)
            for host, frame in self._frames.items()
        }

    def busy(self) -> bool:
        """Whether anything is under way that does not wait for a frame that is out."""
        return self._asked > 0 or any(frame.busy() for frame in self._frames.values())

    async def drain(self, deadline_s: float) -> bool:
        """Wait, for at most so many seconds, until nothing is under way; return whether it came to that."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.busy():
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def in_flight(self) -> list[str]:
        """Hosts of the BMPs at which a command has begun and has not ended yet."""
        return [host for host, frame in self._frames.items() if frame.bmp.in_flight]

    def pause(self, hosts: Iterable[str] | None = None) -> None:
        """Begin no command at these BMPs, or at any (None), until `resume`; what is in flight goes on."""
        for host in list(self._frames) if hosts is None else hosts:
            self._frame(host).bmp.pause()

    def retire(self) -> None:
        """Begin no command and report no outcome any more, even of what is in flight: another process goes on."""
        self._retired = True
        self.pause()

    def resume(self, hosts: Iterable[str]) -> None:
        """Undo `pause`."""
        for host in hosts:
            self._frame(host).bmp.resume()

    async def ask(
        self, bmp: str, board: int, command: int, arg1: int = 0, arg2: int = 0, arg3: int = 0, data: bytes = b""
    ) -> bytes:
        """Have one command done, after those that wait already, and return its answer's payload. For operators.

        Raises `HardwareError` where the BMP refuses or does not answer, and for power commands, which are `switch`'s.
        """
        if command == Command.POWER:
            raise HardwareError("power is switched for whole jobs or boards, not by single commands")
        if self._asked >= MAX_ASKED:
            raise HardwareError(f"{MAX_ASKED} commands are waiting for BMPs already; try again later")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked += 1
        # A task of its own, because a caller who stops waiting must not cut short what is in flight
        self._spawn(self._answer(answer, bmp, (board, command, arg1, arg2, arg3, data)))
        return await answer

    async def read_temperatures(self, bmp: str, board: int) -> Adc:
        """The board's temperatures, voltages and fans; `HardwareError` where they cannot be read."""
        return Adc.decode(await self.ask(bmp, board, Command.INFO, InfoType.ADC))

    async def write_blacklist(self, bmp: str, board: int, lines: Iterable[str]) -> list[str]:
        """Write a board's blacklist, one at a time in a frame; return what is read back. Errors as in `blacklist`."""
        async with self._frame(bmp).flash:
            return await write_blacklist(partial(self.ask, bmp, board), lines)

    def _frame(self, host: str) -> Frame:
        frame = self._frames.get(host)
        if frame is None:
            frame = Frame(
                host,
                self._timings,
                self._spawn,
                self._frame_changed,
                port=self._port,
                find_address=self._find_address,
                defects=self._defects,
            )
            self._frames[host] = frame
            self._spawn(frame.keep_watch())
        return frame

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._defects.begin(self._group, "hardware", coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settled.set()

    def _on_part(self, operation: int, failures: tuple[BoardFailure, ...] | None) -> None:
        state = self._operations[operation]
        state.frames_left -= 1
        if failures is None:
            state.void = True
        else:
            state.failures += failures
        if state.frames_left == 0:
            self._conclude(operation)

    def _conclude(self, operation: int) -> None:
        state = self._operations.pop(operation)
        if not state.void and not self._retired:
            with self._defects.contained("an outcome could not be delivered", operation=operation):
                self._on_outcome(Outcome(operation, tuple(state.failures)))

    def _frame_changed(self, host: str, reason: str | None) -> None:
        if not self._retired:
            self._on_frame(host, reason)

    async def _answer(
        self, answer: asyncio.Future[bytes], host: str, request: tuple[int, int, int, int, int, bytes]
    ) -> None:
        try:
            payload = await self._frame(host).bmp.command(*request)
        except HardwareError as exc:
            if not answer.cancelled():
                answer.set_exception(exc)
        except Exception:
            if not answer.cancelled():
                answer.set_exception(HardwareError("internal error of the server; its log tells more"))
            raise
        else:
            if not answer.cancelled():
                answer.set_result(payload)
        finally:
            self._asked -= 1
            answer.cancel()
