"""The server's ear for operators: a Unix socket, a request a line, a reply a line.

Theory of operation. `connections` accepts operators and gives their requests to this module, one at a time from each.
What changes anything is answered once its commit is durable, as with clients. Requests that need hardware
(temperatures, a power cycle) wait for it with a deadline, while other operators' connections go on. Requests for a view
of everything are answered one in each turn of the event loop, since they may take long: whoever would change something
goes in between. The socket admits only the server's own user and root, and its path ends with the server; one that a
crash left behind is replaced. At an upgrade the socket goes to the new process as it is, so somebody always listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from spalloc_server import __version__
from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller, steady_time
from spalloc_server.coordinates import Board
from spalloc_server.core.model.views import BoardView
from spalloc_server.errors import HardwareError, RequestError, SpallocServerError, StorageError, UpgradeError
from spalloc_server.frontends.operators import messages
from spalloc_server.frontends.operators.connection import refusal
from spalloc_server.frontends.operators.connections import Connections
from spalloc_server.frontends.operators.messages import ServerView, TemperaturesView, socket_path
from spalloc_server.frontends.v1.service import Service
from spalloc_server.hardware.blacklist import read_blacklist
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Operators"]

MAX_AT_HARDWARE = 32
"""Requests of operators that may wait for hardware."""

POWER_CYCLE_SECONDS = 120.0
"""The longest wait for a power cycle, which waits for its turn in its frame."""

READ_AT_ONCE = 16
"""Boards of a machine whose sensors are read at the same time."""

VIEWS = messages.Status | messages.Machines | messages.Boards | messages.Jobs | messages.ShowJob
"""Requests that are answered from memory."""

LOOKING = VIEWS | messages.Temperatures | messages.Blacklist
"""Requests that change nothing; all others are logged."""

AT_HARDWARE = messages.Temperatures | messages.Blacklist | messages.SetBlacklist | messages.PowerCycle
"""Requests that wait for hardware."""

_decode = msgspec.json.Decoder(messages.AnyRequest).decode
_encode = msgspec.json.Encoder().encode

Inherited: TypeAlias = tuple[socket.socket, list[tuple[socket.socket, bytes]]]
"""A listening socket, and connections with what each of them had sent."""

log = get_logger(__name__)


class Operators:
    """Listens to operators while entered.

    Args:
        controller: the core.
        hardware: for what is asked of boards directly.
        service: the clients' side of the server, whose condition operators want to know.
        config: the server's config file.
        state: its state file, beside which the socket is.
        hold: gives the number of the commit that the last changes belong to, or None if there were none.
        defects: told what goes wrong that never should, and how often that was, which operators want to know.
    """

    def __init__(
        self,
        controller: Controller,
        hardware: Hardware,
        service: Service,
        *,
        config: Path,
        state: Path,
        hold: Callable[[], int | None],
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self._controller = controller
        self._hardware = hardware
        self._service = service
        self._config = config
        self._state = state
        self._path = socket_path(state)
        self._hold = hold
        self._started_at = steady_time()
        self._commits: dict[int, asyncio.Future[None]] = {}
        self._changed = asyncio.Event()
        self.inherited: Inherited | None = None
        """The listening socket and the connections of another process, to go on with when entered."""
        self._inode = 0
        self._view = asyncio.Lock()
        self._at_hardware = 0
        self._writing: set[asyncio.Task[list[str]]] = set()
        self.connections = Connections(self._reply, repeatable=_is_repeatable, complain=service.complain)
        """Of operators; for an upgrade, which hands them over."""

    async def __aenter__(self) -> Self:
        listening, connections = self.inherited or (None, [])
        try:
            if listening is None or not self._path.is_socket():  # somebody may have removed it
                listening = _bound(self._path)
            self._inode = self._path.stat().st_ino
            self.connections.listen(listening)
        except OSError as exc:  # a path that is too long, for example; no reason to serve nobody
            log.error("operators cannot reach this server", path=str(self._path), error=exc.strerror or str(exc))
        for sock, unread in connections:
            self.connections.adopt(sock, unread)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.connections.close()
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # else another server listens there already
                self._path.unlink()

    def export(self, *, wanted: bool) -> tuple[list[int], list[bytes]] | None:
        """See `Connections.export`; None where that is not wanted.

        Raises:
            UpgradeError: a board's flash is being written, which must not be cut off.
        """
        if self._writing:
            raise UpgradeError("an operator writes to a board's flash: upgrade once that is done")
        return self.connections.export() if wanted else None

    def retire(self) -> None:
        """Another process has the socket and the connections: answer nobody, and leave the socket to it."""
        self._inode = 0
        self.connections.retire()

    def committed(self, ticket: int, error: str | None = None) -> None:
        """The commit of this number is over, successfully or not; and with it, something has changed."""
        waiting = self._commits.pop(ticket, None)
        if waiting is not None and not waiting.done():
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(
                    StorageError(f"this could not be stored, and may be gone after a restart: {error}")
                )
        self._changed.set()

    async def _reply(self, line: bytes, by: str) -> bytes:
        try:
            request = _decode(line)
            answer = await self._in_turn(request, by)
            if not isinstance(request, LOOKING):
                ticket = self._hold()
                if ticket is not None:
                    await self._commits.setdefault(ticket, asyncio.get_running_loop().create_future())
                log.info("operator", by=by, **msgspec.to_builtins(request))
            return _encode({"return": answer})
        except (SpallocServerError, msgspec.ValidationError, msgspec.DecodeError) as exc:
            return refusal(str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the operator is told, and others are served
            self._defects.note("an operator's request failed", exc, by=by)
            return refusal("internal error of the server; its log tells more")

    async def _in_turn(self, request: messages.AnyRequest, by: str) -> Any:
        """The answer, when it is this kind of request's turn; all that needs no hardware and is no view goes first."""
        if isinstance(request, VIEWS):
            async with self._view:
                await asyncio.sleep(0)
                return await self._answer(request, by)
        if not isinstance(request, AT_HARDWARE):
            return await self._answer(request, by)
        if self._at_hardware >= MAX_AT_HARDWARE:
            raise RequestError(f"{MAX_AT_HARDWARE} requests of operators wait for hardware already; try again later")
        self._at_hardware += 1
        try:
            return await self._answer(request, by)
        finally:
            self._at_hardware -= 1

    async def _answer(self, request: messages.AnyRequest, by: str) -> Any:
        core = self._controller
        match request:
            case messages.Status():
                return self._status()
            case messages.Machines():
                return core.machine_views()
            case messages.Boards():
                return [view for view in core.board_views(request.machine) if not request.bad or _is_bad(view)]
            case messages.Jobs():
                return core.job_views()
            case messages.ShowJob():
                return core.job_view(request.job_id)
            case messages.Kill():
                return core.kill(request.job_id, reason=request.reason, by=by)
            case messages.DisableBoard():
                return core.disable_board(request.machine, _board(request), reason=request.reason, by=by)
            case messages.EnableBoard():
                return core.enable_board(request.machine, _board(request))
            case messages.DisableFrame():
                frame = request.cabinet, request.frame
                return core.disable_frame(request.machine, frame, reason=request.reason, by=by)
            case messages.EnableFrame():
                return core.enable_frame(request.machine, (request.cabinet, request.frame))
            case messages.Drain():
                return core.drain(request.machine, reason=request.reason, by=by)
            case messages.Undrain():
                return core.undrain(request.machine)
            case messages.EmergencyStop():
                return core.emergency_stop(reason=request.reason, by=by)
            case messages.Resume():
                return core.resume()
            case messages.PowerCycle():
                return await self._power_cycle(request.machine, _board(request))
            case messages.Temperatures():
                return await self._temperatures(request)
            case messages.Blacklist():
                return await read_blacklist(partial(self._hardware.ask, *self._address(request)))
            case messages.SetBlacklist():
                return await self._write_blacklist(request)

    def _status(self) -> ServerView:
        self._defects.take(self._controller.defects)
        jobs = Counter(job.state for job in self._controller.job_views())
        return ServerView(
            version=__version__,
            pid=os.getpid(),
            config=str(self._config),
            state=str(self._state),
            address=self._service.acceptor.address,
            started_at=self._started_at,
            connections=len(self._service.connections),
            refusal=self._service.context.refusal,
            stopped=self._controller.stopped,
            jobs=dict(jobs),
            machines=self._controller.machine_views(),
            defects=self._defects.count,
            last_defect=self._defects.last,
            set_aside=self._controller.set_aside(),
        )

    async def _power_cycle(self, machine: str, board: Board) -> BoardView:
        view = self._controller.power_cycle(machine, board)
        self._hold()
        try:
            async with asyncio.timeout(POWER_CYCLE_SECONDS):
                while view.state == "on trial":
                    self._changed.clear()
                    await self._changed.wait()
                    view = self._controller.board_view(machine, board)
        except RequestError as exc:
            raise RequestError(f"the power cycle was cut off: {exc}") from None
        except TimeoutError:
            raise HardwareError(f"board {board} of {machine} is still being tried; look again later") from None
        return view

    async def _write_blacklist(self, request: messages.SetBlacklist) -> list[str]:
        """See it to its end, whatever becomes of the operator: flash that is half written is of no use."""
        writing = asyncio.create_task(self._hardware.write_blacklist(*self._address(request), request.lines))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    def _address(self, request: messages.Blacklist | messages.SetBlacklist) -> tuple[str, int]:
        """(BMP, number) of a board; of one that no job has, where it is to be changed."""
        board = request.x, request.y, request.z
        view = self._controller.board_view(request.machine, board)
        if view.bmp is None or view.board is None:
            raise RequestError(f"board {board} of {request.machine} has no place in a frame")
        if isinstance(request, messages.SetBlacklist) and view.job_id is not None:
            raise RequestError(f"job {view.job_id} has board {board} of {request.machine}")
        return view.bmp, view.board

    async def _temperatures(self, request: messages.Temperatures) -> list[TemperaturesView]:
        machine = self._controller.machines.get(request.machine)
        if machine is None:
            raise RequestError(f"there is no machine {request.machine!r}")
        frames = [
            frame for frame in machine.frames if request.cabinet is None or frame == (request.cabinet, request.frame)
        ]
        if not frames:
            raise RequestError(f"{request.machine} has no cabinet {request.cabinet}, frame {request.frame}")
        turns = asyncio.Semaphore(READ_AT_ONCE)
        boards = [board for board in machine.live_boards if machine.board_locations[board][:2] in frames]
        reads: list[Awaitable[TemperaturesView]] = [self._temperature(machine, board, turns) for board in boards]
        return await asyncio.gather(*reads)

    async def _temperature(self, machine: Machine, board: Board, turns: asyncio.Semaphore) -> TemperaturesView:
        cabinet, frame, number = machine.board_locations[board]
        x, y, z = board
        view = TemperaturesView(machine=machine.name, x=x, y=y, z=z, cabinet=cabinet, frame=frame, board=number)
        async with turns:
            try:
                adc = await self._hardware.read_temperatures(machine.bmp_ips[cabinet, frame], number)
            except HardwareError as exc:
                view.error = str(exc)
            else:
                for name in ("top", "bottom", "external", "fans", "volts_supply", "warning", "shutdown"):
                    setattr(view, name, getattr(adc, name))
        return view


def _is_repeatable(line: bytes) -> bool:
    """Whether the request may be done twice."""
    try:
        return _decode(line).repeatable
    except msgspec.MsgspecError:
        return True  # it does nothing


def _bound(path: Path) -> socket.socket:
    """A socket at `path`, in place of one that a crash left behind; nobody but its owner and root can connect."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    sock = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(sock.fileno(), 0o600)  # which bind gives to the path, so that it is never open to others
        sock.bind(os.fspath(path))
        path.chmod(0o600)  # for systems on which it does not
    except BaseException:
        sock.close()
        raise
    return sock


def _board(request: messages.DisableBoard | messages.EnableBoard | messages.PowerCycle) -> Board:
    return request.x, request.y, request.z


def _is_bad(view: BoardView) -> bool:
    return view.state != "dead" and bool(view.out_of_service or view.failures or view.reports or view.strikes)
