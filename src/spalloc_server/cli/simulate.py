"""`spalloc-admin simulate`: a trace of jobs through the scheduler that serves, in virtual time.

Theory of operation. A trace is a CSV file, one in the Standard Workload Format, or a server's own history. What comes
out is figures, and with `--plot` a picture: boards in use and jobs that wait, over time, as SVG.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from spalloc_server.cli.process import PATH, one_line_errors, write
from spalloc_server.cli.tables import show, span
from spalloc_server.config.load import load
from spalloc_server.config.machine import DEFAULT_TAGS, Machine
from spalloc_server.config.machine_parts import check_size
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model import MAX_TEXT, Request
from spalloc_server.core.model.arguments import parse_request, read_request
from spalloc_server.core.simulation import Simulation, TraceJob
from spalloc_server.errors import RequestError, SpallocServerError
from spalloc_server.storage.history import read_history

__all__ = ["TraceError", "from_history", "from_trace", "plot", "simulate"]


WIDTH, HEIGHT, LEFT, TOP, GAP = 960, 200, 70, 30, 50

POINTS: Final = 2000
"""Points drawn at most in each curve."""

SWF_UNKNOWN: Final = -1
SWF_SUBMIT, SWF_RUN_TIME, SWF_PROCESSORS, SWF_REQUESTED, SWF_USER = 1, 3, 4, 7, 11
"""Fields of a line of the Standard Workload Format, counted from 0."""


@click.command()
@click.argument("trace", type=PATH, required=False)
@click.option("--machine", "machine", required=True, help="A config file, or a size in triads: 20x20.")
@click.option("--policy", type=click.Choice(["backfill", "fifo"]), help="Instead of the config file's.")
@click.option(
    "--from-history", "history", type=PATH, help="A server's state file: simulate the jobs that it has served."
)
@click.option(
    "--cool-down", type=click.FloatRange(min=0), help="Seconds that boards rest, instead of the config file's."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", "picture", type=PATH, help="Draw utilisation and queue over time into this SVG file.")
def simulate(
    trace: Path | None,
    machine: str,
    policy: str | None,
    history: Path | None,
    cool_down: float | None,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Run TRACE (.csv with submit_s, duration_s, owner, request; or .swf) through the scheduler, in virtual time."""
    if (trace is None) == (history is None):
        raise click.UsageError("give either a TRACE or --from-history")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {picture.parent}", param_hint="--plot")
    with one_line_errors("spalloc-admin simulate"):
        configuration = _configuration(machine)
        jobs = from_trace(trace) if trace is not None else from_history(history) if history is not None else []
        scheduling = configuration.scheduling
        if policy is not None:
            scheduling = msgspec.structs.replace(scheduling, policy=policy)
        simulation = Simulation(
            {one.name: one for one in configuration.machines},
            jobs,
            scheduling,
            configuration.seconds_before_free if cool_down is None else cool_down,
        )
        seconds = _run(simulation)
        figures = {**simulation.figures(), "wall_s": round(seconds, 2)}
        if picture is not None:
            write(picture, plot(simulation))
    if as_json:
        click.echo(json.dumps(figures))
    else:
        show(
            ("figure", "value"),
            [(name.removesuffix("_s").replace("_", " "), _told(name, value)) for name, value in figures.items()],
        )


def _configuration(machine: str) -> Configuration:
    """What a config file says, or one machine of so many triads."""
    if size := re.fullmatch(r"(\d{1,18})x(\d{1,18})", machine):
        width, height = int(size[1]), int(size[2])
        if not (width and height):
            raise TraceError(f"--machine {machine}: width and height must be at least one triad")
        check_size("--machine", width, height)
        boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
        locations = {board: (0, number // 24, number % 24) for number, board in enumerate(boards)}
        made = Machine(
            "machine",
            width=width,
            height=height,
            board_locations=locations,
            bmp_ips={(0, frame): f"bmp-{frame}" for _, frame, _ in locations.values()},
            spinnaker_ips={board: "board-{}-{}-{}".format(*board) for board in boards},
        )
        return Configuration([made])
    return load(machine)


def _run(simulation: Simulation) -> float:
    """Run it under a progress bar, where there is a terminal; the seconds that it took."""
    begin = time.perf_counter()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulating", total=len(simulation.jobs))
        for done in simulation.run():
            progress.update(bar, completed=done)
    return time.perf_counter() - begin


def _told(name: str, value: object) -> object:
    if isinstance(value, float) and name.endswith("_s") and name != "wall_s":
        return span(value)
    return value


def plot(simulation: Simulation) -> str:
    """An SVG document with two panels, one above the other, over the same hours."""
    capacity = sum(len(machine.live_boards) for machine in simulation.machines.values())
    timeline = simulation.timeline[:: max(1, len(simulation.timeline) // POINTS)] or [(0.0, 0, 0)]
    hours = [(at - timeline[0][0]) / 3600 for at, _, _ in timeline]
    panels = (
        ("boards in use", [float(boards) for _, boards, _ in timeline], float(capacity), "#3572b0"),
        (
            "jobs waiting",
            [float(jobs) for _, _, jobs in timeline],
            max(1.0, *(jobs for _, _, jobs in timeline)),
            "#b03535",
        ),
    )
    height = TOP + len(panels) * (HEIGHT + GAP)
    title = f"{simulation.scheduling.policy}: {len(simulation.jobs)} jobs, {capacity} boards"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}">',
        "<style>text {font: 12px sans-serif}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="16">{title}</text>',
    ]
    for number, (name, values, highest, colour) in enumerate(panels):
        parts += _panel(TOP + number * (HEIGHT + GAP), name, hours, values, highest, colour)
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    top: int, title: str, hours: Sequence[float], values: Sequence[float], highest: float, colour: str
) -> list[str]:
    """One panel: a frame, its scales, and a curve of steps."""
    length = max(hours[-1], 1e-9)
    bottom = top + HEIGHT
    points = []
    before = values[0]
    for hour, value in zip(hours, values, strict=True):
        x = LEFT + WIDTH * hour / length
        points += [
            f"{x:.1f},{bottom - HEIGHT * before / highest:.1f}",
            f"{x:.1f},{bottom - HEIGHT * value / highest:.1f}",
        ]
        before = value
    return [
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 8}" y="{top + 12}" text-anchor="end">{highest:.0f}</text>',
        f'<text x="{LEFT - 8}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{bottom + 18}">0 h</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 18}" text-anchor="end">{hours[-1]:.1f} h</text>',
        f'<text x="{LEFT + 8}" y="{top + 16}" fill="{colour}">{title}</text>',
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"/>',
    ]


class TraceError(SpallocServerError):
    """A trace cannot be read; the text says which line, and what would be right."""


def from_trace(path: Path) -> list[TraceJob]:
    """The jobs of a file, by its ending: `.swf`, or else CSV with the columns submit_s, duration_s, owner, request.

    Raises:
        TraceError: it cannot be read, or a line of it cannot be understood.
    """
    try:
        if path.suffix.lower() == ".swf":
            # Comments in any encoding; the rest is ASCII
            with path.open(encoding="ascii", errors="replace") as file:
                jobs = list(_from_swf(file, path))
            if not jobs:
                raise TraceError(f"{path} has no job that ran on a processor: right would be lines of 18 numbers")
            return jobs
        with path.open(encoding="utf-8-sig", newline="") as file:  # some spreadsheets begin with a byte order mark
            return list(_from_csv(file, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def from_history(path: Path) -> list[TraceJob]:
    """The jobs in a server's state file that have ended, as they were asked for and for as long as they had boards."""
    jobs = []
    for row in read_history(path):
        if row.allocation is None or row.allocated_at is None or row.ended_at is None:
            continue  # it never had boards, or lost them and waited for others
        try:
            request = row.request or read_request(row.owner, row.args, row.kwargs)
        except RequestError as error:
            raise TraceError(f"job {row.job_id} in {path}: {error}") from error
        jobs.append(TraceJob(row.created_at, row.ended_at - row.allocated_at, request))
    return jobs


def _from_csv(lines: Iterator[str], path: Path) -> Iterator[TraceJob]:
    reader = csv.DictReader(lines)
    missing = {"submit_s", "duration_s", "owner", "request"} - set(reader.fieldnames or ())
    if missing:
        raise TraceError(
            f"{path} lacks the column {min(missing)}: its first line names submit_s,duration_s,owner,request"
        )
    for row in reader:
        if None in row.values():
            raise TraceError(f"{path}, line {reader.line_num}: it has too few columns")
        try:
            sizes = [int(number) for number in row["request"].split("x")]
            request = parse_request(sizes, {"owner": row["owner"]})
            yield TraceJob(_seconds(row["submit_s"]), _seconds(row["duration_s"]), request)
        except (ValueError, RequestError) as error:
            raise TraceError(
                f"{path}, line {reader.line_num}: {error}; right would be seconds, seconds, a name, and boards (24) or "
                "triads (4x2)"
            ) from error


def _from_swf(lines: Iterator[str], path: Path) -> Iterator[TraceJob]:
    """A processor counts as a board. Jobs that never ran are left out, and headers, also those without a `;`."""
    header = True
    for number, line in enumerate(lines, 1):
        fields = line.partition(";")[0].split()
        header = header and not (fields and _is_number(fields[0]))
        if header or not fields:
            continue
        try:
            boards = max(_whole(fields[SWF_REQUESTED]), _whole(fields[SWF_PROCESSORS]))
            submit, owner = _seconds(fields[SWF_SUBMIT]), fields[SWF_USER]
            run_time = float(fields[SWF_RUN_TIME])
            duration = 0.0 if run_time == SWF_UNKNOWN else _seconds(fields[SWF_RUN_TIME])
        except (ValueError, IndexError, OverflowError) as error:
            raise TraceError(f"{path}, line {number}: {error}; right would be the 18 numbers of a job") from error
        if boards > MAX_NUMBER or len(owner) > MAX_TEXT:
            raise TraceError(
                f"{path}, line {number}: at most {MAX_NUMBER} processors, and {MAX_TEXT} characters of a user"
            )
        if boards > 0 and duration > 0:
            yield TraceJob(submit, duration, Request(owner=f"user {owner}", boards=boards, tags=DEFAULT_TAGS))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(text: str) -> int:
    """A whole number, however it is written: some logs say `4.00`."""
    number = float(text)
    if number != int(number):
        raise ValueError(f"{text} is no whole number")
    return int(number)


def _seconds(text: str) -> float:
    """A time or a span: not negative, and not absurdly long."""
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:  # nor is it, where it is not a number
        raise ValueError(f"{text} is no number of seconds from 0 to {MAX_SECONDS:.0f}")
    return seconds
