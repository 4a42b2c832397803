"""`spalloc-admin simulate`: a trace of jobs through the scheduler that serves, in virtual time."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from spalloc_server.cli.process import one_line_errors
from spalloc_server.cli.simulate_plot import plot
from spalloc_server.cli.tables import show, span
from spalloc_server.cli.traces import TraceError, from_history, from_trace
from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.config.machine_parts import check_size
from spalloc_server.config.settings import Configuration
from spalloc_server.core.simulation import Simulation

__all__ = ["simulate"]

PATH = click.Path(path_type=Path)


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
            picture.write_text(plot(simulation), encoding="utf-8")
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
