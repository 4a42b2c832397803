"""The published clients' library, as users' scripts use it."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import pytest

from tests.conformance.clients import VERSIONS, Client
from tests.conformance.conftest import AGAINST, MAIN, SERVERS
from tests.conformance.faults import fault_of
from tests.conformance.machines import bmp_hosts, write_config
from tests.conformance.servers import Server, free_port, simulated_hardware, until

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]  # the first run installs the clients

READY, DESTROYED = 3, 4
KEEPALIVE = 2.0
LIFETIMES = 4
"""How many times their keepalive the kept jobs live, before their clients are killed."""


def test_a_job_lives_as_a_context_manager(client: Client, server: Server) -> None:
    with client.library(server, "life", 2, 1) as session:
        begun = session.value()
        assert (begun["state"], begun["power"], begun["reason"]) == (READY, True, None)
        info = session.value()
        with server.connect() as connection:
            told = connection.call("get_job_machine_info", begun["id"])
        assert info == {
            "hostname": {tuple(chip): host for chip, host in told["connections"]}[0, 0],
            "width": 28,
            "height": 16,
            "machine_name": "main",
            "connections": sorted(told["connections"]),
            "boards": sorted(told["boards"]),
        }
        assert session.value() == {"state": READY, "power": False}
        assert session.value() == {"state": READY, "power": True}
        assert session.value()["state_after_reset"] in (2, READY)
        places = {tuple(place) for place in MAIN.locations().values()}
        where = session.value()["where"]
        if client.version == "0.2.6":
            assert where is None  # this library has no `where_is_machine`
        else:
            assert tuple(where) in places
        assert session.value() == {"done": True}
        assert session.rest() == []
    with server.connect() as connection:
        state = connection.call("get_job_state", begun["id"])
        assert state["state"] == DESTROYED


def test_a_job_is_destroyed_by_hand_for_a_reason(client: Client, server: Server) -> None:
    with client.library(server, "wait_and_destroy", "all done") as session:
        job_id = session.value()["id"]
        assert session.value() == {"done": True}
    with server.connect() as connection:
        state = connection.call("get_job_state", job_id)
        assert (state["state"], state["reason"]) == (DESTROYED, "all done")


def test_a_job_is_resumed_by_its_id(client: Client, server: Server) -> None:
    with server.connect() as connection:
        job_id = connection.call("create_job", 1, 1, owner="before", keepalive=60.0, machine="main")
        with client.library(server, "resume", job_id) as session:
            resumed = session.value()
            assert (resumed["id"], resumed["width"], resumed["height"]) == (job_id, 16, 16)
            assert session.value() == {"done": True}
            session.rest()
        assert connection.call("get_job_state", job_id)["state"] == READY
        connection.call("destroy_job", job_id, "enough")
        with client.library(server, "resume", job_id) as session:
            refused = session.value()["refused"]
        assert f"Job {job_id} does not exist" in refused
        assert "enough" in refused


def test_a_job_that_cannot_be_says_why(client: Client, server: Server) -> None:
    with client.library(server, "impossible") as session:
        assert session.value()["error"].startswith("Cancelled: No suitable machines available.")


def test_a_refused_job_says_why(client: Client, server: Server) -> None:
    with client.library(server, "refused") as session:
        told = session.value()
    if fault := fault_of(client.version, "deaf-to-exceptions"):
        assert told["kind"] == fault.evidence
    else:
        assert told["kind"] == "SpallocServerException"
        assert "torus" in told["error"]
    with server.connect() as connection:
        assert connection.call("list_jobs") == []


def test_a_job_waits_for_its_turn(client: Client, server: Server) -> None:
    with server.connect() as connection:
        first = connection.call("create_job", 4, 2, owner="first", keepalive=None, machine="main")
        with client.library(server, "wait_in_queue", 4, 2) as session:
            session.value()
            assert session.value() == {"timed_out": True, "state": 1}
            connection.call("destroy_job", first)
            assert session.value() == {"state": READY}
            assert session.value() == {"done": True}


def test_jobs_live_while_their_clients_do(server: Server, tmp_path: Path) -> None:
    """Every client at once: its keepalive alone keeps its job, which ends soon after the client is killed."""
    with contextlib.ExitStack() as stack, server.connect() as connection:
        sessions = {
            version: stack.enter_context(Client(version, tmp_path).library(server, "hold", KEEPALIVE))
            for version in VERSIONS
        }
        jobs = {session.value()["id"]: version for version, session in sessions.items()}
        deadline = time.monotonic() + LIFETIMES * KEEPALIVE
        while time.monotonic() < deadline:
            alive = {job["job_id"] for job in connection.call("list_jobs")}
            assert alive == set(jobs), [jobs[job_id] for job_id in set(jobs) - alive]
            time.sleep(0.1)
        for session in sessions.values():
            session.process.send_signal(signal.SIGKILL)
        until("all jobs to end", lambda: not connection.call("list_jobs"), seconds=5 * KEEPALIVE)
        for job_id in jobs:
            assert connection.call("get_job_state", job_id)["reason"] == "Job timed out."


def test_jobs_outlive_a_restart_of_the_server(tmp_path: Path) -> None:
    """Jobs of clients that connect again go on; those of clients that cannot end in their time, not before."""
    machines = [MAIN]
    bmps = bmp_hosts(machines)
    config = write_config(tmp_path / "machines.py", machines, bmps, timeout_check_interval=0.1, seconds_before_free=0)
    start, port = SERVERS[AGAINST], free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(simulated_hardware(config, bmps.values(), tmp_path))
        with start(config, tmp_path, port) as server:
            jobs = {}
            for version in VERSIONS:
                session = stack.enter_context(Client(version, tmp_path).library(server, "hold", KEEPALIVE))
                jobs[version] = session.value()["id"]
        with start(config, tmp_path, port) as server, server.connect() as connection:
            assert {job["job_id"] for job in connection.call("list_jobs")} == set(jobs.values())
            assert {job["state"] for job in connection.call("list_jobs")} == {READY}
            time.sleep(3 * KEEPALIVE)
            for version, job_id in jobs.items():
                state = connection.call("get_job_state", job_id)
                fault = fault_of(version, "keepalive-ends-with-connection")
                assert (state["state"], state["reason"]) == ((DESTROYED, fault.evidence) if fault else (READY, None))
