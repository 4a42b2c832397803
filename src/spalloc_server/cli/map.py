"""`spalloc-admin map`: a machine as it is, in a terminal or as an SVG picture.

The running server is asked, or, where none runs, what its state tells of it (`stopped_server`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.text import Text

from spalloc_server.application import commands
from spalloc_server.cli.process import PATH, count, one_line_errors, say, write
from spalloc_server.cli.running_server import RunningServer
from spalloc_server.cli.servers import telling_which
from spalloc_server.cli.stopped_server import server_of
from spalloc_server.cli.tables import clock, screen
from spalloc_server.coordinates import Board
from spalloc_server.core.model import BoardView, JobView, MachineView
from spalloc_server.drawing.hexagons import MEANINGS, Condition, Size, Tile, columns_and_rows, job_colours
from spalloc_server.drawing.svg import machine_svg
from spalloc_server.drawing.terminal import (
    CONDITION_COLOURS,
    FREE_LETTER,
    coloured_map,
    job_letters,
    plain_map,
    sign_style,
)
from spalloc_server.log.text import printable

__all__ = ["map"]


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known of one machine."""

    machines: Sequence[MachineView]
    boards: Sequence[BoardView]
    jobs: Sequence[JobView]
    """All live ones, those of other machines and those that wait, too."""
    when: str
    """The time of all this."""


@click.command()
@click.argument("machine")
@click.option("--state", type=PATH, help="The server's state file; else SPALLOC_STATE names it.")
@click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it.")
@click.option("--svg", type=PATH, help="Draw into this file instead.")
def map(machine: str, state: Path | None, config: Path | None, svg: Path | None) -> None:  # noqa: A001 - its name
    """Draw MACHINE as its hexagons: jobs in colours, and which boards cannot be used."""
    with one_line_errors("spalloc-admin map"), telling_which(state, config):
        look = _look(machine, server_of(state, config, as_json=False))
        (there,) = (each for each in look.machines if each.name == machine)
        size = there.width, there.height
        jobs = [job for job in look.jobs if job.machine == machine]
        owners = {job.job_id: job.owner for job in jobs}
        tiles = {(view.x, view.y, view.z): _tile(view, owners) for view in look.boards}
        if svg is None:
            _show(size, look.boards, jobs, tiles)
        else:
            legend = {job.job_id: f"{job.job_id}: {job.owner}, {count(len(job.boards), 'board')}" for job in jobs}
            write(svg, machine_svg(machine, size, tiles, legend, when=look.when))


def _look(machine: str, server: RunningServer) -> _Look:
    return _Look(
        server.look(commands.Machines(), list[MachineView]),
        server.look(commands.Boards(machine=machine), list[BoardView]),
        server.look(commands.Jobs(), list[JobView]),
        clock(time.time()) if server.at is None else f"as it was at {clock(server.at)}",
    )


def _tile(view: BoardView, owners: Mapping[int, str]) -> Tile:
    if view.state == "dead":
        condition = Condition.dead
    elif view.out_of_service is not None and view.state != "switching off":  # for which whoever repairs it waits
        condition = Condition.out_of_service
    else:
        condition = Condition.usable if view.state in {"free", "in use"} else Condition.resting
    job_id = view.job_id if view.state == "in use" else None
    words = [f"({view.x}, {view.y}, {view.z}), cabinet {view.cabinet}, frame {view.frame}, board {view.board}"]
    words.append(view.state if job_id is None else f"job {job_id} of {owners.get(job_id, 'somebody')}")
    if view.out_of_service:
        words.append(view.out_of_service)
    return Tile(job_id, condition, text="" if job_id is None else str(job_id), title="; ".join(words))


def _show(size: Size, boards: Iterable[BoardView], jobs: Iterable[JobView], tiles: Mapping[Board, Tile]) -> None:
    console = screen()
    coloured = console.color_system is not None and not console.options.ascii_only
    letters, colours = job_letters(tiles), job_colours(size, tiles)
    if coloured:
        picture = coloured_map(size, tiles, wide=2 * columns_and_rows(size)[0] <= console.width)
    else:
        picture = Text(plain_map(size, tiles))
    console.print(picture, soft_wrap=True)

    def told(letter: str, colour: str | None, text: str, number: int) -> None:
        sign = Text(f"{letter} ", sign_style(colour) if coloured and colour else "")
        console.print(sign, Text(printable(f"{text}, {count(number, 'board')}")), overflow="fold")

    for condition, colour in CONDITION_COLOURS.items():
        number = sum(tile.condition is condition and tile.job_id is None for tile in tiles.values())
        if number or condition is Condition.usable:
            told(condition.value or (" " if coloured else FREE_LETTER), colour, MEANINGS[condition], number)
    for job in jobs:
        letter, shade = letters.get(job.job_id, " "), colours.get(job.job_id)
        told(letter, shade, f"job {job.job_id} of {job.owner}", len(job.boards))
    for line in _out_of_service(boards):
        say(line)


def _out_of_service(boards: Iterable[BoardView]) -> Iterator[str]:
    """Which boards are out of service and why: one line for those of a frame that are so for the same reason."""
    alike: dict[tuple[object, ...], list[BoardView]] = {}
    live: Counter[tuple[object, ...]] = Counter()
    for view in boards:
        live[view.cabinet, view.frame] += view.state != "dead"
        if view.out_of_service is not None:
            alike.setdefault((view.cabinet, view.frame, view.out_of_service, view.by), []).append(view)
    for (cabinet, frame, reason, by), views in alike.items():
        which = ", ".join(f"({view.x}, {view.y}, {view.z})" for view in views) + (" is" if len(views) == 1 else " are")
        if len(views) == live[cabinet, frame] > 1:
            which = f"cabinet {cabinet}, frame {frame}, {count(len(views), 'board')}, is"
        users = sorted({view.job_id for view in views if view.state == "in use" and view.job_id is not None})
        used = f"; in use by {', '.join(f'job {job_id}' for job_id in users)}" if users else ""
        yield f"{which} out of service: {reason}" + (f" (by {by})" if by else "") + used
