"""The demo, which has HTTP, with accounts, and published clients that trust its certificate."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spalloc_server.frontends.front_lock import front_folder, trusting
from tests.conformance.clients import Session, session_of
from tests.conformance.servers import COMMANDS, STOP_SECONDS, until

__all__ = ["PASSWORD", "USER", "WebHall", "web_hall"]

USER, PASSWORD = "alice", "correct-horse-battery"
START_SECONDS = 60.0
HERE = Path(__file__).parent
SERVING = re.compile(r"http://(?:\S+@)?([^/@\s]+)/spalloc\b")
"""Where the demo says that it serves HTTP."""


@dataclass(frozen=True, slots=True)
class WebHall:
    """A running server that has HTTP."""

    address: str
    """HOST:PORT of HTTP."""
    state: Path

    @property
    def url(self) -> str:
        """Of the service, without a user."""
        return f"http://{self.address}/spalloc"

    @property
    def trust(self) -> dict[str, str]:
        """The environment variables by which published clients trust the server's certificate."""
        return trusting(front_folder(self.state))

    def url_of(self, user: str, password: str) -> str:
        """The service as a config file of the published tools names it."""
        return f"http://{user}:{password}@{self.address}/spalloc"

    def admin(self, *arguments: str, given: str = "") -> str:
        """What `spalloc-admin` says."""
        command = [str(COMMANDS / "spalloc-admin"), *arguments, "--state", str(self.state)]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> list[int]:
        """Numbers of the jobs that live."""
        return [job["job_id"] for job in json.loads(self.admin("jobs", "--json"))]

    def token(self, user: str) -> str:
        """A new token of an account."""
        return str(json.loads(self.admin("token", "create", user, "--json"))["secret"])

    def run(self, python: Path, script: str, folder: Path, *arguments: str, **environment: str) -> Any:
        """The result that a script prints as JSON, run by a published client's Python; it must end well."""
        done = subprocess.run(
            [python, HERE / script, self.url, *arguments],
            cwd=folder,
            env=self._environment(folder) | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return json.loads(line.removeprefix("RESULT "))

    @contextlib.contextmanager
    def session(self, python: Path, script: str, folder: Path, *arguments: str) -> Iterator[Session]:
        """Have a published client's Python run a script, whose lines are waited for."""
        command = [str(python), str(HERE / script), self.url, *arguments]
        with session_of(command, folder, self._environment(folder), START_SECONDS) as session:
            yield session

    def _environment(self, folder: Path) -> dict[str, str]:
        return {"HOME": str(folder), "PATH": "/usr/bin:/bin", **self.trust}


@contextlib.contextmanager
def web_hall(folder: Path) -> Iterator[WebHall]:
    """`make demo` without imaginary users, and one account."""
    state, log = folder / "state.db", folder / "demo.log"
    command = [str(COMMANDS / "spalloc-admin"), "demo", "--quiet-users", "--port", "0", "--state", str(state)]
    with log.open("wb") as output:
        demo = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(
            f"the demo (see {log})",
            lambda: demo.poll() is not None or SERVING.search(log.read_text()),
            START_SECONDS,
        )
        address = SERVING.search(log.read_text())
        assert address is not None, log.read_text()
        hall = WebHall(address[1], state)
        hall.admin("user", "add", USER, given=PASSWORD)
        yield hall
        assert demo.poll() is None, log.read_text()
    finally:
        demo.terminate()
        try:
            demo.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            demo.kill()
            demo.wait()
            raise
