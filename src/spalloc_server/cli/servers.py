"""`spalloc-admin servers`: the servers that run on this computer, whoever started them.

Theory of operation. The kernel lists all Unix sockets, so it tells where servers listen to operators. Each is asked how
it is. One that listens to others only is found by its process, whose command line everybody may read; so is one of the
published version, which has no such socket. Nothing is written, and nothing is asked of other programs' sockets: a
state has a lock file beside it.
"""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click
import msgspec

from spalloc_server.application import commands
from spalloc_server.application.views import ServerView
from spalloc_server.cli.process import PATH, one_line_errors, say
from spalloc_server.cli.running_server import (
    VARIABLE,
    NoServerError,
    NotReachedError,
    OperatorError,
    RunningServer,
    is_there,
    named_state,
)
from spalloc_server.cli.tables import ago, show
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.files import beside
from spalloc_server.storage.state_file import state_path

__all__ = ["Found", "hint", "running", "servers", "telling_which", "which_options", "whole_path"]

PROC = Path("/proc")

LOOK_SECONDS = 1.0
"""The longest that one server found on this computer is waited for."""

_NAMES: Final = {"spalloc_server", "spalloc-server"}
_LISTENING: Final = "00010000"
_STATES_HERE: Final = ".*.state.db"


class Found(msgspec.Struct, kw_only=True):
    """A server, as far as this user may know it."""

    state: str | None = None
    config: str | None = None
    address: tuple[str, int] | None = None
    """Where its clients connect."""
    pid: int | None = None
    user: str | None = None
    version: str | None = None
    since: float | None = None
    """When it was started, in seconds since the Unix epoch."""
    machines: list[str] | None = None
    """None where this user may not ask it."""
    remark: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs.")
def servers(*, as_json: bool) -> None:
    """The servers that run on this computer, and the states in this folder with which none runs."""
    with one_line_errors("spalloc-admin servers"):
        found = running()
        found += list(_stopped({each.state for each in found}))
        if as_json:
            print(json.dumps(msgspec.to_builtins(found), indent=2))
        elif not found:
            say("no server runs on this computer, as far as this user can see")
        else:
            _show(found)


def _show(found: list[Found]) -> None:
    show(
        ("state", "config", "port", "process", "user", "version", "for", "remark"),
        (
            (
                each.state,
                each.config,
                each.address and each.address[1],
                each.pid,
                each.user,
                each.version,
                each.since and ago(each.since),
                each.remark,
            )
            for each in found
        ),
        wrap=("remark",),
        drop=("version", "user", "config", "for", "process"),
    )


def hint() -> str:
    """What to say to somebody whose command has found no server; empty where none runs."""
    found = running()
    match found:
        case []:
            return ""
        case [Found(machines=None) as one]:
            return f"; one runs as process {one.pid} of user {one.user}: ask as that user, or as root"
        case [one]:
            return f"; there is one at {one.state}: say --state {one.state}"
    return f"; {len(found)} run on this computer: `spalloc-admin servers` lists them"


def running() -> list[Found]:
    """The servers that run on this computer."""
    found = [each for path in _listening() if (each := _asked(path)) is not None]
    known = {each.pid for each in found}
    return found + [each for each in _processes() if each.pid not in known]


def _listening() -> Iterator[Path]:
    """The states beside which somebody listens."""
    states: dict[Path, None] = {}  # a socket that is shared by an upgrade is listed twice
    with suppress(OSError):
        for line in (PROC / "net/unix").read_text(errors="surrogateescape").splitlines()[1:]:
            parts = line.split(maxsplit=7)
            if len(parts) == 8 and parts[3] == _LISTENING and parts[7].startswith("/") and parts[7].endswith(".sock"):
                states[Path(parts[7].removesuffix(".sock"))] = None
    for state in states:
        with suppress(OSError):  # of a folder that this user may not enter
            if beside(state, ".lock").exists():
                yield state


def _asked(state: Path) -> Found | None:
    """What the server of this state says; None where it says nothing to this user."""
    try:
        server = RunningServer(socket_path(state), as_json=False)
        view = server.glance(commands.Status(), ServerView, LOOK_SECONDS)
    except (SpallocServerError, OSError, msgspec.MsgspecError):
        return None
    return Found(
        state=str(state),
        config=whole_path(view.pid, view.config),
        address=view.address,
        pid=view.pid,
        user=_user(view.pid),
        version=view.version,
        since=view.started_at,
        machines=[machine.name for machine in view.machines],
    )


def _processes() -> Iterator[Found]:
    """Processes that are servers by their command lines."""
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            words = [os.fsdecode(word) for word in (folder / "cmdline").read_bytes().split(b"\0")[:-1]]
            if (arguments := _arguments(words)) is not None:
                yield _by_command_line(int(folder.name), arguments)


def _arguments(words: list[str]) -> list[str] | None:
    """The arguments of a server, from the words of its command line; None where that is of another program."""
    names = [os.path.basename(word) for word in words]  # noqa: PTH119 - a path takes ten times as long
    if names[:1] and names[0] in _NAMES:
        return words[1:]
    if not names[0].startswith("python"):
        return None
    for at in (1, 2):
        if len(names) > at and names[at] in _NAMES and (at == 1 or words[1] == "-m"):
            return words[at + 1 :]
    return None


def _by_command_line(pid: int, arguments: list[str]) -> Found:
    from spalloc_server.cli.serve import main

    with suppress(click.ClickException):
        given = main.make_context("spalloc_server", arguments, resilient_parsing=True).params
        config, state = given.get("config_file"), given.get("state")
        if config is not None and state is None:
            state = state_path(config)
        return Found(
            state=None if state is None else whole_path(pid, str(state)),
            config=None if config is None else whole_path(pid, str(config)),
            pid=pid,
            user=_user(pid),
            since=_started(pid),
            remark="does not answer this user",
        )
    return Found(pid=pid, user=_user(pid), since=_started(pid))


def whole_path(pid: int, path: str) -> str:
    """A path that a process was given, whole where the folder in which it runs is known."""
    with suppress(OSError):
        return str((PROC / str(pid) / "cwd").readlink() / path)
    return path


def _user(pid: int) -> str | None:
    with suppress(OSError):
        number = (PROC / str(pid)).stat().st_uid
        with suppress(KeyError):
            return pwd.getpwuid(number).pw_name
        return str(number)
    return None


def _started(pid: int) -> float:
    """When a process was started, in seconds since the Unix epoch."""
    ticks = int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _stopped(running: set[str | None]) -> Iterator[Found]:
    """States that are there, and with which none of these servers runs."""
    named = named_state()
    for state in (*sorted(Path().glob(_STATES_HERE)), *(() if named is None else (named,))):
        path = str(state.resolve())
        with suppress(OperatorError):  # of a folder that this user may not enter
            if path not in running and is_there(state):
                running.add(path)
                by = f", named by {VARIABLE}" if state == named else ""
                yield Found(state=path, remark=f"no server runs with it{by}")


def which_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server it is about, and that its answer is to be JSON."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs."),
        click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it."),
        click.option("--state", type=PATH, help="The server's state file, or a copy; else SPALLOC_STATE names it."),
    ):
        function = option(function)
    return function


@contextmanager
def telling_which(state: Path | None, config: Path | None) -> Iterator[None]:
    """Where the server is not reached, tell how it was looked for, and which others run on this computer."""
    try:
        yield
    except NotReachedError as exc:
        by = "" if state is not None else ", which is beside --config" if config is not None else ""
        if state is config is None and named_state() is not None:
            by = f", which {VARIABLE} names"
        others = hint() if isinstance(exc, NoServerError) else ""
        raise type(exc)(f"{exc}{by}{others}") from exc
