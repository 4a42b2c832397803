"""`spalloc-admin simulate`: a trace of jobs through the scheduler that serves, in virtual time.

Theory of operation. Each machine is tried with each policy, on the same jobs, and what comes out stands side by side:
figures in a table, and with `--plot` boards in use and jobs that wait over time, as SVG. Figures of one row have one
unit, that of the largest. Where the trace tells how long its jobs waited in truth, that is a column, too: it says how
far the simulation is to be trusted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spalloc_server.cli.process import PATH, one_line_errors, write
from spalloc_server.cli.tables import screen, show
from spalloc_server.cli.traces import TraceError, from_history, from_trace
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.machine_parts import BOARDS_PER_FRAME, check_size
from spalloc_server.config.options import Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.core.simulation import LARGE, Simulation, TraceJob
from spalloc_server.drawing.plot import Curve, Panel, plot_svg

__all__ = ["Run", "configuration_of", "plot", "runs_of", "simulate"]

TRUTH: Final = "in truth"
"""The column of what the trace itself tells."""

_LABELS: Final = {
    "boards": "boards of the machine",
    "jobs": "jobs in the trace",
    "started": "jobs that started",
    "cancelled": "jobs that fit no machine",
    "utilisation": "use until the last job came, %",
    "useful": "use until the last job ended, %",
    "makespan_s": "from the first job to the end",
    "mean_wait_s": "mean wait",
    "p95_wait_s": "95 of 100 jobs waited at most",
    "max_wait_s": "longest wait",
    "mean_wait_large_s": f"mean wait, {LARGE} boards and more",
    "max_wait_large_s": f"longest wait, {LARGE} boards and more",
    "mean_slowdown": "mean slowdown, times its length",
    "fairness": "fairness among owners, 0 to 1",
    "wall_s": "the simulation took",
}
"""What people are told of each figure, with its unit where it is no time."""

_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"), (0, 1, "s"))
"""(from so many seconds on, seconds, the unit)."""


class Run(NamedTuple):
    """One machine with one policy."""

    machine: str
    """As it was given."""
    simulation: Simulation
    boards: int

    @property
    def name(self) -> str:
        """What stands above its figures."""
        return f"{self.machine} {self.simulation.scheduling.policy}"


@click.command()
@click.argument("trace", type=PATH, required=False)
@click.option(
    "--machine",
    "machines",
    required=True,
    multiple=True,
    help="A config file, or a size in triads: 20x20; joined by + where they are there at once. May be repeated.",
)
@click.option(
    "--policy",
    "policies",
    type=click.Choice(["backfill", "fifo"]),
    multiple=True,
    help="Instead of the config file's. May be repeated.",
)
@click.option(
    "--from-history", "history", type=PATH, help="A server's state file: simulate the jobs that it has served."
)
@click.option(
    "--cool-down", type=click.FloatRange(min=0), help="Seconds that boards rest, instead of the config file's."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or a list of them where there are more.")
@click.option("--plot", "picture", type=PATH, help="Draw utilisation and queue over time into this SVG file.")
def simulate(
    trace: Path | None,
    machines: Sequence[str],
    policies: Sequence[str],
    history: Path | None,
    cool_down: float | None,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Run TRACE through the scheduler, in virtual time, on each MACHINE with each POLICY.

    TRACE is a .csv with submit_s, duration_s, owner, request, and start_s where it is known; or an .swf; or one of
    these with .gz; or - for standard input.
    """
    if (trace is None) == (history is None):
        raise click.UsageError("give either a TRACE or --from-history")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {picture.parent}", param_hint="--plot")
    with one_line_errors("spalloc-admin simulate"):
        configurations = {machine: configuration_of(machine) for machine in machines}
        jobs = from_trace(trace) if trace is not None else from_history(history) if history is not None else []
        runs = list(runs_of(configurations, policies, jobs, cool_down))
        seconds = _run(runs)
        if picture is not None:
            write(picture, plot(runs, epoch=history is not None))
    figures = [
        {"machine": run.machine, "boards": run.boards, **run.simulation.figures(), "wall_s": round(took, 2)}
        for run, took in zip(runs, seconds, strict=True)
    ]
    truth = runs[0].simulation.true_waits()
    if as_json:
        told = [{**each, **{f"true_{name}": value for name, value in truth.items()}} for each in figures]
        click.echo(json.dumps(told if len(told) > 1 else told[0]))
    else:
        columns = {run.name: each for run, each in zip(runs, figures, strict=True)}
        _show({**columns, TRUTH: {"jobs": len(jobs), **truth}} if truth else columns)


def runs_of(
    configurations: Mapping[str, Configuration],
    policies: Sequence[str],
    jobs: Sequence[TraceJob],
    cool_down: float | None,
) -> Iterator[Run]:
    """Each machine with each policy; a machine's own where none is given. None for `cool_down` likewise."""
    for name, configuration in configurations.items():
        machines = {machine.name: machine for machine in configuration.machines}
        boards = sum(len(machine.live_boards) for machine in configuration.machines)
        rest = configuration.seconds_before_free if cool_down is None else cool_down
        for policy in dict.fromkeys(policies or [configuration.scheduling.policy]):
            scheduling: Scheduling = msgspec.structs.replace(configuration.scheduling, policy=policy)
            yield Run(name, Simulation(machines, jobs, scheduling, rest), boards)


def configuration_of(text: str) -> Configuration:
    """What a config file says, or one machine of so many triads, or all of several of these."""
    parts = text.split("+") if "+" in text and not Path(text).exists() else [text]
    first, *others = [_part(part, number) for number, part in enumerate(parts, 1)]
    return replace(first, machines=[*first.machines, *(each for other in others for each in other.machines)])


def _part(machine: str, number: int) -> Configuration:
    if size := re.fullmatch(r"(\d{1,18})x(\d{1,18})", machine):
        width, height = int(size[1]), int(size[2])
        if not (width and height):
            raise TraceError(f"--machine {machine}: width and height must be at least one triad")
        check_size("--machine", width, height)
        boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
        locations = {board: (0, *divmod(index, BOARDS_PER_FRAME)) for index, board in enumerate(boards)}
        made = Machine(
            f"machine {number}",
            width=width,
            height=height,
            board_locations=locations,
            bmp_ips={(0, frame): f"bmp-{number}-{frame}" for _, frame, _ in locations.values()},
            spinnaker_ips={board: "board-{}-{}-{}-{}".format(number, *board) for board in boards},
        )
        return Configuration([made])
    return load(machine)


def _run(runs: Sequence[Run]) -> list[float]:
    """Run them under a progress bar, where standard error is a terminal; the seconds that each took."""
    seconds = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        for number, run in enumerate(runs, 1):
            begin = time.perf_counter()
            task = bar.add_task(f"{number} of {len(runs)}: {run.name}", total=len(run.simulation.jobs))
            for done in run.simulation.run():
                bar.update(task, completed=done)
            seconds.append(time.perf_counter() - begin)
    return seconds


def _show(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures side by side; in tables one below the other where they do not fit beside each other."""
    rows = dict(_rows(columns))
    widths = {
        column: max(*map(len, column.split()), *(len(row[column]) for row in rows.values())) for column in columns
    }
    room = screen().width - max(map(len, rows))
    groups: list[list[str]] = [[]]
    for column in columns:
        if groups[-1] and sum(2 + widths[each] for each in (*groups[-1], column)) > room:
            groups.append([])
        groups[-1].append(column)
    for number, group in enumerate(groups):
        if number:
            click.echo()
        figures = [(label, *(row[column] for column in group)) for label, row in rows.items()]
        show(("figure", *group), [row for row in figures if any(row[1:])], right=group)


def _rows(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each figure with its unit, and what it is in each column."""
    for name, label in _LABELS.items():
        values = {column: figures.get(name) for column, figures in columns.items()}
        largest = max((value for value in values.values() if value is not None), default=None)
        if largest is None:
            continue
        per, unit, form = 1.0, "", "{:,.2f}" if isinstance(largest, float) else "{:,}"
        if name.endswith("_s"):
            per, unit = next((per, f", {unit}") for least, per, unit in _UNITS if largest >= least)
        elif label.endswith("%"):
            per, form = 0.01, "{:.1f}"
        yield (
            label + unit,
            {
                column: "" if value is None else form.format(value if per == 1 else value / per)
                for column, value in values.items()
            },
        )


def plot(runs: Sequence[Run], *, epoch: bool) -> str:
    """A picture of boards in use and jobs that wait, over time; `epoch` as `plot_svg` has it."""
    timelines = [run.simulation.timeline or [(0.0, 0, 0)] for run in runs]
    use = [
        Curve([(at, boards) for at, boards, _ in timeline], limit=run.boards)
        for run, timeline in zip(runs, timelines, strict=True)
    ]
    queue = [Curve([(at, jobs) for at, _, jobs in timeline]) for timeline in timelines]
    names = [f"{run.name}: {run.boards:,} boards" for run in runs]
    jobs = len(runs[0].simulation.jobs)
    panels = [Panel("boards in use (dotted: all that there are)", use), Panel("jobs that wait", queue)]
    return plot_svg(f"{jobs:,} jobs through the scheduler", names, panels, epoch=epoch)
