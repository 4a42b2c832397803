"""What a migration does to rows, where SQL alone cannot.

Theory of operation. A migration is a numbered file of SQL in `migrations`. Where rows must be understood to be brought
up, `ROW_MIGRATIONS` has a function for its number, which goes on behind that SQL, in the same transaction. (The folder
has nothing but the numbered SQL: servers of schema 3 count its files, also after a newer version was installed there.)

A function names tables and columns as they were at its schema, and never changes. It goes row by row and over live
rows only: of history there may be millions, and clients wait. A row that it cannot read it leaves as it is. Whoever
loads the state meets that row again, and sets it aside with the reason; so it costs one job, and never the start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from spalloc_server.storage.reading import ReadRequest

__all__ = ["ROW_MIGRATIONS"]

RowMigration: TypeAlias = Callable[[sqlite3.Connection, ReadRequest], None]


def _store_requests(connection: sqlite3.Connection, read_request: ReadRequest) -> None:
    """To schema 4: a live job has its request in a column, which was in its arguments until then."""
    before, connection.text_factory = connection.text_factory, bytes
    try:
        lines: list[tuple[Any, ...]] = connection.execute("SELECT job_id, owner, args, kwargs FROM jobs").fetchall()
    finally:
        connection.text_factory = before
    requests = []
    for job_id, owner, args, kwargs in lines:
        with suppress(Exception):
            request = read_request(owner.decode(), msgspec.json.decode(args), msgspec.json.decode(kwargs))
            requests.append((msgspec.json.encode(request).decode(), job_id))
    connection.executemany("UPDATE jobs SET request = ? WHERE job_id = ?", requests)


ROW_MIGRATIONS: dict[int, RowMigration] = {4: _store_requests}
"""By the schema to which they lead."""
