"""sPyNNaker gets its boards by the protocol, and runs scripts on them from `setup` to `end` without a complaint."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.environments import environment
from tests.conformance.hall import Hall, hall

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = ROOT / "examples" / "pynn"
RUN_SECONDS = 600
COMPLAINT = re.compile(r"(WARNING|ERROR|CRITICAL): |Traceback|Warning: ")


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(24, tmp_path_factory.mktemp("floor")) as running:
        yield running


def configured(home: Path, port: int) -> None:
    """Write the config file of the example, for a server at this port, and have all be looked for that can go wrong."""
    text = (EXAMPLE / "spynnaker.cfg").read_text()
    assert "spalloc_port = 22244" in text
    (home / ".spynnaker.cfg").write_text(text.replace("22244", str(port)))


def run(script: Path, hall_: Hall, home: Path) -> str:
    """What a script says; it must end well, and complain of nothing."""
    done = ended(script, hall_, home)
    assert done.returncode == 0, done.stdout[-4000:]
    assert [line for line in done.stdout.splitlines() if COMPLAINT.search(line)] == []
    return done.stdout


def ended(script: Path, hall_: Hall, home: Path) -> subprocess.CompletedProcess[str]:
    """A script that was run to its end."""
    configured(home, hall_.server.port)
    python = environment("spynnaker-7.4.1", "sPyNNaker==1!7.4.1")
    return subprocess.run(
        [python, script],
        cwd=home,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def test_the_example_runs(floor: Hall, tmp_path: Path) -> None:
    said = run(EXAMPLE / "noise.py", floor, tmp_path)
    assert "0 spikes of 100 neurons" in said
    assert "100 synapses of the ring, as they were loaded" in said


def test_a_network_on_three_boards_with_all_that_users_do(floor: Hall, tmp_path: Path) -> None:
    said = run(HERE / "pynn" / "plastic.py", floor, tmp_path)
    (line,) = [line for line in said.splitlines() if line.startswith("RESULT ")]
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    assert result["read back"] == [True, True]
    assert result["segments"] == 2
    assert result["called"] == [["init", "cells"], ["start", "cells"]]


def test_jobs_are_given_back(floor: Hall, tmp_path: Path) -> None:
    run(EXAMPLE / "noise.py", floor, tmp_path)
    with floor.server.connect() as connection:
        assert connection.call("list_jobs") == []


def test_a_core_that_fails_is_told_of_with_its_log(tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text(
        '[[core]]\nx = 0\ny = 0\ncore = 3\nerror = "SWERR"\ntext = "[ERROR] (noise.c: 42): out of tea\\n"\n'
    )
    with hall(24, tmp_path, "--faults", str(faults)) as failing:
        done = ended(EXAMPLE / "noise.py", failing, tmp_path)
    assert done.returncode != 0
    assert re.search(r"0:0:3 \(ph: 3\) in state RUN_TIME_EXCEPTION:SWERR", done.stdout)
    assert "out of tea" in done.stdout
