"""The load generator: a small C program, compiled when it is needed, so that it is never what is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

__all__ = ["Generator", "Line", "Load"]

SOURCE = Path(__file__).with_name("load.c")


class Line(msgspec.Struct):
    """What became of one line of the sequence; seconds."""

    count: int
    p50: float
    p99: float
    max: float


class Load(msgspec.Struct):
    """What one run has measured."""

    seconds: float
    errors: int
    bytes: int
    cpu: float
    """Seconds of processor time of the generator itself."""
    lines: list[Line]

    @property
    def calls(self) -> int:
        """Requests that were answered."""
        return sum(line.count for line in self.lines)


class Generator:
    """Compiles the program into `directory`, and runs it."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "load"
        subprocess.run(["cc", "-O2", "-o", str(self._program), str(SOURCE)], check=True)

    def begin(
        self, port: int, *lines: str, clients: int = 1, depth: int = 1, seconds: float = 2.0, rate: float = 0.0
    ) -> subprocess.Popen[bytes]:
        """Load the server at `port`; `load.c` tells the meaning. To be ended by `end`."""
        numbers = (str(value) for value in (port, clients, depth, seconds, rate))
        return subprocess.Popen([str(self._program), "127.0.0.1", *numbers, *lines], stdout=subprocess.PIPE)

    def end(self, process: subprocess.Popen[bytes]) -> Load:
        """Wait for the end of a run."""
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, "the load generator failed"
        return msgspec.json.decode(output, type=Load)

    def run(
        self, port: int, *lines: str, clients: int = 1, depth: int = 1, seconds: float = 2.0, rate: float = 0.0
    ) -> Load:
        """`begin` and `end`."""
        return self.end(self.begin(port, *lines, clients=clients, depth=depth, seconds=seconds, rate=rate))

    def alone(self, line: str, *, clients: int, depth: int, seconds: float) -> Load:
        """What the generator does against a server that does nothing."""
        echo = subprocess.Popen([str(self._program), "echo"], stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None
            return self.run(int(echo.stdout.readline()), line, clients=clients, depth=depth, seconds=seconds)
        finally:
            echo.kill()
            echo.communicate()
