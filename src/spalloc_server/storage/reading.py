"""How lines of tables become rows again.

Theory of operation. What cannot be read costs its row only: it is collected, with whatever of it can be read, for the
core to set aside. Columns that are JSON are read as plain values first, and then all of a line as the row that it is.

A live job always has its request, but a row may lack it: a server older than that column has written the row, after a
newer one that had brought the state to its schema could not take over. Such a row is read from its arguments, by a
function that is handed in, since storage knows none of the doors that jobs come through.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
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
    ResultRow,
    SessionRow,
    Snapshot,
    TokenRow,
    UnreadableRow,
    UserRow,
)
from spalloc_server.storage.rows import COLUMNS, COMMITS, JSON, KEYS, TABLES, Line, whole_block

__all__ = ["ReadRequest", "highest_id", "read_accounts", "read_boards", "read_facts", "read_jobs", "read_snapshot"]

ReadRequest: TypeAlias = Callable[[str, list[Any], dict[str, Any]], Request]
"""What a job asks for, from its owner, `args` and `kwargs`; raises where they make no sense."""

_Row = TypeVar("_Row", bound=msgspec.Struct)
_Decoded = TypeVar("_Decoded")


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


def read_boards(connection: sqlite3.Connection, unreadable: list[UnreadableRow] | None = None) -> list[BoardRow]:
    """All boards, in order of machine and place; otherwise as `read_facts`."""
    return _rows(connection, "boards", BoardRow, "machine, x, y, z", unreadable)


def read_accounts(connection: sqlite3.Connection) -> Changes:
    """All accounts with their tokens and sessions that can be read, for a new state; the last use of a connection."""
    connection.text_factory = _text
    return Changes(
        users={row.number: row for row in _rows(connection, "users", UserRow, "number", [])},
        tokens={row.id: row for row in _rows(connection, "tokens", TokenRow, "created_at", [])},
        sessions={row.id: row for row in _rows(connection, "sessions", SessionRow, "used_at", [])},
    )


def _rows(
    connection: sqlite3.Connection, table: str, row: type[_Row], order: str, unreadable: list[UnreadableRow] | None
) -> list[_Row]:
    return list(_read(connection, table, partial(_decode, row=row), f"ORDER BY {order}", unreadable=unreadable))


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
        return Snapshot(
            jobs=sorted([*live, *retired], key=lambda job: job.job_id),
            boards=read_boards(connection, bad),
            releases=_rows(connection, "releases", ReleaseRow, "release_id", bad),
            facts=read_facts(connection, bad),
            users=_rows(connection, "users", UserRow, "number", bad),
            tokens=_rows(connection, "tokens", TokenRow, "created_at", bad),
            sessions=_rows(connection, "sessions", SessionRow, "used_at", bad),
            results=_rows(connection, "results", ResultRow, "number", bad),
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
            key = tuple(line[name] for name in TABLES[table][: KEYS[table]])
            unreadable.append(
                UnreadableRow(table=table, key=key, reason=str(exc) or repr(exc), row=_readable(table, line))
            )


def _select(
    connection: sqlite3.Connection, table: str, rest: str = "", parameters: Iterable[Any] = ()
) -> Iterator[dict[str, Any]]:
    query = f"SELECT {COLUMNS[table]} FROM {table} {rest}"  # noqa: S608
    for values in connection.execute(query, tuple(parameters)):
        yield dict(zip(TABLES[table], values, strict=True))


def _parsed(table: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line whose columns of JSON are what that says."""
    parsed = {name: _parse(line[name]) for name in JSON[table] if line[name] is not None}
    return {**line, **parsed}


def _readable(table: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The same, as far as that can be had: what is not JSON stays the text that it is."""
    readable = dict(line)
    for name in JSON[table]:
        with suppress(Exception):
            readable[name] = _parse(line[name])
    return readable


def _job(line: dict[str, Any]) -> JobRow:
    place = {name: line.pop(name) for name in Allocation.__struct_fields__}
    ended = line["ended_at"] is not None
    if line["request"] is not None:
        request = _parse(line["request"])
        line["request"] = msgspec.convert({"owner": line["owner"], **request} if ended else request, Request)
    if ended and place["machine"] is not None and place["boards"] is None:
        place["boards"] = ()
        place["boards"] = whole_block(_decode(place, Allocation))
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
