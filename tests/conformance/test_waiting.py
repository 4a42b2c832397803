"""What published clients show of a job that waits, and of one that an operator has ended."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conformance.clients import Client
from tests.conformance.servers import COMMANDS, Server, until
from tests.conformance.test_command_line import DESTROYED, OWNER, READY, call, definitions, ready_job

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]  # the first run installs the clients

QUEUED = 1
SHOWS_NO_HOST = "0.2.6"
"""It does not know the address of a job's user, behind which the place in the queue stands."""


def admin(server: Server, *arguments: object) -> str:
    """What an operator does, and is told."""
    config = server.log.with_name("machines.py")
    command = [str(COMMANDS / "spalloc-admin"), *map(str, arguments), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def waiting_job(server: Server) -> tuple[int, int, str]:
    """(A job that has all of a machine, one that waits for it, what the second one's state says.)"""
    first = ready_job(server, 4, 2, machine="main")
    second = call(server, "create_job", 4, 2, machine="main", owner=OWNER[1], keepalive=None)
    until("the place in the queue to be told", lambda: call(server, "get_job_state", second)["reason"])
    return first, second, call(server, "get_job_state", second)["reason"]


def test_the_state_of_a_job_that_waits_tells_its_place_when_it_starts_and_why(server: Server) -> None:
    first, second, reason = waiting_job(server)
    pattern = rf"number 1 of 1 in the queue, probably starts .+ to .+, it waits for boards of job {first}"
    assert re.fullmatch(pattern, reason)
    (_, listed) = call(server, "list_jobs")
    assert (listed["job_id"], listed["keepalivehost"]) == (second, f"127.0.0.1; {reason}")
    call(server, "destroy_job", first)
    until("the job to be ready", lambda: call(server, "get_job_state", second)["state"] == READY)
    assert call(server, "get_job_state", second)["reason"] is None
    assert [job["keepalivehost"] for job in call(server, "list_jobs")] == ["127.0.0.1"]


def test_the_programs_show_it_while_spalloc_waits(client: Client, server: Server) -> None:
    first = ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 4, 2, "--machine", "main", "-c", "echo", "at last") as session:
        session.line("Waiting in queue...")
        (waiting,) = (job["job_id"] for job in call(server, "list_jobs") if job["job_id"] != first)
        until("the place in the queue to be told", lambda: call(server, "get_job_state", waiting)["reason"])
        described = client.output(server, "spalloc-job", waiting)
        listed = client.output(server, "spalloc-ps")
        assert definitions(described)["State"] == "queued"
        why = f"it waits for boards of job {first}"
        for shown in (described, listed):
            assert ("number 1 of 1 in the queue, probably starts" in shown) == (client.version != SHOWS_NO_HOST)
            assert (why in shown) == (client.version != SHOWS_NO_HOST)
        call(server, "destroy_job", first)
        session.line("at last")
        assert session.process.wait(20) == 0


def test_the_library_tells_it_as_the_reason_of_a_job_that_waits(client: Client, server: Server) -> None:
    first = ready_job(server, 4, 2, machine="main")
    with client.library(server, "watched", 4, 2) as session:
        told = session.value()
        assert told["state"] == QUEUED
        assert told["reason"].startswith("number 1 of 1 in the queue, probably starts ")
        call(server, "destroy_job", first)
        session.say()
        assert session.value() == {"state": READY}
        admin(server, "kill", told["id"], "--reason", "the lift is broken")
        ended = session.value()
        assert ended["state"] == DESTROYED
        assert re.fullmatch(r"Ended by .+: the lift is broken", ended["reason"])


def test_spalloc_says_why_an_operator_has_ended_a_job_that_waits(client: Client, server: Server) -> None:
    ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 4, 2, "--machine", "main") as session:
        session.line("Waiting in queue...")
        waiting = call(server, "list_jobs")[-1]["job_id"]
        admin(server, "kill", waiting, "--reason", "the lift is broken")
        session.line("Destroyed: Ended by ", ": the lift is broken")
        assert session.process.wait(20) == 1
    with client.library(server, "resume", waiting) as resumed:
        assert "the lift is broken" in resumed.value()["refused"]


def test_the_reason_of_an_emergency_stop_is_seen_in_all_ways(client: Client, server: Server) -> None:
    ready = ready_job(server, 1, machine="main", owner="runs")
    blocker = ready_job(server, 4, 1, machine="main", owner="runs")
    with client.library(server, "watched", 4, 2) as session:
        waiting = session.value()["id"]
        admin(server, "emergency-stop", "--yes", "--reason", "smoke")
        try:
            stopped = "nothing starts before the emergency stop by "
            until("it to be told", lambda: stopped in call(server, "get_job_state", waiting)["reason"])
            assert "smoke" in call(server, "get_job_state", waiting)["reason"]
            for job_id in (ready, blocker):
                ended = definitions(client.output(server, "spalloc-job", job_id))
                assert ended["State"] == "destroyed"
                assert re.fullmatch(r"Emergency stop by .+: smoke", ended["Reason"])
        finally:
            admin(server, "resume")
        session.say()
        assert session.value() == {"state": READY}


def test_a_session_of_spalloc_that_waits_for_enter_is_not_told_but_spalloc_job_is(
    client: Client, server: Server
) -> None:
    with client.start(server, "spalloc", *OWNER, 1, "--machine", "main") as session:
        session.line("Running on")
        (job,) = call(server, "list_jobs")
        admin(server, "kill", job["job_id"], "--reason", "the lift is broken")
        ended = definitions(client.output(server, "spalloc-job", job["job_id"]))
        assert (ended["State"], "the lift is broken" in ended["Reason"]) == ("destroyed", True)
        session.say()
        assert session.process.wait(20) == 0
        assert not any("lift" in line for line in [*session.seen, *session.rest()])
