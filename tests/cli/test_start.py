"""What commands print: where nobody reads it, where there is no room, and where an encoding cannot show it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import BIN, STOP_SECONDS
from tests.sinks import Sink, closing

COMMANDS: dict[str, Callable[[Path], list[object]]] = {
    "help": lambda _: ["spalloc-admin", "--help"],
    "help of one": lambda _: ["spalloc-admin", "drain", "--help"],
    "version": lambda _: ["spalloc-admin", "--version"],
    "module": lambda _: [sys.executable, "-m", "spalloc_server.cli", "--version"],
    "check-config": lambda config: ["spalloc-admin", "check-config", config],
    "figures": lambda config: ["spalloc-admin", "simulate", trace_in(config), "--machine", "2x2"],
    "figures in JSON": lambda config: ["spalloc-admin", "simulate", trace_in(config), "--machine", "2x2", "--json"],
    "server's help": lambda _: ["spalloc_server", "--help"],
    "server's version": lambda _: [sys.executable, "-m", "spalloc_server", "--version"],
}


def trace_in(config: Path) -> Path:
    path = config.with_name("trace.csv")
    path.write_text("submit_s,duration_s,owner,request\n0,1,me,1\n")
    return path


def run(command: list[object], sink: Sink, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    return subprocess.run(
        words if sink.number is not None else closing(1, *words),
        stdout=sink.number,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        timeout=STOP_SECONDS,
    )


@pytest.mark.parametrize("kind", ["no reader", "full disk", "gone terminal", "closed"])
@pytest.mark.parametrize("what", COMMANDS)
def test_output_that_nobody_takes_ends_a_command_without_a_traceback(what: str, kind: str, config: Path) -> None:
    with Sink(kind) as sink:
        done = run(COMMANDS[what](config), sink)
    told = {
        "no reader": "",
        "full disk": "standard output cannot be written: No space left on device",
        "gone terminal": "standard output cannot be written: Input/output error",
        "closed": "",
    }[kind]
    assert len(done.stderr.splitlines()) == bool(told), done.stderr
    assert told in done.stderr
    assert done.returncode == (0 if kind == "closed" else 1)


def test_what_an_encoding_cannot_show_is_replaced(config: Path) -> None:
    config.write_text(config.read_text().replace('"frame"', '"Früh"'), encoding="utf-8")
    with Sink("readable") as sink:
        done = run(["spalloc-admin", "check-config", config], sink, PYTHONIOENCODING="ascii")
        assert b"Fr?h: 4 x 2 triads" in sink.read()
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_another_file_is_not_taken_for_one_of_the_output(config: Path) -> None:
    with Sink("readable") as sink:
        done = run([*COMMANDS["figures"](config), "--plot", "/dev/full"], sink)
    assert done.stderr == "spalloc-admin simulate: /dev/full cannot be written: No space left on device\n"
    assert done.returncode == 1
