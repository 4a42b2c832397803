"""Commits are counted in a second place, so that it is noticed when some are missing.

Theory of operation. SQLite gives up a write-ahead log from the first page on whose checksum is wrong, and says nothing:
what was committed from there on is gone. So it is where an old copy takes the state's place. Therefore each commit has
a number. It is stored in the same transaction (as a fact), and afterwards in a file beside the state, together with the
number that the next job gets. Where the state has a smaller number than this file, commits are missing; jobs go on with
the numbers of the file in any case.

The file is written behind the commit and without a sync: that costs microseconds. A crash may leave an older number
there, never a newer one than that of a durable commit. So after a power cut a loss may go unnoticed, but none is
reported that there was not.

A state has a name by chance, so that another state is not taken for one that has lost commits. Its file is not called
as those of the state are: who removes these, and puts a backup in their place, has not removed it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import MISSING, UnreadableRow
from spalloc_server.log.logger import get_logger
from spalloc_server.storage.reading import highest_id
from spalloc_server.storage.rows import COMMITS, store_fact

__all__ = ["Count", "CountFile", "count_path", "missing", "read_count"]

_LENGTH = 128
"""Bytes of the file, always the same: overwriting them needs no room on the disk."""


log = get_logger(__name__)


class Count(msgspec.Struct, frozen=True):
    """How far a state has come."""

    state: str
    """Its name."""
    number: int = 0
    """Of its last commit."""
    next_job: int = 1
    """No job has had this number, or a higher one."""

    def after(self, jobs: Iterable[int]) -> Count:
        """The count with one more commit, in which these jobs are."""
        return Count(self.state, self.number + 1, max(self.next_job, 1 + max(jobs, default=0)))

    def store(self, connection: sqlite3.Connection) -> None:
        """Store it, within the transaction that it counts."""
        store_fact(connection, COMMITS, {"state": self.state, "number": self.number})


def read_count(connection: sqlite3.Connection, seen: Count | None) -> Count:
    """What the state itself says; a new name and no commits where it says nothing, and `seen` where that is damaged."""
    count, next_job = Count(secrets.token_hex(8)), 1
    for name, value in connection.execute("SELECT name, value FROM facts WHERE name IN (?, 'next_id')", (COMMITS,)):
        try:
            if name == COMMITS:
                count = msgspec.json.decode(value, type=Count)
            else:
                next_job = min(msgspec.json.decode(value, type=int), MAX_NUMBER)
        except (msgspec.MsgspecError, TypeError):  # which is told where facts are read
            count = seen or count if name == COMMITS else count
    return msgspec.structs.replace(count, next_job=max(next_job, 1 + highest_id(connection)))


def missing(stored: Count, seen: Count) -> UnreadableRow | None:
    """What is missing from a state of which more was seen; None where nothing is."""
    if not seen.number or (seen.state == stored.state and seen.number <= stored.number):
        return None
    first, last = stored.next_job, seen.next_job - 1
    number = seen.number - stored.number if seen.state == stored.state else seen.number
    jobs = f"{'job' if last == first else f'jobs {first} to'} {last}"
    jobs = f", and with {'it' if number == 1 else 'them'} {jobs}" if last >= first else ""
    if seen.state == stored.state:
        what = "the last commit is missing" if number == 1 else f"the last {number} commits are missing"
        key = f"{stored.number + 1}-{seen.number}"
    else:
        what, key = f"this is not the state that was here, whose {seen.number} commits are missing", seen.state
    return UnreadableRow(table=MISSING, key=(key,), reason=f"{what}{jobs}", row={})


def count_path(path: Path) -> Path:
    """Where commits of the state at `path` are counted; another place for each state, whatever its name ends with."""
    name = path.name.removesuffix(".db")
    return path.with_name(f"{name}-commits" if name == path.name else f"{name}.commits")


class CountFile:
    """The second place. What goes wrong with it is no reason not to serve."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        self.seen: Count | None = None
        """What it said when it was opened; None where that cannot be had."""
        name, wrong = count_path(path), "it is damaged"
        try:
            self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            line = os.pread(self._file, _LENGTH, 0)
            self.seen = _parsed(line)
        except OSError as exc:
            line, wrong = b"?", str(exc)
        if line and self.seen is None:
            log.warning("commits that may be missing go unnoticed at this start", file=str(name), reason=wrong)

    def write(self, count: Count) -> None:
        """Say this from now on."""
        if self._file is not None:
            text = f"{count.state} {count.number} {count.next_job}"
            with suppress(OSError):
                os.pwrite(self._file, f"{text} {_checksum(text)}".ljust(_LENGTH - 1).encode() + b"\n", 0)

    def close(self) -> None:
        """Have it on the disk, and let go of it."""
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = None


def _parsed(line: bytes) -> Count | None:
    with suppress(ValueError):  # as of a file that is new
        text, _, checksum = line.decode().strip().rpartition(" ")
        if checksum == _checksum(text):
            state, number, next_job = text.split(" ")
            return Count(state, int(number), int(next_job))
    return None


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
