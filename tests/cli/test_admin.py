"""`spalloc-admin`: its commands, found by name."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from spalloc_server import __version__
from spalloc_server.cli import admin
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
    result = CliRunner().invoke(main, ["xyz"])
    assert result.exit_code == 2
    assert "No such command 'xyz'." in result.stderr
    assert "mean" not in result.stderr


@pytest.mark.parametrize(("said", "meant"), [("statsu", "status"), ("dmeo", "demo"), ("boord", "board")])
def test_a_misspelt_command_brings_the_one_that_may_be_meant(said: str, meant: str) -> None:
    result = CliRunner().invoke(main, [said])
    assert result.exit_code == 2
    assert f"No such command '{said}'. Did you mean '{meant}'?" in result.stderr


def test_ctrl_c_ends_a_command_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(admin, "import_module", interrupted)
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, result.output) == (130, "")


def test_it_tells_its_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"spalloc-admin {__version__}\n"
