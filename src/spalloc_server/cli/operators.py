"""The commands of `spalloc-admin` by which operators look at jobs, and change what a running server does.

Theory of operation. Each command is one request and one reply (`running_server`), shown as a table for people, or as
it came with `--json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from spalloc_server.application import commands
from spalloc_server.cli.machines import show_boards
from spalloc_server.cli.process import say
from spalloc_server.cli.running_server import NUMBER, OperatorError, RunningServer
from spalloc_server.cli.selectors import reason_option
from spalloc_server.cli.tables import noted
from spalloc_server.cli.which_server import of_a_running_server
from spalloc_server.core.model import BoardView, MachineView, Note

__all__ = [
    "drain",
    "emergency_stop",
    "frame",
    "resume",
    "undrain",
]

NOTE: Any = Note | None  # what some commands answer; mypy takes no union for a type


# -------------------------------------------------------------------- looking


# -------------------------------------------------------------------- changing


def _replaced(before: Note | None) -> None:
    """Say what was closed already."""
    if before is not None:
        say(f"it was so already, {noted(before)}; that reason is replaced")


def _frame_arguments(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("frame", "cabinet"):
        function = click.argument(name, type=NUMBER)(function)
    return click.argument("machine")(function)


@click.group()
def frame() -> None:
    """Take a frame of boards out of service, or return it."""


@frame.command("disable")
@_frame_arguments
@reason_option()
@of_a_running_server
def disable_frame(server: RunningServer, machine: str, cabinet: int, frame: int, reason: str) -> None:
    """Give a frame's boards to nobody any more; jobs that have some keep them."""
    request = commands.DisableFrame(machine=machine, cabinet=cabinet, frame=frame, reason=reason)
    before = _frame_note(server, machine, cabinet, frame)
    show_boards(server.ask(request, list[BoardView]))
    _replaced(before)


@frame.command("enable")
@_frame_arguments
@of_a_running_server
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
@reason_option(required=False, default="maintenance", show_default=True, help="Why; shown to operators.")
@of_a_running_server
def drain(server: RunningServer, machine: str, reason: str) -> None:
    """Start no more jobs on MACHINE; those that run go on, others wait."""
    before = server.ask(commands.Drain(machine=machine, reason=reason), NOTE)
    say(f"no more jobs start on {machine}, until `spalloc-admin undrain {machine}`")
    _replaced(before)


@click.command()
@click.argument("machine")
@of_a_running_server
def undrain(server: RunningServer, machine: str) -> None:
    """Start jobs on MACHINE again."""
    before = server.ask(commands.Undrain(machine=machine), NOTE)
    say(f"{machine} was not drained" if before is None else f"{machine} is drained no more; it was, {noted(before)}")


@click.command("emergency-stop")
@click.option("--yes", is_flag=True, help="Without it, nothing happens.")
@reason_option(required=False, default="emergency", show_default=True, help="Why; users are told.")
@of_a_running_server
def emergency_stop(server: RunningServer, yes: bool, reason: str) -> None:
    """Switch every board off and start nothing until `resume`. Jobs that use boards end."""
    if not yes:
        raise OperatorError("this ends all jobs that use boards and switches everything off: add --yes to do it")
    before = server.ask(commands.EmergencyStop(reason=reason), NOTE)
    say("every board is being switched off, and none is switched on until `spalloc-admin resume`")
    say("`spalloc-admin status` tells how many are still switching off")
    _replaced(before)


@click.command()
@of_a_running_server
def resume(server: RunningServer) -> None:
    """End an emergency stop: jobs that wait may start."""
    before = server.ask(commands.Resume(), NOTE)
    say(
        "there was no emergency stop" if before is None else f"the emergency stop is over; it was given {noted(before)}"
    )
