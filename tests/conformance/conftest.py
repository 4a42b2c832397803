"""Fixtures of the conformance tests: the servers under test, and the published clients."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from spalloc_server.cli.demo_config import RESERVED_PORT
from tests.conformance.clients import VERSIONS, Client
from tests.conformance.machines import TestMachine, bmp_hosts, write_config
from tests.conformance.servers import Server, free_port, ours, published, simulated_hardware, until

MAIN = TestMachine(name="main", cabinet=1, width=4, height=2)
FAULTY = TestMachine(
    name="faulty",
    cabinet=2,
    width=3,
    height=2,
    tags=frozenset({"faulty", "small"}),
    dead_boards=frozenset({(0, 0, 2), (2, 1, 0)}),
    dead_links=frozenset({(1, 0, 0, 2), (1, 0, 2, 5)}),
)
LONE = TestMachine(
    name="lone",
    cabinet=3,
    width=1,
    height=1,
    tags=frozenset({"lone", "small"}),
    dead_boards=frozenset({(0, 0, 1), (0, 0, 2)}),
)

Starter = Callable[[Path, Path, int], AbstractContextManager[Server]]
SERVERS: dict[str, Starter] = {"ours": ours, "published": published}
AGAINST = os.environ.get("CONFORMANCE_AGAINST", "ours")
"""Which server the clients are driven against: `published` tells whether a fault is the client's own."""


@pytest.fixture(scope="session", autouse=True)
def demos_elsewhere() -> Iterator[None]:
    """The Java server's scenario has the addresses of the demo's own machine: so demos have others here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        with suppress(OSError):  # another process of these tests has it
            reserved.bind(("127.1.0.0", RESERVED_PORT))
        yield


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three small machines, on simulated hardware that switches at once."""
    directory = tmp_path_factory.mktemp("server")
    machines = (MAIN, FAULTY, LONE)
    bmps = bmp_hosts(machines)
    config = write_config(directory / "machines.py", machines, bmps, timeout_check_interval=0.1, seconds_before_free=0)
    with (
        simulated_hardware(config, bmps.values(), directory),
        SERVERS[AGAINST](config, directory, free_port()) as server,
    ):
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The server; whatever jobs a test leaves behind are destroyed."""
    yield running
    with running.connect() as connection:
        for job in connection.call("list_jobs"):
            connection.call("destroy_job", job["job_id"])
        until("all jobs to end", lambda: not connection.call("list_jobs"))


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """Each published client in turn."""
    return Client(request.param, tmp_path)
