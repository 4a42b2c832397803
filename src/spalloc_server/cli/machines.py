"""`spalloc-admin status`, `machines` and `boards`: how a running server and its hardware are.

Theory of operation. Counts that are 0 everywhere are left out. Boards of one frame that are alike, with the same state
and for the same reason, are one row: a frame whose BMP is silent is a line, not 24.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import click

from spalloc_server.application import commands
from spalloc_server.application.views import ServerView
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import RunningServer
from spalloc_server.cli.tables import ago, due, noted, show, span
from spalloc_server.cli.which_server import of_a_server
from spalloc_server.core.model import MISSING, BoardView, MachineView

__all__ = ["boards", "machines", "show_boards", "show_machines", "status"]

NAMED: Final = 6
"""So many boards in one row are named; of more, their places tell which they are."""


@click.command()
@of_a_server
def status(server: RunningServer) -> None:
    """How everything is, at one glance."""
    view = server.ask(commands.Status(), ServerView)
    host, port = view.address
    if not view.pid:
        say(f"{view.state}, which no server has")
    else:
        say(f"spalloc_server {view.version}, process {view.pid}, {host or 'all interfaces'} port {port}, {view.config}")
        say(f"running for {span(time.time() - view.started_at)}, {count(view.connections, 'connection')}")
    if view.stopped is not None:
        say(f"EMERGENCY STOP {noted(view.stopped)}; `spalloc-admin resume` ends it")
    if view.refusal is not None and view.pid:
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
@click.option("--each", is_flag=True, help="A line a board, also where boards of a frame are alike.")
@of_a_server
def boards(server: RunningServer, machine: str | None, bad: bool, each: bool) -> None:
    """All boards, or those of MACHINE; those of a frame that are alike are one line."""
    views = server.ask(commands.Boards(machine=machine, bad=bad), list[BoardView])
    if bad and not views:
        say("all boards are in service, and nothing is on record of them")
    else:
        show_boards(views, each=each)


def show_machines(views: Sequence[MachineView]) -> None:
    """Print machines, each board of them in one column, and below them the frames that are not in service."""
    states = ("in use", "free", "switching off", "resting", "out of service", "dead")
    show(
        ("machine", "triads", "boards", *states, "jobs", "remarks"),
        [
            (
                view.name,
                f"{view.width}x{view.height}",
                sum(view.boards.values()) - view.boards.get("dead", 0),
                *(_number(view, state) or (0 if state in {"in use", "free"} else None) for state in states),
                view.jobs,
                _remarks(view),
            )
            for view in views
        ],
        wrap=("remarks",),
    )
    for view in views:
        for each in view.frames:
            where = f"{view.name}: cabinet {each.cabinet}, frame {each.frame} ({each.bmp})"
            if each.disabled is not None:
                say(f"{where} is disabled {noted(each.disabled)}")
            if each.silent is not None:
                say(f"{where} is out of service: {each.silent}")


def _number(view: MachineView, state: str) -> int:
    """Boards in a state; those on trial are out of service."""
    return view.boards.get(state, 0) + (view.boards.get("on trial", 0) if state == "out of service" else 0)


def _remarks(view: MachineView) -> str:
    later = view.out_of_service - _number(view, "out of service")
    remarks = ["imported"] if view.imported else []
    remarks += [f"drained {noted(view.drained)}"] if view.drained else []
    remarks += [f"{count(later, 'board')} more to go out of service when free"] if later > 0 else []
    return "; ".join(remarks)


def show_boards(views: Iterable[BoardView], *, each: bool = False) -> None:
    """Print boards: those of a frame that are alike in one row, or a row `each`."""
    alike: dict[object, list[BoardView]] = {}
    for view in views:
        board = (view.x, view.y, view.z) if each else None
        place, whose = (view.machine, view.cabinet, view.frame), (view.state, view.job_id)
        alike.setdefault((place, whose, _why(view), _record(view), board), []).append(view)
    show(
        ("machine", "boards", "c/f/b", "state", "job", "remarks"),
        [
            (
                group[0].machine,
                " ".join(f"{view.x},{view.y},{view.z}" for view in group)
                if len(group) <= NAMED
                else count(len(group), "board"),
                _place(group),
                group[0].state,
                group[0].job_id,
                "; ".join([*_why(group[0]), *_times(group), *_record(group[0])]),
            )
            for group in alike.values()
        ],
        wrap=("boards", "c/f/b", "state", "remarks"),
    )


def _place(views: Sequence[BoardView]) -> str | None:
    """Where boards of one frame are, as it is written on the hardware: `0/3/7`, or `0/3/0-5, 7` of several."""
    if views[0].cabinet is None:
        return None
    numbers = sorted(view.board for view in views if view.board is not None)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    which = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{views[0].cabinet}/{views[0].frame}/{which}"


def _why(view: BoardView) -> tuple[str, ...]:
    """Why a board is out of service, and by whom."""
    by = f" (by {view.by})" if view.by else ""
    return () if view.out_of_service is None else (f"{view.out_of_service}{by}",)


def _times(views: Sequence[BoardView]) -> Iterator[str]:
    """Since when boards are out of service, and when the server tries the first of them again."""
    since = [view.since for view in views if view.since is not None]
    if since:
        first, last = ago(min(since)), ago(max(since))
        yield f"since {first}" if first == last else f"since {first} to {last}"
    if trials := [view.trial_at for view in views if view.trial_at is not None]:
        yield f"tried again {due(min(trials))}"


def _record(view: BoardView) -> tuple[str, ...]:
    """What is on record of a board."""
    strikes = [count(view.strikes, "strike")] if view.strikes else []
    failures = [count(len(view.failures), "failure")] if view.failures else []
    return *strikes, *failures, *(f"{report.owner or report.host}: {report.text}" for report in view.reports)
