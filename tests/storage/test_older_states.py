"""Servers on states that older versions have left: all that lives goes on, and what makes no sense costs itself alone.

The states `data/hall-*.sql` have been written by versions of each schema, for a machine `m` of 24 boards. Job 1 has
ended, 2 is ready, 3 is being switched on, and 4 and 5 wait; in schema 8, 4 is on hold. Jobs from number 101 on make no
sense; one of them has boards. To `hall-4-written-by-3.sql` a version of schema 3 has written, which went on after an
upgrade had failed.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import AsyncExitStack, closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import structlog

from spalloc_server.core.model.arguments import parse_request, read_request
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.errors import DamagedStateError, StorageError
from spalloc_server.storage.history import read_state
from spalloc_server.storage.row_migrations import ROW_MIGRATIONS
from spalloc_server.storage.rows import TABLES
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import connect, newest_schema
from tests.house import Client, Place

DATA = Path(__file__).parent / "data"
DUMPS = sorted(DATA.glob("hall-*.sql"))
OLD = [dump for dump in DUMPS if dump.stem in {"hall-1", "hall-2", "hall-3"}]
LIVE = [2, 3, 4, 5]
POISONED = [101, 102, 103, 104, 111, 112, 113, 114, 121, 131]
BOARDS = {2: {0, 1, 2, 6, 7, 8}, 3: {12, 13, 14}}
"""Numbers of the boards that jobs have, in their frame."""

READY = 3

REQUESTS = {
    2: parse_request([2, 1], {"owner": "ann@example.org", "min_ratio": 0.333}),
    3: parse_request([3], {"owner": "7", "machine": "m", "min_ratio": 1.0}),
    4: parse_request([24], {"owner": "bob", "max_dead_boards": 3, "max_runtime": 86400, "min_ratio": 3}),
    5: parse_request([0, 0, 0], {"owner": "ca\u0301s \U0001f600", "max_dead_links": 0}),
}
"""What the jobs that live have asked for."""


def restore_dump(path: Path, dump: Path, bmp: str = "192.0.2.1") -> None:
    """Make a state of a dump, for a machine whose frame has this BMP."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(dump.read_text().replace("192.0.2.1", bmp))


def columns(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def load(path: Path, read: Any = read_request) -> Snapshot:
    journal = SqliteJournal.open(path, read_request=read, loop=asyncio.get_running_loop())
    try:
        return journal.load(max_retired=10)
    finally:
        await journal.close()


def live(snapshot: Snapshot) -> dict[int, Request | None]:
    return {row.job_id: row.request for row in snapshot.jobs if row.ended_at is None and row.job_id < POISONED[0]}


def no_request(owner: str, args: list[Any], kwargs: dict[str, Any]) -> Request:
    raise AssertionError(f"the arguments of a job of {owner} are read")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.configure(4, 2)
    return place


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
async def test_a_server_goes_on_with_all_that_makes_sense(place: Place, dump: Path) -> None:
    restore_dump(place.state, dump, place.hosts[0])
    arguments = columns(place.state, "SELECT args, kwargs FROM jobs WHERE job_id < 100 ORDER BY job_id")
    with structlog.testing.capture_logs() as log:
        async with place.simulator() as simulator, place.serving() as server, AsyncExitStack() as stack:
            client = await Client.connect(server.address)
            stack.push_async_callback(client.close)
            listed = await raw(client, "list_jobs")
            assert [job["job_id"] for job in json.loads(listed)["return"]] == LIVE
            for args, kwargs in arguments:
                assert f'"args":{args},"kwargs":{kwargs},'.encode() in listed
            assert [row.key for row in server.controller.set_aside()] == [str(number) for number in POISONED]
            await client.until(3, READY)
            switched = {number for (_, number), times in simulator.power_cycles().items() if any(times)}
            assert switched >= BOARDS[3]
            assert not switched & BOARDS[2], "it was ready"
            held = [view.job_id for view in server.controller.job_views() if view.held]
            assert held == ([4] if dump.stem == "hall-8" else [])
            if held:
                assert "On hold, by eve: night" in (await client.call("get_job_state", 4))["reason"]
                server.controller.release_jobs(held, by="ann")
            await client.call("destroy_job", 2)
            await client.until(5, READY)
            for job_id in (3, 5):
                await client.call("destroy_job", job_id)
            await client.until(4, READY)
            assert len((await client.call("get_job_machine_info", 4))["boards"]) == 24, "also those of job 131"
            for number in POISONED:
                assert "could not read" in (await client.call("get_job_state", number))["reason"]
            assert await client.create(1) == 132
    named = [entry for entry in log if entry["event"] == "stored row set aside: it makes no sense"]
    assert sorted(entry["key"] for entry in named) == [str(number) for number in POISONED]
    assert all(entry["table"] == "jobs" and entry["reason"] for entry in named)


async def raw(client: Client, command: str) -> bytes:
    """A reply as it is on the wire."""
    client._writer.write(json.dumps({"command": command, "args": [], "kwargs": {}}).encode() + b"\n")
    return await client._reader.readline()


@pytest.mark.parametrize("dump", DUMPS, ids=lambda dump: dump.stem)
async def test_live_jobs_have_what_they_asked_for(tmp_path: Path, dump: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, dump)
    snapshot = await load(path)
    assert live(snapshot) == REQUESTS
    assert live(read_state(path, read_request)) == REQUESTS


@pytest.mark.parametrize(
    "dump", [*OLD, *(DATA / f"hall-{schema}.sql" for schema in (4, 5, 6, 7, 8))], ids=lambda dump: dump.stem
)
async def test_arguments_are_read_by_the_migration_and_by_no_later_start(tmp_path: Path, dump: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, dump)
    connect(path, read_request).close()
    assert live(await load(path, no_request)) == REQUESTS


@pytest.mark.parametrize("dump", OLD, ids=lambda dump: dump.stem)
async def test_the_migration_writes_to_no_row_but_live_ones_that_it_can_read(tmp_path: Path, dump: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, dump)
    before = {table: columns(path, f"SELECT * FROM {table}") for table in ("boards", "releases", "facts")}
    shape = [line[1] for line in columns(path, "PRAGMA table_info(history)")]
    ended = columns(path, f"SELECT {', '.join(f'[{name}]' for name in shape)} FROM history")
    connect(path, read_request).close()
    assert [job_id for (job_id,) in columns(path, "SELECT job_id FROM jobs WHERE request IS NOT NULL")] == LIVE
    assert columns(path, "SELECT count(*) FROM jobs WHERE request IS NULL") == [(len(POISONED),)]
    assert columns(path, f"SELECT {', '.join(f'[{name}]' for name in shape)} FROM history") == ended
    assert columns(path, "SELECT count(*) FROM history WHERE request IS NOT NULL") == [(0,)]
    assert {table: columns(path, f"SELECT * FROM {table}") for table in before} == before


async def test_without_a_reader_the_migration_leaves_all_rows_for_later(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, DATA / "hall-3.sql")
    connect(path).close()
    assert columns(path, "PRAGMA user_version") == [(newest_schema(),)]
    assert columns(path, "SELECT count(*) FROM jobs WHERE request IS NOT NULL") == [(0,)]
    assert live(await load(path)) == REQUESTS


async def test_a_migration_that_fails_in_the_middle_leaves_the_schema_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, DATA / "hall-3.sql")
    before = columns(path, "SELECT sql FROM sqlite_master ORDER BY name")

    def fails(connection: sqlite3.Connection, read: Any) -> None:
        migrate(connection, read)
        raise sqlite3.OperationalError("database or disk is full")

    migrate = ROW_MIGRATIONS[4]
    with monkeypatch.context() as patch:
        patch.setitem(ROW_MIGRATIONS, 4, fails)
        with pytest.raises(StorageError, match="database or disk is full"):
            await load(path)
    assert columns(path, "PRAGMA user_version") == [(3,)]
    assert columns(path, "SELECT sql FROM sqlite_master ORDER BY name") == before
    assert live(await load(path)) == REQUESTS


async def test_a_process_of_the_schema_before_can_go_on_with_the_state(tmp_path: Path) -> None:
    """It has statements that name all columns but the new one, and an upgrade has migrated its state and failed."""
    path = tmp_path / "state.db"
    restore_dump(path, DATA / "hall-3.sql")
    known = [line[1] for line in columns(path, "PRAGMA table_info(jobs)")]
    names = ", ".join(f"[{name}]" for name in known)
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        lines = old.execute(f"SELECT {names} FROM jobs WHERE job_id < 100").fetchall()
        connect(path, read_request).close()
        statement = f"INSERT OR REPLACE INTO {{}} ({names}) VALUES ({', '.join('?' * len(known))})"
        old.executemany(statement.format("jobs"), lines[:-1])
        ended = {**dict(zip(known, lines[-1], strict=True)), "ended_at": 1.8e9, "state": 4}
        old.execute(statement.format("history"), tuple(ended.values()))
        old.execute("DELETE FROM jobs WHERE job_id = ?", (ended["job_id"],))
    assert columns(path, "SELECT request FROM jobs WHERE job_id < 100") == [(None,)] * 3
    snapshot = await load(path)
    assert live(snapshot) == {job_id: REQUESTS[job_id] for job_id in (2, 3, 4)}
    assert [row.job_id for row in snapshot.jobs if row.ended_at is not None] == [1, 5]


async def test_a_table_of_live_rows_that_is_damaged_is_no_matter_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    restore_dump(path, DATA / "hall-3.sql")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("ALTER TABLE jobs DROP COLUMN args")
    with pytest.raises(DamagedStateError, match="args"):
        await load(path)
    assert columns(path, "PRAGMA user_version") == [(3,)]


def test_migrations_are_those_of_the_version_that_runs_although_another_is_installed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "migrations").mkdir()
    for number in range(1, 11):
        (tmp_path / "migrations" / f"{number:04}_other.sql").write_text("CREATE TABLE other (a);")
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    connect(tmp_path / "state.db").close()
    assert columns(tmp_path / "state.db", "PRAGMA user_version") == [(newest_schema(),)] == [(8,)]
    assert not columns(tmp_path / "state.db", "SELECT * FROM sqlite_master WHERE name = 'other'")


def test_a_request_has_the_fields_that_its_schema_knows() -> None:
    """A new one needs a migration, so that an older server refuses what it would not understand."""
    fields = {
        8: "owner boards triads board machine tags min_ratio max_dead_boards max_dead_links require_torus "
        "max_runtime priority root"
    }
    assert " ".join(Request.__struct_fields__) == fields[newest_schema()]
    assert "request" in TABLES["jobs"]
