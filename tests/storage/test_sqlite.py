"""What only the journal on disk has: groups, a thread, and queries whose price does not grow with history."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog

from spalloc_server.core.model import Changes, Snapshot
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import StorageError
from spalloc_server.storage.reading import read_facts
from spalloc_server.storage.rows import Rows
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import connect_to_read
from tests.house import PATIENCE
from tests.storage.journals import SqliteBench, stored, written
from tests.storage.workload import a_job


async def test_batches_that_arrive_during_a_commit_go_together_into_the_next(tmp_path: Path) -> None:
    bench = SqliteBench(tmp_path / "state.db")
    statements: list[str] = []
    bench._journal._connection.set_trace_callback(statements.append)
    with bench.held():
        for number in range(100):
            bench.journal.write(Changes(facts={"n": number}), lambda _: None)
    await stored(bench.journal, Changes(facts={"last": 1}))
    assert statements.count("COMMIT") <= 3
    await bench.journal.close()


async def test_a_commit_waits_for_more_where_the_last_one_was_of_several_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, more_has_come = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        assert seconds < 0.001
        waits.set()
        assert more_has_come.wait(PATIENCE)

    monkeypatch.setattr("spalloc_server.storage.sqlite.sleep", sleep)
    journal = SqliteJournal.open(tmp_path / "state.db", read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, Changes(jobs={1: a_job(1)}), Changes(facts={"a": 1}))
    await stored(journal, Changes(jobs={1: a_job(1)}))
    assert not waits.is_set(), "one job alone waits for nothing"
    await stored(journal, Changes(jobs={2: a_job(2), 3: a_job(3)}))
    before = journal.count.number
    first = asyncio.create_task(stored(journal, Changes(jobs={4: a_job(4)})))
    assert await asyncio.to_thread(waits.wait, PATIENCE)
    second = asyncio.create_task(stored(journal, Changes(jobs={5: a_job(5)})))
    await asyncio.sleep(0)
    more_has_come.set()
    await asyncio.gather(first, second)
    assert journal.count.number == before + 1
    await journal.close()


async def test_queries_on_history_follow_its_index(tmp_path: Path) -> None:
    journal = SqliteJournal.open(tmp_path / "state.db", read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, Changes(jobs={n: a_job(n, ended_at=float(n)) for n in range(1, 50)}))
    connection = journal._connection
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    journal.load(max_retired=5)
    journal._prune_step(3.0)
    connection.set_trace_callback(None)
    asked = [statement for statement in statements if "history" in statement]
    deleted = [statement for statement in asked if statement.startswith("DELETE FROM history WHERE job_id = ")]
    asked = [statement for statement in asked if statement not in deleted]
    assert (len(asked), len(deleted)) == (2, 2)
    for statement in asked:
        plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert any("INDEX history_by_end" in step for step in plan), plan
        assert not any(step == "SCAN history" or "TEMP B-TREE" in step for step in plan), plan
    await journal.close()


async def test_a_mistake_within_a_commit_is_an_error_for_its_callers_and_not_the_end_of_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal.open(tmp_path / "state.db", read_request=read_request, loop=asyncio.get_running_loop())
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "store", lambda *_: 1 / 0)
        (outcome,) = await written(journal, Changes(facts={"a": 1}))
    assert isinstance(outcome, StorageError)
    assert "ZeroDivisionError" in str(outcome)
    await stored(journal, Changes(facts={"b": 1}))
    assert journal.load(max_retired=0).facts == {"a": 1, "b": 1}
    await journal.close()


def test_a_loop_that_has_gone_does_not_keep_the_writer_from_ending(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    journal = SqliteJournal.open(tmp_path / "state.db", read_request=read_request, loop=loop)
    journal.write(Changes(facts={"a": 1}), lambda _: None)
    journal._closing = True
    journal.retry()
    journal._thread.join(20)
    assert not journal._thread.is_alive()
    with closing(connect_to_read(tmp_path / "state.db")) as connection:
        assert read_facts(connection) == {"a": 1}


async def a_journal_whose_state_another_process_has_migrated(path: Path) -> SqliteJournal:
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, Changes(facts={"a": 1}))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return journal


async def test_a_state_that_a_failed_upgrade_has_migrated_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    journal = await a_journal_whose_state_another_process_has_migrated(path)
    aside = journal.reclaim(lambda: Snapshot(facts={"a": 2}))
    assert aside == path.with_name("state.db.aside-1")
    await stored(journal, Changes(facts={"b": 1}))
    await journal.close()
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    assert journal.load(max_retired=0).facts == {"a": 2, "b": 1}
    await journal.close()
    assert names(tmp_path) == {"state.db", "state.commits", "state.db.lock", "state.db.aside-1"}


def names(folder: Path) -> set[str]:
    return {found.name for found in folder.iterdir()}


@pytest.mark.parametrize("step", ["prepare", "replace"])
async def test_a_journal_that_cannot_be_had_back_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal = await a_journal_whose_state_another_process_has_migrated(tmp_path / "state.db")
    with monkeypatch.context() as patch:
        patch.setattr(f"spalloc_server.storage.sqlite.{step}", Mock(side_effect=OSError("disk I/O error")))
        with pytest.raises(StorageError, match="disk I/O error"):
            journal.reclaim(Snapshot)
    await stored(journal, Changes(facts={"b": 1}))
    assert journal.load(max_retired=0).facts == {"a": 1, "b": 1}
    await journal.close()


@pytest.mark.parametrize("bad", [{"created_at": float("nan")}, {"owner": {"a"}}, {"state": None}])
async def test_a_row_that_the_database_refuses_costs_itself_and_no_later_commit(
    tmp_path: Path, bad: dict[str, object]
) -> None:
    path = tmp_path / "state.db"
    health: list[StorageError | None] = []
    loop = asyncio.get_running_loop()
    journal = SqliteJournal.open(path, read_request=read_request, loop=loop, on_health=health.append)
    row = a_job(1, boards=1)
    for name, value in bad.items():
        setattr(row, name, value)
    with structlog.testing.capture_logs() as log:
        sound, refused, later = await written(
            journal, Changes(facts={"a": 1}), Changes(jobs={1: row, 2: a_job(2, boards=1)}), Changes(facts={"b": 1})
        )
    assert (sound, later) == (None, None)
    assert "the database refuses" in str(refused)
    assert [(entry["table"], entry["key"]) for entry in log] == [("jobs", 1)]
    await stored(journal, Changes(jobs={3: a_job(3, boards=1)}))
    assert health == []
    await journal.close()
    journal = SqliteJournal.open(path, read_request=read_request, loop=loop)
    found = journal.load(max_retired=0)
    assert [job.job_id for job in found.jobs] == [2, 3]
    assert found.facts == {"a": 1, "b": 1}
    await journal.close()
