"""The servers that are compared, each in a process of its own beside simulated hardware, and what they consume."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.environments import published_server
from tests.conformance.machines import TestMachine, bmp_hosts, write_config
from tests.conformance.servers import free_port

__all__ = [
    "COMMANDS",
    "HOST",
    "LIVE",
    "Subject",
    "echo",
    "hardware",
    "ours",
    "published",
    "request",
    "running",
    "until",
]

HOST = "127.0.0.1"
LIVE = "live"
"""The machine that live jobs fill and wait for; life-cycles are measured on the other one."""

MACHINES = (
    TestMachine(name="free", cabinet=0, width=20, height=20),
    TestMachine(name=LIVE, cabinet=94, network=127, width=8, height=5, tags=frozenset({LIVE})),
)
LAUNCHER = Path(__file__).parent.parent / "tests" / "conformance" / "published_server.py"
COMMANDS = Path(sys.executable).parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CHUNK = 100
"""Jobs that are asked for at once while a server is filled."""

PER_ADDRESS = 10_000
"""Jobs that a server is filled with from one address, no more than `jobs_per_address` allows."""

TICK = os.sysconf("SC_CLK_TCK")


def request(command: str, *args: object, **kwargs: object) -> str:
    """The line that asks for `command`."""
    return json.dumps({"command": command, "args": args, "kwargs": kwargs})


@dataclass
class Subject:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    live: int = 0
    """Live jobs."""

    def cpu(self) -> float:
        """Seconds of processor time that it has used so far, all threads, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Bytes that it has in memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(self.name)

    def listens(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stalls(self) -> list[tuple[int, int]]:
        """(milliseconds, those of them in which it worked) of stalls of its event loop that it has logged."""
        stalls = re.findall(r"stalled_ms=(\d+) +cpu_ms=(\d+)", self.log.read_text(errors="replace"))
        return [(int(stalled), int(worked)) for stalled, worked in stalls]

    def connect(self, host: str = HOST) -> socket.socket:
        """A connection from the loopback address `host`."""
        return socket.create_connection((HOST, self.port), timeout=60, source_address=(host, 0))

    def ask(self, command: str, *args: object, **kwargs: object) -> object:
        """One command on a connection of its own; its result."""
        with self.connect() as sock, sock.makefile("rwb") as file:
            file.write(request(command, *args, **kwargs).encode() + b"\n")
            file.flush()
            return json.loads(file.readline())["return"]

    def fill(self, jobs: int, deadline: float) -> bool:
        """Have so many live jobs; whether that was reached by `deadline`. They never expire."""
        while self.live < jobs:
            address, filled = divmod(self.live, PER_ADDRESS)
            if not self._fill(min(jobs, self.live + PER_ADDRESS - filled), deadline, f"127.0.1.{1 + address}"):
                return False
        return True

    def _fill(self, jobs: int, deadline: float, host: str) -> bool:
        """`fill` from one address."""
        line = request("create_job", 1, owner="filler", keepalive=None, tags=[LIVE]).encode() + b"\n"
        with self.connect(host) as sock, sock.makefile("rb") as replies:
            while self.live < jobs:
                chunk = min(CHUNK, jobs - self.live)
                sock.sendall(line * chunk)
                for _ in range(chunk):
                    reply = replies.readline()
                    assert reply.startswith(b'{"return"'), reply
                self.live += chunk
                if time.monotonic() > deadline and self.live < jobs:
                    return False
        return True


@contextlib.contextmanager
def hardware(directory: Path) -> Iterator[Path]:
    """Simulated machines; the config file that describes them to either server."""
    hosts = bmp_hosts(MACHINES)
    config = write_config(directory / "machines.py", MACHINES, hosts, seconds_before_free=0)
    command = [str(COMMANDS / "spalloc-admin"), "simulate-hardware", str(config)]
    with running(command, directory / "hardware.log") as process:
        until(lambda: "ctrl+c" in (directory / "hardware.log").read_text(), process, directory / "hardware.log")
        yield config


@contextlib.contextmanager
def ours(config: Path, directory: Path, more: str = "") -> Iterator[Subject]:
    """This project's server, on a state file of its own, which has all that is asked for from few addresses.

    `more` is for its configuration.
    """
    unlimited = directory / "unlimited.py"  # of which the published server knows nothing
    text = config.read_text().rstrip().removesuffix(")")
    unlimited.write_text(f"{text}, limits=Limits(creates_per_second=0), {more})\n")
    with _server("ours", [str(COMMANDS / "spalloc_server")], unlimited, directory) as subject:
        yield subject


@contextlib.contextmanager
def published(config: Path, directory: Path) -> Iterator[Subject]:
    """The published server, version 7.0.0, without its sleeps between commands to a BMP."""
    python = published_server()
    with _server("7.0.0", [str(python), "-E", str(LAUNCHER)], config, directory) as subject:
        yield subject


@contextlib.contextmanager
def echo(directory: Path) -> Iterator[Subject]:
    """An event loop that only answers, whatever is asked."""
    port = free_port()
    log = directory / "echo.log"
    with running([sys.executable, str(Path(__file__).with_name("echo.py")), str(port)], log) as process:
        until(lambda: "listening" in log.read_text(), process, log)
        yield Subject("echo", port, process, log)


@contextlib.contextmanager
def _server(name: str, command: list[str], config: Path, directory: Path) -> Iterator[Subject]:
    port = free_port()
    log = directory / f"{name}.log"
    with running([*command, str(config), "--cold-start", "--port", str(port)], log) as process:
        subject = Subject(name, port, process, log)
        until(subject.listens, process, log)
        yield subject
        assert process.poll() is None, f"{name} ended by itself:\n{log.read_text()[-4000:]}"


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes into `log`, until the end."""
    with log.open("wb") as output:
        # In its folder, because the published server writes a log of jobs into its working directory
        process = subprocess.Popen(
            command, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
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


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for what is to become so while this process runs."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, f"it ended at once:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s:\n{log.read_text()}"
        time.sleep(0.02)
