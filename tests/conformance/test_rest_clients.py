"""Published clients of REST use the demo as they use the Java server: SpiNNMan's SpallocClient, and sPyNNaker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.environments import environment
from tests.conformance.hall import REQUIREMENTS, spinnman
from tests.conformance.servers import until
from tests.conformance.test_pynn import COMPLAINT, EXAMPLE, HERE, RUN_SECONDS
from tests.conformance.web_hall import PASSWORD, USER, WebHall, web_hall

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

FIXED = "Spalloc will return "
"""Begins what SpiNNMan warns of where a config file names boards."""

SPYNNAKER = {
    "1!7.4.1": ("sPyNNaker==1!7.4.1",),
    "1!7.3.0": ("sPyNNaker==1!7.3.0", "numpy<2.3", "packaging"),
    "1!7.0.0": ("sPyNNaker==1!7.0.0", "numpy<2", "six", "packaging"),
}
"""With what they forget to require, and what is too new for them."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHall]:
    with web_hall(tmp_path_factory.mktemp("demo")) as running:
        yield running


def test_the_spalloc_client_does_everything_it_can(demo: WebHall, tmp_path: Path) -> None:
    seen = demo.run(spinnman("1!7.4.1"), "drive_rest.py", tmp_path, USER, PASSWORD, demo.token(USER))
    assert seen["wrong password"][0] == seen["nobody"][0] == "SpallocException"
    assert seen["wrong password"] == seen["nobody"]
    assert seen["wrong token"][0] == "SpallocException"
    assert seen["machines"] == 3 * [[["simulated-1200", ["default"], [20, 20], 0, 0]]]
    assert [seen[form][0] for form in ("three", "one of this machine", "triad", "physical", "address")] == [
        *(3, 1),
        *(1, 1, 1),
    ]
    assert seen["triad"] == seen["physical"] == seen["address"]
    assert (seen["rectangle"][0], seen["rectangle at a board"][0]) == (6, 6)
    assert (seen["too many"][0], seen["no such board"][0]) == ("ValueError", "SpallocBoardUnavailableException")
    assert seen["listed"] == [True]
    assert seen["by its number"] == "READY"
    assert seen["outside"] is None
    assert len(seen["boards"]) == 3
    assert seen["boards found"] == seen["boards"]
    assert seen["chips"] == 3 * 48
    assert [seen[f"{length} bytes"] for length in (1, 4, 257, 300_001)] == 4 * [True]
    assert seen["a word"] == "78563412"
    assert seen["no such chip"][0] == "ValueError"
    assert seen["not by this"][0] == "_ProxyServiceError"
    assert seen["answers"] == 3 * ["RC_OK"]
    assert seen["listens"] == [True, True]
    assert seen["answer to a listener"]
    assert not seen["nothing comes"]
    assert seen["by a database"] == ["READY", "RC_OK"]
    assert seen["memory by a database"] == "database"
    assert seen["ended"] == ["DESTROYED", "DESTROYED"]
    assert seen["left"] == []
    assert seen["among the ended"]
    assert seen["no boards"] == [None, {}, None]
    assert [error[0] for error in seen["too late"]] == ["ValueError", "SpallocException"]
    assert [line for line in seen["warnings"] if FIXED not in line] == []


@pytest.mark.parametrize("version", ["1!7.3.0", "1!7.0.0"])
def test_older_clients_boot_boards_and_use_their_memory(demo: WebHall, tmp_path: Path, version: str) -> None:
    seen = demo.run(
        environment(f"rest-{version.removeprefix('1!')}", *REQUIREMENTS[version], "packaging"),
        "drive_older_rest.py",
        tmp_path,
        USER,
        PASSWORD,
        demo.token(USER),
    )
    assert seen == {
        "machines": ["simulated-1200"],
        "forms": [3, 6, 1],
        "booted": 2 * [[3 * 48, True, True, 3, True]],
        "left": [],
        "warnings": [],
    }


def run(script: Path, demo: WebHall, home: Path, url: str, version: str = "1!7.4.1", **environment_: str) -> str:
    """What a script of sPyNNaker says; it must end well, and complain of nothing."""
    (home / ".spynnaker.cfg").write_text(f"[Machine]\nversion = 5\nspalloc_server = {url}\n")
    done = subprocess.run(
        [environment(f"spynnaker-{version.removeprefix('1!')}", *SPYNNAKER[version]), script],
        cwd=home,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", **demo.trust, **environment_},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert [line for line in done.stdout.splitlines() if COMPLAINT.search(line)] == []
    until("its job to end", lambda: demo.jobs() == [])
    return done.stdout


def test_the_example_of_pynn_runs_by_password(demo: WebHall, tmp_path: Path) -> None:
    said = run(EXAMPLE / "noise.py", demo, tmp_path, demo.url_of(USER, PASSWORD))
    assert "0 spikes of 100 neurons" in said
    assert "100 synapses of the ring, as they were loaded" in said


def test_the_example_of_pynn_runs_by_token(demo: WebHall, tmp_path: Path) -> None:
    said = run(EXAMPLE / "noise.py", demo, tmp_path, demo.url, OIDC_BEARER_TOKEN=demo.token(USER))
    assert "100 synapses of the ring, as they were loaded" in said


def test_a_network_on_three_boards_with_all_that_users_do(demo: WebHall, tmp_path: Path) -> None:
    said = run(HERE / "pynn" / "plastic.py", demo, tmp_path, demo.url_of(USER, PASSWORD))
    (line,) = [line for line in said.splitlines() if line.startswith("RESULT ")]
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    assert result["read back"] == [True, True]
    assert result["segments"] == 2
    assert result["called"] == [["init", "cells"], ["start", "cells"]]


@pytest.mark.parametrize("version", ["1!7.3.0", "1!7.0.0"])
def test_older_versions_run_a_population(demo: WebHall, tmp_path: Path, version: str) -> None:
    said = run(HERE / "pynn" / "population.py", demo, tmp_path, demo.url_of(USER, PASSWORD), version)
    assert "SAMPLES (0, 100)" in said  # simulated boards compute nothing
