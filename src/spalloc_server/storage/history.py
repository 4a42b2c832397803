"""Reading the state and the history of jobs, while a server writes them or not.

Theory of operation. The state is opened for reading only. History is read page by page along the index of ends. No
transaction outlives a page, because a long one would keep the writer's log from being cut back. What was read without
a lock, since no server had the state, is read anew where one has begun to write meanwhile. Where it is known that no
server has it, it is read as `settled`, and history as a whole: no writer waits for that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from spalloc_server.core.model import JobRow, Snapshot
from spalloc_server.errors import StorageError
from spalloc_server.storage.files import explained
from spalloc_server.storage.reading import ReadRequest, read_facts, read_jobs, read_snapshot
from spalloc_server.storage.reports import Report, report
from spalloc_server.storage.rows import Line
from spalloc_server.storage.settled import settled
from spalloc_server.storage.state_file import at_rest, connect_to_read

__all__ = ["last_seen", "read", "read_history", "read_report", "read_state"]

T = TypeVar("T")

NOTED_SECONDS = 120.0
"""What is later than so long after a server was seen, its clock has made up."""

_LAST = """
    SELECT max(coalesce(at, 0)) FROM (
        SELECT max(ended_at) AS at FROM history UNION ALL
        SELECT max(max(created_at, coalesce(allocated_at, 0), coalesce(ready_at, 0))) FROM jobs
    )
"""
"""When something last happened to a job."""

PAGE = 1000
"""Jobs of the history that are read at once."""


def read_state(path: Path, read_request: ReadRequest, *, live: bool = True, max_retired: int = 0) -> Snapshot:
    """All that a core needs to be where the server is. Raises as `read_history`.

    `read_request` is for jobs whose rows lack their requests, see `storage.reading`; `live` is as for `read`. The jobs
    that ended last are in it, too, as many as `max_retired`.
    """
    return read(
        path,
        lambda connection: read_snapshot(connection, read_request, max_retired=max_retired),
        live=live,
        read_request=read_request,
    )


def read_history(path: Path, *, since: float = 0.0, until: float = float("inf"), live: bool = True) -> Iterator[JobRow]:
    """The jobs that ended at or after `since` and before `until` (seconds since the epoch), in order of their ends.

    Raises:
        DamagedStateError: what is stored cannot be what was written.
        StorageError: it cannot be read, or has another schema than this version's.
    """
    if not live:
        rest = "WHERE ended_at >= ? AND ended_at < ? ORDER BY ended_at, job_id"
        with explained(path), settled(path) as connection:
            yield from read_jobs(connection, "history", rest, (since, until))
        return
    after = (since, -1)
    rest = "WHERE (ended_at, job_id) > (?, ?) AND ended_at < ? ORDER BY ended_at, job_id LIMIT ?"
    while True:
        page = read(path, partial(_page, rest=rest, parameters=(*after, until, PAGE)))
        yield from page
        if len(page) < PAGE:
            return
        after = (page[-1].ended_at or 0.0, page[-1].job_id)


def read_report(path: Path, by: str, bounds: Sequence[float], names: Sequence[str], now: float, **how: Any) -> Report:
    """See `storage.reports.report`; `how` is as for `read`."""
    return read(path, lambda connection: report(connection, by, bounds, names, now), **how)


def last_seen(path: Path) -> float:
    """When a server last had this state, give or take a minute (seconds since the epoch); when it was last written."""

    def seen(connection: sqlite3.Connection) -> float:
        fact = read_facts(connection, []).get("clock")
        noted = fact.get("at") if isinstance(fact, dict) else None
        (last,) = connection.execute(_LAST).fetchone()
        if not isinstance(noted, int | float):
            return path.stat().st_mtime if last is None else float(last)
        return max(noted, min(noted + NOTED_SECONDS, float(last or 0.0)))

    return read(path, seen, live=False)


def _page(connection: sqlite3.Connection, rest: str, parameters: Line) -> list[JobRow]:
    return list(read_jobs(connection, "history", rest, parameters))


def read(
    path: Path,
    function: Callable[[sqlite3.Connection], T],
    *,
    live: bool = True,
    read_request: ReadRequest | None = None,
) -> T:
    """What `function` makes of the state.

    Args:
        path: the state file.
        function: is given a connection.
        live: whether a server may have it. Otherwise nothing at all is written beside it, and it may be of an older
            schema.
        read_request: for live jobs of an older schema.
    """
    if not live:
        with explained(path), settled(path, read_request) as connection:
            return function(connection)
    resting = at_rest(path)
    try:
        with explained(path), closing(connect_to_read(path)) as connection:
            found = function(connection)
    except StorageError:
        if at_rest(path) == resting:
            raise
    else:
        if resting is None or at_rest(path) == resting:
            return found
    with explained(path), closing(connect_to_read(path)) as connection:
        return function(connection)
