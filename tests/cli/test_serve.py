"""`spalloc_server`: its options, its refusals, and its life as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from spalloc_server import __version__
from spalloc_server.cli.serve import main
from spalloc_server.storage.files import Lock
from tests.cli.commands import STOP_SECONDS, one_line_of, running
from tests.house import PATIENCE


def logged(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """The next line of a JSON log that tells this event."""
    assert process.stderr is not None
    for line in process.stderr:
        entry = json.loads(line)
        if entry["event"] == event:
            return dict(entry)
    raise AssertionError(f"the log ended without {event!r}")


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_it_tells_its_version(option: str) -> None:
    result = CliRunner().invoke(main, [option])
    assert (result.exit_code, result.output) == (0, f"spalloc_server {__version__}\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_option(option: str) -> None:
    result = CliRunner().invoke(main, [option])
    assert result.exit_code == 0
    for name in (
        "--version",
        "--quiet",
        "--cold-start",
        "--port",
        "--watch-config",
        "--job-log",
        "--state",
        "--log-format",
    ):
        assert name in result.output


@pytest.mark.parametrize("arguments", [[], ["a.toml", "b.toml"], ["--port", "x", "a.toml"], ["-p", "65536", "a.toml"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    line = one_line_of(main, tmp_path / "none.toml")
    assert line == f"spalloc_server: {tmp_path / 'none.toml'}: cannot be read: No such file or directory"


@pytest.mark.parametrize("path", [".", "/", "..", ""])
def test_a_folder_in_place_of_a_file_is_told_in_one_line(path: str) -> None:
    assert one_line_of(main, path).endswith(": cannot be read: Is a directory")


def test_a_typo_in_the_config_is_told_with_its_line(config: Path) -> None:
    config.write_text(config.read_text().replace("base_ip", "base_pi"))
    line = one_line_of(main, config)
    assert line.startswith(f"spalloc_server: {config}, line 7: machine 'frame': ")
    assert "base_pi" in line


def test_a_python_config_that_others_may_write_is_executed_only_when_told_to(tmp_path: Path) -> None:
    config = tmp_path / "open.py"
    config.write_text("raise SystemExit('was executed')")
    config.chmod(0o666)
    assert "chmod go-w" in one_line_of(main, config)
    assert "was executed" in one_line_of(main, config, "--allow-unsafe-config")


def test_a_port_in_use_is_reported_in_one_line(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = one_line_of(main, config, "--port", port)
    assert line.startswith(f"spalloc_server: cannot listen on port {port} of 127.0.0.1: it is in use")


def test_a_state_that_another_server_has_is_told_in_one_line(config: Path, tmp_path: Path) -> None:
    lock = Lock(tmp_path / "state.db")
    try:
        line = one_line_of(main, config, "-p", 0, "--state", tmp_path / "state.db")
    finally:
        lock.release()
    assert line.startswith(f"spalloc_server: the state in {tmp_path / 'state.db'} is in use by the server with process")


def test_it_serves_reloads_and_stops_gracefully(config: Path, tmp_path: Path) -> None:
    options = ["--log-format", "json", config, "-p", "0", "--state", tmp_path / "state.db", "--job-log", tmp_path / "j"]
    with running("spalloc_server", *options) as process:
        serving = logged(process, "serving")
        assert (serving["machines"], serving["boards"]) == ({"frame": 24}, 24)
        port = int(str(serving["address"]).removeprefix("127.0.0.1:"))
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client, client.makefile("rw") as lines:
            lines.write('{"command": "create_job", "kwargs": {"owner": "me"}}\n')
            lines.flush()
            assert json.loads(lines.readline()) == {"return": 1}
            config.write_text("machine = 1")
            process.send_signal(signal.SIGHUP)
            assert str(config) in str(logged(process, "configuration not changed: the file is bad")["error"])
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)  # nobody simulates the BMP: a graceful stop would wait for it
            process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0
    assert json.loads((tmp_path / "j").read_text().splitlines()[0])["owner"] == "me"
    assert (tmp_path / "state.db").exists()


@pytest.mark.parametrize("module", ["spalloc_server.server", "spalloc_server"])
def test_it_is_run_as_a_module_too(module: str, config: Path) -> None:
    with running("python", "-m", module, config, "-p", "0", "--log-format", "json") as process:
        logged(process, "serving")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # nobody simulates the BMP: a graceful stop would wait for it
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0


def test_quiet_hides_all_but_errors(config: Path, tmp_path: Path) -> None:
    with running("spalloc-server", "-q", config, "--port=0", "--cold-start") as process:
        assert process.stderr is not None
        while not (tmp_path / ".frame.toml.state.db.lock").exists():
            assert process.poll() is None
        config.write_text("machine = 1")
        process.send_signal(signal.SIGHUP)
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=STOP_SECONDS)
    assert "error   configuration not changed" in first
    assert (process.returncode, rest) == (0, "")
