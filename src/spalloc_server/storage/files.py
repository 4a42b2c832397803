"""The files that a state consists of: what they are called, who may have them, and whether they are still there.

Theory of operation. The state is one SQLite database with its write-ahead log beside it (`-wal`, `-shm`). A server
holds a lock on a file of its own (`.lock`, with its process number in it) for as long as it has the state: SQLite's
own locks come and go with transactions, and must not be taken by anybody else's hands. A file can be removed under
its lock, and another server could then lock another one of the same name. So the database itself is locked, too:
whoever removes that takes away what two servers could share.

Both are locks of an open file (`flock`), of which SQLite's locks know nothing. But those are locks of the process: they
all end when it closes any descriptor of the database. So the descriptor that holds the lock is opened before SQLite
opens the database, and closed after SQLite has closed it.

Whoever writes looks first whether the names still lead to the files that were opened, and whether these are as they
were left (`OpenFiles`): what is written to a file that was removed, replaced or overwritten is gone at the next start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from spalloc_server.errors import DamagedStateError, StateInUseError, StorageError

__all__ = ["PARTS", "Lock", "OpenFiles", "beside", "damaged", "explained"]

PARTS = ("", "-wal", "-shm", "-journal")
"""Endings of the files that a database may consist of."""

_OPEN_PARTS = PARTS[:3]
"""Those of them that are there for as long as a server has it open."""

_DAMAGE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
"""Primary result codes that mean that the file is not what was written (ERROR: tables or columns are missing)."""


def beside(path: Path, ending: str) -> Path:
    """The file beside `path` whose name is the same, with this ending."""
    return path.with_name(path.name + ending)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, of the file system and of decoding into ours, which name the file.

    Raises:
        DamagedStateError: the content is wrong.
        StorageError: the file cannot be read or written.
    """
    try:
        yield
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:  # SQLite's own messages quote a damaged schema
        raise damaged(path, exc) from exc
    except sqlite3.Error as exc:
        if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DAMAGE:
            raise damaged(path, exc) from exc
        raise StorageError(f"the state in {path} cannot be used: {exc}") from exc
    except OSError as exc:
        raise StorageError(f"the state in {path} cannot be used: {exc}") from exc


def damaged(path: Path, finding: object) -> DamagedStateError:
    """The error that the state at `path` is damaged, and what to do."""
    told = " ".join(str(finding).split())  # one line
    return DamagedStateError(
        f"the state in {path} is damaged: {told}; nothing was changed: put a backup in its place, or start with "
        "--cold-start, which moves it aside and begins anew"
    )


class OpenFiles:
    """The files of a state, as they are while a connection has them open.

    Args:
        path: the state file, which has been read through that connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = [(os.fspath(beside(path, ending)), _file_at(beside(path, ending))) for ending in _OPEN_PARTS]
        self._sizes = [0, 0]
        """Of the database and its log."""
        self._written = 0
        """When the database was written, in nanoseconds; its log is, with each commit."""
        self._content: tuple[object, ...] | None = None
        self.accept()

    def accept(self) -> None:
        """Take them to be right as they are; to be called after each transaction of that connection."""
        with suppress(OSError):  # which `check` tells
            found = [os.stat(name) for name, _ in self._files[:2]]  # noqa: PTH116 - as below
            self._sizes = [file.st_size for file in found]
            if (written := found[0].st_mtime_ns) != self._written:
                self._written, self._content = written, _content(self._path)

    def check(self) -> None:
        """Raise `StorageError` where one of them has been removed, replaced or overwritten since."""
        all_found = [self._found(name, file) for name, file in self._files]
        for (name, _), found, size in zip(self._files, all_found, self._sizes, strict=False):
            if found.st_size < size:
                raise self._lost(name, "cut short")
        if (written := all_found[0].st_mtime_ns) != self._written:
            content = _content(self._path)
            if not _follows(content, self._content):
                raise self._lost(self._files[0][0], "overwritten")
            self._written, self._content = written, content

    def _found(self, name: str, file: tuple[int, int] | None) -> os.stat_result:
        try:
            found = os.stat(name)  # noqa: PTH116 - as below
        except FileNotFoundError as exc:
            raise self._lost(name, "removed") from exc
        if (found.st_dev, found.st_ino) != file:
            raise self._lost(name, "replaced")
        return found

    @staticmethod
    def _lost(name: str, what: str) -> StorageError:
        return StorageError(
            f"{name} was {what} while the server has the state open: put back the file that was there, or stop the "
            "server, which loses what has happened since"
        )


def _content(path: Path) -> tuple[object, ...] | None:
    """What the database itself has, without its log: the version of its tables, whose commits, and how many of them.

    What is wrong, in words, where it is no state; None where that cannot be found out now, as without descriptors.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            (version,) = connection.execute("PRAGMA schema_version").fetchone()
            row = connection.execute("SELECT value FROM facts WHERE name = 'commits'").fetchone()
            fact = msgspec.json.decode(row[0]) if row else {}
            return version, fact.get("state"), fact.get("number", 0)
    except sqlite3.Error as exc:
        return None if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN else (str(exc),)
    except (msgspec.MsgspecError, TypeError, AttributeError):
        return ("damaged",)


def _follows(after: tuple[object, ...] | None, before: tuple[object, ...] | None) -> bool:
    """Whether one content can have come after another: SQLite's tools may bring the log into the database.

    A copy that they make (`VACUUM INTO`) has another version of the tables.
    """
    match before, after:
        case (None, _) | (_, None):
            return True
        case (version, state, int(number)), (later_version, later_state, int(later)):
            return version == later_version and state in (None, later_state) and later >= number
        case _:
            return before == after


def _file_at(name: str | Path) -> tuple[int, int] | None:
    """Device and inode of the file of this name; None where there is none."""
    try:
        found = os.stat(name)  # noqa: PTH116 - before each commit, and a path takes several times as long
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class Lock:
    """The right to the state at `path`, from construction to `release`.

    A process may hand its right over by giving another one `file`: it ends when both have let go of it. The other one
    locks the state file itself as soon as the first has ended, see `keep`.

    Args:
        path: the state file.
        file: descriptor of a lock file that another process has locked, to share its right.

    Raises:
        StateInUseError: another server has it.
        StorageError: `file` is not the lock of the state at `path`, or there is no state.
    """

    def __init__(self, path: Path, *, file: int | None = None) -> None:
        self._path = path
        self._name = beside(path, ".lock")
        self._state: int | None = None
        """Descriptor of the state file. Never closed while SQLite may have that open, which would lose its locks."""
        self.whole = False
        """Whether the state file is locked, too, as it is once no other process has a part in the right."""
        with explained(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            if file is None:
                self.file = _opened(self._name)
            elif os.path.samestat(os.fstat(file), self._name.stat()) and path.exists():
                self.file = file
            else:
                raise StorageError(f"the state that was handed over is not the one in {path}")
            try:
                self._begin(anew=file is None)
            except BaseException:
                self.release()
                raise
        self.sign()

    def _begin(self, *, anew: bool) -> None:
        if anew and not _locked(self.file):
            raise self._in_use(os.read(self.file, 20).decode(errors="replace").strip())
        if not self.lock_state() and anew:
            raise self._in_use("")

    def _in_use(self, holder: str) -> StateInUseError:
        return StateInUseError(
            f"the state in {self._path} is in use by the server with process number {holder or 'unknown'}; "
            "stop that server first, or choose another file with --state"
        )

    def lock_state(self) -> bool:
        """Lock the state file itself, if it is there; False where another process has it locked.

        Once a new file has taken its place, that one is locked instead.
        """
        found = _file_at(self._path)
        if found is None:
            return True
        if self._state is None or _file_of(self._state) != found:
            before, self._state = self._state, os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self.whole = False
            if before is not None:
                os.close(before)
        self.whole = self.whole or _locked(self._state)
        return self.whole

    def keep(self) -> bool:
        """Take what of the right is missing; to be called now and then. Whether the lock file had to be made anew.

        The state file is locked by the process that handed the right over until that has ended. A lock file that was
        removed is made anew, so that the next server is told who has the state.
        """
        if self._state is not None:
            self.whole = self.whole or _locked(self._state)
        if _file_at(self._name) == _file_of(self.file):
            return False
        anew = _opened(self._name)
        if not _locked(anew):  # another server is about to find out that this one has the state
            os.close(anew)
            return False
        os.close(self.file)
        self.file = anew
        self.sign()
        return True

    def sign(self) -> None:
        """Write this process's number into the lock file, for operators."""
        with suppress(OSError):  # a full disk is no reason not to start
            os.pwrite(self.file, f"{os.getpid():<20}\n".encode(), 0)

    def release(self) -> None:
        """Let the next server have it. SQLite must not have the state open any more."""
        if self._state is not None:
            os.close(self._state)
        os.close(self.file)


def _opened(name: Path) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _file_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _locked(descriptor: int) -> bool:
    """Lock an open file; False where another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
