"""Reading history beside a running server, and forgetting it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.storage import history, sqlite
from spalloc_server.storage.history import read_history
from spalloc_server.storage.sqlite import SqliteJournal
from tests.storage.journals import pruned, stored
from tests.storage.workload import a_job


async def a_state(path: Path, ends: dict[int, float | None]) -> SqliteJournal:
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, Changes(jobs={job_id: a_job(job_id, ended_at=end) for job_id, end in ends.items()}))
    return journal


async def test_history_is_read_in_order_of_ends_while_the_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE", 2)
    path = tmp_path / "state.db"
    journal = await a_state(path, {1: 50.0, 2: 10.0, 3: None, 4: 10.0, 5: 20.0, 6: 10.0})
    assert [job.job_id for job in read_history(path)] == [2, 4, 6, 5, 1]
    assert [job.job_id for job in read_history(path, since=10.0, until=50.0)] == [2, 4, 6, 5]
    assert [job.job_id for job in read_history(path, since=10.1)] == [5, 1]
    assert list(read_history(path, since=20.0, until=21.0)) == [a_job(5, ended_at=20.0)]
    await journal.close()


async def test_history_can_be_read_when_no_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await a_state(path, {1: 50.0})).close()
    assert list(read_history(path)) == [a_job(1, ended_at=50.0)]


async def test_a_reader_in_the_middle_does_not_hinder_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE", 2)
    path = tmp_path / "state.db"
    journal = await a_state(path, {1: 10.0, 2: 20.0, 3: 30.0})
    reader = read_history(path)
    assert next(reader).job_id == 1
    await stored(journal, Changes(jobs={4: a_job(4, ended_at=40.0)}))
    assert [job.job_id for job in reader] == [2, 3, 4]
    await journal.close()


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_no_history_is_an_error_that_names_the_file_and_creates_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=str(path)):
        list(read_history(path))
    assert path.exists() == (content is not None)


async def test_pruning_forgets_old_jobs_in_small_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PRUNE_ROWS", 2)
    path = tmp_path / "state.db"
    journal = await a_state(path, {1: 50.0, 2: 10.0, 3: None, 4: 11.0, 5: 20.0, 6: 12.0, 7: 13.0})
    await pruned(journal, before=20.0)
    assert [job.job_id for job in read_history(path)] == [5, 1]
    assert [job.job_id for job in journal.load(max_retired=10).jobs] == [1, 3, 5]
    await journal.close()


async def test_pruning_that_fails_is_left_for_another_time_and_harms_no_write(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    journal = await a_state(path, {1: 10.0})
    journal._connection.execute("PRAGMA query_only = ON")
    await pruned(journal, before=20.0)
    journal._connection.execute("PRAGMA query_only = OFF")
    await stored(journal, Changes(facts={"a": 1}))
    assert [job.job_id for job in read_history(path)] == [1]
    await pruned(journal, before=20.0)
    assert list(read_history(path)) == []
    await journal.close()
