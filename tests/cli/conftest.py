"""What the tests of the command lines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from spalloc_server.cli import servers
from spalloc_server.cli.running_server import VARIABLE
from tests.hardware.addresses import loopback_hosts

SPINNER_24 = Path(__file__).parents[2] / "examples" / "spinner-24.csv"


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands say where the log goes; the next test has the log as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def tables_are_as_wide_as_they_need_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe: some ways to run tests say how wide the terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_other_servers(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other tests run servers on this computer at the same time; the commands find none of them."""
    monkeypatch.setattr(servers, "PROC", tmp_path_factory.mktemp("proc"))
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def host() -> str:
    """A loopback address for the BMP of a simulated frame."""
    (host,) = loopback_hosts(1)
    return host


@pytest.fixture
def config(tmp_path: Path, host: str) -> Path:
    """A config file with one machine, `frame`, of 24 boards in one frame."""
    path = tmp_path / "frame.toml"
    path.write_text(
        'ip = "127.0.0.1"\nseconds_before_free = 0.1\n[[machine]]\nform = "standard_ips"\nname = "frame"\n'
        f'board_locations = "{SPINNER_24}"\nbase_ip = "{host}"\n'
    )
    return path


@pytest.fixture
def quiet() -> Iterator[None]:
    """The servers' logs are not to get between the words of a command, which shares their standard output here."""
    with structlog.testing.capture_logs():
        yield
