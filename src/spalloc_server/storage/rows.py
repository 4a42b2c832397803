"""How rows become lines of tables.

Theory of operation. A field of a row is a column of the same name. What is compound (arguments, lists of boards,
failures, a request) is JSON in one column; an allocation is spread over columns of its own. The lists of columns are
derived from the structs, so that a new field asks for a migration, and a test compares them with the tables.

A line of history leaves out what its other columns tell: the owner in the request, and the boards where they are all of
the block. It comes back as it was.

Rows are mutable, so they are encoded when they are handed over, in the caller's thread. Nothing that SQLite refuses
gets past `encode`. Should something do so all the same, it is taken out (`take_refused`), since otherwise every later
commit would fail with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from spalloc_server.coordinates import Board
from spalloc_server.core.model import (
    Allocation,
    BoardRow,
    BoardTimeRow,
    Changes,
    JobRow,
    Note,
    ReleaseRow,
    Request,
    ResultRow,
    SessionRow,
    TokenRow,
    UserRow,
)
from spalloc_server.errors import StorageError

__all__ = ["COLUMNS", "COMMITS", "JSON", "KEYS", "REFUSALS", "TABLES", "Line", "Rows"]
__all__ += ["encode", "store_fact", "take_refused", "whole_block"]

Line: TypeAlias = tuple[str | int | float | None, ...]
"""A line of a table, or the leading columns of one."""

_Row = TypeVar("_Row", bound=msgspec.Struct)

_JOB_FIELDS = tuple(name for name in JobRow.__struct_fields__ if name != "allocation")
_ALLOCATION_FIELDS = Allocation.__struct_fields__
_COMPOUND = (list, tuple, dict, Request, Note)
"""What is stored as JSON."""

TABLES: dict[str, tuple[str, ...]] = {
    "jobs": (*_JOB_FIELDS, *_ALLOCATION_FIELDS),
    "history": (*_JOB_FIELDS, *_ALLOCATION_FIELDS),
    "boards": BoardRow.__struct_fields__,
    "releases": ReleaseRow.__struct_fields__,
    "facts": ("name", "value"),
    "users": UserRow.__struct_fields__,
    "tokens": TokenRow.__struct_fields__,
    "sessions": SessionRow.__struct_fields__,
    "results": ResultRow.__struct_fields__,
    "board_time": BoardTimeRow.__struct_fields__,
}
"""Columns of every table, in the order in which they are written and read."""

KEYS = {table: {"boards": 4, "board_time": 2}.get(table, 1) for table in TABLES}
"""How many leading columns are the key."""

_LIVE = tuple(table for table in TABLES if table != "history")
"""Tables whose rows a batch brings; a job's goes to `history` once it has ended."""

_LISTS = {"args", "boards", "earlier", "failures", "frames", "held", "known", "kwargs", "reports", "stopped"}
JSON = {table: [name for name in columns if name in _LISTS] for table, columns in TABLES.items()} | {"board_time": []}
"""Which columns are JSON of plain values. A request is read as what it is, and strictly."""

COMMITS = "commits"
"""The fact that storage itself keeps, see `storage.commit_count`."""

_ENDED, _REQUEST, _BOARDS = (TABLES["jobs"].index(name) for name in ("ended_at", "request", "boards"))

MAX_BLOCK: Final = 2**20
"""Triads; a block of more is of no machine."""

_MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite stores."""

# In brackets, since one name is a keyword, and SQLite takes an unknown name in double quotes for a text.
COLUMNS = {table: ", ".join(f"[{name}]" for name in columns) for table, columns in TABLES.items()}
"""The same as SQL has them."""
_inserts = {
    table: f"INSERT OR REPLACE INTO {table} ({COLUMNS[table]}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    for table, columns in TABLES.items()
}
_deletes = {
    table: f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in TABLES[table][:keys])}"  # noqa: S608
    for table, keys in KEYS.items()
    if table != "history"
}


@dataclass(slots=True)
class Rows:
    """Encoded changes, the latest of each key; None deletes."""

    jobs: dict[int, Line] = field(default_factory=dict)
    boards: dict[Line, Line | None] = field(default_factory=dict)
    releases: dict[Line, Line | None] = field(default_factory=dict)
    facts: dict[Line, Line | None] = field(default_factory=dict)
    users: dict[Line, Line | None] = field(default_factory=dict)
    tokens: dict[Line, Line | None] = field(default_factory=dict)
    sessions: dict[Line, Line | None] = field(default_factory=dict)
    results: dict[Line, Line | None] = field(default_factory=dict)
    board_time: dict[Line, Line | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, table) for table in _LIVE)

    def update(self, later: Rows) -> None:
        """Take in later changes."""
        for table in _LIVE:
            getattr(self, table).update(getattr(later, table))

    def has_any(self, keys: Iterable[tuple[str, Any]]) -> bool:
        """Whether one of these rows is among them, by table and key."""
        return any(key in getattr(self, table) for table, key in keys)

    def store(self, connection: sqlite3.Connection) -> None:
        """Write all of it, within the transaction that the caller has begun."""
        ended = [line for line in self.jobs.values() if line[_ENDED] is not None]
        work = [
            (_inserts["jobs"], [line for line in self.jobs.values() if line[_ENDED] is None]),
            (_deletes["jobs"], [line[:1] for line in ended]),
            (_inserts["history"], ended),
        ]
        for table in _LIVE[1:]:
            lines: dict[Line, Line | None] = getattr(self, table)
            work.append((_deletes[table], [key for key, line in lines.items() if line is None]))
            work.append((_inserts[table], [line for line in lines.values() if line is not None]))
        for statement, some in work:
            if some:  # each statement waits several times for other threads, even where it has nothing to do
                connection.executemany(statement, some)


REFUSALS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    UnicodeError,
    OverflowError,
    TypeError,
)
"""Errors that are of a row, and not of the disk: trying again does not help."""


def take_refused(rows: Rows, connection: sqlite3.Connection) -> dict[tuple[str, Any], Exception]:
    """Take out what the database refuses, whatever else is stored; by table and key, why.

    To be called within a transaction that is not committed.
    """
    refused: dict[tuple[str, Any], Exception] = {}
    for table in _LIVE:
        lines: dict[Any, Line | None] = getattr(rows, table)
        for key, line in tuple(lines.items()):
            try:
                alone = Rows()
                getattr(alone, table)[key] = line
                alone.store(connection)
            except REFUSALS as exc:
                refused[table, key] = exc
                del lines[key]
    return refused


def encode(changes: Changes) -> Rows:
    """The lines of tables for these changes.

    Raises:
        StorageError: a value cannot be stored; nothing is kept of the changes.
    """
    try:
        return Rows(
            jobs={job_id: _encode_job(job) for job_id, job in changes.jobs.items()},
            boards={key: _encode(row, _board_fields) for key, row in changes.boards.items()},
            releases={(key,): _encode(row, _release_fields) for key, row in changes.releases.items()},
            facts={
                (name,): None if value is None else (name, msgspec.json.encode(value).decode())
                for name, value in changes.facts.items()
            },
            users={(key,): _encode(row, _user_fields) for key, row in changes.users.items()},
            tokens={(key,): _encode(row, _token_fields) for key, row in changes.tokens.items()},
            sessions={(key,): _encode(row, _session_fields) for key, row in changes.sessions.items()},
            results={(key,): _encode(row, _result_fields) for key, row in changes.results.items()},
            board_time={key: _encode(row, _board_time_fields) for key, row in changes.board_time.items()},
        )
    except (TypeError, ValueError, OverflowError) as exc:
        raise StorageError(f"a value cannot be stored: {exc}") from exc


_job_fields: Callable[[JobRow], tuple[Any, ...]] = attrgetter(*_JOB_FIELDS)
_allocation_fields: Callable[[Allocation], tuple[Any, ...]] = attrgetter(*_ALLOCATION_FIELDS)
_board_fields: Callable[[BoardRow], tuple[Any, ...]] = attrgetter(*TABLES["boards"])
_release_fields: Callable[[ReleaseRow], tuple[Any, ...]] = attrgetter(*TABLES["releases"])
_user_fields: Callable[[UserRow], tuple[Any, ...]] = attrgetter(*TABLES["users"])
_token_fields: Callable[[TokenRow], tuple[Any, ...]] = attrgetter(*TABLES["tokens"])
_session_fields: Callable[[SessionRow], tuple[Any, ...]] = attrgetter(*TABLES["sessions"])
_result_fields: Callable[[ResultRow], tuple[Any, ...]] = attrgetter(*TABLES["results"])
_board_time_fields: Callable[[BoardTimeRow], tuple[Any, ...]] = attrgetter(*TABLES["board_time"])
_NOWHERE = (None,) * len(_ALLOCATION_FIELDS)
_AS_IT_IS = frozenset({type(None), bool, float})
"""Types of which SQLite takes any value: most columns have one of them, and it is quicker to look than to call."""
_json = msgspec.json.Encoder().encode


def _encode_job(job: JobRow) -> Line:
    place = _NOWHERE if job.allocation is None else _allocation_fields(job.allocation)
    line = _line(_job_fields(job) + place)
    return line if job.ended_at is None else _briefly(job, line)


def _briefly(job: JobRow, line: Line) -> Line:
    """The line of history of a job, without what the rest of it tells: there may be millions."""
    brief = list(line)
    if job.request is not None and job.request.owner == job.owner:
        fields = {name: value for name, value in msgspec.to_builtins(job.request).items() if name != "owner"}
        brief[_REQUEST] = _json(fields).decode()
    place = job.allocation
    if place is not None and len(place.boards) == 3 * place.width * place.height and place.boards == whole_block(place):
        brief[_BOARDS] = None
    return tuple(brief)


def whole_block(place: Allocation) -> tuple[Board, ...]:
    """All boards of the block, if it does not reach over an edge of the machine; `ValueError` where it cannot be."""
    x, y = place.x, place.y
    if not 0 <= place.width * place.height <= MAX_BLOCK:
        raise ValueError(f"a block of {place.width} x {place.height} triads is none")
    return tuple((i, j, z) for i in range(x, x + place.width) for j in range(y, y + place.height) for z in range(3))


def _encode(row: _Row | None, fields: Callable[[_Row], tuple[Any, ...]]) -> Line | None:
    return None if row is None else _line(fields(row))


def _line(values: tuple[Any, ...]) -> Line:
    return tuple([value if type(value) in _AS_IT_IS else _column(value) for value in values])


def _column(value: Any) -> str | int | float | None:
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # raises for lone surrogates, which SQLite refuses
    elif isinstance(value, int):
        if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
            raise OverflowError(f"{value} is too large")
    elif isinstance(value, _COMPOUND):
        return _json(value).decode()
    return value  # type: ignore[no-any-return]


def store_fact(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Write one fact, within the transaction that the caller has begun."""
    connection.execute(_inserts["facts"], (name, msgspec.json.encode(value).decode()))
