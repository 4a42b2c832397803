"""The OpenAPI document is true: whatever is sent by it, and beside it, is answered as it says, and nothing breaks.

Theory of operation. `schemathesis` reads the document from a front process, and sends 10,000 cases that it makes from
it, good ones and bad ones, as a user and as an administrator. Server, front process and boards are real processes, so
what one case does the next ones find: jobs, users, machines and boards out of service. Boards that are not booted do
not answer, so the document has 500 for what is asked of them, and the answer says so in its own words; any other 5xx
is a fault.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from benchmarks.boards import boot, connected
from spalloc_server.config.load import load
from spalloc_server.controller import Controller
from spalloc_server.core.model.arguments import read_request
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import state_path
from tests.conformance.environments import environment
from tests.conformance.hall import write_hall
from tests.conformance.rest_client import RestClient
from tests.conformance.servers import COMMANDS, free_port, listens, ours, simulated_hardware, until
from tests.house import PATIENCE

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
SCHEMATHESIS = "schemathesis==4.32.5"
CASES = 10_000
SEED = 1
POLL_SECONDS = 0.05
"""That a request with `wait=true` waits at most."""

RESEND_SECONDS = 0.05
"""After which commands to boards are sent again; ten times in vain, and a board that is not booted is given up."""

QUIET_SECONDS = 0.01
"""Likewise for fast transfers, which fifty times in vain give up: the boards run no gatherers."""

CHECKS = (
    "works",  # of `openapi_hooks`
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = 100
"""Of an operation that are made up at random; those that are tried systematically come on top."""

COMPLAINT = re.compile(r"^\S+ \S+ (error|critical) |Traceback")
PASSWORD = "correct-horse-battery"
ROLES = {"alice": "user", "root": "admin"}

WEB = """
[limits]
creates_per_second = 0
[web]
ip = "127.0.0.1"
port = {port}
start = false
max_role = "admin"
requests_per_second = 0
"""

FRONT = f"""
from spalloc_server.frontends.http.boards import fast, scamp
from spalloc_server.frontends.http.rest import polls
fast.QUIET_SECONDS = {QUIET_SECONDS}
scamp.RESEND_SECONDS = {RESEND_SECONDS}
polls.POLL_SECONDS = {POLL_SECONDS}
from spalloc_server.cli.start import web
web()
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Server and front process, on boards that boot."""

    folder: Path
    config: Path
    url: str

    @property
    def logs(self) -> list[Path]:
        return [self.folder / "ours.log", self.folder / "web.log"]

    def admin(self, *arguments: str, given: str = "") -> str:
        """What `spalloc-admin` says."""
        command = [str(COMMANDS / "spalloc-admin"), *arguments, "--config", str(self.config)]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout

    def list(self, *arguments: str) -> Any:
        """What `spalloc-admin` lists."""
        return json.loads(self.admin(*arguments, "--json"))

    def client(self, name: str) -> RestClient:
        """Of an account, with a session of its own."""
        return RestClient(self.url, name, PASSWORD)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Both run, and are stopped at the end."""
    config, port = write_hall(24, folder), free_port()
    with config.open("a") as file:
        file.write(WEB.format(port=port))
    config.chmod(0o600)
    (machine,) = load(config).machines
    with (
        simulated_hardware(config, machine.bmp_ips.values(), folder, "--boards"),
        ours(config, folder, free_port()),
        (folder / "web.log").open("wb") as log,
    ):
        front = subprocess.Popen([sys.executable, "-c", FRONT, "--config", str(config)], stdout=log, stderr=log)
        try:
            until("the front process", lambda: listens(port))
            it = Site(folder, config, f"http://127.0.0.1:{port}/spalloc")
            for name, role in ROLES.items():
                it.admin("user", "add", name, "--role", role, given=PASSWORD)
            yield it
        finally:
            front.terminate()
            assert front.wait(PATIENCE) == 0


class Booted:
    """A job of a user whose board is booted, and that is kept alive."""

    def __init__(self, it: Site, name: str) -> None:
        self._client, self._over = it.client(name), threading.Event()
        body = {"keepalive-interval": "PT300S", "tags": ["default"]}
        made = self._client.send("POST", "jobs", json.dumps(body).encode(), {"Content-Type": "application/json"})
        self.number = str(made.json["job-id"])
        until("boards", lambda: self._client.send("GET", f"jobs/{self.number}").json["state"] == "READY")
        host = self._client.send("GET", f"jobs/{self.number}/machine").json["connections"][0][1]
        with connected(host) as board:
            boot(board, host)
        self._keeping = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self._keeping.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeping.join()
        self._client.send("DELETE", f"jobs/{self.number}")

    def _keep(self) -> None:
        while not self._over.wait(10):
            self._client.send("PUT", f"jobs/{self.number}/keepalive", b"", {"Content-Type": "text/plain"})


def clear_away(it: Site) -> None:
    """End all jobs, and return all boards to service."""
    root = it.client("root")
    for job in it.list("jobs"):
        assert root.send("DELETE", f"jobs/{job['job_id']}").status == 204, job  # one that is over by now included
    for board in it.list("boards", "--bad"):
        it.admin("board", "enable", board["machine"], *map(str, (board["x"], board["y"], board["z"])))


def drive(it: Site, name: str, examples: int, *options: str) -> int:
    """Send cases as an account, so many of an operation at most; how many there were. Any fault fails."""
    python = environment("schemathesis", SCHEMATHESIS)
    tried = it.folder / "tried"
    token = json.loads(it.admin("token", "create", name, "--json"))["secret"]
    clear_away(it)
    with Booted(it, name) as booted:
        done = subprocess.run(
            [
                *(
                    python.with_name("st"),
                    "run",
                    f"{it.url}/srv/openapi.json",
                    "--header",
                    f"Authorization: Bearer {token}",
                ),
                *("--checks", ",".join(CHECKS), "--seed", str(SEED), "--max-examples", str(examples)),
                *("--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", *options),
            ],
            cwd=it.folder,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(HERE),
                "SCHEMATHESIS_HOOKS": "openapi_hooks",
                "SEED": str(SEED),
                "BOOTED": booted.number,
                "TRIED": str(tried),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:]
    return int(tried.read_text())


def works_still(it: Site) -> None:
    """Have a job, and end it."""
    clear_away(it)
    client = it.client("alice")
    body = json.dumps({"keepalive-interval": "PT60S", "machine-name": "hall", "num-boards": 3}).encode()
    made = client.send("POST", "jobs", body, {"Content-Type": "application/json"})
    assert made.status == 201, made
    job = f"jobs/{made.json['job-id']}"
    until("boards", lambda: client.send("GET", job).json["state"] == "READY", PATIENCE)
    assert client.send("DELETE", job).status == 204
    assert client.send("GET", job).json["state"] == "DESTROYED"


async def agrees_with_itself(it: Site) -> None:
    """What a start makes of the state is whole, and nothing has to be set aside."""
    configuration = load(it.config)
    journal = SqliteJournal.open(state_path(it.config), read_request=read_request, loop=asyncio.get_running_loop())
    snapshot = journal.load(max_retired=configuration.max_retired_jobs)
    await journal.close()
    core = Controller()
    assert core.restore(snapshot, configuration.machines) == []
    core.configure(configuration)
    core.check()


def test_ten_thousand_cases_are_answered_as_the_document_says(tmp_path: Path) -> None:
    with site(tmp_path) as it:
        cases = drive(it, "alice", EXAMPLES)
        cases += drive(it, "root", EXAMPLES, "--exclude-path", "/emergencyStop")
        cases += drive(it, "root", EXAMPLES, "--include-path", "/emergencyStop")
        it.admin("resume")
        assert cases >= CASES
        works_still(it)
    for log in it.logs:
        assert [line for line in log.read_text().splitlines() if COMPLAINT.search(line)] == []
    asyncio.run(agrees_with_itself(it))
