"""The journal is looked after: retried every second while the disk refuses, and complained about once a minute."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from spalloc_server.core.model import Changes
from spalloc_server.errors import StorageError
from spalloc_server.process.journal_maintenance import (
    COMPLAIN_SECONDS,
    PRUNE_SECONDS,
    RETRY_SECONDS,
    SHARED_SECONDS,
    JournalMaintenance,
)
from spalloc_server.process.stored_times import FACT, StoredTimes
from tests.storage.memory_journal import MemoryJournal
from tests.storage.workload import a_job


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def times(clock: Clock) -> StoredTimes:
    return StoredTimes(steady=clock, wall=clock, uptime=clock)


async def test_while_the_disk_refuses_so_does_the_server_and_the_log_says_so_once_a_minute() -> None:
    clock = Clock()
    refusals: list[str | None] = []
    maintenance = JournalMaintenance(refusals.append, clock=clock, times=times(clock))
    journal = MemoryJournal(loop=asyncio.get_running_loop(), on_health=maintenance.on_health)
    journal.failure = StorageError("the disk is full")
    seconds = 5 * COMPLAIN_SECONDS
    with structlog.testing.capture_logs() as log:
        journal.write(Changes(facts={"a": 1}), lambda _: None)
        for _ in range(int(seconds / RETRY_SECONDS)):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            maintenance.look(journal, history_days=1)
            clock.now += RETRY_SECONDS
        assert journal.error is not None
        journal.failure = None
        maintenance.look(journal, history_days=1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    facts = journal.load(max_retired=0).facts
    assert {name: fact for name, fact in facts.items() if name != FACT} == {"a": 1}
    assert [refusal is None for refusal in refusals] == [False, True]
    assert "the disk is full" in str(refusals[0])
    errors = [entry for entry in log if entry["log_level"] == "error"]
    assert len(errors) == 1 + seconds / COMPLAIN_SECONDS


async def test_old_history_goes_once_an_hour() -> None:
    clock = Clock()
    maintenance = JournalMaintenance(lambda _: None, clock=clock, times=times(clock))
    journal = MemoryJournal(loop=asyncio.get_running_loop())
    day = 86400
    jobs = {number: a_job(number, ended_at=clock.now - age) for number, age in ((1, 3 * day), (2, day + 60), (3, 0))}
    journal.write(Changes(jobs=jobs), lambda _: None)
    await asyncio.sleep(0)

    def remembered() -> list[int]:
        return [row.job_id for row in journal.load(max_retired=10).jobs]

    maintenance.look(journal, history_days=2)
    assert remembered() == [2, 3]
    maintenance.look(journal, history_days=1)
    assert remembered() == [2, 3]
    clock.now += PRUNE_SECONDS
    maintenance.look(journal, history_days=1)
    assert remembered() == [3]


async def test_the_right_to_the_state_is_taken_soon_after_the_process_before_has_let_go_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    clock = Clock()
    maintenance = JournalMaintenance(lambda _: None, clock=clock, times=times(clock))
    journal = MemoryJournal(loop=asyncio.get_running_loop())
    journal.owned = False

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            journal.owned = True
        if len(slept) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr("spalloc_server.process.journal_maintenance.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await maintenance.run(journal, lambda: 1)
    assert slept == [SHARED_SECONDS] * 3 + [RETRY_SECONDS] * 2
