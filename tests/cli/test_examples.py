"""Every `--help` has an example, and each example can be given."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from spalloc_server.cli.admin import main
from spalloc_server.cli.examples import EXAMPLES, examples_of
from spalloc_server.cli.serve import main as serve
from spalloc_server.cli.web import main as web
from tests.test_docs_command_line import commands, give

NAMES = [name for name, _ in commands()]
GROUPS = sorted({name.partition(" ")[0] for name in NAMES if " " in name})


def test_there_are_examples_of_all_commands_and_of_no_others() -> None:
    assert sorted(EXAMPLES) == sorted(NAMES)


@pytest.mark.parametrize("name", [*NAMES, *GROUPS])
def test_help_of_every_command_ends_with_an_example(name: str) -> None:
    told = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=500).output
    for example in examples_of(name):
        assert f"\n    {example}\n" in told


@pytest.mark.parametrize("program", [main, serve, web])
def test_help_of_every_program_ends_with_an_example(program: click.Command) -> None:
    _, examples = CliRunner().invoke(program, ["--help"]).output.split("Example")
    name, *_ = examples.split()[1:]
    assert name in {"spalloc-admin", "spalloc_server", "spalloc_web"}


@pytest.mark.parametrize("name", NAMES)
def test_every_example_can_be_given(name: str) -> None:
    for example in examples_of(name):
        give(example)
        assert len(example) <= 76  # so that it fits into 80 columns
