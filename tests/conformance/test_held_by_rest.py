"""What SpiNNMan's SpallocClients do while an operator holds and releases the jobs that they wait for."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.frontends.http.rest.polls import POLL_SECONDS
from tests.conformance.clients import Session
from tests.conformance.environments import environment
from tests.conformance.hall import REQUIREMENTS, spinnman
from tests.conformance.rest_client import RestClient
from tests.conformance.servers import until
from tests.conformance.web_hall import PASSWORD, USER, WebHall, web_hall

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

VERSIONS = ("1!7.4.1", "1!7.3.0", "1!7.0.0")
WAYS = ("wait_until_ready", "wait_for_state_change")
KEEPALIVE = 30
"""The shortest that REST allows by default."""
HELD_SECONDS = max(KEEPALIVE, POLL_SECONDS) + 6
"""Longer than a long poll, and than the keepalive."""
WHY = "after the course"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHall]:
    with web_hall(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture
def user(demo: WebHall) -> RestClient:
    """Whose jobs these are. Nothing starts before `hold` lets it."""
    demo.admin("drain", "simulated-1200", "--reason", "until all have come")
    return RestClient(demo.url, USER, PASSWORD)


def python(version: str) -> Path:
    if version == "1!7.4.1":
        return spinnman(version)
    return environment(f"rest-{version.removeprefix('1!')}", *REQUIREMENTS[version], "packaging")


def result(session: Session) -> dict[str, Any]:
    """What a client tells next."""
    told: dict[str, Any] = json.loads(session.line("RESULT ").removeprefix("RESULT "))
    return told


def ends_well(session: Session) -> None:
    session.rest()
    assert session.process.wait(20) == 0
    assert not any("Traceback" in line for line in session.seen), session.seen


@contextlib.contextmanager
def waiting(demo: WebHall, folder: Path, *ways: str) -> Iterator[dict[int, Session]]:
    """Clients of all versions, each of which waits for a job in each of these ways: {job: client}."""
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(
                demo.session(python(version), "drive_held_rest.py", folder, USER, PASSWORD, way, str(KEEPALIVE))
            )
            for version in VERSIONS
            for way in ways
        ]
        jobs = {}
        for session in sessions:
            told = result(session)
            assert told["state"] == "QUEUED"
            jobs[told["id"]] = session
        yield jobs


def hold(demo: WebHall, user: RestClient, *jobs: int) -> None:
    """Hold these jobs, which alone keeps them from starting from now on."""
    demo.admin("hold", *map(str, jobs), "--reason", WHY)
    demo.admin("undrain", "simulated-1200")
    assert all(is_held(user, job_id) for job_id in jobs)


def state(user: RestClient, job_id: int) -> dict[str, Any]:
    answer = user.send("GET", f"jobs/{job_id}")
    assert answer.status == 200
    told: dict[str, Any] = answer.json
    return told


def is_held(user: RestClient, job_id: int) -> bool:
    told = state(user, job_id)
    assert "proxy-ref" not in told
    reason = str(told["reason"])
    return told["state"] == "QUEUED" and reason.startswith("On hold, by ") and reason.endswith(WHY)


def test_jobs_are_held_for_longer_than_their_keepalive_and_a_poll_and_ready_once_they_are_released(
    demo: WebHall, user: RestClient, tmp_path: Path
) -> None:
    with waiting(demo, tmp_path, *WAYS) as jobs:
        hold(demo, user, *jobs)
        deadline = time.monotonic() + HELD_SECONDS
        while time.monotonic() < deadline:
            assert sorted(demo.jobs()) == sorted(jobs)
            assert all(is_held(user, job_id) for job_id in jobs)
            assert all(session.process.poll() is None for session in jobs.values())
            time.sleep(1.0)
        listed = json.loads(user.send("GET", "jobs").body)["jobs"]
        assert sorted(int(url.rstrip("/").rsplit("/", 1)[1]) for url in listed) == sorted(jobs)
        demo.admin("release", *map(str, jobs))
        for session in jobs.values():
            assert result(session) == {"state": "READY", "boards": 3, "warnings": []}
            ends_well(session)
        until("all jobs to end", lambda: demo.jobs() == [])


def test_held_jobs_are_gone_once_their_users_end_them(demo: WebHall, user: RestClient, tmp_path: Path) -> None:
    with waiting(demo, tmp_path, "destroy") as jobs:
        hold(demo, user, *jobs)
        for job_id, session in jobs.items():
            session.say()
            assert result(session) == {"state": "QUEUED", "listed": True, "boards": {}, "root": None}
            assert result(session) == {"state": "DESTROYED", "left": False}
            ends_well(session)
            assert (state(user, job_id)["state"], state(user, job_id)["reason"]) == ("DESTROYED", "enough")
        assert demo.jobs() == []


def test_who_waits_for_held_jobs_is_told_that_an_operator_ends_them(
    demo: WebHall, user: RestClient, tmp_path: Path
) -> None:
    """These clients have no way to tell why; REST has."""
    with waiting(demo, tmp_path, *WAYS) as jobs:
        hold(demo, user, *jobs)
        demo.admin("kill", *map(str, jobs), "--reason", "the lift is broken", "--yes")
        for number, (job_id, session) in enumerate(jobs.items()):
            told = result(session)
            assert told["warnings"] == []
            if number % len(WAYS) == 0:
                assert "job was unexpectedly " in told["error"]
            else:
                assert told["state"] == "DESTROYED"
            ends_well(session)
            assert state(user, job_id)["reason"].endswith(": the lift is broken")
