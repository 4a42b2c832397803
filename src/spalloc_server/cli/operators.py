"""The commands of `spalloc-admin` by which operators look at jobs, and change what a running server does.

Theory of operation. Each command is one request and one reply (`running_server`), shown as a table for people, or as
it came with `--json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from spalloc_server.application import commands
from spalloc_server.cli.machines import show_boards
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import NUMBER, OperatorError, RunningServer, of_a_server
from spalloc_server.cli.tables import noted
from spalloc_server.core.model import PASSED, BoardView, MachineView, Note

__all__ = [
    "blacklist",
    "board",
    "drain",
    "emergency_stop",
    "frame",
    "kill",
    "power_cycle",
    "resume",
    "undrain",
]

NOTE: Any = Note | None  # what some commands answer; mypy takes no union for a type


# -------------------------------------------------------------------- looking


# -------------------------------------------------------------------- changing


def _said(_context: click.Context, _option: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("it is empty: say why")
    return reason


_reason = click.option(
    "--reason", required=True, callback=_said, help="Why; shown to operators and, where it concerns them, to users."
)


def _replaced(before: Note | None) -> None:
    """Say what was closed already."""
    if before is not None:
        say(f"it was so already, {noted(before)}; that reason is replaced")


@click.command()
@click.argument("job_id", type=NUMBER)
@_reason
@of_a_server
def kill(server: RunningServer, job_id: int, reason: str) -> None:
    """End a job; its user is told the reason and who gave it."""
    server.ask(commands.Kill(job_id=job_id, reason=reason), type(None))
    say(f"job {job_id} is ended")


def _board_arguments(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("z", "y", "x"):
        function = click.argument(name, type=NUMBER)(function)
    return click.argument("machine")(function)


def _frame_arguments(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("frame", "cabinet"):
        function = click.argument(name, type=NUMBER)(function)
    return click.argument("machine")(function)


@click.group()
def board() -> None:
    """Take a board out of service, or return it."""


@board.command("disable")
@_board_arguments
@_reason
@of_a_server
def disable_board(server: RunningServer, machine: str, x: int, y: int, z: int, reason: str) -> None:
    """Give a board to nobody any more; a job that has it keeps it."""
    before = _why_closed(server, machine, (x, y, z))
    show_boards([server.ask(commands.DisableBoard(machine=machine, x=x, y=y, z=z, reason=reason), BoardView)])
    if before:
        say(f"it was out of service already: {before}")


@board.command("enable")
@_board_arguments
@of_a_server
def enable_board(server: RunningServer, machine: str, x: int, y: int, z: int) -> None:
    """Return a board to service and forget its failures, reports and strikes."""
    before = _why_closed(server, machine, (x, y, z))
    show_boards([server.ask(commands.EnableBoard(machine=machine, x=x, y=y, z=z), BoardView)])
    say(f"it was out of service: {before}" if before else "it was not out of service")


def _why_closed(server: RunningServer, machine: str, board: tuple[int, int, int]) -> str | None:
    """Why a board is out of service, and by whom; None where it is in service."""
    for view in server.look(commands.Boards(machine=machine, bad=True), list[BoardView]):
        if (view.x, view.y, view.z) == board and view.out_of_service is not None:
            return view.out_of_service + (f" (by {view.by})" if view.by else "")
    return None


@click.group()
def frame() -> None:
    """Take a frame of boards out of service, or return it."""


@frame.command("disable")
@_frame_arguments
@_reason
@of_a_server
def disable_frame(server: RunningServer, machine: str, cabinet: int, frame: int, reason: str) -> None:
    """Give a frame's boards to nobody any more; jobs that have some keep them."""
    request = commands.DisableFrame(machine=machine, cabinet=cabinet, frame=frame, reason=reason)
    before = _frame_note(server, machine, cabinet, frame)
    show_boards(server.ask(request, list[BoardView]))
    _replaced(before)


@frame.command("enable")
@_frame_arguments
@of_a_server
def enable_frame(server: RunningServer, machine: str, cabinet: int, frame: int) -> None:
    """Return a frame to service; boards of it that were disabled one by one stay so."""
    before = _frame_note(server, machine, cabinet, frame)
    show_boards(server.ask(commands.EnableFrame(machine=machine, cabinet=cabinet, frame=frame), list[BoardView]))
    say("the frame was not disabled" if before is None else f"the frame was disabled {noted(before)}")


def _frame_note(server: RunningServer, machine: str, cabinet: int, frame: int) -> Note | None:
    """Who disabled a frame, and why."""
    for view in server.look(commands.Machines(), list[MachineView]):
        for each in view.frames:
            if (each.machine, each.cabinet, each.frame) == (machine, cabinet, frame):
                return each.disabled
    return None


@click.command()
@click.argument("machine")
@click.option("--reason", default="maintenance", show_default=True, callback=_said, help="Why; shown to operators.")
@of_a_server
def drain(server: RunningServer, machine: str, reason: str) -> None:
    """Start no more jobs on MACHINE; those that run go on, others wait."""
    before = server.ask(commands.Drain(machine=machine, reason=reason), NOTE)
    say(f"no more jobs start on {machine}, until `spalloc-admin undrain {machine}`")
    _replaced(before)


@click.command()
@click.argument("machine")
@of_a_server
def undrain(server: RunningServer, machine: str) -> None:
    """Start jobs on MACHINE again."""
    before = server.ask(commands.Undrain(machine=machine), NOTE)
    say(f"{machine} was not drained" if before is None else f"{machine} is drained no more; it was, {noted(before)}")


@click.command("power-cycle")
@_board_arguments
@of_a_server
def power_cycle(server: RunningServer, machine: str, x: int, y: int, z: int) -> None:
    """Switch a board that nobody has on, verify it, and switch it off; exit status 1 unless it passes."""
    request = commands.PowerCycle(machine=machine, x=x, y=y, z=z)
    view = server.ask(request, BoardView, good=lambda view: view.last_trial == PASSED)
    show_boards([view])
    say(f"board {x},{y},{z} of {machine}: {view.last_trial}")
    if view.last_trial != PASSED:
        raise click.exceptions.Exit(1)


@click.command("emergency-stop")
@click.option("--yes", is_flag=True, help="Without it, nothing happens.")
@click.option("--reason", default="emergency", show_default=True, callback=_said, help="Why; users are told.")
@of_a_server
def emergency_stop(server: RunningServer, yes: bool, reason: str) -> None:
    """Switch every board off and start nothing until `resume`. Jobs that use boards end."""
    if not yes:
        raise OperatorError("this ends all jobs that use boards and switches everything off: add --yes to do it")
    before = server.ask(commands.EmergencyStop(reason=reason), NOTE)
    say("every board is being switched off, and none is switched on until `spalloc-admin resume`")
    say("`spalloc-admin status` tells how many are still switching off")
    _replaced(before)


@click.command()
@of_a_server
def resume(server: RunningServer) -> None:
    """End an emergency stop: jobs that wait may start."""
    before = server.ask(commands.Resume(), NOTE)
    say(
        "there was no emergency stop" if before is None else f"the emergency stop is over; it was given {noted(before)}"
    )


@click.group()
def blacklist() -> None:
    """What is broken on a board, as its own flash says."""


@blacklist.command("show")
@_board_arguments
@of_a_server
def show_blacklist(server: RunningServer, machine: str, x: int, y: int, z: int) -> None:
    """Print a board's blacklist, a line a chip."""
    lines = server.ask(commands.Blacklist(machine=machine, x=x, y=y, z=z), list[str])
    for line in lines or ["the blacklist is empty: nothing is known to be broken"]:
        say(line)


@blacklist.command("set")
@_board_arguments
@click.argument("lines", metavar="FILE", type=click.File(errors="replace"))
@of_a_server
def set_blacklist(server: RunningServer, machine: str, x: int, y: int, z: int, lines: Iterable[str]) -> None:
    """Write the blacklist in FILE (`-`: standard input) to a board's flash and verify it."""
    text = [line.strip() for line in lines if line.strip()]
    written = server.ask(commands.SetBlacklist(machine=machine, x=x, y=y, z=z, lines=text), list[str])
    say(f"{count(len(written), 'line')} written to the flash of board {x},{y},{z} of {machine}")
