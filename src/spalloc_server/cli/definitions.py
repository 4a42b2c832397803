"""`spalloc-admin import-machines`, `add-machines` and `remove-machine`: machines as the Java server defines them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from spalloc_server.application import commands
from spalloc_server.cli.machines import show_machines
from spalloc_server.cli.process import PATH, count, one_line_errors, say
from spalloc_server.cli.running_server import RunningServer
from spalloc_server.cli.which_server import of_a_running_server
from spalloc_server.config.definitions import read_definitions, to_toml
from spalloc_server.config.settings import Configuration
from spalloc_server.config.sources import opened, text_of
from spalloc_server.core.model import MachineView
from spalloc_server.errors import ConfigurationError

__all__ = ["add_machines", "import_machines", "remove_machine"]


@click.command("import-machines")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
def import_machines(files: tuple[Path, ...]) -> None:
    """Print the machine definitions in FILE... (`-`: standard input) as a config file in TOML."""
    with one_line_errors("spalloc-admin import-machines"):
        first, *others = read = [_read(file, _text(file)) for file in files]
        for file, other in zip(files[1:], others, strict=True):
            for name in Configuration._fields[1:]:
                value, before = getattr(other, name), getattr(first, name)
                if value != before:
                    told = f"{_name(file)}: {name.replace('_', '-')} is {value!r}, and in {_name(files[0])} {before!r}"
                    raise ConfigurationError(f"{told}: import the files one by one")
        whole = replace(first, machines=[machine for each in read for machine in each.machines])
        click.echo(to_toml(whole).encode(), nl=False)  # in UTF-8, whatever a terminal has


@click.command("add-machines")
@click.argument("file", type=PATH)
@of_a_running_server
def add_machines(server: RunningServer, file: Path) -> None:
    """Add the machines that FILE (`-`: standard input) defines to a running server. They are not in its config file."""
    text = _text(file)
    _read(file, text)
    views = server.ask(commands.ImportMachines(definitions=text), list[MachineView])
    show_machines(views)
    say(f"{count(len(views), 'machine')} added; `spalloc-admin remove-machine` removes one")


@click.command("remove-machine")
@click.argument("machine")
@of_a_running_server
def remove_machine(server: RunningServer, machine: str) -> None:
    """Remove a machine that was added to a running server, and end its jobs."""
    server.ask(commands.RemoveMachine(machine=machine), type(None))
    say(f"{machine} is removed")


def _text(file: Path) -> str:
    try:
        if str(file) == "-":
            return text_of(sys.stdin.buffer)
        with opened(file) as content:
            return text_of(content)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror or error}") from error


def _read(file: Path, text: str) -> Configuration:
    try:
        return read_definitions(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_name(file)}: {error}") from error


def _name(file: Path) -> str:
    return "standard input" if str(file) == "-" else str(file)
