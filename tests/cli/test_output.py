"""Standard output and error of programs that serve: nothing holds them up, and what can be written is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import BIN, STOP_SECONDS, await_caught
from tests.sinks import KINDS, Sink, closing

BEGIN = """
import sys, warnings, logging, threading, click
from spalloc_server.cli import logs, output
from spalloc_server.log.logger import get_logger
output.never_wait()
logs.configure({options})
log = get_logger("test")
class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")
"""

EVERY_WAY = """
import asyncio, os, rich.console
log.info("by structlog", value=Unshowable(), bytes="\\udc80")
logging.getLogger("any").error("by the standard library %s", Unshowable())
logging.getLogger("any").error("with the wrong arguments", 1, 2)
logging.getLogger("any").log(45, "with a level of its own")
warnings.warn("by warnings")
print("by print", "\\udc80", file=sys.stderr)
click.echo("by click", err=True)
rich.console.Console(stderr=True).print("by rich")
async def fail():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
asyncio.run(fail())
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Unraisable:
    def __del__(self):
        raise RuntimeError("by a finalizer")
Unraisable()
sys.stderr.write("without an end of line")
sys.stderr.flush()
os.fstat(2)
"""


def run(
    code: str, options: str = "", *, stderr: int | None = subprocess.PIPE, stdout: int | None = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", BEGIN.replace("{options}", options) + code]
    if stderr is None:
        command = closing(2, *command)
    return subprocess.run(command, stdout=stdout, stderr=stderr, timeout=STOP_SECONDS)


def test_text_gets_there_by_every_way_and_in_order() -> None:
    done = run(EVERY_WAY)
    told = done.stderr.decode()
    at = -1
    for what in (
        'by structlog  value="(Unshowable that cannot be shown: RuntimeError)"  bytes="\\udc80"',
        "error   by the standard library %s",
        "error   with the wrong arguments",
        "error   with a level of its own",
        "UserWarning: by warnings",
        "by print \\udc80",
        "by click",
        "by rich",
        "ZeroDivisionError: division by zero",
        "Exception in thread",
        "RuntimeError: by a finalizer",
        "without an end of line",
    ):
        found = told.find(what)
        assert found > at, f"{what!r} is not told in its turn:\n{told}"
        at = found
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("kind", KINDS)
def test_by_no_way_is_a_program_held_up_or_ended(kind: str, tmp_path: Path) -> None:
    end = f"open({str(tmp_path / 'done')!r}, 'w').close()"
    with Sink(kind) as sink:
        assert run(EVERY_WAY + end, stderr=sink.number).returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_standard_output_is_no_different(kind: str) -> None:
    code = "print('x' * 100_000); print('done', file=sys.stderr); sys.stdout.isatty()"
    with Sink(kind) as sink:
        if sink.number is None:
            command = closing(1, sys.executable, "-c", BEGIN.replace("{options}", "") + code)
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=STOP_SECONDS)
        else:
            done = run(code, stdout=sink.number)
    assert (done.returncode, done.stderr) == (0, b"done\n")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_log_names_the_error_of_a_value_that_cannot_be_rendered(log_format: str) -> None:
    done = run(
        "around = []; around.append(around)\n"
        "log.info('one', value=Unshowable())\nlog.info('two', value=around)\nlog.info(Unshowable(), value=1)\n"
        "log.info('three', value={1: {(1, 2): 3}})\nlog.info('last')",
        f"log_format={log_format!r}",
    )
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 5
    if log_format == "json":
        entries = [json.loads(line) for line in lines]
        assert entries[1]["not_shown"] == "ValueError"
        assert entries[3]["not_shown"] == "TypeError"
        assert [entries[number]["event"] for number in (0, 1, 3, 4)] == ["one", "two", "three", "last"]
    assert "that cannot be shown" in lines[0]
    assert "that cannot be shown" in lines[2]


def test_a_crash_leaves_its_traceback_and_what_was_logged_before() -> None:
    done = run("for number in range(1000): log.info('line', number=number)\nraise RuntimeError('the end')")
    lines = done.stderr.decode().splitlines()
    assert [line.rpartition("=")[2] for line in lines[:1000]] == [str(number) for number in range(1000)]
    assert lines[1000:] == [*lines[1000:-1], "RuntimeError: the end"]
    assert "Traceback (most recent call last):" in lines
    assert done.returncode == 1


def test_no_thread_writes_any_more_when_python_takes_itself_apart(tmp_path: Path) -> None:
    code = (
        "log.info('it'); print('that')\nimport atexit; atexit._run_exitfuncs()\n"
        f"print(len(threading.enumerate()), file=open({str(tmp_path / 'threads')!r}, 'w'))"
    )
    with Sink("full disk") as sink:
        run(code, stderr=sink.number, stdout=sink.number)
    assert (tmp_path / "threads").read_text() == "1\n"


def test_what_finalizers_say_at_the_very_end_is_told_too() -> None:
    done = run("import builtins\nclass Late:\n    def __del__(self): 1 / 0\nbuiltins.late = Late()")
    assert b"ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_lines_that_do_not_fit_are_counted_in_the_log_itself(log_format: str) -> None:
    reader, writer = os.pipe()
    code = (
        "import spalloc_server.log.background as background; background.BUFFER_BYTES = 20_000\n"
        "for number in range(5000): log.error('line', number=number)\n"
        "print('full', flush=True); sys.stdin.read(); log.error('after')"
    )
    command = [sys.executable, "-c", BEGIN.replace("{options}", f"log_format={log_format!r}") + code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": writer}
    with subprocess.Popen(command, **pipes) as process, os.fdopen(reader) as lines:  # type: ignore[call-overload]
        os.close(writer)
        assert process.stdout.read(5) == b"full\n"
        kept = lost = 0
        while kept + lost < 5000:
            line = next(lines)
            if "lines of the log were lost" in line:
                lost += json.loads(line)["lines"] if log_format == "json" else int(line.rpartition("lines=")[2])
            else:
                kept += "number" in line
        process.stdin.close()
        rest = lines.read().splitlines()
    assert kept + lost == 5000
    assert lost > 0
    assert len(rest) == 1
    assert "after" in rest[0]


def test_both_in_one_file_stay_in_order(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        run(
            "for number in range(100): print(number, file=sys.stderr if number % 2 else sys.stdout)",
            stdout=file.fileno(),
            stderr=file.fileno(),
        )
    assert (tmp_path / "out").read_text().split() == [str(number) for number in range(100)]


def test_a_torn_last_line_of_the_file_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("torn")
    with (tmp_path / "log").open("ab") as file:
        run("print('whole', file=sys.stderr)", stderr=file.fileno())
    assert (tmp_path / "log").read_text() == "torn\nwhole\n"


def test_nothing_else_gets_the_number_of_a_closed_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    code = (
        f"file = open({str(path)!r}, 'w'); log.error('not in there'); print('nor this', file=sys.stderr)\n"
        "sys.exit(file.fileno() < 3)"
    )
    assert run(code, stderr=None).returncode == 0
    assert path.read_text() == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2], ids=["output", "error"])
def test_simulated_hardware_is_not_held_up_either(config: Path, kind: str, number: int) -> None:
    with program_on(kind, number, "simulate-hardware", config) as process:
        await_caught(process.pid, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("kind", ["full disk", "closed", "full pipe", "gone terminal"])
def test_the_demo_is_not_held_up_either(config: Path, kind: str) -> None:
    with program_on(kind, 1, "demo", "--once", "--port", 0, "--config", config) as process:
        assert process.wait(STOP_SECONDS) == 0


@contextmanager
def program_on(kind: str, number: int, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """`spalloc-admin` with standard output (1) or error (2) of this kind; killed at the end."""
    command = [str(BIN / "spalloc-admin"), *map(str, arguments)]
    with Sink(kind) as sink:
        if sink.number is None:
            command = closing(number, *command)
        stdout, stderr = (sink.number if each == number else subprocess.DEVNULL for each in (1, 2))
        with subprocess.Popen(command, stdout=stdout, stderr=stderr) as process:
            try:
                yield process
            finally:
                process.kill()
