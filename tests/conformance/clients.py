"""The published clients, each in an environment of its own, and how their programs are run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from tests.conformance.environments import environment
from tests.conformance.servers import HOST, Server, until

__all__ = ["VERSIONS", "Client", "Session", "session_of"]

VERSIONS = ("0.2.6", "6.0.0", "7.0.0", "7.3.0", "7.4.1")
RUN_SECONDS = 60.0
LINE_SECONDS = 20.0
LIBRARY = Path(__file__).with_name("library_session.py")


@dataclass(frozen=True, slots=True)
class Client:
    """A version of the published client, for a user who has no configuration of his own."""

    version: str
    home: Path
    python: Path = field(init=False)

    def __post_init__(self) -> None:
        epoch = "" if self.version == "0.2.6" else "1!"
        object.__setattr__(self, "python", environment(f"spalloc-{self.version}", f"spalloc=={epoch}{self.version}"))

    def run(self, server: Server, tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run one of its programs to its end, with nothing on its standard input."""
        return subprocess.run(
            self._command(server, tool, *arguments),
            cwd=self.home,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )

    def output(self, server: Server, tool: str, *arguments: object) -> str:
        """What a program prints; that it ends well is asserted."""
        done = self.run(server, tool, *arguments)
        assert done.returncode == 0, f"{tool} {arguments} of {self.version}: {done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def start(self, server: Server, tool: str, *arguments: object) -> Iterator[Session]:
        """Start one of its programs; what it prints comes line by line."""
        with session_of(self._command(server, tool, *arguments), self.home, self._environment()) as session:
            yield session

    @contextlib.contextmanager
    def library(self, server: Server, scenario: str, *arguments: object) -> Iterator[Session]:
        """Run a scenario of `library_session.py` with its library."""
        command = [str(self.python), str(LIBRARY), scenario, HOST, str(server.port), *map(str, arguments)]
        with session_of(command, self.home, self._environment()) as session:
            yield session

    def _command(self, server: Server, tool: str, *arguments: object) -> list[str]:
        address = ["--hostname", HOST, "--port", str(server.port)]
        return [str(self.python.with_name(tool)), *address, *map(str, arguments)]

    def _environment(self) -> dict[str, str]:
        home = str(self.home)
        return os.environ | {
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "XDG_CONFIG_DIRS": home,
            "TMPDIR": home,
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }


class Session:
    """A program that runs: its lines, waited for with a deadline."""

    def __init__(self, process: subprocess.Popen[str], seconds: float = LINE_SECONDS) -> None:
        self.process = process
        self.seconds = seconds
        """For a line."""
        self.seen: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, *wanted: str) -> str:
        """The next line that has all of `wanted` in it."""
        while (line := self._next()) is not None:
            self.seen.append(line)
            if all(text in line for text in wanted):
                return line
        raise AssertionError(f"the program ended without saying {wanted}: {self.seen}")

    def value(self) -> Any:
        """The next line, as JSON."""
        line = self.line()
        try:
            return json.loads(line)
        except ValueError as exc:
            raise AssertionError([*self.seen, *self.rest()]) from exc

    def rest(self) -> list[str]:
        """All lines up to the end of the program."""
        lines = []
        while (line := self._next()) is not None:
            lines.append(line)
        self.seen += lines
        return lines

    def say(self, text: str = "") -> None:
        """Give the program a line of input."""
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def interrupt(self) -> int:
        """Press ctrl+c on a program once it waits, and not while it prints; the exit status."""
        until("the program to wait", self._sleeps)
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LINE_SECONDS)

    def _sleeps(self) -> bool:
        """Whether its main thread waits for anything, as the system tells."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def stop_watching(self) -> None:
        """Press ctrl+c on a program that watches, which then ends well, or by the signal where it was just printing."""
        assert self.interrupt() in (0, -signal.SIGINT)

    def close(self) -> None:
        """Wait for the end of a program that was told to end."""
        self.process.wait(LINE_SECONDS)
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._reader.join(LINE_SECONDS)
        assert self.process.stdout
        self.process.stdout.close()

    def _next(self) -> str | None:
        try:
            return self._lines.get(timeout=self.seconds)
        except Empty:
            raise AssertionError(f"nothing came for {self.seconds} s after {self.seen}") from None

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


@contextlib.contextmanager
def session_of(
    command: list[str], home: Path, environment: dict[str, str], seconds: float = LINE_SECONDS
) -> Iterator[Session]:
    """Run a program, and all that it starts, until the end of the block."""
    process = subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    session = Session(process, seconds)
    try:
        yield session
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        session.close()
