"""The servers under test, each in a process of its own, and the simulated hardware that they drive."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conformance.environments import published_server
from tests.conformance.wire import Connection

__all__ = ["COMMANDS", "Server", "free_port", "listens", "ours", "published", "simulated_hardware", "until"]

HOST = "127.0.0.1"
SCP_PORT = 17893
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.01
SVER = struct.pack("<2x8B2H3I", 0x87, 0xFF, 0, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0)
"""A request for a BMP's version, to learn whether it answers yet."""
_ports = iter(random.SystemRandom().sample(range(20_000, 30_000), 10_000))
"""Below the ports that systems give to outgoing connections."""
LAUNCHER = Path(__file__).with_name("published_server.py")
COMMANDS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    log: Path

    def connect(self) -> Connection:
        """A new connection to it."""
        return Connection(HOST, self.port)


def until(what: str, condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Wait until `condition` holds; fail, telling `what` was awaited, where it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def ours(config: Path, directory: Path, port: int) -> Iterator[Server]:
    """This project's server."""
    with _server("ours", [str(COMMANDS / "spalloc_server")], config, directory, port) as server:
        yield server


@contextlib.contextmanager
def published(config: Path, directory: Path, port: int) -> Iterator[Server]:
    """The published server, version 7.0.0."""
    python = published_server()
    with _server("published", [str(python), str(LAUNCHER)], config, directory, port) as server:
        yield server


@contextlib.contextmanager
def simulated_hardware(config: Path, hosts: Iterable[str], directory: Path, *options: str) -> Iterator[None]:
    """The simulator, for the BMPs at `hosts` that `config` names."""
    command = [str(COMMANDS / "spalloc-admin"), "simulate-hardware", str(config), *options]
    with _process(command, directory, directory / "hardware.log"):
        for host in hosts:
            until(f"the BMP at {host}", partial(_bmp_answers, host))
        yield


@contextlib.contextmanager
def _server(name: str, command: list[str], config: Path, directory: Path, port: int) -> Iterator[Server]:
    server = Server(name, port, directory / f"{name}.log")
    command = [*command, str(config), "--port", str(port)]
    with _process(command, directory, server.log) as process:
        until(f"the server {name} (see {server.log})", lambda: process.poll() is not None or listens(server.port))
        assert process.poll() is None, f"{' '.join(command)} ended at once:\n{server.log.read_text()}"
        yield server
        assert process.poll() is None, f"the server {name} ended by itself:\n{server.log.read_text()[-4000:]}"


@contextlib.contextmanager
def _process(command: list[str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if str(LAUNCHER) not in command:  # which ends when its BMPs have done all that waits for them
                raise


def free_port() -> int:
    """A port that nobody listens at, and that no connection of a client gets by chance before the server has it."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise AssertionError("no port is free")


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _bmp_answers(host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bmp:
        bmp.settimeout(0.2)
        bmp.connect((host, SCP_PORT))
        try:
            bmp.send(SVER)
            return bool(bmp.recv(512))
        except OSError:
            return False
