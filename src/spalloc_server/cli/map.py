"""`spalloc-admin map`: a machine as it is, in a terminal or as an SVG picture.

What is drawn is what a server has stored, running or not: a core of its own takes the state over, and is asked for the
boards. It starts nothing and writes nothing. Frames whose BMPs are silent are known to the running server only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spalloc_server import config_file
from spalloc_server.cli.process import count, one_line_errors
from spalloc_server.controller import Controller
from spalloc_server.coordinates import Board
from spalloc_server.core.overview import BoardView
from spalloc_server.core.replies import JobDescription
from spalloc_server.drawing.hexagons import Condition, Tile, columns_and_rows, job_colours
from spalloc_server.drawing.svg import machine_svg
from spalloc_server.drawing.terminal import CONDITION_COLOURS, FREE_LETTER, coloured_map, job_letters, plain_map
from spalloc_server.errors import SpallocServerError
from spalloc_server.server import state_path
from spalloc_server.storage.history import read_state

__all__ = ["map", "tiles"]

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("machine")
@click.option("--config", type=PATH, required=True, help="The server's config file.")
@click.option("--state", type=PATH, help="The server's state file.  [default: the one beside the config file]")
@click.option("--svg", type=PATH, help="Draw into this file instead.")
@click.option("--allow-unsafe-config", is_flag=True, help="Execute a Python config file that others may write.")
def map(machine: str, config: Path, state: Path | None, svg: Path | None, allow_unsafe_config: bool) -> None:  # noqa: A001 - the command's name
    """Draw MACHINE as its hexagons: jobs in colours, and which boards cannot be used."""
    with one_line_errors("spalloc-admin map"):
        core = Controller()
        core.machines = {
            each.name: each for each in config_file.load(config, allow_unsafe=allow_unsafe_config).machines
        }
        if state is not None or state_path(config).exists():
            stored = read_state(state or state_path(config))
            if machine in stored.facts.get("machines", ()):
                core = Controller()
                core.restore(stored)
        views = list(core.board_views(machine))
        jobs = [job for job in core.list_jobs() if job.allocated_machine_name == machine]
        drawn = tiles(views, jobs)
        if svg is None:
            _show(core, machine, views, jobs, drawn)
        else:
            legend = {job.job_id: f"{job.job_id}: {job.owner}, {count(len(job.boards or ()), 'board')}" for job in jobs}
            _write(svg, machine_svg(core.machines[machine], drawn, legend))


def tiles(views: Iterable[BoardView], jobs: Iterable[JobDescription]) -> dict[Board, Tile]:
    """The boards as they are drawn."""
    owners = {job.job_id: job.owner for job in jobs}
    return {(view.x, view.y, view.z): _tile(view, owners) for view in views}


def _tile(view: BoardView, owners: Mapping[int, str]) -> Tile:
    if view.state == "dead":
        condition = Condition.dead
    elif view.out_of_service is not None:
        condition = Condition.out_of_service
    else:
        condition = Condition.usable if view.state in {"free", "in use"} else Condition.resting
    job_id = view.job_id if view.state == "in use" else None
    words = [f"({view.x}, {view.y}, {view.z}), cabinet {view.cabinet}, frame {view.frame}, board {view.board}"]
    words.append(view.state if job_id is None else f"job {job_id} of {owners[job_id]}")
    if view.out_of_service:
        words.append(view.out_of_service)
    return Tile(job_id, condition, title="; ".join(words))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise SpallocServerError(f"{path} cannot be written: {exc.strerror}") from exc


def _show(
    core: Controller,
    machine: str,
    views: Iterable[BoardView],
    jobs: Iterable[JobDescription],
    drawn: Mapping[Board, Tile],
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    there = core.machines[machine]
    if coloured := console.color_system is not None:
        console.print(coloured_map(there, drawn, wide=2 * columns_and_rows(there)[0] <= console.width))
        colours, letters = job_colours(there, drawn), {}
    else:
        console.print(plain_map(there, drawn), markup=False)
        colours, letters = {}, job_letters(drawn)
    table = Table(box=None, pad_edge=False, show_header=False)
    for condition, colour in CONDITION_COLOURS.items():
        number = sum(tile.condition is condition and tile.job_id is None for tile in drawn.values())
        sign = Text("██", colour) if coloured else Text(condition.value or FREE_LETTER)
        table.add_row(sign, "free" if condition is Condition.usable else condition.name.replace("_", " "), str(number))
    for job in jobs:
        sign = Text("██", colours[job.job_id]) if coloured else Text(letters[job.job_id])
        table.add_row(sign, Text(f"job {job.job_id} of {job.owner}"), str(len(job.boards or ())))
    console.print(table)
    for view in views:
        if view.out_of_service is not None:
            by = f" (by {view.by})" if view.by else ""
            console.print(f"({view.x}, {view.y}, {view.z}) is out of service: {view.out_of_service}{by}", markup=False)
