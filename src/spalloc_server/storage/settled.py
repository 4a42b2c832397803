"""A state that no server has, read without a trace.

Theory of operation. A state that was left in order is read as it is, without locks; SQLite makes nothing beside it
then. One that was not has a log beside it, as after a kill or where a backup took both: SQLite would read that only
with a file of its own beside it. So both are copied to a folder of their own first, and what is there is recovered. So
is a state of an older schema, whose copy is brought up.

Should a server begin to write meanwhile, the copy is made again. It is good if the log is the same before and after it:
whatever was written to the database came from this log, so it is in its copy, too.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from spalloc_server.errors import StorageError
from spalloc_server.storage.files import beside
from spalloc_server.storage.reading import ReadRequest
from spalloc_server.storage.state_file import connect, connect_to_read, newest_schema

__all__ = ["settled"]

ATTEMPTS = 5
"""Copies that are made of a state which changes meanwhile."""

_HEADER = 32
"""Bytes at the begin of a log. They change each time that it begins anew."""

_COPIED = ("", "-journal", "-wal")
"""In this order, see above."""


@contextmanager
def settled(path: Path, read_request: ReadRequest | None = None) -> Iterator[sqlite3.Connection]:
    """A connection to the state, of the newest schema; nothing is written beside it, also on a disk that allows it.

    Raises:
        NewerStateError: a newer version of this software wrote it.
        DamagedStateError: it is damaged.
        StorageError: it cannot be read.
    """
    path = path.resolve()
    if not _left_over(path):
        with closing(connect_to_read(path, any_version=True, resting=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == newest_schema():
                yield connection
                return
            if not version:
                raise StorageError(f"{path} is empty: it is no state of a server")
    with TemporaryDirectory(prefix="spalloc-") as folder:
        copy = Path(folder) / path.name
        _copy(path, copy)
        with closing(connect(copy, read_request)) as connection:
            yield connection


def _left_over(path: Path) -> bool:
    """Whether the database alone is not all of it."""
    return any(log.exists() and log.stat().st_size for log in (beside(path, "-wal"), beside(path, "-journal")))


def _copy(path: Path, copy: Path) -> None:
    for _ in range(ATTEMPTS):
        before = _header(path)
        for ending in _COPIED:
            beside(copy, ending).unlink(missing_ok=True)
            if beside(path, ending).exists():
                shutil.copyfile(beside(path, ending), beside(copy, ending))
        if _header(path) == before:
            return
    raise StorageError(f"the state in {path} changes while it is read: a server must be using it")


def _header(path: Path) -> bytes:
    try:
        with beside(path, "-wal").open("rb") as log:
            return log.read(_HEADER)
    except FileNotFoundError:
        return b""
