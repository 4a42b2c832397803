"""`spalloc-admin top`: a live picture of a running server's machines and jobs, as the demo has it.

On a terminal it is drawn again and again, until ctrl+c; else each event is a line.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import nullcontext
from typing import Final

import click
from rich.console import Console
from rich.live import Live

from spalloc_server.application import commands
from spalloc_server.cli.demo_view import EVENTS, Events, Floor, draw
from spalloc_server.cli.jobs import WAIT, by_place, starts
from spalloc_server.cli.running_server import OperatorError, RunningServer
from spalloc_server.cli.selectors import state_of
from spalloc_server.cli.which_server import of_a_running_server
from spalloc_server.core.model import JobDescription, JobState, JobView, MachineView

__all__ = ["top"]

LOOK_SECONDS: Final = 1.0
"""From one look to the next."""


@click.command()
@click.option("--machine", help="Draw this machine only.")
@of_a_running_server
def top(server: RunningServer, machine: str | None) -> None:
    """Machines, jobs and what happens to them, as it happens. Until ctrl+c."""
    if server.as_json:
        raise OperatorError("a picture has no JSON: `spalloc-admin jobs --watch --json` prints what changes")
    live = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=not live, emoji=False)
    events, latest = Events(), deque[str](maxlen=EVENTS)
    with Live(console=console, auto_refresh=False, screen=live) if live else nullcontext(console) as display:
        while True:
            views = sorted(server.look(commands.Jobs(), list[JobView]), key=by_place)
            machines = server.look(commands.Machines(), list[MachineView])
            floors = [_floor(view) for view in machines if machine in (None, view.name)]
            if not floors:
                there = ", ".join(view.name for view in machines) or "none"
                raise OperatorError(f"there is no machine {machine!r}; there are: {there}")
            jobs = [_described(view) for view in views]
            reasons = {job_id: _reason(server, job_id) for job_id in events.gone(jobs)}
            waits = {view.job_id: _wait(view) for view in views if state_of(view) in WAIT}
            draw(display, floors, jobs, events.since_last(jobs, reasons), latest, waits)
            sys.stdout.flush()
            time.sleep(LOOK_SECONDS)


def _floor(view: MachineView) -> Floor:
    return Floor(view.name, view.width, view.height, sum(view.boards.values()) - view.boards.get("dead", 0))


def _described(view: JobView) -> JobDescription:
    return JobDescription(
        view.job_id,
        view.owner,
        view.created_at,
        view.keepalive,
        JobState[view.state],
        view.power,
        view.args,
        view.kwargs,
        view.machine,
        view.boards or None,
        view.host,
    )


def _reason(server: RunningServer, job_id: int) -> str | None:
    """Why a job has ended; None where that is not remembered any longer."""
    try:
        return server.look(commands.ShowJob(job_id=job_id), JobView).reason
    except OperatorError:
        return None


def _wait(view: JobView) -> str:
    """What is told of a job that waits."""
    if view.position is None:
        return state_of(view)
    when = starts(view)
    return f"waits, number {view.position}" + (f", {when}" if when else "")
