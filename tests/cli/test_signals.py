"""Signals at the worst moments: while a program starts, while it ends, and where its loop does not turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import STOP_SECONDS, await_caught, catches, running

DELAYS = [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
"""Seconds from the moment at which Python itself has started."""


@pytest.mark.parametrize("module", ["start", "signals"])
def test_signals_are_heeded_before_anything_heavy_is_imported(module: str) -> None:
    code = (
        f"import sys, spalloc_server.cli.{module}; "
        "print(sorted({'click', 'structlog', 'asyncio', 'msgspec', 'rich', 'threading'} & set(sys.modules)))"
    )
    # Measuring coverage imports much
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    assert subprocess.check_output([sys.executable, "-c", code], env=plain) == b"[]\n"


@pytest.mark.parametrize("delay", DELAYS)
def test_a_server_survives_whatever_comes_while_it_starts_and_then_reloads(config: Path, delay: float) -> None:
    with running("spalloc_server", "--log-format", "json", config, "-p", 0) as process:
        await_caught(process.pid, signal.SIGHUP)
        time.sleep(delay)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTOU, signal.SIGPIPE):
            process.send_signal(number)
        assert process.stderr is not None
        events = []
        while "configuration reloaded" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        assert events[0] == "serving"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_starts_ends_a_server_cleanly(config: Path, delay: float, number: int) -> None:
    with running("spalloc_server", "-q", config, "-p", 0) as process:
        await_caught(process.pid, signal.SIGHUP)
        time.sleep(delay)
        process.send_signal(number)
        output, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2, 0.3])
def test_ctrl_c_while_it_starts_ends_spalloc_admin_without_a_traceback(config: Path, delay: float) -> None:
    with running("spalloc-admin", "simulate-hardware", config) as process:
        deadline = time.monotonic() + STOP_SECONDS
        while "SIGUSR1" not in ignored(process.pid):  # by Python itself SIGINT is caught from the start
            assert time.monotonic() < deadline
        time.sleep(delay)
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=STOP_SECONDS)
    assert errors == ""
    assert process.returncode in {0, 130}


def ignored(pid: int) -> set[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return {each.name for each in signal.Signals if mask >> (each - 1) & 1}


def test_signals_at_the_very_end_change_nothing(config: Path) -> None:
    for _ in range(3):
        with running("spalloc_server", "--log-format", "json", config, "-p", 0) as process:
            assert process.stderr is not None
            assert json.loads(process.stderr.readline())["event"] == "serving"
            while process.poll() is None:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
                    process.send_signal(number)
                time.sleep(0.001)
        assert process.returncode == 0


def test_the_end_of_its_terminal_ends_a_program_that_is_for_people_and_nohup_does_not(config: Path) -> None:
    with running("spalloc-admin", "simulate-hardware", config) as process:
        await_caught(process.pid, signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        assert process.wait(STOP_SECONDS) == 0
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-m", "spalloc_server.cli"]
    with subprocess.Popen([*command, "simulate-hardware", config], stdout=subprocess.DEVNULL) as other:
        try:
            await_caught(other.pid, signal.SIGTERM)
            assert not catches(other.pid, signal.SIGHUP)
        finally:
            other.terminate()
        assert other.wait(STOP_SECONDS) == 0


STUCK = """
import asyncio, sys, time
from spalloc_server.cli import signals
signals.hold()
signals_module = sys.modules["spalloc_server.cli.signals"]
signals_module.GRACE_SECONDS, signals_module.HASTE_SECONDS = {seconds}
async def main():
    signals.heed({{2: print, 15: print}})
    print("ready", flush=True)
    {hang}
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("stops", [1, 2])
@pytest.mark.parametrize("hang", ["pass", "time.sleep(60)", "import re; re.match('(a+)+b', 'a' * 60)"])
def test_a_stop_has_a_deadline_even_where_python_does_not_come_to_it(stops: int, hang: str) -> None:
    seconds = (0.2, 9.0) if stops == 1 else (9.0, 0.2)
    code = STUCK.format(seconds=seconds, hang=hang)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            for _ in range(stops):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.1)  # signals that come at once are one
            assert process.wait(5) == 1
        finally:
            process.kill()


def test_signals_of_one_kind_that_have_not_been_heeded_yet_are_one() -> None:
    code = (
        "import asyncio, os, signal\nfrom spalloc_server.cli import signals\nsignals.hold()\n"
        "async def main():\n    told = []\n"
        "    signals.heed({signal.SIGHUP: lambda: told.append(1), signal.SIGTERM: lambda: told.append(15)})\n"
        "    for _ in range(1000):\n        os.kill(os.getpid(), signal.SIGHUP)\n"
        "    for _ in range(2):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(0.1)\n    print(told)\nasyncio.run(main())"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"[1, 15, 15]\n"
