"""What was: `spalloc-admin report`, `history` and `events`, from a server's state, whether it runs or not.

Theory of operation. The state file is read directly (`storage.history`): a server that runs is not held up by it, and a
copy on another computer does as well. Days and hours are those of this terminal's time zone.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import time
from itertools import takewhile
from typing import Any, Final

import click

from spalloc_server.cli.dates import parse_time, when
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import OperatorError, changes
from spalloc_server.cli.stopped_server import StateFile, of_a_state
from spalloc_server.cli.tables import clock, show, span
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board
from spalloc_server.core.model import JobRow
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.log.text import printable
from spalloc_server.storage import history as stored
from spalloc_server.storage.accounting import local, midnights
from spalloc_server.storage.events import Event, events as events_of
from spalloc_server.storage.reports import BY, BoardTime, Figures, Report

__all__ = ["events", "history", "report"]

MOST_SPANS: Final = 100_000
"""Days or hours in one report."""

_since_month = click.option("--since", callback=when, help="From then on: 2026-11-01, 'last month', 7d. [default: 30d]")
_until = click.option("--until", callback=when, help="Up to then; of a day, its begin. [default: now]")


# -------------------------------------------------------------------- report


@click.command()
@click.option("--by", type=click.Choice(BY), default="owner", show_default=True, help="What the figures are of.")
@_since_month
@_until
@click.option("--csv", "as_csv", is_flag=True, help="The figures as CSV, for spreadsheets.")
@of_a_state
def report(state: StateFile, by: str, since: float | None, until: float | None, as_csv: bool) -> None:
    """Who has used the boards, how much, and how long jobs waited."""
    now = state.told_until()
    until = now if until is None else until
    since = parse_time("30d", until) if since is None else since
    if since >= until:
        raise OperatorError(f"--since is {clock(since)}, which is not before {clock(until)}")
    bounds, names = _spans(by, since, until)
    found = stored.read_report(state.path, by, bounds, names, now, live=state.live)
    if state.as_json:
        state.print(found)
    elif as_csv:
        click.echo(_csv(found), nl=False)
    else:
        _show(found)


def _spans(by: str, since: float, until: float) -> tuple[list[float], list[str]]:
    """The borders of days or hours, and their names; of other reports, begin and end."""
    if by == "day":
        borders = midnights(since, until)
    elif by == "hour":
        hour = local(since).replace(minute=0, second=0, microsecond=0).timestamp()
        number = int((until - hour) // 3600) + 2
        borders = [hour + 3600 * each for each in range(min(number, MOST_SPANS + 2))]
    else:
        return [since, until], []
    bounds = [since, *takewhile(lambda border: border < until, borders[1:])]
    if len(bounds) > MOST_SPANS:
        raise OperatorError(f"these are more than {MOST_SPANS} {by}s: give a later --since")
    form = "%Y-%m-%d" if by == "day" else "%Y-%m-%d %H:%M"
    names = [local(border).strftime(form) for border in borders[: len(bounds)]]
    if by == "hour":  # where clocks are set back, an hour comes twice
        names = [f"{name} again" if number and name == names[number - 1] else name for number, name in enumerate(names)]
    return [*bounds, until], names


def _show(found: Report) -> None:
    times = found.by in {"machine", "day", "hour"}
    parts = ("used", "cooling", "out") if times else ("share",)
    waits = ("mean", "median", "p95", "longest")
    groups = [*((name or "(none)", figures) for name, figures in found.groups.items()), ("all", found.total)]
    say(f"{clock(found.since)} to {clock(found.until)}")
    show(
        (found.by, "jobs", "failed", "board-h", *parts, *waits),
        [(name, *_cells(figures, found.total, times=times)) for name, figures in groups],
        wrap=(found.by,),
        right=("jobs", "failed", "board-h", *parts, *waits),
    )
    say("mean, median, p95 and longest are of how long jobs waited for boards")
    known = found.total.board_time
    if known is not None and known.boards:
        text = f"of {_hours(known.boards)} board-hours, {_part(known.in_use, known)} were used by jobs, "
        text += f"{_part(known.cooling, known)} went by cooling down, and {_part(known.out, known)} out of service"
        say(text)
    if found.running:
        say(f"{count(found.running, 'job')} had boards at the end: they count in board-hours, and not as jobs yet")
    if found.sums_until is not None:
        say(f"jobs that are no longer in the history are from sums of days, the last of {found.sums_until}")


def _cells(figures: Figures, total: Figures, *, times: bool) -> list[str]:
    if times:
        time = figures.board_time or BoardTime()
        parts = [_part(getattr(time, name), time) for name in ("in_use", "cooling", "out")]
    else:
        parts = [f"{figures.board_seconds / total.board_seconds:.0%}" if total.board_seconds else ""]
    waits = figures.waits
    spans = ["", "", "", ""] if waits is None else [waits.mean, waits.median, waits.p95, waits.longest]
    told = [each if isinstance(each, str) else span(each) for each in spans]
    return [f"{figures.jobs:,}", str(figures.failed or ""), _hours(figures.board_seconds), *parts, *told]


def _part(seconds: float, time: BoardTime) -> str:
    return f"{seconds / time.boards:.1%}" if time.boards else ""


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 1000 else f"{hours:.1f}"


def _csv(found: Report) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    waits = [f"wait_{name}_s" for name in ("mean", "median", "p95", "longest")]
    times = [f"{name}_board_seconds" for name in ("all", "cooling", "out")]
    table.writerow([found.by, "jobs", "started", "failed", "again", "board_seconds", "utilisation", *times, *waits])
    for name, each in found.groups.items():
        w, t = each.waits, each.board_time
        table.writerow(
            [
                *(_safe(name), each.jobs, each.started, each.failed, each.again),
                *(round(each.board_seconds, 3), "" if each.utilisation is None else round(each.utilisation, 4)),
                *(["", "", ""] if t is None else [round(part, 3) for part in (t.boards, t.cooling, t.out)]),
                *(["", "", "", ""] if w is None else [round(x, 3) for x in (w.mean, w.median, w.p95, w.longest)]),
            ]
        )
    return text.getvalue()


def _safe(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    name = printable(name)
    return f"'{name}" if name[:1] in tuple("=+-@") else name


# -------------------------------------------------------------------- history


@click.command()
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--since", callback=when, help="Only those that ended since then. [default: 7d]")
@click.option("--until", callback=when, help="Only those that ended before then; of a day, its begin.")
@of_a_state
def history(state: StateFile, owner: str | None, since: float | None, until: float | None) -> None:
    """Jobs that have ended, in the order in which they did."""
    now = state.told_until()
    since = parse_time("7d", now) if since is None else since
    end = float("inf") if until is None else until
    jobs = [
        row
        for row in stored.read_history(state.path, since=since, until=end, live=state.live)
        if owner in (None, row.owner)
    ]
    if state.as_json:
        state.print(jobs)
        return
    columns = ("job", "owner", "boards", "machine", "ended", "waited", "ran", "why it ended")
    show(
        columns,
        map(_line, jobs),
        wrap=("why it ended",),
        drop=("waited", "machine", "ran", "boards"),
        right=("boards", "waited", "ran"),
    )
    say(f"{count(len(jobs), 'job')} ended since {clock(since)}")


def _line(job: JobRow) -> tuple[Any, ...]:
    ended, began = job.ended_at or 0.0, job.earlier[0].began if job.earlier else job.allocated_at
    place = job.allocation
    return (
        job.job_id,
        job.owner,
        "" if place is None else len(place.boards),
        "" if place is None else place.machine,
        time.strftime("%m-%d %H:%M", time.localtime(ended)),
        span((ended if began is None else began) - job.created_at),
        "" if job.allocated_at is None or place is None else span(ended - job.allocated_at),
        job.reason,
    )


# -------------------------------------------------------------------- events


def _board(_context: click.Context, _option: click.Parameter, text: str | None) -> Board | None:
    if text is None:
        return None
    if (found := re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9})", text)) is None:
        raise click.BadParameter(f"{text!r} is no board; right would be 3,1,2")
    return int(found[1]), int(found[2]), int(found[3])


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until ctrl+c.")
@click.option("--since", callback=when, help="Only from then on. [default: today]")
@click.option("--job", type=click.IntRange(1, MAX_NUMBER), help="Only of this job.")
@click.option("--board", metavar="X,Y,Z", callback=_board, help="Only of this board, and jobs that had it.")
@of_a_state
def events(state: StateFile, follow: bool, since: float | None, job: int | None, board: Board | None) -> None:
    """What happened to jobs and boards, to whom, and why."""
    if follow and not state.live:
        raise OperatorError(
            f"start the server first: no server runs with the state {state.path}, so nothing happens there"
        )
    now = state.told_until()
    since = since if since is not None else 0.0 if job is not None else parse_time("today", now)
    told: set[Event] = set()
    looks = changes(socket_path(state.path)) if follow else iter((None,))
    for _ in looks:
        found = stored.read(
            state.path, lambda connection: events_of(connection, since, job=job, board=board), live=state.live
        )
        new = [event for event in found if event not in told]
        if state.as_json and not follow:
            state.print(new)
            return
        for event in new:
            _tell(state, event)
        sys.stdout.flush()
        told = set(found)


def _tell(state: StateFile, event: Event) -> None:
    if state.as_json:
        state.print(event, lines=True)
        return
    job = "" if event.job_id is None else f"job {event.job_id}"
    boards = count(event.boards, "board") if event.boards else ""
    where = " ".join(part for part in (boards, event.where, f"of {event.machine}" if event.machine else "") if part)
    parts = [job, event.event, where, event.owner and f"({event.owner})", event.by and f"by {event.by}", event.reason]
    say(f"{clock(event.time)}  {'  '.join(part for part in parts if part)}", indent=21)
