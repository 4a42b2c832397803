"""What published clients do while an operator holds, releases, extends and moves the jobs that they wait for."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.clients import VERSIONS, Client, Session
from tests.conformance.servers import Server, until
from tests.conformance.test_command_line import DESTROYED, INTERRUPTED, OWNER, READY, call, definitions, ready_job
from tests.conformance.test_waiting import QUEUED, SHOWS_NO_HOST, admin

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]  # the first run installs the clients

KEEPALIVE = 1.5
LIFETIMES = 4
"""How many times their keepalive jobs are held."""
WHY = "after the course"


def state(server: Server, job_id: int) -> dict[str, Any]:
    found: dict[str, Any] = call(server, "get_job_state", job_id)
    return found


def is_held(server: Server, job_id: int) -> bool:
    found = state(server, job_id)
    return found["state"] == QUEUED and str(found["reason"]).startswith("On hold, by ") and WHY in found["reason"]


def hold(server: Server, *job_ids: int) -> None:
    admin(server, "hold", *job_ids, "--reason", WHY)
    assert all(is_held(server, job_id) for job_id in job_ids)


def lists(client: Client, server: Server, job_id: int) -> None:
    """That the client's programs show the job, and by whom and why it is held as far as they know the field."""
    (line,) = [line for line in client.output(server, "spalloc-ps").splitlines() if line.split()[0] == str(job_id)]
    described = client.output(server, "spalloc-job", job_id)
    assert "queue" in line.split()
    assert definitions(described)["State"] == "queued"
    for shown in (line, described):
        assert ("On hold, by " in shown and WHY in shown) == (client.version != SHOWS_NO_HOST)


def test_jobs_are_held_for_longer_than_their_keepalive_and_ready_once_they_are_released(
    server: Server, tmp_path: Path
) -> None:
    """All clients at once; each waits by its library, with one object."""
    blocker = ready_job(server, 4, 2, machine="main")
    clients = {version: Client(version, tmp_path) for version in VERSIONS}
    with contextlib.ExitStack() as stack, server.connect() as connection:
        sessions = {
            stack.enter_context(client.library(server, "held", KEEPALIVE, "")): client for client in clients.values()
        }
        jobs = {session.value()["id"]: session for session in sessions}
        hold(server, *jobs)
        connection.call("destroy_job", blocker)
        for session in sessions:
            session.say()
            told = session.value()
            assert (told["state"], told["power"], told["boards"]) == (QUEUED, None, None)
            assert told["reason"].startswith("On hold, by ")
        until("all boards to be free", lambda: not any(job["boards"] for job in connection.call("list_jobs")))
        deadline = time.monotonic() + LIFETIMES * KEEPALIVE
        while time.monotonic() < deadline:
            listed = {job["job_id"]: job for job in connection.call("list_jobs")}
            assert listed.keys() == jobs.keys()
            assert {job["state"] for job in listed.values()} == {QUEUED}
            assert all(WHY in job["keepalivehost"] for job in listed.values())
            time.sleep(0.1)
        for job_id, session in jobs.items():
            lists(sessions[session], server, job_id)
        admin(server, "release", *jobs)
        for job_id, session in jobs.items():
            told = session.value()
            assert (told["state"], told["reason"]) == (READY, None)
            assert told["hostname"]
            assert session.value() == {"done": True}
            assert session.rest() == []
            assert state(server, job_id)["state"] == DESTROYED


def waiting_spalloc(server: Server, session: Session) -> int:
    """The job for which a session of `spalloc` waits behind another."""
    session.line("Waiting in queue...")
    number: int = call(server, "list_jobs")[-1]["job_id"]
    return number


def test_spalloc_waits_on_and_runs_its_command_at_the_release(client: Client, server: Server) -> None:
    blocker = ready_job(server, 4, 2, machine="main")
    with client.start(server, "spalloc", *OWNER, 1, "--machine", "main", "-c", "echo", "at last") as session:
        job_id = waiting_spalloc(server, session)
        hold(server, job_id)
        call(server, "destroy_job", blocker)
        admin(server, "hold", job_id, "--reason", f"{WHY} again")
        assert is_held(server, job_id)
        admin(server, "release", job_id)
        session.line("at last")
        assert session.process.wait(20) == 0
        said = [*session.seen, *session.rest()]
        assert len([line for line in said if "Waiting in queue" in line]) == 1, said
        assert not any("Traceback" in line or "Destroyed" in line for line in said), said


def test_a_held_job_is_gone_once_its_user_ends_it(client: Client, server: Server) -> None:
    blocker = ready_job(server, 4, 2, machine="main")
    with (
        client.start(server, "spalloc", *OWNER, 1, "--machine", "main") as session,
        client.library(server, "held", 60, "enough") as library,
    ):
        by_library = library.value()["id"]
        session.line("Waiting in queue...")
        (by_spalloc,) = {job["job_id"] for job in call(server, "list_jobs")} - {blocker, by_library}
        hold(server, by_spalloc, by_library)
        assert session.interrupt() == INTERRUPTED
        library.say()
        assert library.value()["state"] == QUEUED
        assert library.value() == {"done": True}
        assert library.rest() == []
        until("both to end", lambda: [job["job_id"] for job in call(server, "list_jobs")] == [blocker])
        assert [state(server, job_id)["state"] for job_id in (by_spalloc, by_library)] == [DESTROYED, DESTROYED]
        assert state(server, by_library)["reason"] == "Cancelled: enough"


def test_who_waits_for_a_held_job_is_told_why_an_operator_ends_it(client: Client, server: Server) -> None:
    ready_job(server, 4, 2, machine="main")
    with (
        client.start(server, "spalloc", *OWNER, 1, "--machine", "main") as session,
        client.library(server, "held", 60, "") as library,
    ):
        jobs = [library.value()["id"]]
        session.line("Waiting in queue...")
        jobs += [job["job_id"] for job in call(server, "list_jobs")[1:] if job["job_id"] not in jobs]
        hold(server, *jobs)
        library.say()
        assert library.value()["state"] == QUEUED
        admin(server, "kill", *jobs, "--reason", "the lift is broken", "--yes")
        session.line("Destroyed: Ended by ", ": the lift is broken")
        assert session.process.wait(20) == 1
        assert "the lift is broken" in library.value()["error"]
        assert library.rest() == []


def test_jobs_with_more_time_and_another_priority_are_waited_for_as_before(server: Server, tmp_path: Path) -> None:
    """All clients at once, by their libraries; none of them can ask for these, so the jobs are made for them."""
    blocker = ready_job(server, 4, 2, machine="main")
    how = {"machine": "main", "owner": OWNER[1]}
    ahead = call(server, "create_job", 4, 2, keepalive=None, **how)
    jobs = {
        call(server, "create_job", 1, 1, keepalive=60.0, max_runtime=3600, **how): Client(version, tmp_path)
        for version in VERSIONS
    }
    with contextlib.ExitStack() as stack:
        sessions = {
            job_id: stack.enter_context(client.library(server, "resume", job_id)) for job_id, client in jobs.items()
        }
        hold(server, *jobs)
        admin(server, "extend", *jobs, "--by", "1h")
        admin(server, "priority", ahead, -1)
        admin(server, "release", *jobs)
        call(server, "destroy_job", blocker)
        for job_id, session in sessions.items():
            assert session.value()["id"] == job_id
            assert session.value() == {"done": True}
            assert session.rest() == []
        assert [state(server, job_id)["state"] for job_id in (*jobs, ahead)] == [*([READY] * len(jobs)), QUEUED]
        assert admin(server, "extend", *jobs, "--by", "1h").count("may run for 3 h") == len(jobs)
