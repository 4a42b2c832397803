"""`make` after an installation that was interrupted: the next one makes everything anew, and it works.

The Python that the Makefile is given here is a stand-in: a script that makes environments and installs into them in an
instant, and that interrupts or kills make in the step that the test names.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import as_in_a_terminal
from tests.house import PATIENCE
from tests.pages import ROOT

STAND_IN = f"""#!{sys.executable} -IS
import os, pathlib, signal, sys
here = pathlib.Path(__file__).absolute()
arguments = sys.argv[1:]
if arguments[0] == "-c":
    sys.exit()
folder = pathlib.Path.cwd()
steps, whole = folder / "steps", folder / ".venv" / "whole"
with steps.open("a") as file:
    print(*arguments, file=file)
number = len(steps.read_text().splitlines())
if arguments[:2] == ["-m", "venv"]:
    for old in sorted((folder / ".venv").rglob("*"), reverse=True):  # --clear
        old.rmdir() if old.is_dir() else old.unlink()
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(here.read_text())
    python.chmod(0o755)
else:
    assert arguments[:3] == ["-m", "pip", "install"], arguments
    assert (folder / ".venv" / "has-pip").exists(), "No module named pip"
    (folder / ".venv" / "has-pip").unlink()  # pip is replaced, or damaged; in any case not there for a moment
how = os.environ.get(f"STEP_{{number}}")
if how == "fails":
    (folder / ".venv" / "has-pip").touch()
    sys.exit(1)
if how:
    os.killpg(0, int(how))
    signal.pause()
(folder / ".venv" / "has-pip").touch()
admin = folder / ".venv" / "bin" / "spalloc-admin"
if "--editable" in arguments:
    admin.write_text("#!/bin/sh\\necho $@\\n")
    admin.chmod(0o755)
"""

STEPS = 3
"""Of `make demo` in a fresh checkout: the environment, pip, the package."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "stand-in"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str = "demo", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in a process group of its own, as a terminal does; the steps that it took are in `steps`."""
    (checkout / "steps").unlink(missing_ok=True)
    return subprocess.run(
        ["make", target, f"PYTHON={checkout / 'stand-in'}", "ARGS=--once"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        start_new_session=True,
        preexec_fn=as_in_a_terminal,
        timeout=PATIENCE,
    )


def steps(checkout: Path) -> list[str]:
    path = checkout / "steps"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_an_installation_that_was_interrupted_is_made_anew(checkout: Path, step: int, number: int) -> None:
    assert make(checkout, **{f"STEP_{step}": str(int(number))}).returncode != 0
    again = make(checkout)
    assert (again.returncode, again.stdout.splitlines()[-1], again.stderr) == (0, "demo --once", "")
    assert len(steps(checkout)) == STEPS
    assert make(checkout).stdout == "demo --once\n"
    assert steps(checkout) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_in_a_later_target_is_made_good_by_the_next_one(checkout: Path, number: int) -> None:
    assert make(checkout).returncode == 0
    assert make(checkout, "docs", STEP_1=str(int(number))).returncode != 0
    again = make(checkout)
    assert (again.returncode, again.stdout.splitlines()[-1], again.stderr) == (0, "demo --once", "")
    assert len(steps(checkout)) == STEPS


@pytest.mark.parametrize("missing", ["python", "has-pip"])
def test_an_environment_without_a_python_or_that_an_older_make_left_half_made_is_made_anew(
    checkout: Path, missing: str
) -> None:
    assert make(checkout).returncode == 0
    if missing == "python":
        (checkout / ".venv" / "bin" / "python").unlink()
    else:
        (checkout / ".venv" / "has-pip").unlink()
        (checkout / ".venv" / ".package").unlink()
    again = make(checkout)
    assert (again.returncode, again.stdout.splitlines()[-1], again.stderr) == (0, "demo --once", "")


def test_an_installation_that_gives_up_by_itself_leaves_the_environment_as_it_was(checkout: Path) -> None:
    assert make(checkout).returncode == 0
    (checkout / "pyproject.toml").touch()
    later = (checkout / ".venv" / ".package").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert make(checkout, STEP_1="fails").returncode != 0
    assert make(checkout).returncode == 0
    assert [step.split()[1] for step in steps(checkout)] == ["pip", "pip"]
