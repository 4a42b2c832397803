"""A state whose files are taken away, or of which a part is missing, is never taken for the one that it was."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import structlog.testing

from spalloc_server.core.model import Changes, Snapshot
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import DamagedStateError, SpallocServerError, StateInUseError, StorageError
from spalloc_server.storage.commit_count import Count, CountFile, count_path
from spalloc_server.storage.files import beside
from spalloc_server.storage.history import read_history, read_state
from spalloc_server.storage.journal import OnHealth
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import cold_start, connect_to_read
from tests.storage.journals import stored, written
from tests.storage.workload import a_job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hall.db"


def open_journal(path: Path, on_health: OnHealth | None = None, left: Count | None = None) -> SqliteJournal:
    loop = asyncio.get_running_loop()
    return SqliteJournal.open(path, read_request=read_request, loop=loop, on_health=on_health, left=left)


def jobs(*numbers: int) -> Changes:
    return Changes(
        jobs={number: a_job(number, boards=1) for number in numbers}, facts={"next_id": max(numbers, default=0) + 1}
    )


async def load(path: Path) -> tuple[Snapshot, int]:
    """What a start finds, and the highest number of a job that it knows of."""
    journal = open_journal(path)
    try:
        return journal.load(max_retired=100), journal.highest_id()
    finally:
        await journal.close()


def count_elsewhere(path: Path, state: str, number: int) -> None:
    """Have another file in the place of the one that counts the commits of the state at `path`."""
    count_path(path).unlink()
    with closing(CountFile(path)) as file:
        file.write(Count(state, number, 90))


def killed(path: Path, folder: Path) -> Path:
    """What a server that is killed now leaves behind, in another folder."""
    folder.mkdir()
    for file in path.parent.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    return folder / path.name


@pytest.mark.parametrize("state", ["another", ""])
async def test_a_state_that_is_handed_over_is_whole_whatever_has_become_of_the_second_place(
    path: Path, state: str
) -> None:
    old = open_journal(path)
    await stored(old, jobs(1), jobs(2))
    count_elsewhere(path, state or old.count.state, 50)
    lock, loop = os.dup(old.lock.file), asyncio.get_running_loop()
    new = SqliteJournal.open(path, read_request=read_request, loop=loop, lock=lock, left=old.count)
    assert (new.load(max_retired=0).unreadable, new.count) == ([], old.count)
    await new.close()
    await old.close()


# ------------------------------------------------------------------------------------ files that are not there any more


def remove(file: Path) -> None:
    file.unlink()


def move(file: Path, to: Path) -> None:
    file.rename(to)


def content(file: Path) -> bytes:
    return file.read_bytes()


def size(file: Path) -> int:
    return file.stat().st_size


def replace_by_a_copy(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    copy.rename(file)


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
@pytest.mark.parametrize("do", [remove, replace_by_a_copy])
async def test_nothing_is_acknowledged_into_files_that_were_removed_or_replaced(
    path: Path, ending: str, do: Callable[[Path], None]
) -> None:
    health: list[StorageError | None] = []
    unwell = asyncio.Event()

    def on_health(error: StorageError | None) -> None:
        health.append(error)
        unwell.set()

    journal = open_journal(path, on_health)
    await stored(journal, jobs(1))
    file = Path(f"{path}{ending}")
    kept = file.with_name("kept")
    os.link(file, kept)
    do(file)
    journal.retry()
    await unwell.wait()
    assert f"{file} was re" in str(health[0])
    [error] = await written(journal, jobs(2))
    assert error is not None
    kept.rename(file)
    await stored(journal, jobs(3))
    assert health[1:] == [None]
    await journal.close()
    assert [job.job_id for job in (await load(path))[0].jobs] == [1, 2, 3]


def put_back(file: Path, before: bytes) -> None:
    file.write_bytes(before)


def cut_short(file: Path) -> None:
    os.truncate(file, 0)


def overwrite_with_noise(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(2 * file.stat().st_size))


def overwrite_with_an_older_copy(file: Path) -> None:
    shutil.copyfile(file.with_name("older"), file)


@pytest.mark.parametrize(
    ("do", "ending"),
    [(cut_short, ""), (cut_short, "-wal"), (overwrite_with_noise, ""), (overwrite_with_an_older_copy, "")],
)
async def test_nothing_is_acknowledged_into_files_that_were_overwritten(
    path: Path, do: Callable[[Path], None], ending: str
) -> None:
    unwell = asyncio.Event()
    health: list[StorageError | None] = []

    def on_health(error: StorageError | None) -> None:
        health.append(error)
        unwell.set()

    journal = open_journal(path, on_health)
    await stored(journal, jobs(1))
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"VACUUM INTO '{path.with_name('older')}'")
    await stored(journal, jobs(2))
    file = Path(f"{path}{ending}")
    before = content(file)
    do(file)
    journal.prune(0.0)  # which does not take them for right, either
    await unwell.wait()
    assert str(file) in str(health[0])
    [error] = await written(journal, jobs(3))
    assert error is not None
    put_back(file, before)
    await stored(journal, jobs(4))
    assert health[1:] == [None]
    await journal.close()
    assert [job.job_id for job in (await load(path))[0].jobs] == [1, 2, 3, 4]


async def test_a_database_that_was_only_touched_or_checkpointed_by_the_journal_itself_is_right(path: Path) -> None:
    health: list[StorageError | None] = []
    journal = open_journal(path, health.append)
    for number in range(1, 30):  # enough for the log to be brought into the database
        await stored(journal, jobs(*range(500 * number, 500 * number + 500)))
        if number % 5 == 0:
            os.utime(path)
    assert size(path) > 100_000
    assert not other_process_may_write(path)
    await journal.close()
    assert health == []


async def test_tools_of_sqlite_may_write_to_the_state_of_a_running_server(path: Path) -> None:
    health: list[StorageError | None] = []
    journal = open_journal(path, health.append)
    for number in range(1, 4):
        await stored(journal, jobs(number))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DELETE FROM facts WHERE name = 'set_aside/jobs/17'")
            assert other.execute("PRAGMA wal_checkpoint").fetchone()[0] == 0
    await stored(journal, jobs(4))
    await journal.close()
    assert health == []
    assert len((await load(path))[0].jobs) == 4


def other_process_may_write(path: Path) -> bool:
    """Whether SQLite's own locks are gone: then a process that is not the last to have it open removes the log."""
    script = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT * FROM jobs').fetchone(); c.close()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    return not beside(path, "-wal").exists()


async def test_a_second_server_is_refused_though_the_lock_was_removed(path: Path) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1))
    lock = beside(path, ".lock")
    for _ in range(2):
        remove(lock)
        for use in (open_journal, cold_start):
            with pytest.raises(StateInUseError):
                use(path)
    remove(lock)
    journal.retry()
    await stored(journal, jobs(2))
    assert content(lock).strip() == str(os.getpid()).encode()
    with pytest.raises(StateInUseError, match=f"number {os.getpid()};"):
        open_journal(path)
    with closing(sqlite3.connect(path)) as other:  # SQLite's own locks are still there: this would be the last to close
        assert other.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    assert beside(path, "-wal").stat()
    await journal.close()
    assert [job.job_id for job in (await load(path))[0].jobs] == [1, 2]


async def test_a_right_that_is_handed_over_is_to_the_state_that_was_left_and_to_no_other(path: Path) -> None:
    old = open_journal(path)
    await stored(old, jobs(1), jobs(2))
    loop = asyncio.get_running_loop()

    def take_over(left: Count | None) -> SqliteJournal:
        lock = os.dup(old.lock.file)
        return SqliteJournal.open(path, read_request=read_request, loop=loop, lock=lock, left=left)

    for number in (old.count.number - 1, old.count.number + 1):
        with pytest.raises(StorageError, match="not the one that was handed over"):
            take_over(Count(old.count.state, number))
    with pytest.raises(StorageError, match="not the one that was handed over"):
        take_over(Count("another", old.count.number))
    move(path, elsewhere := path.with_name("elsewhere"))
    with pytest.raises(StorageError):
        take_over(None)
    with pytest.raises(FileNotFoundError):
        content(path)
    move(elsewhere, path)
    new = take_over(old.count)
    await old.close()
    await stored(new, jobs(3))
    new.retry()
    await stored(new, jobs(4))
    remove(beside(path, ".lock"))
    with pytest.raises(StateInUseError):
        open_journal(path)
    await new.close()


# --------------------------------------------------------------------------------------------- commits that are missing


async def with_lost_commits(path: Path, spoil: Callable[[Path], None]) -> Path:
    """A state whose server is killed after jobs 1 to 12, each in a commit of its own, and whose log is then spoilt."""
    journal = open_journal(path)
    for number in range(1, 13):
        await stored(journal, jobs(number))
    left = killed(path, path.with_name("left"))
    await journal.close()
    spoil(Path(f"{left}-wal"))
    return left


def flip(at: float) -> Callable[[Path], None]:
    """Flip a bit of a file at this part of its length."""

    def spoil(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(at * len(content))] ^= 4
        file.write_bytes(content)

    return spoil


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "spoil", [flip(0.5), flip(0.9), flip(0.97), cut, remove], ids=["half", "late", "last", "cut", "gone"]
)
async def test_commits_that_are_missing_are_told_and_their_numbers_are_not_used_again(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    left = await with_lost_commits(path, spoil)
    found, highest = await load(left)
    there = len(found.jobs)
    assert there < 12
    assert highest == 12
    [lost] = found.unreadable
    assert lost.table == "commits"
    if there == 11:
        assert "the last commit is missing, and with it job 12" in lost.reason
    elif there or spoil is not remove:
        assert f"the last {12 - there} commits are missing, and with them jobs {there + 1} to 12" in lost.reason
    journal = open_journal(left)
    assert journal.load(max_retired=0).unreadable == [lost]  # until it is stored that this is known
    await stored(journal, Changes(facts={"a": 1}))
    await journal.close()
    found, highest = await load(left)
    assert (found.unreadable, highest) == ([], 12)


async def test_no_commit_is_missed_after_a_kill_at_any_moment(path: Path) -> None:
    journal = open_journal(path)
    for number in range(1, 6):
        await stored(journal, jobs(number))
        found, highest = await load(killed(path, path.with_name(f"left-{number}")))
        assert (found.unreadable, highest) == ([], number)
    await journal.close()


async def test_nor_where_the_second_place_is_behind_or_is_not_there(path: Path) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1))
    second = count_path(path).read_bytes()
    await stored(journal, jobs(2))
    for content in (second, b"", b"rubbish", second[:-60]):
        left = killed(path, path.with_name(f"left-{len(content)}"))
        count_path(left).write_bytes(content)
        found, highest = await load(left)
        assert (found.unreadable, highest) == ([], 2)
    await journal.close()


async def test_no_start_and_no_upgrade_goes_on_with_a_state_that_it_may_not_write_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_journal(path)
    await stored(old, jobs(1))
    access = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: mode != os.W_OK and access(file, mode))
    lock, loop = os.dup(old.lock.file), asyncio.get_running_loop()
    with pytest.raises(StorageError, match="this user may not write to it"):
        SqliteJournal.open(path, read_request=read_request, loop=loop, lock=lock, left=old.count)
    await old.close()
    with pytest.raises(StorageError, match="this user may not write to it"):
        open_journal(path)


async def test_states_in_one_folder_are_counted_apart_whatever_their_names_end_with(path: Path) -> None:
    for state in (path, path.with_suffix("")):
        journal = open_journal(state)
        await stored(journal, jobs(1))
        await journal.close()
    assert [(await load(state))[0].unreadable for state in (path, path.with_suffix(""))] == [[], []]


@pytest.mark.parametrize("use", [open_journal, cold_start])
async def test_a_folder_is_no_state_and_is_left_alone(tmp_path: Path, use: Callable[[Path], object]) -> None:
    folder = tmp_path / "states"
    make(folder)
    with pytest.raises(StorageError, match="it is a folder"):
        use(folder)
    assert names_in(tmp_path) == ["states"]


def make(folder: Path) -> None:
    folder.mkdir()


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"), [(overwrite_with_noise, "it is damaged"), (make_a_folder, "Is a directory"), (remove, "")]
)
async def test_a_second_place_that_cannot_be_used_is_told_and_a_state_without_one_is_served(
    path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1))
    await journal.close()
    spoil(count_path(path))
    with structlog.testing.capture_logs() as log:
        found, highest = await load(path)
    assert (found.unreadable, highest) == ([], 1)
    assert bool(log) == bool(reason)
    assert all(reason in entry["reason"] for entry in log)


@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_backup_that_is_put_back_gives_no_number_twice(path: Path, all_of_it: bool) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1))
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    await stored(journal, jobs(2), jobs(3))
    await journal.close()
    for file in path.parent.glob("hall.db*" if all_of_it else "hall.db"):
        file.unlink()
    backup.rename(path)
    found, highest = await load(path)
    assert [job.job_id for job in found.jobs] == [1]
    assert highest == 3
    assert "jobs 2 to 3" in found.unreadable[0].reason


async def test_a_state_that_was_removed_is_missed_and_one_that_was_set_aside_is_not(path: Path) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1, 2))
    await journal.close()
    assert cold_start(path) is not None
    found, highest = await load(path)
    assert (found.unreadable, highest) == ([], 2)
    journal = open_journal(path)
    await stored(journal, jobs(3))
    await journal.close()
    remove(path)
    found, highest = await load(path)
    assert highest == 3
    assert "this is not the state that was here" in found.unreadable[0].reason


# ------------------------------------------------------------------------------------------------ damage, and reading


def start(path: Path) -> None:
    asyncio.run(load(path))


def error_of(use: Callable[[Path], object], path: Path) -> SpallocServerError | None:
    try:
        use(path)
    except SpallocServerError as exc:
        return exc
    return None


def test_one_flipped_bit_is_an_error_of_one_line_and_never_a_traceback(path: Path) -> None:
    start(path)
    sound = path.read_bytes()
    rng = random.Random(1)
    written = [index for index in range(100, len(sound)) if sound[index]]  # the tables' definitions, above all
    bits = [rng.randrange(8 * 4096) for _ in range(150)] + [8 * index + 7 for index in written[::31]]
    refused = 0
    for bit in bits:
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        for use in (start, lambda path: read_state(path, read_request), cold_start):
            path.write_bytes(content)
            for ending in ("-wal", "-shm"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
            error = error_of(use, path)
            assert error is None or (use is not cold_start and "\n" not in str(error))
            refused += isinstance(error, DamagedStateError)
    assert refused > 50


async def test_readers_leave_nothing_beside_a_state_that_no_server_has(path: Path) -> None:
    journal = open_journal(path)
    await stored(journal, Changes(jobs={1: a_job(1, ended_at=5.0)}))
    during = {file.name for file in path.parent.iterdir()}
    assert len(list(read_history(path))) == 1
    assert {file.name for file in path.parent.iterdir()} == during
    await journal.close()
    before = {file.name for file in path.parent.iterdir()}
    assert len(list(read_history(path))) == 1
    assert read_state(path, read_request).facts == {}
    assert {file.name for file in path.parent.iterdir()} == before


async def test_a_state_can_be_read_where_nothing_can_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(path)
    await stored(journal, jobs(1))
    await journal.close()
    with closing(connect_to_read(path)) as connection:
        [(_, _, name)] = connection.execute("PRAGMA database_list").fetchall()
        assert name == str(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)  # which needs files beside it


async def test_what_was_read_while_a_server_began_to_write_is_read_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(path)
    await stored(journal, Changes(jobs={1: a_job(1, ended_at=5.0)}))
    await journal.close()
    begun: list[SqliteJournal] = []
    loop = asyncio.get_running_loop()

    def connect(path: Path) -> sqlite3.Connection:
        connection = connect_to_read(path)
        if not begun:
            begun.append(SqliteJournal.open(path, read_request=read_request, loop=loop))
            with closing(sqlite3.connect(path)) as other:
                other.execute("UPDATE history SET owner = 'another'")
                other.commit()
        return connection

    monkeypatch.setattr("spalloc_server.storage.history.connect_to_read", connect)
    assert [row.owner for row in read_history(path)] == ["another"]
    await begun[0].close()
