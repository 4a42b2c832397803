"""A clock that was wrong, or is put right between two processes, ends no job, reorders nothing, and deletes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import structlog

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Health
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model import BoardFailure, Changes, JobState, Outcome, Snapshot
from spalloc_server.process.journal_maintenance import JournalMaintenance
from spalloc_server.process.stored_times import DOUBTED_SECONDS, FACT, HOLD_SECONDS, StoredTimes
from tests.core.machines import a_machine
from tests.storage.memory_journal import MemoryJournal
from tests.storage.workload import a_job

DAY = 86400.0
YEARS = 3650 * DAY
NOW = 1_800_000_000.0
STEPS = (-YEARS, -3 * DAY, -7200.0, 7200.0, 3 * DAY, YEARS)


@dataclass
class Computer:
    """A computer whose wall clock is so far ahead; servers run on it one after the other."""

    ahead: float = 0.0
    anchor: float = NOW
    up: float = 5000.0
    boot: str = "first"
    machines: Sequence[Machine] = field(default_factory=lambda: [a_machine("m", 1, 1)])
    stored: Snapshot = field(default_factory=Snapshot)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A server starts on what the last one has stored, with the wall clock as it is."""
        self.anchor = NOW + self.ahead
        self.times = StoredTimes(steady=self.clock, wall=self.wall, uptime=lambda: self.up, boot=self.boot)
        self.core = Controller(clock=self.clock)
        with structlog.testing.capture_logs() as log:
            moved_by = self.times.meet(self.stored)
        self.log = [entry["event"] for entry in log]
        assert self.core.restore(self.stored, self.machines, moved_by=moved_by) == []
        self.core.configure(
            Configuration(list(self.machines), health=Health(quarantine_after=3, quarantine_seconds=3600))
        )
        self.core.check()

    def clock(self) -> float:
        """As of the server that runs."""
        return self.anchor + self.up

    def wall(self) -> float:
        return NOW + self.ahead + self.up

    def stop(self) -> None:
        """The server ends; what it has stored is what `Changes` would be."""
        self.stored = self.core.snapshot()
        self.stored.facts[FACT] = self.times.fact()

    def reboot(self) -> None:
        self.boot, self.up = "second", 20.0

    def run(self, seconds: float) -> None:
        self.up += seconds
        self.core.tick(self.clock())

    def ready(self, *, failing: bool = False) -> None:
        """Hardware does what it was told; or fails to switch on what it was told."""
        for switch in self.core.take_switches():
            failures = [BoardFailure(work.bmp, board, "no power") for work in switch.frames for board in work.boards]
            self.core.switched(Outcome(switch.operation, tuple(failures if failing and switch.on else ())))


def between(computer: Computer, step: float, *, reboot: bool) -> None:
    """The server is stopped and started again; meanwhile the clock is set."""
    computer.stop()
    computer.ahead += step
    if reboot:
        computer.reboot()
    computer.start()


CASES = [(step, reboot) for step in STEPS for reboot in (False, True)]

each = pytest.mark.parametrize(("step", "reboot"), CASES)


@each
def test_no_job_ends_by_its_run_time_but_when_that_is_over(step: float, reboot: bool) -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None, max_runtime=1000.0)
    computer.ready()
    computer.run(400)
    between(computer, step, reboot=reboot)
    computer.run(500)
    assert computer.core.get_job_state(job_id).state == JobState.ready
    for seconds in (101, 1):  # the user is warned first
        computer.run(seconds)
    assert computer.core.get_job_state(job_id).state == JobState.destroyed


@each
def test_board_seconds_are_those_that_the_boards_were_held(step: float, reboot: bool) -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    computer.ready()
    computer.run(400)
    between(computer, step, reboot=reboot)
    computer.run(100)
    computer.core.destroy_job(job_id)
    assert computer.core.take().changes.jobs[job_id].board_seconds == pytest.approx(3 * 500)


@each
def test_the_queue_keeps_its_order(step: float, reboot: bool) -> None:
    computer = Computer()
    first = computer.core.create_job(3, owner="me", keepalive=None)
    waiting = []
    for number in range(4):
        computer.run(10)
        waiting.append(computer.core.create_job(3, owner=f"owner {number}", keepalive=None))
    between(computer, step, reboot=reboot)
    computer.run(1)
    waiting.append(computer.core.create_job(3, owner="last", keepalive=None))
    order = []
    for job_id in (first, *waiting):
        computer.ready()
        [running] = [job.job_id for job in computer.core.list_jobs() if job.state != JobState.queued]
        order.append(running)
        assert running == job_id
        computer.core.destroy_job(running)
        computer.ready()
        computer.run(31)
    assert order == [first, *waiting]


@each
def test_a_self_test_begins_when_it_was_to_begin(step: float, reboot: bool) -> None:
    computer = Computer()
    for _ in range(3):
        fail_once(computer)
    [due] = {row.trial_at for row in computer.core.snapshot().boards}
    assert due is not None
    left = due - computer.clock()
    between(computer, step, reboot=reboot)
    [due] = {row.trial_at for row in computer.core.snapshot().boards}
    assert due == pytest.approx(computer.clock() + left, abs=0.1)
    computer.run(left - 10)
    assert not computer.core.take_switches()
    computer.run(11)
    assert computer.core.take_switches()


def fail_once(computer: Computer) -> None:
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    computer.ready(failing=True)
    computer.core.destroy_job(job_id)
    computer.ready()
    computer.run(60)


@each
def test_failures_before_count_with_those_after(step: float, reboot: bool) -> None:
    computer = Computer()
    fail_once(computer)
    between(computer, step, reboot=reboot)
    fail_once(computer)
    assert {row.out_of_service for row in computer.core.snapshot().boards} == {None}
    fail_once(computer)
    assert {row.out_of_service for row in computer.core.snapshot().boards} == {"no power"}


@each
def test_boards_rest_no_longer_and_no_less(step: float, reboot: bool) -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    computer.ready()
    computer.core.destroy_job(job_id)
    computer.ready()
    between(computer, step, reboot=reboot)
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    computer.run(29)
    assert computer.core.get_job_state(job_id).state == JobState.queued
    computer.run(2)
    assert computer.core.get_job_state(job_id).state == JobState.power


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_told_once(step: float) -> None:
    computer = Computer()
    computer.core.create_job(3, owner="me", keepalive=None)
    between(computer, step, reboot=False)
    assert len(computer.log) == 1
    between(computer, 0.0, reboot=False)
    assert computer.log == []


@pytest.mark.parametrize("step", [0.0, 0.3])
def test_a_restart_is_no_step(step: float) -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    created = computer.core.snapshot().jobs[0].created_at
    computer.stop()
    computer.up += 400
    computer.ahead += step
    computer.start()
    assert computer.log == []
    assert computer.core.snapshot().jobs[0].created_at == created
    assert FACT not in computer.core.take().changes.facts
    assert computer.core.get_job_state(job_id).start_time == created


def test_what_is_moved_is_stored_in_one_batch_with_the_clock_that_it_goes_by() -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None)
    waits = computer.core.create_job(3, owner="me", keepalive=None)
    computer.ready()
    between(computer, YEARS, reboot=False)
    changes = computer.core.take().changes
    assert {job_id, waits} <= changes.jobs.keys()
    assert changes.facts[FACT]["at"] == computer.clock()


@pytest.mark.parametrize("name", ["at", "believed"])
def test_a_clock_that_is_damaged_moves_nothing_and_is_replaced(name: str) -> None:
    computer = Computer()
    job_id = computer.core.create_job(1, owner="me")
    begun = computer.core.get_job_state(job_id).start_time
    computer.stop()
    computer.stored.facts[FACT][name] = 9e9  # one digit
    computer.start()
    assert computer.core.get_job_state(job_id).start_time == begun
    assert computer.times.fact()[name] < 2e9


def test_a_state_of_a_version_that_stored_no_clock_goes_on_where_it_was_too() -> None:
    computer = Computer()
    job_id = computer.core.create_job(3, owner="me", keepalive=None, max_runtime=1000.0)
    computer.ready()
    computer.stop()
    del computer.stored.facts[FACT]
    computer.ahead = -YEARS
    computer.start()
    computer.run(900)
    assert computer.core.get_job_state(job_id).state == JobState.ready
    for seconds in (101, 1):  # the user is warned first
        computer.run(seconds)
    assert computer.core.get_job_state(job_id).state == JobState.destroyed


# ------------------------------------------------------------------------------------------------------------- history


class Archive:
    """A history of a year, and servers that look after it one after the other."""

    def __init__(self, *, known: bool = True) -> None:
        self.journal = MemoryJournal(loop=asyncio.get_running_loop())
        self.up = 5000.0
        jobs = {number: a_job(number, ended_at=NOW - number * 10 * DAY) for number in range(1, 37)}
        self.journal.write(Changes(jobs=jobs), lambda _: None)
        if known:
            times = StoredTimes(steady=self.now, wall=self.now, uptime=lambda: self.up, boot="first")
            self.journal.write(Changes(facts={FACT: times.fact()}), lambda _: None)

    def now(self) -> float:
        return NOW + self.up

    async def serve(self, ahead: float, seconds: float, boot: str = "first", until: float = 0.0) -> int:
        """Run so long with a clock so far ahead, put right after `until` seconds if that is set; the jobs kept."""
        anchor, begun = NOW + ahead, self.up

        def wall() -> float:
            return anchor + self.up - (ahead if until and self.up - begun > until else 0.0)

        times = StoredTimes(steady=lambda: anchor + self.up, wall=wall, uptime=lambda: self.up, boot=boot)
        care = JournalMaintenance(lambda _: None, clock=lambda: anchor + self.up, times=times)
        await asyncio.sleep(0)
        times.meet(self.journal.load(max_retired=10))
        steps = 60
        for _ in range(steps):
            care.look(self.journal, history_days=400)
            await asyncio.sleep(0)
            self.up += seconds / steps
        return len(self.journal.load(max_retired=1000).jobs)


@pytest.mark.parametrize("known", [True, False], ids=["known", "of an older version"])
@pytest.mark.parametrize("boot", ["first", "second"])
async def test_a_clock_ten_years_ahead_deletes_no_history_however_often_it_is_so(known: bool, boot: str) -> None:
    archive = Archive(known=known)
    for _ in range(5):
        assert await archive.serve(YEARS, 3.0, boot) == 36
    assert await archive.serve(0.0, 3.0, boot) == 36
    assert await archive.serve(YEARS, 3.0, boot) == 36
    assert await archive.serve(YEARS, HOLD_SECONDS - 60, boot) == 36


async def test_a_clock_that_is_put_right_within_the_hour_deletes_nothing() -> None:
    archive = Archive()
    assert await archive.serve(YEARS, 3 * HOLD_SECONDS, until=HOLD_SECONDS / 2) == 36


async def test_a_clock_that_has_held_for_an_hour_is_believed() -> None:
    archive = Archive()
    assert await archive.serve(100 * DAY, 2 * HOLD_SECONDS) == 29
    assert await archive.serve(101 * DAY, 3.0) <= 29


async def test_a_server_that_did_not_run_for_less_than_a_week_deletes_at_once() -> None:
    archive = Archive()
    assert await archive.serve(0.99 * DOUBTED_SECONDS, 3.0) == 36
    archive.journal.write(Changes(jobs={99: a_job(99, ended_at=NOW - 399 * DAY)}), lambda _: None)
    assert await archive.serve(1.9 * DOUBTED_SECONDS, 3.0) == 36
