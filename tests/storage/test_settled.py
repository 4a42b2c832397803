"""A state that no server has is read whole, and without a trace."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spalloc_server.core.model import Changes
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import DamagedStateError, NewerStateError, StorageError
from spalloc_server.storage import history, settled
from spalloc_server.storage.history import last_seen, read_history, read_state
from spalloc_server.storage.rows import encode
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import connect, transaction
from tests.storage.journals import stored
from tests.storage.test_older_states import DATA, restore_dump
from tests.storage.workload import a_job


def look(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()}


async def written(path: Path, jobs: int) -> SqliteJournal:
    journal = SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())
    await stored(journal, Changes(jobs={n: a_job(n, ended_at=float(n)) for n in range(1, jobs + 1)}))
    await stored(journal, Changes(jobs={100: a_job(100)}, facts={"clock": {"at": 1234.5}}))
    return journal


async def left_by_a_kill(folder: Path) -> Path:
    """A copy of a state with its log, as it is in the middle of a server's life; the folder has nothing else."""
    (folder / "run").mkdir()
    journal = await written(folder / "run" / "state.db", 3)
    (folder / "copy").mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(folder / "run" / name, folder / "copy" / name)
    await journal.close()
    return folder / "copy" / "state.db"


async def test_what_only_the_log_has_is_read_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    path = await left_by_a_kill(tmp_path)
    before = look(path.parent)
    assert len(before["state.db-wal"][0]) > 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as alone:
        assert alone.execute("SELECT count(*) FROM history").fetchone() == (0,), "the database alone lacks them"
    assert [job.job_id for job in read_history(path, live=False)] == [1, 2, 3]
    assert [job.job_id for job in read_state(path, read_request, live=False, max_retired=2).jobs] == [2, 3, 100]
    assert last_seen(path) == 1234.5
    assert look(path.parent) == before


async def test_history_is_read_from_one_copy_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await left_by_a_kill(tmp_path)
    copies: list[None] = []
    copy = settled._copy
    monkeypatch.setattr(history, "PAGE", 1)
    monkeypatch.setattr(settled, "_copy", lambda *paths: copies.append(copy(*paths)))
    assert [job.job_id for job in read_history(path, since=2.0, until=3.0, live=False)] == [2]
    assert [job.job_id for job in read_history(path, live=False)] == [1, 2, 3]
    assert len(copies) == 2


@pytest.mark.parametrize("log", [True, False])
async def test_it_is_read_in_a_folder_that_nobody_may_write_to(tmp_path: Path, *, log: bool) -> None:
    path = await left_by_a_kill(tmp_path)
    if not log:
        await (await written(tmp_path / "other.db", 3)).close()
        shutil.copy(tmp_path / "other.db", path)
        path.with_name("state.db-wal").unlink()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    before = look(path.parent)
    try:
        assert [job.job_id for job in read_history(path, live=False)] == [1, 2, 3]
        assert look(path.parent) == before
    finally:
        path.parent.chmod(0o700)


async def test_a_state_of_an_older_schema_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, DATA / "schema-3.sql")
    before = look(tmp_path)
    assert [job.job_id for job in read_state(path, read_request, live=False).jobs] == [1]
    assert [job.job_id for job in read_history(path, live=False)] == [2]
    assert look(tmp_path) == before


async def test_a_copy_is_made_again_where_a_server_writes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await left_by_a_kill(tmp_path)
    copied = []

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        copied.append(source.name)
        if len(copied) == 1:  # the log is brought into the database, and begins anew
            with closing(connect(path, read_request)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with transaction(connection):
                    encode(Changes(jobs={4: a_job(4, ended_at=4.0)})).store(connection)
                keep.append(sqlite3.connect(path))  # so that the log stays when the other one is closed
                keep[0].execute("SELECT count(*) FROM history").fetchone()

    keep: list[sqlite3.Connection] = []
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert [job.job_id for job in read_history(path, live=False)] == [1, 2, 3, 4]
    assert copied.count("state.db") == 2
    keep[0].close()


async def test_a_state_that_changes_all_the_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await left_by_a_kill(tmp_path)
    headers = iter(range(100))
    monkeypatch.setattr(settled, "_header", lambda _: bytes([next(headers)]))
    with pytest.raises(StorageError, match="a server must be using it"):
        list(read_history(path, live=False))


def test_what_is_no_state_is_named_and_made_none(tmp_path: Path) -> None:
    (tmp_path / "empty.db").write_bytes(b"")
    (tmp_path / "text.db").write_bytes(b"no database" * 100)
    for name, error in (("gone.db", StorageError), ("empty.db", StorageError), ("text.db", DamagedStateError)):
        with pytest.raises(error, match=name):
            list(read_history(tmp_path / name, live=False))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.db", "text.db"]
    restore_dump(tmp_path / "new.db", DATA / "schema-6.sql")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerStateError):
        list(read_history(tmp_path / "new.db", live=False))
