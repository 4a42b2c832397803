"""Replies are encoded once, and never out of date."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from spalloc_server.application.commands import Command, DescribeJob, GetJobState
from spalloc_server.config.machine import Machine
from spalloc_server.controller import Controller, Outcome
from spalloc_server.frontends.v1 import replies
from spalloc_server.frontends.v1.door import caller_at
from spalloc_server.frontends.v1.replies import CachedReplies
from spalloc_server.log.defects import DefectLog
from tests.frontends.v1.stand_in import an_application

ANN, BOB = caller_at("10.0.0.1"), caller_at("10.0.0.2")


class Bench:
    """Cached replies of a core with one board, and what they ask of the application."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core = Controller(max_retired_jobs=1)
        self.core.machines = {"m": Machine.single_board("m", bmp_ip="127.0.0.1", spinnaker_ip="127.0.0.2")}
        application = an_application(self.core)
        self.cached = CachedReplies(application, DefectLog())
        self.asked: list[Command] = []
        perform = application.perform

        def noted(caller: Any, command: Command) -> Any:
            self.asked.append(command)
            return perform(caller, command)

        monkeypatch.setattr(application, "perform", noted)

    def state(self, job_id: int, caller: Any = ANN) -> Any:
        return json.loads(self.cached.job_state(caller, GetJobState(job_id=job_id)))["return"]

    def listed(self) -> Any:
        return json.loads(self.cached.jobs(ANN))["return"]

    def again(self, kind: type[Command]) -> int:
        """How many commands of this kind were asked since the last time."""
        count = sum(isinstance(command, kind) for command in self.asked)
        self.asked.clear()
        return count


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_state_is_encoded_again_only_when_it_is_another(bench: Bench) -> None:
    job_id = bench.core.create_job(owner="me", keepalivehost="10.0.0.1")
    assert [bench.state(job_id)["state"] for _ in range(3)] == [2, 2, 2]
    assert bench.again(GetJobState) == 1
    assert bench.state(job_id, BOB)["keepalivehost"] == "10.0.0.2"
    assert bench.again(GetJobState) == 1
    for switch in bench.core.take_switches():
        bench.core.switched(Outcome(switch.operation))
    assert [bench.state(job_id, BOB)["state"] for _ in range(3)] == [3, 3, 3]
    assert bench.again(GetJobState) == 1


def test_the_state_of_a_job_that_is_not_live_is_encoded_once_and_follows_its_end(bench: Bench) -> None:
    assert [bench.state(1)["state"] for _ in range(3)] == [0, 0, 0]
    assert bench.again(GetJobState) == 1
    first = bench.core.create_job(owner="me")
    assert bench.state(first)["state"] == 2
    bench.core.destroy_job(first, "done")
    assert [bench.state(first)["reason"] for _ in range(3)] == ["done"] * 3
    assert bench.again(GetJobState) == 2
    bench.core.destroy_job(bench.core.create_job(owner="me"), "done")  # only the last one is remembered
    assert [bench.state(first)["state"] for _ in range(3)] == [0, 0, 0]
    assert bench.again(GetJobState) == 1


def test_to_ask_for_the_state_keeps_a_job_alive_also_where_the_reply_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    now = 100.0
    machines, bench.core = bench.core.machines, Controller(clock=lambda: now)
    bench.core.machines = machines
    bench.cached = CachedReplies(an_application(bench.core), DefectLog())
    job_id = bench.core.create_job(owner="me", keepalive=10.0)
    for _ in range(5):
        assert bench.state(job_id)["state"] != 4
        now += 9.0
        bench.core.tick()
    now += 2.0
    bench.core.tick()
    assert bench.state(job_id)["state"] == 4


def test_no_more_is_kept_than_twice_what_is_live_and_some(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "SPARE_REPLIES", 10)
    bench.cached._most_states = 10
    live = [bench.core.create_job(owner="me") for _ in range(20)]
    for job_id in (*live, *range(1000, 2000)):
        bench.state(job_id)
        assert len(bench.cached._states) <= 2 * len(live) + 10
    for job_id in live:
        bench.state(job_id)
    bench.again(GetJobState)
    assert [bench.state(job_id)["state"] for job_id in live] == [2] + [1] * 19
    assert bench.again(GetJobState) == 0, "those of live jobs are kept"


def test_only_what_has_changed_is_described_again(bench: Bench) -> None:
    jobs = [bench.core.create_job(owner="me") for _ in range(5)]
    assert [job["job_id"] for job in bench.listed()] == jobs
    assert bench.again(DescribeJob) == 5
    assert [job["job_id"] for job in bench.listed()] == jobs
    assert bench.again(DescribeJob) == 0
    bench.core.job_keepalive(jobs[2], "10.0.0.9")
    bench.core.destroy_job(jobs[4])
    assert [job["keepalivehost"] for job in bench.listed()] == [None, None, "10.0.0.9", None]
    assert bench.again(DescribeJob) == 1


def test_the_notice_of_a_job_that_waits_stands_behind_the_address_of_its_user(bench: Bench) -> None:
    jobs = [bench.core.create_job(owner="me", keepalivehost=host) for host in ("10.0.0.1", "10.0.0.2", None)]
    for job_id in jobs:
        job = bench.core.state.jobs[job_id]
        job.waits = "number 7"
        job.revision += 1
    waits = [bench.core.state.jobs[job_id].allocation is None for job_id in jobs]
    assert any(waits)
    told = {"10.0.0.1": "10.0.0.1; number 7", "10.0.0.2": "10.0.0.2; number 7", None: "number 7"}
    hosts = [told[host] if wait else host for host, wait in zip(told, waits, strict=True)]
    assert [job["keepalivehost"] for job in bench.listed()] == hosts
    assert not any("notice" in job for job in bench.listed())


def test_a_job_that_cannot_be_described_is_left_out_and_put_on_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (bench.core.create_job(owner="me") for _ in range(2))

    describe = bench.core.describe_job

    def broken(job_id: int) -> Any:
        if job_id == first:
            raise ZeroDivisionError
        return describe(job_id)

    monkeypatch.setattr(bench.core, "describe_job", broken)
    with capture_logs() as logs:
        assert [job["job_id"] for job in bench.listed()] == [second]
    assert [(line["event"], line["job_id"]) for line in logs] == [("a job could not be listed", first)]
