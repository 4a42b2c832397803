"""Which boards and which jobs a command is about, as people name them.

Theory of operation. A board is `3,1,2` (x, y and z), `0/0/7` (cabinet, frame and its number there), or the address of
the board; the address of a BMP stands for all boards of its frame, and `0/0/0-5,7`, as tables have it, for several.
Jobs are named by their numbers, or chosen by owner, state and machine. Whatever is named is looked up in one answer
of the server before anything is done: so a name that is wrong changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeAlias

import click

from spalloc_server.application import commands
from spalloc_server.cli.running_server import NUMBER, OperatorError, RunningServer
from spalloc_server.config.hosts import canonical
from spalloc_server.core.model import BoardView, JobView

__all__ = ["STATES", "JobChoice", "board_names", "boards_named", "job_choice", "reason_option", "state_of"]

STATES: Final = ("queued", "held", "power", "ready")
"""Of live jobs, as `state_of` tells them."""

_Key: TypeAlias = tuple[str, ...] | str

_SEVERAL: Final = re.compile(r"(\d+/\d+/)(\d{1,3}(?:-\d{1,3})?(?:,\d{1,3}(?:-\d{1,3})?)*)")
"""Boards of one frame, which has fewer than 1,000."""


def _not_empty(_context: click.Context, _option: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("it is empty: say why")
    return reason


def reason_option(**settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a `--reason`; by default one must be given."""
    told = "Why; shown to operators and, where it concerns them, to users."
    return click.option("--reason", **{"required": True, "callback": _not_empty, "help": told, **settings})


# -------------------------------------------------------------------- boards


def board_names(function: Callable[..., None], *, required: bool = True) -> Callable[..., None]:
    """Give a command the arguments `machine` and `names`: a machine, and boards of it, to be looked up."""
    function = click.argument("names", metavar="BOARD...", nargs=-1, required=required, callback=_as_one)(function)
    return click.argument("machine")(function)


def _as_one(context: click.Context, argument: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Take `X Y Z`, three numbers, for one board."""
    if len(names) != 3 or not all(re.fullmatch(r"-?\d+", name) for name in names):
        return names
    return (",".join(str(NUMBER(name, argument, context)) for name in names),)


def boards_named(server: RunningServer, machine: str, names: Sequence[str], *, dead: bool = False) -> list[BoardView]:
    """Look boards up, each once.

    Args:
        server: where they are.
        machine: whose they are.
        names: what the operator calls them.
        dead: whether dead boards will do.

    Raises:
        OperatorError: there is no such machine, or one of the names means no board of it.
    """
    meant: dict[_Key, list[BoardView]] = {}
    for view in server.look(commands.Boards(machine=machine), list[BoardView]):
        alive = view.state != "dead"
        for key in _names_of(view) if alive or dead else ():
            meant.setdefault(key, []).append(view)
        if view.bmp is not None and alive:
            meant.setdefault(canonical(view.bmp), []).append(view)
    whole = re.sub(r",\s+", ",", "\n".join(names)).split("\n")  # where a blank comes behind a comma, as in tables
    boards = {name: [_key(board) for board in _spelled_out(name)] for name in whole}
    wrong = [name for name, keys in boards.items() if not meant.keys() >= set(keys)]
    if wrong:
        living = "" if dead else ", or none that is not dead in the configuration"
        forms = "X,Y,Z or CABINET/FRAME/BOARD (of several, 0/0/0-5,7), or by the address of a board or of a frame's BMP"
        told = f"{machine} has no board {' '.join(wrong)}{living}: nothing is done. Name boards by {forms}"
        raise OperatorError(told)
    found = [view for keys in boards.values() for key in keys for view in meant[key]]
    return list({(view.x, view.y, view.z): view for view in found}.values())


def _spelled_out(name: str) -> list[str]:
    """Return `0/3/0`, `0/3/1` and `0/3/7` for `0/3/0-1,7`, and another name as it is."""
    several = _SEVERAL.fullmatch(name)
    if several is None:
        return [name]
    boards: list[str] = []
    for part in several[2].split(","):
        first, _, last = part.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        boards += [f"{several[1]}{number}" for number in numbers] or [name]
    return boards


def _names_of(view: BoardView) -> list[_Key]:
    board, place = (view.x, view.y, view.z), (view.cabinet, view.frame, view.board)
    address = [] if view.address is None else [canonical(view.address)]
    return [(",", *map(str, board)), ("/", *map(str, place)), *address]


def _key(name: str) -> _Key:
    """Return the one spelling of a name."""
    for mark in ",/":
        parts = name.split(mark)
        if len(parts) == 3 and all(part.isdecimal() for part in parts):
            return (mark, *(part.lstrip("0") or "0" for part in parts))
    return canonical(name)


# -------------------------------------------------------------------- jobs


@dataclass(frozen=True, slots=True)
class JobChoice:
    """Which jobs an operator means: those of these numbers; without any, all that have the rest in common."""

    job_ids: tuple[int, ...]
    owner: str | None
    states: tuple[str, ...]
    machine: str | None

    @property
    def named(self) -> bool:
        """Whether they are named by their numbers."""
        return bool(self.job_ids)

    def look(self, server: RunningServer) -> list[JobView]:
        """Look them up; those that are chosen may be none.

        Raises:
            OperatorError: one that is named does not live.
        """
        live = server.look(commands.Jobs(), list[JobView])
        if not self.named:
            return [view for view in live if self.has(view)]
        views = {view.job_id: view for view in live}
        if gone := [str(job_id) for job_id in self.job_ids if job_id not in views]:
            raise OperatorError(f"there is no live job {', '.join(gone)}: nothing is done")
        return [views[job_id] for job_id in dict.fromkeys(self.job_ids)]

    def has(self, view: JobView) -> bool:
        """Whether a job has what they have in common."""
        return (
            self.owner in (None, view.owner)
            and (not self.states or state_of(view) in self.states)
            and self.machine in (None, view.machine or view.kwargs.get("machine"))
        )


def job_choice(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `JobChoice` as its argument `choice`."""

    @click.argument("job_ids", metavar="[JOB...]", nargs=-1, type=NUMBER)
    @click.option("--owner", help="Jobs of this owner.")
    @click.option("--only", multiple=True, type=click.Choice(STATES), help="Jobs in this state; repeatable.")
    @click.option("--machine", help="Jobs that have boards of this machine, or ask for it by name.")
    @click.option("--all", "everything", is_flag=True, help="All live jobs.")
    @wraps(function)
    def command(
        *args: Any,
        job_ids: tuple[int, ...],
        owner: str | None,
        only: tuple[str, ...],
        machine: str | None,
        everything: bool,
        **kwargs: Any,
    ) -> None:
        chosen = owner is not None or bool(only) or machine is not None
        if bool(job_ids) + chosen + everything != 1:
            told = "name jobs by their numbers; or choose them by --owner, --only and --machine; or give --all"
            raise click.UsageError(told)
        function(*args, choice=JobChoice(job_ids, owner, only, machine), **kwargs)

    return command


def state_of(view: JobView) -> str:
    """The state of a live job as operators read it."""
    return view.state if view.held is None else "held"
