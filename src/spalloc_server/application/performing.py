"""What each command does: the calls of the core, one a command, and what waits for hardware.

Theory of operation. `PERFORM` has one function for each kind of command that needs no hardware. It is given the core,
the caller and the command, and returns the answer. Whether the caller may do it has been judged before.

`AtHardware` does the others: temperatures, blacklists in boards' flash, and power cycles. Each waits with a deadline,
and only so many wait at the same time. A blacklist that is being written is written to its end, whatever becomes of who
asked for it: flash that is half written is of no use. A power cycle is a self-test that begins now; its end is a change
of the machine like any other, which is subscribed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from spalloc_server.application import commands, job_commands, own_job_commands
from spalloc_server.application.caller import Caller
from spalloc_server.application.commands import Key, Kind
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.application.views import TemperaturesView
from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board
from spalloc_server.core.model import BoardView, MachineView, Request
from spalloc_server.errors import BusyError, ConfigurationError, HardwareError, RequestError
from spalloc_server.hardware.blacklist import read_blacklist
from spalloc_server.hardware.switchboard import Hardware

__all__ = ["PERFORM", "AtHardware", "board_of"]


MAX_AT_HARDWARE = 32
"""Commands that may wait for hardware at the same time."""

POWER_CYCLE_SECONDS = 120.0
"""The longest wait for a power cycle, which waits for its turn in its frame."""

READ_AT_ONCE = 16
"""Boards whose sensors are read at the same time; `Hardware` bounds what may wait for it."""


MAX_ORIGINAL = 16 * 1024
"""Bytes of a request in the words of the door that it came by, as JSON."""


def board_of(command: commands.OfBoard) -> tuple[int, int, int]:
    """Return the board that a command is about."""
    return command.x, command.y, command.z


def _create(core: Controller, caller: Caller, command: commands.CreateJob) -> int:
    args, kwargs = command.args, command.kwargs
    if args is None:
        args, kwargs = _in_words(command.request)
    original = None if command.original is None else msgspec.json.encode(command.original)
    if original is not None and len(original) > MAX_ORIGINAL:
        raise RequestError(f"`original` has {len(original)} bytes: it may have at most {MAX_ORIGINAL}")
    return core.submit(
        command.request,
        keepalive=command.keepalive,
        host=caller.address,
        args=args,
        kwargs=kwargs,
        original=None if original is None else original.decode(),
        session=caller.session,
        of_account=caller.verified,
    )


def _is_stranger(core: Controller, caller: Caller, job_id: int) -> bool:
    """Whether a job is an account's and the caller is none: then it is told of the job, and does not keep it alive."""
    return not caller.verified and core.is_of_account(job_id)


def _in_words(request: Request) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of v1's `create_job` that ask for the same, for its `list_jobs`."""
    sizes = request.triads or request.board or (request.boards,)
    names = ("min_ratio", "max_dead_boards", "max_dead_links", "require_torus", "max_runtime", "priority")
    kwargs = {name: value for name in names if (value := getattr(request, name)) is not None}
    kwargs |= {"tags": sorted(request.tags)} if request.machine is None else {"machine": request.machine}
    return list(sizes), kwargs


def _boards(core: Controller, _caller: Caller, command: commands.Boards) -> list[BoardView]:
    return [view for view in core.board_views(command.machine) if not command.bad or _is_bad(view)]


def _is_bad(view: BoardView) -> bool:
    return view.state != "dead" and bool(view.out_of_service or view.failures or view.reports or view.strikes)


def _import_machines(core: Controller, _caller: Caller, command: commands.ImportMachines) -> list[MachineView]:
    from spalloc_server.config.definitions import read_definitions  # few servers need it

    try:
        return core.import_machines(read_definitions(command.definitions).machines)
    except ConfigurationError as error:
        raise RequestError(str(error)) from error


def _disable_frame(core: Controller, caller: Caller, command: commands.DisableFrame) -> list[BoardView]:
    frame = command.cabinet, command.frame
    return core.disable_frame(command.machine, frame, reason=command.reason, by=caller.shown)


PERFORM: Mapping[type[commands.Command], Callable[[Controller, Caller, Any], Any]] = {
    commands.CreateJob: _create,
    commands.KeepAlive: lambda core, caller, c: core.job_keepalive(c.job_id, keepalivehost=caller.address),
    commands.GetJobState: lambda core, caller, c: core.get_job_state(
        c.job_id, keepalivehost=caller.address, look=_is_stranger(core, caller, c.job_id)
    ),
    commands.GetJobMachineInfo: lambda core, caller, c: core.get_job_machine_info(
        c.job_id, keepalivehost=caller.address, look=_is_stranger(core, caller, c.job_id)
    ),
    commands.PowerOnJob: lambda core, caller, c: core.power_on_job_boards(c.job_id, keepalivehost=caller.address),
    commands.PowerOffJob: lambda core, caller, c: core.power_off_job_boards(c.job_id, keepalivehost=caller.address),
    commands.DestroyJob: lambda core, _, c: core.destroy_job(c.job_id, c.reason),
    commands.ListJobs: lambda core, *_: core.list_jobs(),
    commands.JobRevisions: lambda core, *_: core.job_revisions(),
    commands.DescribeJob: lambda core, _, c: core.describe_job(c.job_id),
    commands.ListMachines: lambda core, *_: core.list_machines(),
    commands.BoardPosition: lambda core, _, c: core.get_board_position(c.machine, c.x, c.y, c.z),
    commands.BoardAtPosition: lambda core, _, c: core.get_board_at_position(c.machine, c.cabinet, c.frame, c.board),
    commands.WhereIs: lambda core, _, c: core.where_is(**c.place),
    commands.ReportProblem: lambda core, caller, c: core.report_problem(
        c.board_address,
        c.description,
        reporter=caller.address or caller.shown,
        user=caller.name if caller.verified else None,
    ),
    own_job_commands.OwnJobMachine: lambda core, caller, c: core.sub_machine(c.job_id, caller.address),
    own_job_commands.JobNumbers: lambda core, _, c: core.job_numbers(ended=c.ended, start=c.start, limit=c.limit),
    own_job_commands.BoardOfJob: lambda core, caller, c: core.board_of_job(c.job_id, c.chip, caller.address),
    own_job_commands.FindBoard: lambda core, _, c: core.find_board(
        c.machine, board=c.board, place=c.place, chip=c.chip, address=c.address
    ),
    own_job_commands.ReportIssue: lambda core, caller, c: core.report_issue(
        c.job_id,
        c.boards,
        c.issue,
        reporter=caller.address or caller.shown,
        user=caller.name if caller.verified else None,
    ),
    commands.Machines: lambda core, *_: core.machine_views(),
    commands.Boards: _boards,
    commands.Jobs: lambda core, *_: core.job_views(),
    commands.ShowJob: lambda core, _, c: core.job_view(c.job_id),
    commands.Kill: lambda core, caller, c: core.kill(c.job_id, reason=c.reason, by=caller.shown),
    job_commands.KillJobs: lambda core, caller, c: core.kill_jobs(c.job_ids, reason=c.reason, by=caller.shown),
    job_commands.HoldJobs: lambda core, caller, c: core.hold_jobs(c.job_ids, reason=c.reason, by=caller.shown),
    job_commands.ReleaseJobs: lambda core, caller, c: core.release_jobs(c.job_ids, by=caller.shown),
    job_commands.ExtendJobs: lambda core, caller, c: core.extend_jobs(c.job_ids, c.seconds, by=caller.shown),
    job_commands.SetPriority: lambda core, caller, c: core.set_priority(c.job_ids, c.priority, by=caller.shown),
    commands.DisableBoard: lambda core, caller, c: core.disable_board(
        c.machine, board_of(c), reason=c.reason, by=caller.shown
    ),
    commands.EnableBoard: lambda core, _, c: core.enable_board(c.machine, board_of(c)),
    commands.DisableFrame: _disable_frame,
    commands.EnableFrame: lambda core, _, c: core.enable_frame(c.machine, (c.cabinet, c.frame)),
    commands.Drain: lambda core, caller, c: core.drain(c.machine, reason=c.reason, by=caller.shown),
    commands.Undrain: lambda core, _, c: core.undrain(c.machine),
    commands.ImportMachines: _import_machines,
    commands.RemoveMachine: lambda core, _, c: core.remove_machine(c.machine),
    commands.EmergencyStop: lambda core, caller, c: core.emergency_stop(reason=c.reason, by=caller.shown),
    commands.Resume: lambda core, *_: core.resume(),
}
"""All but `Status` and `Figures`, which tell more than the core knows, and what waits for hardware."""


class AtHardware:
    """Asks hardware.

    Args:
        core: knows where boards are, and whose.
        hardware: has them.
        subscriptions: tell when a machine has changed.
    """

    def __init__(self, core: Controller, hardware: Hardware, subscriptions: Subscriptions) -> None:
        self.waiting = 0
        """Commands that wait for hardware."""
        self._core = core
        self._hardware = hardware
        self._subscriptions = subscriptions
        self._writing: set[asyncio.Task[list[str]]] = set()

    @property
    def writing(self) -> bool:
        """Whether a board's flash is being written, which must not be cut off."""
        return bool(self._writing)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be one of those who wait, within; `BusyError` where too many do already."""
        if self.waiting >= MAX_AT_HARDWARE:
            raise BusyError(f"{MAX_AT_HARDWARE} commands wait for hardware already; try again later")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def perform(self, command: commands.Command) -> Any:
        """Return the answer to a command that changes nothing which is stored.

        Raises:
            RequestError: it makes no sense.
            HardwareError: the hardware does not do it.
        """
        match command:
            case commands.Temperatures():
                return await self._temperatures(command)
            case commands.Blacklist():
                return await read_blacklist(partial(self._hardware.ask, *self._address(command)))
            case commands.SetBlacklist():
                return await self._write_blacklist(command)
            case _:
                raise TypeError(f"{type(command).__name__} is not for hardware")

    async def power_cycled(self, command: commands.PowerCycle) -> BoardView:
        """Wait until a board that is being tried has been."""
        board, machine = board_of(command), Key(Kind.MACHINE, command.machine)
        try:
            async with asyncio.timeout(POWER_CYCLE_SECONDS):
                while True:
                    revision = self._subscriptions.revision(machine)
                    view = self._core.board_view(command.machine, board)
                    if view.state != "on trial":
                        return view
                    await self._subscriptions.wait(machine, revision, POWER_CYCLE_SECONDS)
        except RequestError as exc:
            raise RequestError(f"the power cycle was cut off: {exc}") from None
        except TimeoutError:
            told = f"board {board} of {command.machine} is still being tried; look again later"
            raise HardwareError(told) from None

    async def _write_blacklist(self, command: commands.SetBlacklist) -> list[str]:
        writing = asyncio.create_task(self._hardware.write_blacklist(*self._address(command), command.lines))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    def _address(self, command: commands.Blacklist | commands.SetBlacklist) -> tuple[str, int]:
        """(BMP, number) of a board; of one that no job has, where it is to be changed."""
        board = board_of(command)
        view = self._core.board_view(command.machine, board)
        if view.bmp is None or view.board is None:
            raise RequestError(f"board {board} of {command.machine} has no place in a frame")
        if isinstance(command, commands.SetBlacklist) and view.job_id is not None:
            raise RequestError(f"job {view.job_id} has board {board} of {command.machine}")
        return view.bmp, view.board

    async def _temperatures(self, command: commands.Temperatures) -> list[TemperaturesView]:
        machine = self._core.machines.get(command.machine)
        if machine is None:
            raise RequestError(f"there is no machine {command.machine!r}")
        frames = [
            frame for frame in machine.frames if command.cabinet is None or frame == (command.cabinet, command.frame)
        ]
        if not frames:
            raise RequestError(f"{command.machine} has no cabinet {command.cabinet}, frame {command.frame}")
        turns = asyncio.Semaphore(READ_AT_ONCE)
        boards = [board for board in machine.live_boards if machine.board_locations[board][:2] in frames]
        return await asyncio.gather(*(self._temperature(machine, board, turns) for board in boards))

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
