"""Reading the state and the history of jobs, while a server writes them or not.

Theory of operation. The state is opened for reading only. History is read page by page along the index of ends. No
transaction outlives a page, because a long one would keep the writer's log from being cut back. What was read without
a lock, since no server had the state, is read anew where one has begun to write meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from spalloc_server.core.model import JobRow, Snapshot
from spalloc_server.errors import StorageError
from spalloc_server.storage.files import explained
from spalloc_server.storage.reading import ReadRequest, read_jobs, read_snapshot
from spalloc_server.storage.rows import Line
from spalloc_server.storage.state_file import at_rest, connect_to_read

__all__ = ["read_history", "read_state"]

T = TypeVar("T")

PAGE = 1000
"""Jobs of the history that are read at once."""


def read_state(path: Path, read_request: ReadRequest) -> Snapshot:
    """All that a core needs to be where the server is; jobs that have ended are not in it. Raises as `read_history`.

    `read_request` is for jobs whose rows lack their requests, see `storage.reading`.
    """
    return _read(path, lambda connection: read_snapshot(connection, read_request))


def read_history(path: Path, *, since: float = 0.0, until: float = float("inf")) -> Iterator[JobRow]:
    """The jobs that ended at or after `since` and before `until` (seconds since the epoch), in order of their ends.

    Raises:
        DamagedStateError: what is stored cannot be what was written.
        StorageError: it cannot be read, or has another schema than this version's.
    """
    after = (since, -1)
    rest = "WHERE (ended_at, job_id) > (?, ?) AND ended_at < ? ORDER BY ended_at, job_id LIMIT ?"
    while True:
        page = _read(path, partial(_page, rest=rest, parameters=(*after, until, PAGE)))
        yield from page
        if len(page) < PAGE:
            return
        after = (page[-1].ended_at or 0.0, page[-1].job_id)


def _page(connection: sqlite3.Connection, rest: str, parameters: Line) -> list[JobRow]:
    return list(read_jobs(connection, "history", rest, parameters))


def _read(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What `read` makes of the state."""
    resting = at_rest(path)
    try:
        with explained(path), closing(connect_to_read(path)) as connection:
            found = read(connection)
    except StorageError:
        if at_rest(path) == resting:
            raise
    else:
        if resting is None or at_rest(path) == resting:
            return found
    with explained(path), closing(connect_to_read(path)) as connection:
        return read(connection)
