"""`spalloc-admin jobs`, `job` and `explain`: who has boards, who waits, until when, and why.

Theory of operation. `jobs` shows those that have boards and those that wait as two tables, since other things matter
of each. `--watch` asks again and again. On a terminal it draws over what it showed before; else it prints what has
changed, once it has, as it would have without `--watch`, so that other programs can read it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from spalloc_server.application import commands
from spalloc_server.application.waits import between
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import NUMBER, RunningServer
from spalloc_server.cli.selectors import STATES, JobChoice, state_of
from spalloc_server.cli.tables import ago, asked, clock, show
from spalloc_server.cli.which_server import of_a_server
from spalloc_server.core.model import JobView

__all__ = ["explain", "job", "jobs", "show_jobs"]

WATCH_SECONDS: Final = 2.0
"""From one look to the next."""

WAIT: Final = ("queued", "held")
"""States of live jobs that have no boards."""

ORDERS: Final[Mapping[str, Callable[[JobView], Any]]] = {
    "job": lambda view: view.job_id,
    "owner": lambda view: (view.owner, view.job_id),
    "age": lambda view: view.created_at,
    "boards": lambda view: -len(view.boards),
    "start": lambda view: (view.predicted_start is None, view.predicted_start or 0.0, view.position or 0),
}
"""What jobs may be sorted by."""

_TOP_LEFT, _CLEAR_BELOW = "\x1b[H", "\x1b[J"


@click.command()
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--only", multiple=True, type=click.Choice(STATES), help="Only jobs in this state; repeatable.")
@click.option("--machine", help="Only jobs that have boards of this machine, or ask for it.")
@click.option("--sort", type=click.Choice([*ORDERS]), help="By default those that wait are sorted by their place.")
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, until ctrl+c.")
@of_a_server
def jobs(server: RunningServer, watch: bool, **which: Any) -> None:
    """All live jobs: those that have boards, and those that wait, with place and predicted start."""
    if not watch:
        _print(*_look(server, **which), as_json=server.as_json)
        return
    before = None
    while True:
        found = _look(server, **which)
        if sys.stdout.isatty() and not server.as_json:
            print(_TOP_LEFT + _CLEAR_BELOW, end="")
            _print(*found, as_json=False)
        elif found != before:
            _print(*found, as_json=server.as_json)
            sys.stdout.flush()
        before = found
        time.sleep(WATCH_SECONDS)


def _look(
    server: RunningServer, *, owner: str | None, only: tuple[str, ...], machine: str | None, sort: str | None
) -> tuple[list[JobView], list[Any]]:
    """The jobs that are wanted, in order; and the same as the server has told them."""
    choice = JobChoice((), owner, only, machine)
    looked = [(msgspec.convert(each, JobView), each) for each in server.look(commands.Jobs(), list[dict[str, Any]])]
    found = [(view, each) for view, each in looked if choice.has(view)]
    order = by_place if sort is None else ORDERS[sort]
    found.sort(key=lambda pair: order(pair[0]))
    return [view for view, _ in found], [each for _, each in found]


def by_place(view: JobView) -> tuple[int, int, int]:
    """Those that have boards first, then those that wait, by their place in the queue, and then those on hold."""
    state = state_of(view)
    return WAIT.index(state) if state in WAIT else -1, view.position or 0, view.job_id


def _print(views: list[JobView], told: list[Any], *, as_json: bool) -> None:
    """Print jobs: as tables, or as the server has told them."""
    if as_json:
        print(json.dumps(told, indent=2))
        return
    have = [view for view in views if state_of(view) not in WAIT]
    wait = [view for view in views if state_of(view) in WAIT]
    if have or not wait:
        show_jobs(have)
    if wait:
        if have:
            say("")
            say(f"{count(len(wait), 'job')} wait{'s' if len(wait) == 1 else ''}:")
        _show_those_who_wait(wait)


def show_jobs(views: Sequence[JobView]) -> None:
    """Print a table of live jobs, without what is predicted of those that wait."""
    show(
        ("job", "owner", "state", "asked for", "machine", "boards", "age", "from"),
        (
            (
                view.job_id,
                view.owner,
                state_of(view),
                asked(view),
                view.machine,
                len(view.boards) or None,
                ago(view.created_at),
                view.host,
            )
            for view in views
        ),
        wrap=("asked for",),
        drop=("from", "age", "boards", "machine"),
    )


def _show_those_who_wait(views: list[JobView]) -> None:
    show(
        ("place", "job", "owner", "asked for", "waits", "starts", "why"),
        (
            (
                "held" if view.held else view.position,
                view.job_id,
                view.owner,
                asked(view),
                ago(view.created_at),
                starts(view),
                view.reason,
            )
            for view in views
        ),
        wrap=("why", "asked for"),
        right=("place",),
        drop=("waits", "asked for", "starts"),
    )


def starts(view: JobView) -> str | None:
    """When a job that waits will probably start, in words."""
    if view.earliest_start is None or view.latest_start is None:
        return None
    return between(view.earliest_start, view.latest_start)


@click.command()
@click.argument("job_id", type=NUMBER)
@of_a_server
def job(server: RunningServer, job_id: int) -> None:
    """Everything about one job, live or ended lately."""
    view = server.ask(commands.ShowJob(job_id=job_id), JobView)
    predicted = None if view.predicted_start is None else f"to start at {clock(view.predicted_start)}"
    if (spread := starts(view)) is not None:
        predicted = f"{predicted}, four of five such jobs start {spread}"
    facts: dict[str, Any] = {
        "job": view.job_id,
        "owner": f"{view.owner}, last from {view.host}" if view.host else view.owner,
        "state": state_of(view) + ("" if view.power is None else f", power {'on' if view.power else 'off'}"),
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
        "predicted": predicted,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            say(f"{name:>10}  {value}", indent=12)


@click.command()
@click.argument("job_id", type=NUMBER)
@of_a_server
def explain(server: RunningServer, job_id: int) -> None:
    """Why a job waits, and until when; or why it ended."""
    view = server.ask(commands.ShowJob(job_id=job_id), JobView)
    say(f"job {job_id} of {view.owner} is {state_of(view)}: {view.reason or 'it waits for nothing'}")
