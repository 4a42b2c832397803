"""REST answers as the Java server does, but for the differences that the documentation lists, each with its reason."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from spalloc_server.config.load import load
from tests.conformance.rest_replay import CAPTURES, USERS, Replay, definitions, listed, password_of
from tests.conformance.servers import COMMANDS, free_port, listens, ours, simulated_hardware, until

pytestmark = pytest.mark.conformance

WEB = """
[web]
port = {port}
ip = "127.0.0.1"
max_role = "admin"
requests_per_second = 0
emergency_code = "c0de"
"""


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    """A server that has the machines and users of the scenario."""
    given, config, port = tmp_path / "java.json", tmp_path / "hall.toml", free_port()
    given.write_text(json.dumps(definitions()))
    toml = _run(tmp_path, "import-machines", str(given))
    config.write_text(f"seconds_before_free = 0\n{toml}{WEB.format(port=port)}")
    config.chmod(0o600)
    hosts = [host for machine in load(config).machines for host in machine.bmp_ips.values()]
    with simulated_hardware(config, hosts, tmp_path), ours(config, tmp_path, free_port()):
        for name, role in USERS.items():
            _run(tmp_path, "user", "add", name, "--role", role, "--config", str(config), given=password_of(name))

        def all_free() -> bool:
            views = json.loads(_run(tmp_path, "machines", "--json", "--config", str(config)))
            return all(
                {state for state, number in view["boards"].items() if number} <= {"free", "dead"} for view in views
            )

        until("the front process", lambda: listens(port))
        yield Replay(f"http://127.0.0.1:{port}/spalloc", lambda: until("boards that are free", all_free))


def _run(folder: Path, *arguments: str, given: str = "") -> str:
    command = [str(COMMANDS / "spalloc-admin"), *arguments]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=True).stdout


def test_answers_differ_in_what_is_listed_and_in_nothing_else(replay: Replay) -> None:
    found = Counter(difference for capture in CAPTURES for difference in replay.differences(capture))
    expected = Counter(difference for difference, _ in listed())
    assert [*(found - expected)] == [], "these differences are not in docs/reference/rest-differences.md"
    assert [*(expected - found)] == [], "these differences are there no more: take their rows away"


def test_no_row_is_a_wildcard() -> None:
    requests = {each["name"] for capture in CAPTURES for each in json.loads(capture.read_text())}
    for difference, why in listed():
        assert difference.request in requests
        assert difference.what.partition(".")[0].partition("[")[0].split()[0] in {"status", "header", "text", "json"}
        assert difference.java != difference.ours
        assert why
