"""The commands of `spalloc-admin` that talk to a running server, for operators.

Theory of operation. Each command is one request and one reply (`running_server`), shown as a table for people, or as
it came with `--json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from spalloc_server.application import commands
from spalloc_server.application.views import ServerView, TemperaturesView
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import OperatorError, RunningServer, of_a_server
from spalloc_server.cli.tables import ago, asked, clock, noted, show, show_boards, show_machines, span
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import MISSING, PASSED, BoardView, JobView, MachineView, Note

__all__ = [
    "blacklist",
    "board",
    "boards",
    "drain",
    "emergency_stop",
    "explain",
    "frame",
    "job",
    "jobs",
    "kill",
    "machines",
    "power_cycle",
    "read_temperatures",
    "resume",
    "status",
    "undrain",
]

_NUMBER = click.IntRange(-MAX_NUMBER, MAX_NUMBER)
"""Of a job, a board, a frame or a cabinet: what a server can read."""

NOTE: Any = Note | None  # what some commands answer; mypy takes no union for a type


# -------------------------------------------------------------------- looking


@click.command()
@of_a_server
def status(server: RunningServer) -> None:
    """How everything is, at one glance."""
    view = server.ask(commands.Status(), ServerView)
    host, port = view.address
    say(f"spalloc_server {view.version}, process {view.pid}, {host or 'all interfaces'} port {port}, {view.config}")
    say(f"running for {span(time.time() - view.started_at)}, {count(view.connections, 'connection')}")
    if view.stopped is not None:
        say(f"EMERGENCY STOP {noted(view.stopped)}; `spalloc-admin resume` ends it")
    if view.refusal is not None:
        say(f"CHANGES ARE REFUSED: {view.refusal}")
    if view.defects:
        say(f"DEFECTS OF THE SERVER: {view.defects} since it started, see its log; the last: {view.last_defect}")
    for row in view.set_aside:
        if row.table == MISSING:
            say(f"COMMITS ARE MISSING, as was found {ago(row.since)} ago: {row.reason}")
            continue
        say(f"SET ASIDE {ago(row.since)} ago, as it makes no sense: stored row {row.table}/{row.key}: {row.reason}")
    say("jobs: " + (", ".join(f"{number} {state}" for state, number in sorted(view.jobs.items())) or "none"))
    show_machines(view.machines)


@click.command()
@of_a_server
def machines(server: RunningServer) -> None:
    """All machines: size, load, and what is not in service."""
    show_machines(server.ask(commands.Machines(), list[MachineView]))


@click.command()
@click.argument("machine", required=False)
@click.option("--bad", is_flag=True, help="Only boards out of service, or with failures or reports on record.")
@of_a_server
def boards(server: RunningServer, machine: str | None, bad: bool) -> None:
    """All boards, or those of MACHINE."""
    show_boards(server.ask(commands.Boards(machine=machine, bad=bad), list[BoardView]))


@click.command()
@of_a_server
def jobs(server: RunningServer) -> None:
    """All live jobs, oldest first."""
    show(
        ("job", "owner", "state", "asked for", "machine", "boards", "age", "from"),
        (
            (
                job.job_id,
                job.owner,
                job.state,
                asked(job, briefly=True),
                job.machine,
                len(job.boards) or "",
                ago(job.created_at),
                job.host,
            )
            for job in server.ask(commands.Jobs(), list[JobView])
        ),
    )


@click.command()
@click.argument("job_id", type=_NUMBER)
@of_a_server
def job(server: RunningServer, job_id: int) -> None:
    """Everything about one job, live or ended lately."""
    view = server.ask(commands.ShowJob(job_id=job_id), JobView)
    facts: dict[str, Any] = {
        "job": view.job_id,
        "owner": f"{view.owner}, last from {view.host}" if view.host else view.owner,
        "state": view.state + ("" if view.power is None else f", power {'on' if view.power else 'off'}"),
        "asked for": asked(view),
        "keepalive": "never expires" if view.keepalive is None else f"{view.keepalive:g} s",
        "machine": view.machine,
        "boards": " ".join("({},{},{})".format(*each) for each in view.boards),
        "placed": f"{view.placements} times" if view.placements > 1 else None,
        **{
            name: None if when is None else f"{ago(when)} ago, {clock(when)}"
            for name, when in (
                ("created", view.created_at),
                ("allocated", view.allocated_at),
                ("ready", view.ready_at),
                ("ended", view.ended_at),
            )
        },
        "reason": view.reason,
        "in line": None if view.position is None else f"number {view.position}",
        "held by": ", ".join(f"job {each}" for each in view.held_by),
        "predicted": None if view.predicted_start is None else f"to start at {clock(view.predicted_start)}",
    }
    for name, value in facts.items():
        if value not in (None, ""):
            say(f"{name:>10}  {value}", indent=12)


@click.command()
@click.argument("job_id", type=_NUMBER)
@of_a_server
def explain(server: RunningServer, job_id: int) -> None:
    """Why a job waits, or why it ended."""
    view = server.ask(commands.ShowJob(job_id=job_id), JobView)
    say(f"job {job_id} of {view.owner} is {view.state}: {view.reason or 'it waits for nothing'}")


@click.command("read-temperatures")
@click.argument("machine")
@click.argument("cabinet", type=_NUMBER, required=False)
@click.argument("frame", type=_NUMBER, required=False)
@of_a_server
def read_temperatures(server: RunningServer, machine: str, cabinet: int | None, frame: int | None) -> None:
    """Temperatures, fans and supply of the boards of MACHINE, or of one frame of it."""
    if (cabinet is None) != (frame is None):
        raise OperatorError("give both CABINET and FRAME, or neither")
    views = server.ask(commands.Temperatures(machine=machine, cabinet=cabinet, frame=frame), list[TemperaturesView])
    show(
        ("board", "c/f/b", "top", "bottom", "external", "fans", "supply", "alarms"),
        (
            (
                f"{view.x},{view.y},{view.z}",
                f"{view.cabinet}/{view.frame}/{view.board}",
                *(f"{degrees:.1f}" if degrees is not None else "" for degrees in (view.top, view.bottom)),
                " ".join(f"{degrees:.1f}" for degrees in view.external if degrees is not None),
                " ".join(str(fan) for fan in view.fans if fan is not None),
                f"{view.volts_supply:.1f} V" if view.volts_supply else "",
                view.error
                or (f"shutdown {view.shutdown:#x}" if view.shutdown else f"{view.warning:#x}" if view.warning else ""),
            )
            for view in views
        ),
    )


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
@click.argument("job_id", type=_NUMBER)
@_reason
@of_a_server
def kill(server: RunningServer, job_id: int, reason: str) -> None:
    """End a job; its user is told the reason and who gave it."""
    server.ask(commands.Kill(job_id=job_id, reason=reason), type(None))
    say(f"job {job_id} is ended")


def _board_arguments(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("z", "y", "x"):
        function = click.argument(name, type=_NUMBER)(function)
    return click.argument("machine")(function)


def _frame_arguments(function: Callable[..., None]) -> Callable[..., None]:
    for name in ("frame", "cabinet"):
        function = click.argument(name, type=_NUMBER)(function)
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
