"""`spalloc-admin`: its commands, found by name."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from spalloc_server import __version__
from spalloc_server.cli.admin import COMMANDS, main


def test_help_lists_all_commands_without_importing_them() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_its_own_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"{name} [OPTIONS]" in result.output
    assert isinstance(main, click.Group)
    assert main.list_commands(click.Context(main)) == list(COMMANDS)


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["dmeo"])
    assert result.exit_code == 2
    assert "No such command 'dmeo'" in result.stderr


def test_it_tells_its_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"spalloc-admin {__version__}\n"
