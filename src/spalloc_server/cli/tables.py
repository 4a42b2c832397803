"""How operators' answers look to people: tables, and times as spans."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from spalloc_server.cli.process import count, say
from spalloc_server.core.model import BoardView, JobView, MachineView, Note
from spalloc_server.log.text import printable

__all__ = ["ago", "asked", "clock", "noted", "show", "show_boards", "show_machines", "span"]

_ALWAYS_ASKED: Final = {"min_ratio": 0.333, "max_dead_boards": 0, "require_torus": False}
"""What published clients ask for unless they are told otherwise."""


def show(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    """Print a table; None is an empty cell. Cells that are too wide for a terminal go on below, and lose nothing."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    # Piped into another program, a table is as wide as it needs to be
    console = Console(highlight=False, markup=False, emoji=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=1000)
    console.print(table)


def show_machines(views: list[MachineView]) -> None:
    """Print machines, each board of them in one column, and below them the frames that are not in service."""
    show(
        (
            *("machine", "triads", "boards", "in use", "free", "switching off", "resting", "out of service"),
            *("dead", "jobs", "remarks"),
        ),
        (
            (
                view.name,
                f"{view.width}x{view.height}",
                sum(view.boards.values()) - view.boards.get("dead", 0),
                view.boards.get("in use", 0),
                view.boards.get("free", 0),
                view.boards.get("switching off", 0),
                view.boards.get("resting", 0),
                view.boards.get("out of service", 0) + view.boards.get("on trial", 0),
                view.boards.get("dead", 0),
                view.jobs,
                _remarks(view),
            )
            for view in views
        ),
    )
    for view in views:
        for each in view.frames:
            where = f"{view.name}: cabinet {each.cabinet}, frame {each.frame} ({each.bmp})"
            if each.disabled is not None:
                say(f"{where} is disabled {noted(each.disabled)}")
            if each.silent is not None:
                say(f"{where} is out of service: {each.silent}")


def _remarks(view: MachineView) -> str:
    later = view.out_of_service - view.boards.get("out of service", 0) - view.boards.get("on trial", 0)
    remarks = ["imported"] if view.imported else []
    remarks += [f"drained {noted(view.drained)}"] if view.drained else []
    remarks += [f"{count(later, 'board')} more to go out of service when free"] if later > 0 else []
    return "; ".join(remarks)


def show_boards(views: list[BoardView]) -> None:
    """Print boards."""
    show(
        (
            "machine",
            "board",
            "c/f/b",
            "state",
            "job",
            "out of service",
            "by",
            "since",
            "tried again",
            "strikes",
            "on record",
        ),
        (
            (
                view.machine,
                f"{view.x},{view.y},{view.z}",
                None if view.cabinet is None else f"{view.cabinet}/{view.frame}/{view.board}",
                view.state,
                view.job_id,
                view.out_of_service,
                view.by,
                None if view.since is None else f"{ago(view.since)} ago",
                None if view.trial_at is None else due(view.trial_at),
                view.strikes or "",
                _record(view),
            )
            for view in views
        ),
    )


def _record(view: BoardView) -> str:
    parts = [count(len(view.failures), "failure")] if view.failures else []
    parts += [f"{report.owner or report.host}: {report.text}" for report in view.reports]
    return "; ".join(parts)


def asked(view: JobView, *, briefly: bool = False) -> str:
    """What a job asked for, as its user wrote it; `briefly` without what published clients say of every job."""
    silent = _ALWAYS_ASKED if briefly else {}
    wishes = [
        f"{name}={value}"
        for name, value in view.kwargs.items()
        if value not in (None, [], ["default"]) and not (name in silent and value == silent[name])
    ]
    return " ".join([*map(str, view.args), *wishes]) or "1"


def noted(note: Note) -> str:
    """Who closed something, when, and why."""
    return f"by {note.by}, {ago(note.since)} ago: {note.reason}"


def clock(when: float) -> str:
    """A time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def ago(when: float) -> str:
    """How long a time is past."""
    return span(time.time() - when)


def due(when: float) -> str:
    return f"in {span(when - time.time())}" if when > time.time() else "when idle"


def span(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
