"""Who may have the state file, what condition it is in, and where it goes when it is set aside."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from spalloc_server.core.model import BoardRow, Changes, Snapshot
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import DamagedStateError, NewerStateError, StateInUseError, StorageError
from spalloc_server.storage.history import read_history
from spalloc_server.storage.rows import TABLES, encode
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import _MIGRATIONS, cold_start, connect, newest_schema
from tests.storage.journals import stored
from tests.storage.workload import Model, a_job, a_result, a_session, a_token, a_user, workload

DATA = Path(__file__).parent / "data"
BATCHES = 120
PAGE_SIZE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".hall.state.db"


def open_journal(path: Path) -> SqliteJournal:
    return SqliteJournal.open(path, read_request=read_request, loop=asyncio.get_running_loop())


async def load(path: Path, *, max_retired: int = 1000) -> Snapshot:
    """What a restart would find."""
    journal = open_journal(path)
    try:
        return journal.load(max_retired=max_retired)
    finally:
        await journal.close()


def loaded(path: Path) -> Snapshot:
    """The same, for tests that need no loop of their own."""
    return asyncio.run(load(path))


@pytest.fixture
def full(path: Path) -> Snapshot:
    """What is in the state at `path`: jobs and history of several pages."""
    model = Model()

    async def fill() -> None:
        journal = open_journal(path)
        for _, changes in zip(range(BATCHES), workload(1), strict=False):
            model.apply(changes)
            journal.write(changes, lambda _: None)
        await journal.close()

    asyncio.run(fill())
    return model.snapshot(max_retired=1000)


def files(path: Path) -> dict[str, bytes]:
    """Content of the database and its log, by name."""
    found = [path for path in path.parent.iterdir() if not path.name.endswith((".lock", "-shm"))]
    return {path.name: path.read_bytes() for path in found}


def modes(path: Path) -> dict[str, int]:
    """Who may do what with the files that there are."""
    return {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}


# ------------------------------------------------------------------------------------------------------------- opening


def test_what_was_written_is_there_after_a_restart(path: Path, full: Snapshot) -> None:
    assert loaded(path) == full


async def test_only_the_owner_may_read_any_of_the_files_from_their_creation_on(path: Path) -> None:
    journal = open_journal(path)
    await stored(journal, Changes(facts={"a": 1}))
    found = modes(path)
    await journal.close()
    names = [path.name + ending for ending in ("", "-wal", "-shm", ".lock")]
    assert found == dict.fromkeys([*names, ".hall.state.commits"], 0o600)


def test_a_backup_that_everybody_may_read_is_closed_to_others_when_it_is_opened(path: Path) -> None:
    with closing(connect(path)):
        for ending in ("", "-wal", "-shm"):
            Path(f"{path}{ending}").chmod(0o644)
        with closing(connect(path)):
            assert modes(path) == {path.name + ending: 0o600 for ending in ("", "-wal", "-shm")}


async def test_a_relative_path_and_a_link_lead_to_the_same_state(
    path: Path, full: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    monkeypatch.chdir(path.parent)
    assert await load(Path(path.name)) == full
    journal = open_journal(link)
    with pytest.raises(StateInUseError):
        open_journal(path)
    await journal.close()


async def test_a_second_server_is_refused_at_once_and_told_who_has_the_state(path: Path) -> None:
    journal = open_journal(path)
    for use in (open_journal, cold_start):
        with pytest.raises(StateInUseError, match=rf"{path} is in use by .* number {os.getpid()};.*--state"):
            use(path)
    await stored(journal, Changes(facts={"a": 1}))
    await journal.close()
    assert (await load(path)).facts == {"a": 1}


HOLD = """
import asyncio, sys, pathlib
from spalloc_server.core.model.arguments import read_request
from spalloc_server.storage.sqlite import SqliteJournal
async def main():
    SqliteJournal.open(pathlib.Path(sys.argv[1]), read_request=read_request, loop=asyncio.get_running_loop())
    print("open", flush=True)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


def test_a_server_that_was_killed_leaves_the_state_to_the_next(path: Path, full: Snapshot) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        try:
            with pytest.raises(StateInUseError, match=f"number {holder.pid};"):
                loaded(path)
        finally:
            holder.send_signal(signal.SIGKILL)
    assert loaded(path) == full


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        loaded(tmp_path / "nowhere" / "state.db")


def test_a_state_that_cannot_be_opened_is_given_up_for_others(path: Path) -> None:
    path.write_bytes(b"nothing that SQLite knows" * 100)
    for _ in range(2):  # the second would be refused as in use, had the first kept its lock
        with pytest.raises(DamagedStateError):
            loaded(path)


# ------------------------------------------------------------------------------------------------------------- schemas


def test_migrations_are_numbered_without_gaps() -> None:
    names = sorted(entry.name for entry in resources.files("spalloc_server.storage").joinpath("migrations").iterdir())
    assert [int(name.split("_")[0]) for name in names] == list(range(1, len(names) + 1))
    assert all(name.endswith(".sql") for name in names)


@pytest.mark.parametrize("dump", sorted(DATA.glob("schema-*.sql")), ids=lambda dump: dump.stem)
def test_a_state_of_every_schema_so_far_opens(path: Path, dump: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text())
    snapshot = loaded(path)
    jobs = [a_job(1), a_job(2, ended_at=1500.5)]
    if dump.stem in {"schema-1", "schema-2", "schema-3"}:
        jobs[1].request = None  # history is as it was
    for job in jobs:
        assert job.allocation is not None
        if dump.stem < "schema-8":
            job.held = None
        if dump.stem < "schema-7":
            job.earlier = None
        if dump.stem < "schema-6":
            job.original, job.session, job.of_account = None, None, False
        if dump.stem == "schema-1":
            job.due = None  # to be worked out anew
        if dump.stem in {"schema-1", "schema-2"}:
            job.allocation = msgspec.structs.replace(job.allocation, wraps=None, stopped=None)
    assert snapshot == Snapshot(
        jobs=jobs,
        boards=snapshot.boards,
        releases=snapshot.releases,
        facts={"next_id": 3, "run_times": {"ada@example.org": [10.5, 20.25]}},
        users=[a_user(1)] if dump.stem >= "schema-5" else [],
        tokens=[a_token(1)] if dump.stem >= "schema-5" else [],
        sessions=[a_session(1)] if dump.stem >= "schema-5" else [],
        results=[a_result(1)] if dump.stem >= "schema-6" else [],
    )
    assert [(board.machine, board.x, board.out_of_service) for board in snapshot.boards] == [
        ("hall", 4, "FPGA 1 does not answer")
    ]
    assert [(release.release_id, release.rest_until) for release in snapshot.releases] == [(8, 1234.5)]


def test_there_is_a_dump_of_every_schema() -> None:
    migrations = list(resources.files("spalloc_server.storage").joinpath("migrations").iterdir())
    assert len(list(DATA.glob("schema-*.sql"))) == len(migrations)


def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path, full: Snapshot) -> None:
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")  # stays in the log while this connection is open
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    before = files(copy)
    for use in (loaded, connect, lambda path: list(read_history(path))):
        with pytest.raises(NewerStateError, match=rf"{copy} has schema 99, .* up to {newest_schema()};"):
            use(copy)
    assert files(copy) == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (job_id INTEGER PRIMARY KEY)")
    before = files(path)
    with pytest.raises(StorageError, match=rf"{path} is a database of another program"):
        loaded(path)
    assert files(path) == before


def test_a_failing_migration_leaves_the_schema_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = (resources.files("spalloc_server.storage") / "migrations" / "0001_first.sql").read_text()
    migrations = [sound, "CREATE TABLE extra (a); INSERT INTO nowhere VALUES (1)"]
    monkeypatch.setattr("spalloc_server.storage.state_file._MIGRATIONS", migrations)
    with pytest.raises(StorageError, match="nowhere"):
        loaded(path)
    monkeypatch.undo()
    assert loaded(path) == Snapshot()


# -------------------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_short_is_found_out(path: Path, full: Snapshot) -> None:
    os.truncate(path, path.stat().st_size - PAGE_SIZE)
    with pytest.raises(DamagedStateError, match=str(path)):
        loaded(path)


@pytest.mark.parametrize("table", ["jobs", "releases", "facts"])
def test_a_scribbled_page_of_a_live_table_is_found_out(path: Path, full: Snapshot, table: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    scribble(path, page)
    with pytest.raises(DamagedStateError, match=str(path)):
        loaded(path)


def test_lines_out_of_order_are_found_out_though_each_can_be_read(path: Path) -> None:
    with closing(connect(path)) as connection:
        encode(Changes(jobs={n: a_job(n, boards=1) for n in range(1, 5)})).store(connection)
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_SIZE + 8)  # behind the header of a leaf: where its lines begin, two bytes each
        first, second = file.read(2), file.read(2)
        file.seek((page - 1) * PAGE_SIZE + 8)
        file.write(second + first)
    with pytest.raises(DamagedStateError, match=f"{path} is damaged: table jobs: .*out of order"):
        loaded(path)


def scribble(path: Path, page: int) -> None:
    """Overwrite a page with what never was one."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_SIZE)
        file.write(b"\xa5" * PAGE_SIZE)


@pytest.mark.parametrize(
    "spoil",
    [
        "DROP TABLE boards",
        "ALTER TABLE history DROP COLUMN reason",
    ],
)
def test_tables_that_are_not_whole_are_found_out(path: Path, full: Snapshot, spoil: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(spoil)
    with pytest.raises(DamagedStateError, match=str(path)):
        loaded(path)


@pytest.mark.parametrize(
    ("table", "spoil"),
    [
        ("jobs", "UPDATE jobs SET args = 'not JSON'"),
        ("jobs", "UPDATE jobs SET args = 7"),
        ("jobs", "UPDATE jobs SET state = 'ready'"),
        ("jobs", "UPDATE jobs SET boards = '[[1, 2]]'"),
        ("jobs", "UPDATE jobs SET owner = CAST(x'ff' AS TEXT)"),
        ("jobs", "UPDATE jobs SET kwargs = replace(hex(zeroblob(50000)), '00', '[')"),
        ("jobs", "UPDATE jobs SET ended_at = 5.0"),
        ("jobs", "UPDATE jobs SET request = 'not JSON'"),
        ("jobs", "UPDATE jobs SET request = 7"),
        ("jobs", "UPDATE jobs SET request = x'7b7d'"),
        ("jobs", "UPDATE jobs SET request = '[]'"),
        ("jobs", "UPDATE jobs SET request = '{\"boards\":3}'"),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":null,"boards":3}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":"3"}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":true}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":1e400}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":3,"min_ratio":NaN}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":3,"require_torus":1}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","triads":[1,2,3]}\''),
        ("jobs", 'UPDATE jobs SET request = \'{"owner":"a","boards":3,"colour":"red"}\''),
        ("jobs", "UPDATE jobs SET request = replace(hex(zeroblob(50000)), '00', '[')"),
        ("jobs", 'UPDATE jobs SET request = NULL, kwargs = \'{"colour":"red"}\''),
        ("history", "UPDATE history SET request = '{\"owner\":7}'"),
        ("history", "UPDATE history SET ended_at = 'later'"),
        ("boards", "UPDATE boards SET failures = '[[1'"),
        ("boards", "UPDATE boards SET strikes = 'many'"),
        ("facts", "UPDATE facts SET value = '{'"),
        ("facts", "UPDATE facts SET value = x'01'"),
        ("releases", "UPDATE releases SET frames = '[3]'"),
    ],
)
def test_lines_that_were_never_written_cost_only_themselves(path: Path, full: Snapshot, table: str, spoil: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
        connection.execute(spoil)
    found = loaded(path)
    assert {row.table for row in found.unreadable} == {table}
    assert len(found.unreadable) == counts[table]
    assert all(row.key and row.reason and row.row for row in found.unreadable)
    read = {"boards": len(found.boards), "releases": len(found.releases), "facts": len(found.facts)}
    read["facts"] += 1  # the number of commits, which is storage's own
    assert {**counts, **read, table: 0, "jobs": 0, "history": 0} == {**counts, table: 0, "jobs": 0, "history": 0}
    assert len(found.jobs) == sum(counts[name] for name in ("jobs", "history") if name != table)


def test_a_value_that_is_null_where_none_may_be_is_no_damage_of_the_table(path: Path, full: Snapshot) -> None:
    change = "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = 'jobs'"
    for before, after in (("owner TEXT NOT NULL", "owner TEXT"), ("owner TEXT", "owner TEXT NOT NULL")):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            if before == "owner TEXT":
                connection.execute("UPDATE jobs SET owner = NULL")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(change, (before, after))
    assert {row.table for row in loaded(path).unreadable} == {"jobs"}


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_a_log_without_its_database_is_not_taken_for_a_new_state(path: Path, left: bytes | None) -> None:
    log = Path(f"{path}-wal")
    log.write_bytes(b"the last commits")
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(DamagedStateError, match="its log"):
        loaded(path)
    assert log.read_bytes() == b"the last commits"


# ------------------------------------------------------------------------------------------------------------ set aside


def test_state_set_aside_keeps_every_byte_under_a_new_name(path: Path, full: Snapshot) -> None:
    Path(f"{path}-wal").write_bytes(b"log")
    before = path.read_bytes()
    aside = cold_start(path)
    assert aside == path.with_name(path.name + ".aside-1")
    assert aside.read_bytes() == before
    assert Path(f"{aside}-wal").read_bytes() == b"log"
    assert loaded(path) == Snapshot()
    assert cold_start(path) == path.with_name(path.name + ".aside-2")
    path.unlink()
    assert cold_start(path) is None


def test_accounts_go_along_when_a_state_is_set_aside(path: Path) -> None:
    accounts = Changes(users={1: a_user(1)}, tokens={"t1": a_token(1)}, sessions={"s1": a_session(1)})
    with closing(connect(path)) as connection, connection:
        encode(msgspec.structs.replace(accounts, jobs={1: a_job(1)}, facts={"signing_keys": [], "a": 1})).store(
            connection
        )
        lines = "('s2', 'x', NULL, 1.0, 1.0), (CAST(x'ff' AS TEXT), 1, NULL, 1.0, 1.0)"
        connection.execute(f"INSERT INTO sessions VALUES {lines}")
        connection.execute("INSERT INTO users SELECT 2, CAST(x'ff' AS TEXT), role, 1, 1, 1, 1, 1, 1, known FROM users")
    assert cold_start(path, keep=["signing_keys"])
    assert loaded(path) == Snapshot(
        users=[a_user(1)], tokens=[a_token(1)], sessions=[a_session(1)], facts={"signing_keys": []}
    )


@pytest.mark.parametrize("dump", sorted(DATA.glob("schema-*.sql")), ids=lambda dump: dump.stem)
def test_boards_that_are_closed_stay_so_when_a_state_of_any_schema_is_set_aside(path: Path, dump: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text())
        connection.execute("UPDATE boards SET [by] = 'eve'")
        connection.commit()
    assert cold_start(path, keep=["next_id"])
    after = loaded(path)
    assert (len(after.boards), after.facts, after.jobs) == (1, {"next_id": 3}, [])
    assert len(after.users) == (dump.stem >= "schema-5")


def test_state_set_aside_can_be_put_back(path: Path, full: Snapshot) -> None:
    aside = cold_start(path)
    assert aside is not None
    aside.rename(path)
    assert loaded(path) == full


def test_a_cold_start_sets_the_old_state_aside_and_goes_on_counting_jobs(path: Path, full: Snapshot) -> None:
    aside = cold_start(path, keep=["next_id", "never heard of"])
    assert aside is not None
    closed = [row for row in full.boards if row.by not in {None, "server"}]
    assert loaded(path) == Snapshot(facts={"next_id": full.facts["next_id"]}, boards=closed)
    assert loaded(aside) == full


def test_what_operators_have_closed_is_closed_after_a_cold_start_and_what_the_server_has_is_not(path: Path) -> None:
    closed = BoardRow(machine="m", x=0, y=0, z=0, out_of_service="smells", by="eve", since=1.0)
    failed = BoardRow(machine="m", x=0, y=0, z=1, out_of_service="no FPGA", by="server", since=1.0)
    facts = {"next_id": 7, "drained/m": {"reason": "fans"}, "drainedish": 1, "owner/ann": {}}
    with closing(connect(path)) as connection:
        rows: dict[tuple[str, int, int, int], BoardRow | None] = {("m", 0, 0, 0): closed, ("m", 0, 0, 1): failed}
        encode(Changes(boards=rows, facts=facts)).store(connection)
    cold_start(path, keep=["next_id", "drained"])
    assert loaded(path) == Snapshot(facts={"next_id": 7, "drained/m": {"reason": "fans"}}, boards=[closed])


def test_a_cold_start_from_an_older_schema_goes_on_counting_jobs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = min(DATA.glob("schema-*.sql"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text())
    migrations = [*_MIGRATIONS, "CREATE TABLE extra (a)"]
    monkeypatch.setattr("spalloc_server.storage.state_file._MIGRATIONS", migrations)
    assert cold_start(path, keep=["next_id"]) is not None
    assert loaded(path) == Snapshot(facts={"next_id": 3})


@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 1000], ids=["nothing", "empty", "rubbish"])
def test_a_cold_start_needs_no_sound_state(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    aside = cold_start(path, keep=["next_id"])
    assert (aside and aside.read_bytes()) == content
    assert loaded(path) == Snapshot()
