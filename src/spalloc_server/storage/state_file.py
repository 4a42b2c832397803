"""The state file: whether it is sound, how it grows with the software, and where it goes when it is set aside.

Theory of operation. A file is judged before anything is written to it. Of another program, or of a newer schema:
refused, untouched. Who may have it is in `files`, and whether it is all that was written in `commit_count`. Then
migrations bring an older schema up, each in one transaction together with its number (`PRAGMA user_version`). They are
read when this module is imported: a newer version may be installed in its place while this process runs. Last,
what a start depends on is checked, at a price that does not grow with history: the tables of live rows, page by page
(SQLite itself notices a file that was cut short). Reading the live rows, which follows, checks their values. Damage
further back in history shows when it is met.

Damaged state is never deleted: `rename` gives it another name, and that is also all that "discard" means.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from spalloc_server.core.boards.records import SERVER
from spalloc_server.core.model import BoardRow, Changes
from spalloc_server.errors import NewerStateError, SpallocServerError, StorageError
from spalloc_server.storage.commit_count import Count, CountFile
from spalloc_server.storage.files import PARTS, Lock, beside, damaged, explained
from spalloc_server.storage.reading import ReadRequest, read_accounts, read_boards, read_facts
from spalloc_server.storage.row_migrations import ROW_MIGRATIONS
from spalloc_server.storage.rows import encode

__all__ = [
    "at_rest",
    "cold_start",
    "connect",
    "connect_to_read",
    "consistent",
    "newest_schema",
    "prepare",
    "reopen",
    "replace",
    "state_path",
    "transaction",
]

APPLICATION_ID: Final = 0x53704E4E
"""Marks a database as ours (`PRAGMA application_id`): "SpNN"."""

BUSY_SECONDS = 2.0
"""The longest wait for another program's lock on the state, such as an operator's shell."""

LOG_BYTES = 64 * 2**20
"""The write-ahead log is cut back to this after it had to grow."""

_MIGRATIONS = [
    entry.read_text()
    for entry in sorted((resources.files(__package__) / "migrations").iterdir(), key=lambda entry: entry.name)
]
"""The SQL of every migration; the first brings an empty database to schema 1."""

LIVE_TABLES = ("jobs", "boards", "releases", "facts", "users", "tokens", "sessions", "results")

_OF_ONE_ROW = re.compile(r"(NULL|NUMERIC|INT|INTEGER|REAL|TEXT|BLOB|non-\w+) value in |CHECK constraint failed")
"""Findings about a value of a row: that row is set aside when it is read, and the others are sound."""


@contextmanager
def consistent(path: Path) -> Iterator[None]:
    """Turn whatever a core makes of rows that no core can have written into `DamagedStateError`."""
    try:
        yield
    except Exception as exc:
        told = str(exc) if isinstance(exc, SpallocServerError) else repr(exc)
        raise damaged(path, f"what is in it does not fit together: {told}") from exc


def state_path(config: Path) -> Path:
    """Where the state of the server with this config file is kept, unless it is told otherwise."""
    return config.parent / f".{config.name}.state.db"  # whatever `config` is: to read it tells what is wrong


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is done within."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.commit()  # which waits for other threads once; `execute("COMMIT")`, three times
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def connect(path: Path, read_request: ReadRequest | None = None) -> sqlite3.Connection:
    """Open the state, new or old, for writing; the caller holds its lock.

    Args:
        path: the state file.
        read_request: for the live jobs of an older schema; without it their rows go on to lack what it would read.

    Raises:
        NewerStateError: a newer version of this software wrote it; it is untouched.
        DamagedStateError: it is damaged.
        StorageError: it cannot be opened, or is not a state of this software.
    """
    with explained(path):
        if not path.exists() or not path.stat().st_size:
            _create(path)
        elif not beside(path, "-journal").exists():  # which there is only after a crash in the very first moments
            connect_to_read(path, any_version=True).close()  # judged before anything is written
        for ending in PARTS:  # a backup that was put in place may be open to everybody, or read-only
            with suppress(FileNotFoundError, PermissionError):
                beside(path, ending).chmod(0o600)
        if not os.access(path, os.W_OK):  # SQLite opens it all the same, and refuses each commit for good
            raise StorageError(f"the state in {path} cannot be used: this user may not write to it")
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, read_request)
        except BaseException:
            connection.close()
            raise
        return connection


def reopen(path: Path) -> sqlite3.Connection:
    """Open a state whatever its schema is, for a server that goes on with it; its lines are as good as it can take."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    _set_up(connection)
    return connection


def connect_to_read(path: Path, *, any_version: bool = False, resting: bool | None = None) -> sqlite3.Connection:
    """Open an existing state for reading only, while a server has it or not; raises as `connect`.

    Nothing is made beside a state that is `at_rest`: so it can be read on a disk that nobody can write to. Whoever
    reads it must look whether it still is, since a server may have begun to write.

    A state of an older schema is refused too, unless `any_version` is set. Who knows better may say whether it is
    `resting`.
    """
    resting = at_rest(path) is not None if resting is None else resting
    how = "mode=ro&immutable=1" if resting else "mode=ro"
    uri = f"{path.absolute().as_uri()}?{how}"
    with explained(path):
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _judge(connection, path, any_version=any_version)
        except BaseException:
            connection.close()
            raise
        return connection


def at_rest(path: Path) -> tuple[int, ...] | None:
    """What a state looks like that no server has open; None where one has, or has been killed, or there is none."""
    try:
        if any(beside(path, ending).exists() for ending in PARTS[1:]):
            return None
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _judge(connection: sqlite3.Connection, path: Path, *, any_version: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StorageError(f"{path} is a database of another program; choose another file with --state")
    newest = newest_schema()
    if version > newest:
        raise NewerStateError(
            f"the state in {path} has schema {version}, but this version of the server knows only schemas up to "
            f"{newest}; install the newer version again, or choose another file with --state"
        )
    if version < newest and not any_version:
        raise StorageError(f"the state in {path} has the older schema {version}; start the server on it once")


def _create(path: Path) -> None:
    """An empty file that only its owner may read; SQLite gives the log the same permissions."""
    log = beside(path, "-wal")
    if log.exists() and log.stat().st_size:
        raise damaged(path, f"the file is missing or empty, its log {log} is not")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path, read_request: ReadRequest | None) -> None:
    _judge(connection, path, any_version=True)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageError(f"{path} is on a file system without shared memory; choose a local one with --state")
    _set_up(connection)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, migration in enumerate(_MIGRATIONS[version:], version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {migration}")
            if number in ROW_MIGRATIONS and read_request is not None:
                ROW_MIGRATIONS[number](connection, read_request)
            connection.execute(f"PRAGMA user_version = {number}")  # no script: that would commit what is before it
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
    if not version:
        connection.execute("PRAGMA wal_checkpoint")  # so that the database is known again without its log (`files`)
    _check(connection, path)


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")


def newest_schema() -> int:
    """The number of the schema that this version of the software writes."""
    return len(_MIGRATIONS)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    for table in LIVE_TABLES:
        for (finding,) in connection.execute(f"PRAGMA quick_check({table})"):
            if finding != "ok" and not _OF_ONE_ROW.match(finding):
                raise damaged(path, f"table {table}: {finding}")


def prepare(path: Path, changes: Changes, count: Count) -> Path:
    """Begin a state with these rows, which has come so far, beside the one at `path`; where it is."""
    fresh = beside(path, ".fresh")
    for ending in PARTS:
        beside(fresh, ending).unlink(missing_ok=True)  # what a crash may have left
    with closing(connect(fresh)) as new, transaction(new):
        encode(changes).store(new)
        count.store(new)
    return fresh


def replace(path: Path, fresh: Path) -> Path | None:
    """Set the state at `path`, which nobody has open, aside; the one at `fresh` takes its place."""
    aside = rename(path)
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # what is written from now on is lost with a name that is not on the disk
    finally:
        os.close(folder)
    return aside


def rename(path: Path) -> Path | None:
    """Give the state at `path`, whatever its condition, a new name: `NAME.aside-1` or the next free number.

    For the holder of the lock; nobody may have the state open.

    Returns:
        The new name, for the operator; None where there was nothing.

    Raises:
        StorageError: it cannot be renamed.
    """
    parts = [ending for ending in PARTS if beside(path, ending).exists()]
    if not parts:
        return None
    number = 1
    while any(beside(path, f".aside-{number}{ending}").exists() for ending in PARTS):
        number += 1
    aside = beside(path, f".aside-{number}")
    with explained(path):
        # The database first: a log left alone by a crash here is refused at the next start, never overlooked.
        for ending in parts:
            beside(path, ending).rename(beside(aside, ending))
    return aside


def cold_start(path: Path, *, keep: Collection[str] = ()) -> Path | None:
    """Set the old state aside and begin a new one.

    Where they can be read, boards that operators have closed stay so, and accounts go along, tokens and sessions, too.

    Args:
        path: the state file.
        keep: facts to take over likewise, by the first part of their names.

    Returns:
        As `rename`.

    Raises:
        StateInUseError: a server has it.
        StorageError: it cannot be renamed, or the new one cannot be written.
    """
    path = path.resolve()
    lock = Lock(path)
    try:
        facts: dict[str, Any] = {}
        boards: dict[tuple[str, int, int, int], BoardRow | None] = {}
        accounts = Changes()
        with suppress(StorageError), explained(path), closing(connect_to_read(path, any_version=True)) as old:
            readable = {name: fact for name, fact in read_facts(old, []).items() if isinstance(fact, int | dict | list)}
            facts = {name: fact for name, fact in readable.items() if name.partition("/")[0] in keep}
            closed = [row for row in read_boards(old, []) if row.by not in {None, SERVER}]
            boards = {(row.machine, row.x, row.y, row.z): row for row in closed}
            accounts = read_accounts(old)  # last: an older state has none
        with closing(CountFile(path)) as second:  # first, lest a state set aside is taken for one that is missing
            if second.seen is not None:
                second.write(msgspec.structs.replace(second.seen, number=0))
        aside = rename(path)
        with explained(path), closing(connect(path)) as new, transaction(new):
            encode(msgspec.structs.replace(accounts, facts=facts, boards=boards)).store(new)
        return aside
    finally:
        lock.release()
