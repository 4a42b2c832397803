"""`spalloc-admin simulate-hardware`, from its start to ctrl+c, and its refusals."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spalloc_server.cli.simulate_hardware import simulate_hardware
from spalloc_server.hardware.scp import SCP_PORT, Command, Request, Response, Version
from spalloc_server.simulator.boot import BOOT_PORT
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE
from tests.simulator.machines import boot_datagrams

CONFIG = """
configuration = Configuration(
    machines=[Machine.single_board("one", bmp_ip="{host}", spinnaker_ip="127.0.0.1")]
)
"""


def write_config(directory: Path, host: str) -> Path:
    path = directory / "machines.py"
    path.write_text(CONFIG.format(host=host))
    return path


def refused(*arguments: str | Path) -> str:
    """The one line that a command line is refused with."""
    result: Result = CliRunner().invoke(simulate_hardware, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    return line


def version_of(host: str) -> Version:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as driver:
        driver.settimeout(PATIENCE)
        driver.sendto(Request(0, Command.VERSION, 1).encode(), (host, SCP_PORT))
        return Version.decode(Response.decode(driver.recv(512)).payload)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_with_faults_until_it_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    (host,) = loopback_hosts(1)
    faults = tmp_path / "faults.toml"
    faults.write_text('[[bmp]]\nversion = "1.33"\n')
    command = [sys.executable, "-m", "spalloc_server.cli", "simulate-hardware"]
    with subprocess.Popen(
        [*command, write_config(tmp_path, host), "--faults", faults, "--real-timings"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{host}:17893  1 board\n"
        assert process.stdout.readline() == "simulated: 1 board in 1 frame; ctrl+c stops\n"
        version = version_of(host)
        process.send_signal(stop)
        output, errors = process.communicate(timeout=PATIENCE)
    assert version.version == (1, 33, 0)
    assert output == "stopped after 1 datagrams, 0 of them while a BMP was busy\n"
    assert (process.returncode, errors) == (0, "")


def test_an_address_that_is_not_loopback_is_refused(tmp_path: Path) -> None:
    line = refused(write_config(tmp_path, "10.11.193.0"))
    assert line.startswith("spalloc-admin simulate-hardware: cannot simulate the BMP at 10.11.193.0: only loopback")


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    (host,) = loopback_hosts(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((host, SCP_PORT))
        line = refused(write_config(tmp_path, host))
    assert line == f"spalloc-admin simulate-hardware: cannot listen on {host}:17893: Address already in use"


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (host,) = loopback_hosts(1)
    assert "none.py" in refused(tmp_path / "none.py")
    assert "none.toml" in refused(write_config(tmp_path, host), "--faults", tmp_path / "none.toml")


def test_boards_that_are_switched_on_boot_without_a_server(tmp_path: Path) -> None:
    bmp, board = loopback_hosts(2)
    config = write_config(tmp_path, bmp)
    config.write_text(config.read_text().replace("127.0.0.1", board))
    command = [sys.executable, "-m", "spalloc_server.cli", "simulate-hardware", str(config), "--boards"]
    with subprocess.Popen(
        [*command, "--power-on"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "ctrl+c stops" in next(line for line in process.stdout if line.startswith("simulated"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            for datagram in [b"nonsense", *boot_datagrams()[1:], *boot_datagrams()]:
                client.sendto(datagram, (board, BOOT_PORT))
            client.connect((board, SCP_PORT))
            answer = b""
            while not answer:
                client.settimeout(0.2)
                client.send(bytes.fromhex("0000 87ff00ff ffff 0000 0000 0100 00000000 00000000 00000000"))
                with contextlib.suppress(TimeoutError):
                    answer = client.recv(512)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert answer.endswith(b"SC&MP/SpiNNaker\x004.0.0\x00")
    assert (process.returncode, errors) == (0, "")
    assert re.search(r"boards: 1 boot, 1 spoilt image, \d+ datagrams?, 1 that made no sense\n", output)


def test_boards_need_addresses_that_clients_can_use(tmp_path: Path) -> None:
    (host,) = loopback_hosts(1)
    line = refused(write_config(tmp_path, host), "--boards")
    assert "cannot simulate the board (0, 0, 0) of one at 127.0.0.1: clients take this address for themselves" in line
