"""The state file: who may have it, whether it is sound, and how it grows with the software.

Theory of operation. The state is one SQLite database with its write-ahead log beside it (`-wal`, `-shm`). A server
holds a lock on a file of its own (`.lock`, with its process number in it) for as long as it has the state: SQLite's
own locks come and go with transactions, and must not be taken by anybody else's hands. The lock file is never
removed, since two servers could then hold locks on two files of one name.

A file is judged before anything is written to it. Of another program, or of a newer schema: refused, untouched. Then
migrations bring an older schema up, each in one transaction together with its number (`PRAGMA user_version`). They are
read when this module is imported: a newer version may be installed in its place while this process runs. Last,
what a start depends on is checked, at a price that does not grow with history: the tables of live rows, page by page
(SQLite itself notices a file that was cut short). Reading the live rows, which follows, checks their values. Damage
further back in history shows when it is met.

Damaged state is never deleted: `rename` gives it another name, and that is also all that "discard" means.
"""

from __future__ import annotations

import fcntl
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
from spalloc_server.errors import DamagedStateError, NewerStateError, SpallocServerError, StateInUseError, StorageError
from spalloc_server.storage.row_migrations import ROW_MIGRATIONS
from spalloc_server.storage.rows import ReadRequest, encode, read_boards, read_facts

__all__ = [
    "Lock",
    "cold_start",
    "connect",
    "connect_to_read",
    "consistent",
    "explained",
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

PARTS = ("", "-wal", "-shm", "-journal")
"""Endings of the files that a database may consist of."""

_MIGRATIONS = [
    entry.read_text()
    for entry in sorted((resources.files(__package__) / "migrations").iterdir(), key=lambda entry: entry.name)
]
"""The SQL of every migration; the first brings an empty database to schema 1."""

LIVE_TABLES = ("jobs", "boards", "releases", "facts")

_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
"""Primary result codes that mean that the file is not what was written (ERROR: tables or columns are missing)."""


_OF_ONE_ROW = re.compile(r"(NULL|NUMERIC|INT|INTEGER|REAL|TEXT|BLOB|non-\w+) value in |CHECK constraint failed")
"""Findings about a value of a row: that row is set aside when it is read, and the others are sound."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, of the file system and of decoding into ours, which name the file.

    Raises:
        DamagedStateError: the content is wrong.
        StorageError: the file cannot be read or written.
    """
    try:
        yield
    except msgspec.MsgspecError as exc:
        raise _damaged(path, exc) from exc
    except sqlite3.Error as exc:
        if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE:
            raise _damaged(path, exc) from exc
        raise StorageError(f"the state in {path} cannot be used: {exc}") from exc
    except OSError as exc:
        raise StorageError(f"the state in {path} cannot be used: {exc}") from exc


@contextmanager
def consistent(path: Path) -> Iterator[None]:
    """Turn whatever a core makes of rows that no core can have written into `DamagedStateError`."""
    try:
        yield
    except Exception as exc:
        told = str(exc) if isinstance(exc, SpallocServerError) else repr(exc)
        raise _damaged(path, f"what is in it does not fit together: {told}") from exc


def state_path(config: Path) -> Path:
    """Where the state of the server with this config file is kept, unless it is told otherwise."""
    return config.parent / f".{config.name}.state.db"  # whatever `config` is: to read it tells what is wrong


def _damaged(path: Path, finding: object) -> DamagedStateError:
    return DamagedStateError(
        f"the state in {path} is damaged: {finding}; nothing was changed: put a backup in its place, or start with "
        "--cold-start, which moves it aside and begins anew"
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is done within."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


class Lock:
    """The right to the state at `path`, from construction to `release`.

    A process may hand its right over by giving another one `file`: it ends when both have let go of it.

    Args:
        path: the state file.
        file: descriptor of a lock file that another process has locked, to share its right.

    Raises:
        StateInUseError: another server has it.
        StorageError: `file` is not the lock of the state at `path`.
    """

    def __init__(self, path: Path, *, file: int | None = None) -> None:
        name = _beside(path, ".lock")
        with explained(path):
            if file is None:
                self.file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._take(path)
            elif os.path.samestat(os.fstat(file), name.stat()):
                self.file = file
            else:
                raise StorageError(f"the state that was handed over is not the one in {path}")
        self.sign()

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(self.file, 20).decode(errors="replace").strip() or "unknown"
            os.close(self.file)
            raise StateInUseError(
                f"the state in {path} is in use by the server with process number {holder}; "
                "stop that server first, or choose another file with --state"
            ) from exc

    def sign(self) -> None:
        """Write this process's number into the lock file, for operators."""
        with suppress(OSError):  # a full disk is no reason not to start
            os.pwrite(self.file, f"{os.getpid():<20}\n".encode(), 0)

    def release(self) -> None:
        """Let the next server have it."""
        os.close(self.file)


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
        elif not _beside(path, "-journal").exists():  # which there is only after a crash in the very first moments
            connect_to_read(path, any_version=True).close()  # judged before anything is written
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


def connect_to_read(path: Path, *, any_version: bool = False) -> sqlite3.Connection:
    """Open an existing state for reading only, while a server has it or not; raises as `connect`.

    A state of an older schema is refused too, unless `any_version` is set.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with explained(path):
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _judge(connection, path, any_version=any_version)
        except BaseException:
            connection.close()
            raise
        return connection


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
    log = _beside(path, "-wal")
    if log.exists() and log.stat().st_size:
        raise _damaged(path, f"the file is missing or empty, its log {log} is not")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path, read_request: ReadRequest | None) -> None:
    _judge(connection, path, any_version=True)
    for ending in PARTS:  # a backup that was put in place may be open to everybody
        with suppress(FileNotFoundError, PermissionError):
            _beside(path, ending).chmod(0o600)
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
                words = " ".join(finding.split())  # one line
                raise _damaged(path, f"table {table}: {words}")


def prepare(path: Path, changes: Changes) -> Path:
    """Begin a state with these rows beside the one at `path`; where it is."""
    fresh = _beside(path, ".fresh")
    for ending in PARTS:
        _beside(fresh, ending).unlink(missing_ok=True)  # what a crash may have left
    with closing(connect(fresh)) as new, transaction(new):
        encode(changes).store(new)
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
    parts = [ending for ending in PARTS if _beside(path, ending).exists()]
    if not parts:
        return None
    number = 1
    while any(_beside(path, f".aside-{number}{ending}").exists() for ending in PARTS):
        number += 1
    aside = _beside(path, f".aside-{number}")
    with explained(path):
        # The database first: a log left alone by a crash here is refused at the next start, never overlooked.
        for ending in parts:
            _beside(path, ending).rename(_beside(aside, ending))
    return aside


def cold_start(path: Path, *, keep: Collection[str] = ()) -> Path | None:
    """Set the old state aside and begin a new one. Where they can be read, boards that operators have closed stay so.

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
        with suppress(StorageError), explained(path), closing(connect_to_read(path, any_version=True)) as old:
            readable = {name: fact for name, fact in read_facts(old, []).items() if isinstance(fact, int | dict | list)}
            facts = {name: fact for name, fact in readable.items() if name.partition("/")[0] in keep}
            closed = [row for row in read_boards(old, []) if row.by not in {None, SERVER}]
            boards = {(row.machine, row.x, row.y, row.z): row for row in closed}
        aside = rename(path)
        with explained(path), closing(connect(path)) as new, transaction(new):
            encode(Changes(facts=facts, boards=boards)).store(new)
        return aside
    finally:
        lock.release()
