"""The commands of `spalloc-admin` about boards: `board`, `power-cycle`, `read-temperatures` and `blacklist`.

Theory of operation. Each takes any number of boards (`selectors`), which are looked up before anything is done. Then
they are done one after the other, and a line tells of each what has come of it. Where one fails, the others are done
all the same, and the exit status is 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import click
import msgspec

from spalloc_server.application import commands
from spalloc_server.application.views import TemperaturesView
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import NUMBER, OperatorError, RunningServer
from spalloc_server.cli.selectors import board_names, boards_named, reason_option
from spalloc_server.cli.tables import show
from spalloc_server.cli.which_server import of_a_running_server
from spalloc_server.core.model import PASSED, BoardView

__all__ = ["blacklist", "board", "power_cycle", "read_temperatures"]

T = TypeVar("T")


class Done(msgspec.Struct):
    """What has come of one board, as `--json` prints it."""

    machine: str
    x: int
    y: int
    z: int
    answer: Any = None
    error: str | None = None
    """Why it was not done."""


def _each(
    server: RunningServer,
    boards: Sequence[BoardView],
    kind: type[T],
    command: Callable[..., commands.OfBoard],
    tell: Callable[[BoardView, T], str],
    *,
    good: Callable[[T], bool] = lambda _: True,
    below: Callable[[T], Iterable[str]] = lambda _: (),
) -> None:
    """Give each board a command, and tell what has come of it.

    Args:
        server: the server.
        boards: as they are before.
        kind: of an answer.
        command: makes the command, from `machine`, `x`, `y` and `z`.
        tell: puts an answer into words.
        good: whether an answer is a success.
        below: lines to print below that.
    """
    all_done, failed = [], False
    for view in boards:
        where: dict[str, Any] = {"machine": view.machine, "x": view.x, "y": view.y, "z": view.z}
        done = Done(**where)
        try:
            done.answer = server.look(command(**where), kind)
            failed |= not good(done.answer)
            told = tell(view, done.answer)
        except OperatorError as exc:
            done.error, failed = str(exc), True
            told = f"NOT DONE: {exc}"
        all_done.append(done)
        if not server.as_json:
            place = "" if view.cabinet is None else f" ({view.cabinet}/{view.frame}/{view.board})"
            say(f"board {view.x},{view.y},{view.z} of {view.machine}{place}: {told}")
            for line in () if done.error else below(done.answer):
                say(f"  {line}")
    if server.as_json:
        _print_json(all_done)
    if failed:
        raise click.exceptions.Exit(1)


def _print_json(answers: Sequence[Any]) -> None:
    print(json.dumps(msgspec.to_builtins(answers), indent=2))  # in ASCII


@click.group()
def board() -> None:
    """Take boards out of service, or return them."""


@board.command("disable")
@board_names
@reason_option()
@of_a_running_server
def disable_board(server: RunningServer, machine: str, names: tuple[str, ...], reason: str) -> None:
    """Give boards to nobody any more; jobs that have them keep them."""

    def tell(before: BoardView, after: BoardView) -> str:
        keeps = f"; job {after.job_id} keeps it" if after.state == "in use" else ""
        already = f"; it was out of service already: {why}" if (why := _why_closed(before)) else ""
        return f"out of service: {after.out_of_service}{keeps}{already}"

    boards = boards_named(server, machine, names)
    _each(server, boards, BoardView, partial(commands.DisableBoard, reason=reason), tell)


@board.command("enable")
@board_names
@of_a_running_server
def enable_board(server: RunningServer, machine: str, names: tuple[str, ...]) -> None:
    """Return boards to service and forget their failures, reports and strikes."""

    def tell(before: BoardView, after: BoardView) -> str:
        still = f"still out of service: {why}" if (why := _why_closed(after)) else after.state
        return f"{still}; it was " + (
            f"out of service: {why}" if (why := _why_closed(before)) else "not out of service"
        )

    _each(server, boards_named(server, machine, names), BoardView, commands.EnableBoard, tell)


def _why_closed(view: BoardView) -> str | None:
    """Why a board is out of service, and by whom; None where it is in service."""
    return view.out_of_service and view.out_of_service + (f" (by {view.by})" if view.by else "")


@click.command("power-cycle")
@board_names
@of_a_running_server
def power_cycle(server: RunningServer, machine: str, names: tuple[str, ...]) -> None:
    """Switch boards that nobody has on, verify them, and switch them off; exit status 1 unless all pass."""

    def tell(_: BoardView, after: BoardView) -> str:
        out = f"; it is out of service: {why}" if (why := _why_closed(after)) else ""
        return f"{after.last_trial}{out}"

    boards = boards_named(server, machine, names)
    _each(server, boards, BoardView, commands.PowerCycle, tell, good=lambda view: view.last_trial == PASSED)


@click.command("read-temperatures")
@partial(board_names, required=False)
@of_a_running_server
def read_temperatures(server: RunningServer, machine: str, names: tuple[str, ...]) -> None:
    """Temperatures, fans and supply of all boards of MACHINE, or of some.

    Two numbers, as `0 1`, are a cabinet and a frame: all boards of that frame.
    """
    if len(names) == 1 and names[0].isdecimal():
        raise OperatorError("give both CABINET and FRAME, or name boards, or give neither")
    boards = None
    frames: Iterable[tuple[int | None, int | None]] = [(None, None)]
    if len(names) == 2 and all(name.isdecimal() for name in names):
        frames = [(NUMBER(names[0]), NUMBER(names[1]))]
    elif names:
        found = boards_named(server, machine, names)
        boards = {(view.x, view.y, view.z): None for view in found}
        frames = dict.fromkeys((view.cabinet, view.frame) for view in found)
    views = []
    for cabinet, frame in frames:
        command = commands.Temperatures(machine=machine, cabinet=cabinet, frame=frame)
        views += server.look(command, list[TemperaturesView])
    if boards is not None:
        read = {(view.x, view.y, view.z): view for view in views}
        views = [read[each] for each in boards if each in read]
    if server.as_json:
        _print_json(views)
    else:
        _show_temperatures(views)
    if any(view.error for view in views):
        raise click.exceptions.Exit(1)


def _show_temperatures(views: list[TemperaturesView]) -> None:
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


@click.group()
def blacklist() -> None:
    """What is broken on boards, as their own flash says."""


@blacklist.command("show")
@board_names
@of_a_running_server
def show_blacklist(server: RunningServer, machine: str, names: tuple[str, ...]) -> None:
    """Print the blacklists of boards, a line a chip; of one board, nothing else, so that `set` can read it."""
    boards = boards_named(server, machine, names, dead=True)
    if len(boards) == 1 and not server.as_json:
        (view,) = boards
        lines = server.look(commands.Blacklist(machine=machine, x=view.x, y=view.y, z=view.z), list[str])
        for line in lines or ["the blacklist is empty: nothing is known to be broken"]:
            say(line)
        return

    def tell(_: BoardView, lines: list[str]) -> str:
        return count(len(lines), "line")

    _each(server, boards, list[str], commands.Blacklist, tell, below=lambda lines: lines)


@blacklist.command("set")
@board_names
@click.argument("lines", metavar="FILE", type=click.File(errors="replace"))
@of_a_running_server
def set_blacklist(server: RunningServer, machine: str, names: tuple[str, ...], lines: Iterable[str]) -> None:
    """Write the blacklist in FILE (`-`: standard input) to the flash of boards and verify it."""
    text = [line.strip() for line in lines if line.strip()]

    def tell(_: BoardView, written: list[str]) -> str:
        return f"{count(len(written), 'line')} written to its flash"

    boards = boards_named(server, machine, names, dead=True)
    _each(server, boards, list[str], partial(commands.SetBlacklist, lines=text), tell)
