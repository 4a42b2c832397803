"""Commands run as processes, or, where it is only for their words, in this one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.testing import CliRunner

from tests.house import PATIENCE

__all__ = ["as_in_a_terminal", "await_caught", "catches", "one_line_of", "running"]

STOP_SECONDS = PATIENCE
BIN = Path(sys.executable).parent


def one_line_of(command: click.Command, *arguments: object) -> str:
    """The one line with which a command ends with exit status 1."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@contextmanager
def running(*command: object, folder: Path = BIN) -> Iterator[subprocess.Popen[str]]:
    """A command of this package (or of another `folder`) as a process; killed where the test leaves it running."""
    process = subprocess.Popen(
        [folder / str(command[0]), *map(str, command[1:])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_in_a_terminal,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def await_caught(pid: int, number: int) -> None:
    """Wait until a process has a handler for this signal."""
    deadline = time.monotonic() + STOP_SECONDS
    while not catches(pid, number):
        assert time.monotonic() < deadline


def as_in_a_terminal() -> None:
    """Undo in a new process what `nohup`, or a shell's `&`, has done to the test's."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
