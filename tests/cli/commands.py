"""Commands run as processes, or, where it is only for their words, in this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.testing import CliRunner

__all__ = ["one_line_of", "running"]

STOP_SECONDS = 20
BIN = Path(sys.executable).parent


def one_line_of(command: click.Command, *arguments: object) -> str:
    """The one line with which a command ends with exit status 1."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A command of this package as a process; killed where the test leaves it running."""
    process = subprocess.Popen(
        [BIN / str(command[0]), *map(str, command[1:])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
