"""What the commands do alike."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import platform
import signal
import subprocess
import sys

import pytest

from spalloc_server.cli import process
from spalloc_server.cli.process import count, on_stop_signals, one_line_errors, run, say
from spalloc_server.errors import ListenError, SpallocServerError
from tests.house import PATIENCE


def test_an_error_becomes_one_line_and_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, one_line_errors("program"):
        raise ListenError("the port\n  is in use")
    assert exit_.value.code == 1
    assert capsys.readouterr() == ("", "program: the port is in use\n")


def test_the_first_of_several_errors_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors("program"):
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [ListenError("one")]), SpallocServerError("two")])
    assert capsys.readouterr().err == "program: one\n"


def test_a_reader_that_has_gone_is_left_to_click(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), one_line_errors("program"):
        raise ExceptionGroup("tasks", [BrokenPipeError()])
    assert capsys.readouterr() == ("", "")


def test_a_fault_of_the_program_itself_is_not_dressed_up() -> None:
    with pytest.raises(ExceptionGroup, match="tasks"), one_line_errors("program"):
        raise ExceptionGroup("tasks", [KeyError("a bug")])


@pytest.mark.parametrize("uvloop", [True, False])
def test_signals_are_heeded_with_and_without_uvloop(uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loops = []

    async def main() -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)
        signals: asyncio.Queue[str] = asyncio.Queue()
        on_stop_signals(lambda: signals.put_nowait("stop"))
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            async with asyncio.timeout(PATIENCE):
                assert await signals.get() == "stop"

    run("program", main())
    assert loops == ["uvloop"] if uvloop else loops == ["asyncio.unix_events"]


def test_numbers_agree_with_their_nouns() -> None:
    assert [count(number, "board") for number in (0, 1, 2)] == ["0 boards", "1 board", "2 boards"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_line_goes_on_below_between_two_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    for file, indent, lines in (
        (Terminal(), 0, ["reason  it waits for boards of", "a-machine-with-a-name-of-over-thirty", "and more"]),
        (
            Terminal(),
            8,
            ["reason  it waits for boards of", "        a-machine-with-a-name-of-over-thirty", "        and more"],
        ),
        (io.StringIO(), 0, ["reason  it waits for boards of a-machine-with-a-name-of-over-thirty and more"]),
    ):
        say("reason  it waits for boards of a-machine-with-a-name-of-over-thirty and more", indent=indent, file=file)
        assert file.getvalue().splitlines() == lines


def test_ctrl_c_before_it_has_begun_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        raise AssertionError

    monkeypatch.setattr(process, "_loop_factory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("program", main())
    gc.collect()
    assert [str(each.message) for each in recwarn if "never awaited" in str(each.message)] == []


KEEPS = """
import re, sys
from spalloc_server.cli.process import give_memory_back

def mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

if sys.argv[1] == "gives":
    give_memory_back()
before = mib()
hash = bytearray(b"x") * (19 * 2**20)
del hash
large, small = [], []
for _ in range(64):
    large.append(bytearray(b"x") * 2**19)
    small.append(bytearray(b"x") * 2000)
large.clear()
print(mib() - before)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="other C libraries have ways of their own")
def test_memory_of_large_blocks_goes_back_to_the_system() -> None:
    def grown(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", KEEPS, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert grown("gives") < 4
    assert grown("keeps") > 24, "the C library does it by itself now: `give_memory_back` can go"
