"""What each command does: the calls of the core, one a command.

Theory of operation. `PERFORM` has one function for each kind of command that needs no hardware. It is given the core,
the caller and the command, and returns the answer. Whether the caller may do it has been judged before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spalloc_server.application import commands
from spalloc_server.application.caller import Caller
from spalloc_server.controller import Controller
from spalloc_server.core.model import BoardView, JobDescription, Request
from spalloc_server.errors import RequestError

__all__ = ["PERFORM", "board_of"]


def board_of(command: commands.OfBoard) -> tuple[int, int, int]:
    """Return the board that a command is about."""
    return command.x, command.y, command.z


def _create(core: Controller, caller: Caller, command: commands.CreateJob) -> int:
    if command.args is not None:  # v1 has checked it
        return core.submit(command.request, command.keepalive, caller.address, command.args, command.kwargs)
    args, kwargs = _in_words(command.request)
    kwargs |= {"owner": command.request.owner, "keepalive": command.keepalive}
    return core.create_job(*args, keepalivehost=caller.address, **kwargs)


def _in_words(request: Request) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of `create_job` that ask for the same."""
    sizes = [size for size in (request.boards, request.triads, request.board) if size is not None]
    if len(sizes) != 1:
        raise RequestError("ask for either boards (a number), or triads (width, height), or board (x, y, z)")
    names = ("min_ratio", "max_dead_boards", "max_dead_links", "require_torus", "max_runtime", "priority")
    kwargs = {name: value for name in names if (value := getattr(request, name)) is not None}
    kwargs |= {"tags": sorted(request.tags)} if request.machine is None else {"machine": request.machine}
    (size,) = sizes
    return list(size) if isinstance(size, tuple) else [size], kwargs


def _describe_job(core: Controller, _caller: Caller, command: commands.DescribeJob) -> JobDescription:
    if core.job_revision(command.job_id) is None:
        raise RequestError(f"there is no live job {command.job_id}")
    return core.describe_job(command.job_id)


def _boards(core: Controller, _caller: Caller, command: commands.Boards) -> list[BoardView]:
    return [view for view in core.board_views(command.machine) if not command.bad or _is_bad(view)]


def _is_bad(view: BoardView) -> bool:
    return view.state != "dead" and bool(view.out_of_service or view.failures or view.reports or view.strikes)


def _disable_frame(core: Controller, caller: Caller, command: commands.DisableFrame) -> list[BoardView]:
    frame = command.cabinet, command.frame
    return core.disable_frame(command.machine, frame, reason=command.reason, by=caller.shown)


PERFORM: Mapping[type[commands.Command], Callable[[Controller, Caller, Any], Any]] = {
    commands.CreateJob: _create,
    commands.KeepAlive: lambda core, caller, c: core.job_keepalive(c.job_id, keepalivehost=caller.address),
    commands.GetJobState: lambda core, caller, c: core.get_job_state(c.job_id, keepalivehost=caller.address),
    commands.GetJobMachineInfo: lambda core, caller, c: core.get_job_machine_info(
        c.job_id, keepalivehost=caller.address
    ),
    commands.PowerOnJob: lambda core, caller, c: core.power_on_job_boards(c.job_id, keepalivehost=caller.address),
    commands.PowerOffJob: lambda core, caller, c: core.power_off_job_boards(c.job_id, keepalivehost=caller.address),
    commands.DestroyJob: lambda core, _, c: core.destroy_job(c.job_id, c.reason),
    commands.ListJobs: lambda core, *_: core.list_jobs(),
    commands.JobRevisions: lambda core, *_: core.job_revisions(),
    commands.DescribeJob: _describe_job,
    commands.ListMachines: lambda core, *_: core.list_machines(),
    commands.BoardPosition: lambda core, _, c: core.get_board_position(c.machine, c.x, c.y, c.z),
    commands.BoardAtPosition: lambda core, _, c: core.get_board_at_position(c.machine, c.cabinet, c.frame, c.board),
    commands.WhereIs: lambda core, _, c: core.where_is(**c.place),
    commands.ReportProblem: lambda core, caller, c: core.report_problem(
        c.board_address, c.description, reporter=caller.address or caller.shown
    ),
    commands.Machines: lambda core, *_: core.machine_views(),
    commands.Boards: _boards,
    commands.Jobs: lambda core, *_: core.job_views(),
    commands.ShowJob: lambda core, _, c: core.job_view(c.job_id),
    commands.Kill: lambda core, caller, c: core.kill(c.job_id, reason=c.reason, by=caller.shown),
    commands.DisableBoard: lambda core, caller, c: core.disable_board(
        c.machine, board_of(c), reason=c.reason, by=caller.shown
    ),
    commands.EnableBoard: lambda core, _, c: core.enable_board(c.machine, board_of(c)),
    commands.DisableFrame: _disable_frame,
    commands.EnableFrame: lambda core, _, c: core.enable_frame(c.machine, (c.cabinet, c.frame)),
    commands.Drain: lambda core, caller, c: core.drain(c.machine, reason=c.reason, by=caller.shown),
    commands.Undrain: lambda core, _, c: core.undrain(c.machine),
    commands.EmergencyStop: lambda core, caller, c: core.emergency_stop(reason=c.reason, by=caller.shown),
    commands.Resume: lambda core, *_: core.resume(),
}
"""All but `Status`, which tells more than the core knows, and what waits for hardware."""
