"""The demo, and `spalloc-admin top`, as a live picture of machines and jobs on a terminal, else a line for each event.

`Events` tells what happened between two looks at the server. `picture` draws each machine as a map with two
characters a triad, as the triads lie (the first one bottom left), in one colour a job, beside the jobs and the latest
events. (The map of `drawing.terminal`, which shows single boards, takes more lines than a terminal usually has; and a
job's colour there depends on its neighbours, so it would change while one looks.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Final, Literal, NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spalloc_server.cli.client import Client, ClientError
from spalloc_server.cli.process import count, say
from spalloc_server.config.machine import Machine
from spalloc_server.controller import JobState
from spalloc_server.core.model import JobDescription
from spalloc_server.drawing.hexagons import PALETTE
from spalloc_server.log.text import printable

__all__ = ["Events", "Floor", "draw", "picture", "show"]

LOOK_SECONDS: Final = 0.25
JOBS: Final = 11
"""Most jobs in the table."""
EVENTS: Final = 6
"""Latest events that stay in sight."""
BAR_WIDTH: Final = 32


async def show(host: str, port: int, machine: Machine, *, live: bool, console: Console | None = None) -> None:
    """Show what happens, as a client sees it, until cancelled: as a picture where `live`, else line by line."""
    console = console or Console(highlight=False, soft_wrap=not live, emoji=False)
    floor = Floor(machine.name, machine.width, machine.height, len(machine.live_boards))
    events = Events()
    latest: deque[str] = deque(maxlen=EVENTS)
    with Live(console=console, auto_refresh=False) if live else nullcontext(console) as display:
        while True:
            try:
                async with Client.connect(host, port) as client:
                    while True:
                        jobs, news = await _look(client, events)
                        draw(display, [floor], jobs, news, latest)
                        await asyncio.sleep(LOOK_SECONDS)
            except ClientError:
                await asyncio.sleep(LOOK_SECONDS)  # the server is being started again


async def _look(client: Client, events: Events) -> tuple[list[JobDescription], list[str]]:
    """The jobs at this moment, and what happened since the last look."""
    jobs = msgspec.convert(await client.call("list_jobs"), list[JobDescription])
    reasons = {job_id: (await client.call("get_job_state", job_id))["reason"] for job_id in events.gone(jobs)}
    return jobs, events.since_last(jobs, reasons)


def draw(
    display: Live | Console,
    floors: Sequence[Floor],
    jobs: Sequence[JobDescription],
    news: Iterable[str],
    latest: deque[str],
    waits: Mapping[int, str] | None = None,
) -> None:
    """Show what is, or, where that is no live picture, what has happened.

    Args:
        display: where.
        floors: the machines.
        jobs: all live jobs.
        news: what has happened since the last look.
        latest: the latest events, to which `news` are added.
        waits: of jobs that wait, what is told in place of their state.
    """
    if isinstance(display, Live):
        latest.extend(news)
        display.update(picture(floors, jobs, latest, waits), refresh=True)
    else:
        for line in news:
            say(f"{time.strftime('%H:%M:%S')}  {line}", wrap=False, file=display.file)


class Floor(NamedTuple):
    """What the picture needs to know of a machine; sizes in triads."""

    name: str
    width: int
    height: int
    boards: int
    """Those that work."""


class Events:
    """Tells what happened to jobs from one look to the next."""

    def __init__(self) -> None:
        self._seen: dict[int, JobDescription] = {}

    def gone(self, jobs: Iterable[JobDescription]) -> list[int]:
        """Return the jobs of the last look that are not there any more."""
        return sorted(self._seen.keys() - {job.job_id for job in jobs})

    def since_last(self, jobs: Sequence[JobDescription], reasons: Mapping[int, str | None]) -> list[str]:
        """Return one line for each job that came, changed its state or ended, with the reason of each that is gone."""
        now = {job.job_id: job for job in jobs}
        lines = []
        for job_id in self.gone(jobs):
            reason = reasons.get(job_id)
            lines.append(f"job {job_id} of {self._seen[job_id].owner}: ended" + (f", {reason}" if reason else ""))
        for job_id, job in now.items():
            before = self._seen.get(job_id)
            if before is None or (before.state, before.power) != (job.state, job.power):
                size = count(len(job.boards), "board") if job.boards else f"asks for {_asked(job)}"
                lines.append(f"job {job_id} of {job.owner}: {_state(job)}, {size}")
        self._seen = now
        return lines


def picture(
    floors: Sequence[Floor],
    jobs: Sequence[JobDescription],
    events: Iterable[str],
    waits: Mapping[int, str] | None = None,
) -> RenderableType:
    """Machines, jobs and events at this moment."""
    maps: list[RenderableType] = []
    for floor in floors:
        maps += [Text(), Text(floor.name, "bold", no_wrap=True)] if len(floors) > 1 else []
        maps.append(_map(floor, jobs))
    columns = Table.grid(padding=(0, 1))
    columns.add_column(no_wrap=True, min_width=2 * max((floor.width for floor in floors), default=0))
    columns.add_column()  # has what the maps leave
    told = Group(_table(jobs, waits or {}), Text(), *(_cut(line, "dim") for line in events))
    columns.add_row(Group(*maps), told)
    return Group(*(_bar(floor, jobs, named=len(floors) > 1) for floor in floors), Text(), columns)


def _bar(floor: Floor, jobs: Sequence[JobDescription], *, named: bool) -> Text:
    """How much of a machine is in use."""
    here = [job for job in jobs if job.allocated_machine_name == floor.name]
    boards_on = sum(len(job.boards or ()) for job in here if job.power)
    held = sum(len(job.boards or ()) for job in here)
    full = round(BAR_WIDTH * held / floor.boards) if floor.boards else 0
    where = f" of {printable(floor.name)}" if named else ""
    return Text.assemble(
        ("█" * full, "green"),
        ("░" * (BAR_WIDTH - full), "dim"),
        f"  {held} of {floor.boards} boards{where} in use, {boards_on} switched on",
    )


def _map(machine: Floor, jobs: Sequence[JobDescription]) -> Text:
    colour = {
        (x, y): _colour(job)
        for job in jobs
        if job.allocated_machine_name == machine.name
        for x, y, _ in job.boards or ()
    }
    text = Text(no_wrap=True)
    for y in reversed(range(machine.height)):
        for x in range(machine.width):
            text.append(*(("██", colour[x, y]) if (x, y) in colour else ("· ", "dim")))
        text.append("\n" if y else "")
    return text


def _table(jobs: Sequence[JobDescription], waits: Mapping[int, str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("", "job", "owner", "boards", "state"):
        # Where room is short, it is the owners' names that are cut
        justify: Literal["left", "right"] = "right" if heading in {"job", "boards"} else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "owner")
    for job in jobs[:JOBS]:
        size = str(len(job.boards)) if job.boards else _asked(job)
        table.add_row(
            Text("██", _colour(job)), str(job.job_id), _cut(job.owner), size, waits.get(job.job_id) or _state(job)
        )
    if len(jobs) > JOBS:
        table.add_row("", "", f"and {len(jobs) - JOBS} more")
    return table


def _cut(text: str, style: str = "") -> Text:
    """Text that stays on its line, and ends with … where it is too long for it."""
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def _colour(job: JobDescription) -> str:
    return PALETTE[job.job_id % len(PALETTE)]


def _state(job: JobDescription) -> str:
    if job.state == JobState.power:
        return "power on" if job.power else "power off"
    return JobState(job.state).name


def _asked(job: JobDescription) -> str:
    return " x ".join(str(size) for size in job.args) or "1"
