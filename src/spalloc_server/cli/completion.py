"""What a shell offers where a command wants a machine, a job, an owner or a board: those that the running server has.

Theory of operation. click asks, at each tab, how a line may go on. What an argument or option is about follows from its
name. The server that the line so far means is asked, for `COMPLETION_SECONDS` at most, by a thread that nobody waits
for: where no server answers, nothing is offered and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import Thread
from typing import Any

import click
from click.shell_completion import CompletionItem

from spalloc_server.application import commands
from spalloc_server.cli.running_server import RunningServer, find_server
from spalloc_server.core.model import BoardView, JobView, MachineView

__all__ = ["COMPLETED", "COMPLETION_SECONDS", "complete_from_server"]

COMPLETION_SECONDS = 0.5
"""The longest that a shell waits for what may come next."""

_BEFORE = {"cabinet": (), "frame": ("cabinet",)}
"""Coordinates, and which others come before each."""


def complete_from_server(command: click.Command) -> None:
    """Have the arguments and options of a command, and of all below it, completed by what the server has."""
    of_a_server = any(parameter.name == "state" for parameter in command.params)
    for parameter in command.params:
        if of_a_server and (look := COMPLETED.get(parameter.name or "")) is not None:
            parameter.shell_complete = partial(_complete, look, parameter)  # type: ignore[method-assign]
    if isinstance(command, click.Group):
        for below in command.commands.values():
            complete_from_server(below)


def _complete(look: _Look, parameter: click.Parameter, context: click.Context, incomplete: str) -> list[CompletionItem]:
    found: list[CompletionItem] = []

    def ask() -> None:
        try:
            server = RunningServer(
                find_server(context.params.get("state"), context.params.get("config")), as_json=False
            )
            found.extend(look(server, context.params, str(parameter.name)))
        except Exception:  # noqa: BLE001 - whatever it is, a tab is no place to tell it
            found.clear()

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(COMPLETION_SECONDS)
    return [] if thread.is_alive() else [each for each in found if each.value.startswith(incomplete)]


_Look = Callable[[RunningServer, dict[str, Any], str], Iterable[CompletionItem]]


def _machines(server: RunningServer, _given: dict[str, Any], _name: str) -> Iterable[CompletionItem]:
    for view in server.glance(commands.Machines(), list[MachineView], COMPLETION_SECONDS):
        yield CompletionItem(view.name, help=f"{view.width} x {view.height} triads")


def _jobs(server: RunningServer, _given: dict[str, Any], _name: str) -> Iterable[CompletionItem]:
    for view in server.glance(commands.Jobs(), list[JobView], COMPLETION_SECONDS):
        yield CompletionItem(str(view.job_id), help=f"{view.owner}, {view.state}")


def _owners(server: RunningServer, _given: dict[str, Any], _name: str) -> Iterable[CompletionItem]:
    views = server.glance(commands.Jobs(), list[JobView], COMPLETION_SECONDS)
    return map(CompletionItem, sorted({view.owner for view in views}))


def _boards_of(server: RunningServer, given: dict[str, Any]) -> list[BoardView]:
    return server.glance(commands.Boards(machine=given.get("machine")), list[BoardView], COMPLETION_SECONDS)


def _boards(server: RunningServer, given: dict[str, Any], _name: str) -> Iterable[CompletionItem]:
    for view in _boards_of(server, given):
        yield CompletionItem(f"{view.x},{view.y},{view.z}", help=view.state)


def _coordinates(server: RunningServer, given: dict[str, Any], name: str) -> Iterable[CompletionItem]:
    fitting = [
        view
        for view in _boards_of(server, given)
        if all(getattr(view, each) == given.get(each) for each in _BEFORE[name])
    ]
    return map(CompletionItem, map(str, sorted({getattr(view, name) for view in fitting} - {None})))


COMPLETED: dict[str, _Look] = {
    "machine": _machines,
    "job_id": _jobs,
    "job_ids": _jobs,
    "owner": _owners,
    "names": _boards,
    **dict.fromkeys(_BEFORE, _coordinates),
}
"""{name of an argument or option: what is offered for it}."""
