"""How rows become lines of tables, and lines rows again.

Theory of operation. A field of a row is a column of the same name. What is compound (arguments, lists of boards,
failures, a request) is JSON in one column; an allocation is spread over columns of its own. The lists of columns are
derived from the structs, so that a new field asks for a migration, and a test compares them with the tables.

A live job always has its request, but a row may lack it: a server older than that column has written the row, after a
newer one that had brought the state to its schema could not take over. Such a row is read from its arguments, by a
function that is handed in, since storage knows none of the doors that jobs come through.

Rows are mutable, so they are encoded when they are handed over, in the caller's thread. Nothing that SQLite refuses
gets past `encode`. Should something do so all the same, it is taken out (`take_refused`), since otherwise every later
commit would fail with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

import msgspec

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import (
    Allocation,
    BoardRow,
    Changes,
    JobRow,
    ReleaseRow,
    Request,
    SessionRow,
    Snapshot,
    TokenRow,
    UnreadableRow,
    UserRow,
)
from spalloc_server.errors import StorageError

__all__ = ["COMMITS", "REFUSALS", "TABLES", "Line", "ReadRequest", "Rows"]
__all__ += [
    "encode",
    "highest_id",
    "read_accounts",
    "read_boards",
    "read_facts",
    "read_jobs",
    "read_snapshot",
    "store_fact",
    "take_refused",
]

Line: TypeAlias = tuple[str | int | float | None, ...]
"""A line of a table, or the leading columns of one."""

ReadRequest: TypeAlias = Callable[[str, list[Any], dict[str, Any]], Request]
"""What a job asks for, from its owner, `args` and `kwargs`; raises where they make no sense."""

_Row = TypeVar("_Row", bound=msgspec.Struct)
_Decoded = TypeVar("_Decoded")

_JOB_FIELDS = tuple(name for name in JobRow.__struct_fields__ if name != "allocation")
_ALLOCATION_FIELDS = Allocation.__struct_fields__
_COMPOUND = (list, tuple, dict, Request)
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
}
"""Columns of every table, in the order in which they are written and read."""

_KEYS = {table: 4 if table == "boards" else 1 for table in TABLES}
"""How many leading columns are the key."""

_LIVE = tuple(table for table in TABLES if table != "history")
"""Tables whose rows a batch brings; a job's goes to `history` once it has ended."""

_LISTS = {"args", "boards", "failures", "frames", "known", "kwargs", "reports", "stopped"}
_JSON = {table: [name for name in columns if name in _LISTS] for table, columns in TABLES.items()}
"""Which columns are JSON of plain values. A request is read as what it is, and strictly."""

COMMITS = "commits"
"""The fact that storage itself keeps, see `storage.commit_count`."""

_ENDED = TABLES["jobs"].index("ended_at")

_MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite stores."""

# In brackets, since one name is a keyword, and SQLite takes an unknown name in double quotes for a text.
_quoted = {table: ", ".join(f"[{name}]" for name in columns) for table, columns in TABLES.items()}
_inserts = {
    table: f"INSERT OR REPLACE INTO {table} ({_quoted[table]}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    for table, columns in TABLES.items()
}
_deletes = {
    table: f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in TABLES[table][:keys])}"  # noqa: S608
    for table, keys in _KEYS.items()
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
_NOWHERE = (None,) * len(_ALLOCATION_FIELDS)
_AS_IT_IS = frozenset({type(None), bool, float})
"""Types of which SQLite takes any value: most columns have one of them, and it is quicker to look than to call."""
_json = msgspec.json.Encoder().encode


def _encode_job(job: JobRow) -> Line:
    place = _NOWHERE if job.allocation is None else _allocation_fields(job.allocation)
    return _line(_job_fields(job) + place)


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


def read_jobs(connection: sqlite3.Connection, table: str, rest: str = "", parameters: Line = ()) -> Iterator[JobRow]:
    """The jobs that `SELECT ... FROM {table} {rest}` gives.

    Raises:
        msgspec.MsgspecError: a line is not a job.
    """
    return _read(connection, table, _job, rest, parameters, unreadable=None)


def read_facts(connection: sqlite3.Connection, unreadable: list[UnreadableRow] | None = None) -> dict[str, Any]:
    """All facts but storage's own; those that cannot be read go to `unreadable`, or are raised as `read_jobs` does."""
    facts = dict(_read(connection, "facts", _fact, unreadable=unreadable))
    facts.pop(COMMITS, None)
    return facts


def store_fact(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Write one fact, within the transaction that the caller has begun."""
    connection.execute(_inserts["facts"], (name, msgspec.json.encode(value).decode()))


def read_boards(connection: sqlite3.Connection, unreadable: list[UnreadableRow] | None = None) -> list[BoardRow]:
    """All boards, in order of machine and place; otherwise as `read_facts`."""
    rest = "ORDER BY machine, x, y, z"
    return list(_read(connection, "boards", partial(_decode, row=BoardRow), rest, unreadable=unreadable))


def read_accounts(connection: sqlite3.Connection) -> Changes:
    """All accounts with their tokens and sessions, as what begins a new state with them; what cannot be read is not."""
    bad: list[UnreadableRow] = []
    return Changes(
        users={row.number: row for row in _rows(connection, "users", UserRow, "number", bad)},
        tokens={row.id: row for row in _rows(connection, "tokens", TokenRow, "created_at", bad)},
        sessions={row.id: row for row in _rows(connection, "sessions", SessionRow, "used_at", bad)},
    )


def _rows(
    connection: sqlite3.Connection, table: str, row: type[_Row], order: str, unreadable: list[UnreadableRow]
) -> Iterator[_Row]:
    return _read(connection, table, partial(_decode, row=row), f"ORDER BY {order}", unreadable=unreadable)


def read_snapshot(connection: sqlite3.Connection, read_request: ReadRequest, *, max_retired: int = 0) -> Snapshot:
    """Return all but history, of which only the `max_retired` jobs that ended last.

    What cannot be read is `unreadable`. The request of a live job whose row lacks it is read from its arguments.
    """
    last = "ORDER BY ended_at DESC, job_id DESC LIMIT ?"
    bad: list[UnreadableRow] = []
    before, connection.text_factory = connection.text_factory, _text
    try:
        live = list(_read(connection, "jobs", partial(_live_job, read_request), unreadable=bad))
        retired = list(_read(connection, "history", _job, last, (max_retired,), unreadable=bad))
        releases = partial(_decode, row=ReleaseRow)
        return Snapshot(
            jobs=sorted([*live, *retired], key=lambda job: job.job_id),
            boards=read_boards(connection, bad),
            releases=list(_read(connection, "releases", releases, "ORDER BY release_id", unreadable=bad)),
            facts=read_facts(connection, bad),
            users=list(_rows(connection, "users", UserRow, "number", bad)),
            tokens=list(_rows(connection, "tokens", TokenRow, "created_at", bad)),
            sessions=list(_rows(connection, "sessions", SessionRow, "used_at", bad)),
            unreadable=bad,
        )
    finally:
        connection.text_factory = before


def highest_id(connection: sqlite3.Connection) -> int:
    """The highest number of a job that is stored, history included; 0 where there is none."""
    query = "SELECT coalesce(max(job_id), 0) FROM {} WHERE job_id <= ?"
    (live,) = connection.execute(query.format("jobs"), (MAX_NUMBER,)).fetchone()
    (ended,) = connection.execute(query.format("history"), (MAX_NUMBER,)).fetchone()
    return max(0, int(live), int(ended))


def _read(
    connection: sqlite3.Connection,
    table: str,
    decode: Callable[[dict[str, Any]], _Decoded],
    rest: str = "",
    parameters: Iterable[Any] = (),
    *,
    unreadable: list[UnreadableRow] | None,
) -> Iterator[_Decoded]:
    """What `decode` makes of the lines that `SELECT ... FROM {table} {rest}` gives."""
    for line in _select(connection, table, rest, parameters):
        try:
            yield decode(_parsed(table, line))
        except Exception as exc:
            if unreadable is None:
                raise
            key = tuple(line[name] for name in TABLES[table][: _KEYS[table]])
            unreadable.append(
                UnreadableRow(table=table, key=key, reason=str(exc) or repr(exc), row=_readable(table, line))
            )


def _select(
    connection: sqlite3.Connection, table: str, rest: str = "", parameters: Iterable[Any] = ()
) -> Iterator[dict[str, Any]]:
    query = f"SELECT {_quoted[table]} FROM {table} {rest}"  # noqa: S608
    for values in connection.execute(query, tuple(parameters)):
        yield dict(zip(TABLES[table], values, strict=True))


def _parsed(table: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line whose columns of JSON are what that says."""
    parsed = {name: _parse(line[name]) for name in _JSON[table] if line[name] is not None}
    return {**line, **parsed}


def _readable(table: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The same, as far as that can be had: what is not JSON stays the text that it is."""
    readable = dict(line)
    for name in _JSON[table]:
        with suppress(Exception):
            readable[name] = _parse(line[name])
    return readable


def _job(line: dict[str, Any]) -> JobRow:
    place = {name: line.pop(name) for name in _ALLOCATION_FIELDS}
    if line["request"] is not None:
        line["request"] = _parse(line["request"], Request)
    return _decode({**line, "allocation": None if place["machine"] is None else place}, JobRow)


def _live_job(read_request: ReadRequest, line: dict[str, Any]) -> JobRow:
    job = _job(line)
    if job.ended_at is not None:
        raise ValueError("it has ended, yet it is among those that live")
    if job.request is None:
        job.request = read_request(job.owner, job.args, job.kwargs)
    return job


def _fact(line: dict[str, Any]) -> tuple[str, Any]:
    if not isinstance(line["name"], str):
        raise TypeError("its name is no text")
    return line["name"], _parse(line["value"])


def _text(data: bytes) -> str | bytes:
    """A text of the database, or the bytes that are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _decode(line: Mapping[str, Any], row: type[_Row]) -> _Row:
    # Not strict: SQLite has no booleans, they come back as 0 and 1.
    return msgspec.convert(line, row, strict=False)


def _parse(text: Any, kind: Any = Any) -> Any:
    if not isinstance(text, str):
        raise msgspec.ValidationError(f"{text!r} is not JSON text")
    return msgspec.json.decode(text, type=kind)
