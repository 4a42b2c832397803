"""The same random commands to the published server 7.0.0 and to ours give the same answers.

Both servers have equal machines on equal simulated hardware. A difference must have a name in `differences.ACCEPTED`.
The servers switch power in their own time, so an answer about a job is asked for again until both agree, or until a
deadline; only then may an accepted difference explain it. A failure names its seed: `CONFORMANCE_SEEDS=1234:1` runs
that sequence alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.conformance.conftest import AGAINST, SERVERS
from tests.conformance.differences import Job, Judge, Mismatch, Reply
from tests.conformance.machines import TestMachine, bmp_hosts, write_config
from tests.conformance.sequences import JobReference, Step, sequence
from tests.conformance.servers import Server, free_port, published, simulated_hardware, until
from tests.conformance.wire import Connection

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(1500)]

MACHINES = {
    machine.name: machine
    for machine in (
        TestMachine(name="even", cabinet=1, width=4, height=2),
        TestMachine(
            name="odd",
            cabinet=2,
            width=3,
            height=2,
            tags=frozenset({"faulty", "small"}),
            dead_boards=frozenset({(0, 0, 2), (2, 1, 0)}),
            dead_links=frozenset({(1, 0, 0, 2), (1, 0, 2, 5)}),
        ),
        TestMachine(name="triad", cabinet=3, width=1, height=1, tags=frozenset({"small"})),
        TestMachine(name="second", cabinet=4, width=2, height=1),
    )
}
FIRST_SEED, SEQUENCES = map(int, os.environ.get("CONFORMANCE_SEEDS", "0:1000").split(":"))
BLOCKS = 10
NO_JOB = 10**9
"""An identifier that no job has."""
PATIENCE = 0.3
"""Seconds after which a difference that is acceptable is accepted: it is not going to vanish by itself."""
DEADLINE = 5.0
QUESTIONS = {"get_job_state", "get_job_machine_info", "list_jobs", "where_is"}
"""Commands that change nothing and may be asked again, and whose answers depend on when they are asked."""

CHANGES = {"power_on_job_boards", "power_off_job_boards", "destroy_job"}
"""Commands that do something else, or nothing, to a job that waits."""
STAGES = ("gone", "queued", "running", "running", "gone")
"""By the number of a job's state."""


@dataclass(slots=True)
class Pair:
    """The two servers, as one."""

    theirs: Connection
    ours: Connection
    watchers: tuple[Connection, Connection] | None = None
    """Connections that watch all jobs and machines of either."""

    def line(self, step: Step, jobs: list[Job]) -> tuple[Reply, Reply]:
        """Both replies to a step."""
        their_ids, our_ids = ([job.ids[server] for job in jobs] for server in (0, 1))
        return self.theirs.line(step.encoded(their_ids)), self.ours.line(step.encoded(our_ids))

    def empty(self) -> None:
        """Destroy all jobs, and forget all that is watched."""
        for connection in (self.theirs, self.ours):
            connection.call("no_notify_job")
            connection.call("no_notify_machine")
            connection.notifications.clear()
            for job in connection.call("list_jobs"):
                connection.call("destroy_job", job["job_id"])
            until("all jobs to end", partial(_is_empty, connection))


def _is_empty(connection: Connection) -> bool:
    return not connection.call("list_jobs")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The published server and ours, each with hardware of its own."""
    with contextlib.ExitStack() as stack:
        pair = []
        for start in (published, SERVERS[AGAINST]):
            directory = tmp_path_factory.mktemp("server")
            machines = list(MACHINES.values())
            bmps = bmp_hosts(machines)
            config = write_config(
                directory / "machines.py", machines, bmps, timeout_check_interval=0.1, seconds_before_free=0
            )
            stack.enter_context(simulated_hardware(config, bmps.values(), directory))
            pair.append(stack.enter_context(start(config, directory, free_port())))
        yield pair[0], pair[1]


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_commands_are_answered_alike(servers: tuple[Server, Server], block: int) -> None:
    used: Counter[str] = Counter()
    steps = 0
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        theirs, our, *watchers = (stack.enter_context(server.connect()) for server in (*servers, *servers))
        pair = Pair(theirs, our, (watchers[0], watchers[1]))
        for watcher in watchers:
            watcher.call("notify_job")
            watcher.call("notify_machine")
        for seed in range(FIRST_SEED + block, FIRST_SEED + SEQUENCES, BLOCKS):
            pair.empty()
            try:
                steps += _run(pair, seed, used)
            except AssertionError as exc:
                failures.append(str(exc))
    print(f"{steps} steps; accepted: {dict(used.most_common())}")
    assert not failures, f"{len(failures)} sequences differ, the first of them:\n" + "\n\n".join(failures[:5])


@pytest.mark.parametrize(
    "sizes", [(), (1,), (2,), (3,), (7,), (24,), (1, 1), (2, 1), (1, 2), (3, 2), (4, 2), (0, 1, 2), (1, 0, 1)]
)
def test_an_idle_machine_serves_a_request_alike(servers: tuple[Server, Server], sizes: tuple[int, ...]) -> None:
    """On idle machines both choose the same machine, and a block of the same size."""
    with servers[0].connect() as theirs, servers[1].connect() as our:
        pair = Pair(theirs, our)
        for options in ({}, {"tags": ["small"]}, {"machine": "odd"}, {"machine": "second"}, {"tags": ["default"]}):
            until(f"{sizes} {options} to be served alike", partial(_served_alike, pair, sizes, options), DEADLINE)


def _served_alike(pair: Pair, sizes: tuple[int, ...], options: dict[str, Any]) -> bool:
    """Whether one request is served alike; boards of jobs before it may still be on their way back."""
    pair.empty()
    judge = Judge(MACHINES, pair.theirs.call, pair.ours.call)
    step = Step("create_job", sizes, (("owner", "alone"), ("keepalive", None), *options.items()))
    _play(pair, judge, step, "alone")
    _play(pair, judge, Step("get_job_state", (JobReference(0),)), "alone")
    theirs, ours = pair.line(Step("get_job_machine_info", (JobReference(0),)), judge.jobs)
    _play(pair, judge, Step("get_job_machine_info", (JobReference(0),)), "alone")
    same = {"machine_name"} if judge.jobs[0].wish.single or len(sizes) == 1 else {"machine_name", "width", "height"}
    return all(theirs["return"][name] == ours["return"][name] for name in same)


def _run(pair: Pair, seed: int, used: Counter[str]) -> int:
    """Play a sequence, and then look at every job once more."""
    judge = Judge(MACHINES, pair.theirs.call, pair.ours.call)
    steps = sequence(seed)
    for number, step in enumerate(steps):
        _play(pair, judge, step, f"seed {seed}, step {number}")
    for number in range(len(judge.jobs)):
        for command in ("get_job_state", "get_job_machine_info"):
            _play(pair, judge, Step(command, (JobReference(number),)), f"seed {seed}, at the end")
    _play(pair, judge, Step("list_jobs"), f"seed {seed}, at the end")
    _check_notifications(pair, judge)
    used += judge.used
    return len(steps)


def _check_notifications(pair: Pair, judge: Judge) -> None:
    """Whoever watches has heard of every job of the sequence, and of every machine that has one."""
    assert pair.watchers
    for server, (connection, watcher) in enumerate(zip((pair.theirs, pair.ours), pair.watchers, strict=True)):
        wanted: set[Any] = {job.ids[server] for job in judge.jobs} - {NO_JOB}
        wanted |= {job["allocated_machine_name"] for job in connection.call("list_jobs")} - {None}
        while wanted:
            for changed in watcher.notification().values():
                wanted -= set(changed)


def _play(pair: Pair, judge: Judge, step: Step, where: str) -> None:
    if step.command in CHANGES:
        for subject in step.subjects():
            _settle(pair, judge, subject, where)
    started = time.monotonic()
    while True:
        theirs, ours = pair.line(step, judge.jobs)
        waited = time.monotonic() - started
        try:
            judge.compare(step, theirs, ours)
        except Mismatch as mismatch:
            if step.command in QUESTIONS and waited < DEADLINE:
                time.sleep(0.01)
                continue
            raise AssertionError(f"{where}: {mismatch}\n{step}\n7.0.0: {theirs}\nours:  {ours}") from mismatch
        if not judge.diverging or waited > PATIENCE:
            break
        for job in judge.diverging:
            job.diverged = False
        time.sleep(0.01)
    if step.command == "create_job" and "owner" in step.names:
        judge.jobs.append(_job(pair, step, theirs, ours))


def _settle(pair: Pair, judge: Judge, subject: JobReference, where: str) -> None:
    """Wait until both servers run a job, or neither has it: so both act on the same.

    A job that waits in both may start at any moment, while boards are on their way back: patience tells.
    """
    question = Step("get_job_state", (subject,))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not judge.jobs[subject.number].diverged:
        theirs, ours = (STAGES[reply["return"]["state"]] for reply in pair.line(question, judge.jobs))
        if theirs == ours != "queued":
            return
        time.sleep(0.01)
    _play(pair, judge, question, where)


def _job(pair: Pair, step: Step, theirs: Reply, ours: Reply) -> Job:
    """What became of a `create_job`; where one of them refused, the other's job ends at once."""
    if "return" not in theirs or "return" not in ours:
        for connection, reply in ((pair.theirs, theirs), (pair.ours, ours)):
            if "return" in reply:
                connection.call("destroy_job", reply["return"])
        return Job([], {}, (NO_JOB, NO_JOB))
    kwargs = {name: value for name, value in step.kwargs if name not in ("owner", "keepalive")}
    return Job(list(step.args), kwargs, (theirs["return"], ours["return"]))
