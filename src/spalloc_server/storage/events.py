"""What has happened, as far as the state tells: to jobs, to boards, and by operators.

Theory of operation. Nothing is stored for this. A job's row has its times, and a board's record its last failures and
reports; what is closed at present says since when, by whom and why. What an operator has opened again is forgotten
here; the server's log has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from spalloc_server.coordinates import Board
from spalloc_server.core.model import BoardRow, JobRow, Note
from spalloc_server.storage.reading import read_boards, read_facts, read_jobs

__all__ = ["Event", "events"]


class Event(msgspec.Struct, frozen=True, order=True):
    """Something that has happened."""

    time: float
    """Seconds since the Unix epoch."""
    event: str
    """Of jobs: `created`, `allocated`, `ready`, `failed` (its boards were taken away again), `ended`. Of boards:
    `board failed`, `board reported`, `board closed`. Of operators: `frame closed`, `drained`, `emergency stop`."""
    job_id: int | None = None
    owner: str | None = None
    machine: str | None = None
    boards: int = 0
    """How many a job has."""
    where: str | None = None
    """The board (`x,y,z`) or the frame (`cabinet/frame`)."""
    reason: str | None = None
    by: str | None = None
    """Who did it, where that was not a job's owner."""


def events(
    connection: sqlite3.Connection, since: float, *, job: int | None = None, board: Board | None = None
) -> list[Event]:
    """Return what has happened since a time, the oldest first.

    Args:
        connection: to the state.
        since: seconds since the epoch.
        job: only what is about this one.
        board: only what is about this one, of any machine, and jobs that had it last.
    """
    found: list[Event] = []
    for row in _jobs(connection, since, job):
        if board is None or (row.allocation is not None and board in row.allocation.boards):
            found += _of_job(row)
    if job is None:
        for record in read_boards(connection, []):
            if board in (None, (record.x, record.y, record.z)):
                found += _of_board(record)
    if job is None and board is None:
        found += _of_operators(read_facts(connection, []))
    return sorted((each for each in found if each.time >= since), key=lambda each: (each.time, each.job_id or 0))


def _jobs(connection: sqlite3.Connection, since: float, job: int | None) -> Iterable[JobRow]:
    if job is not None:
        yield from read_jobs(connection, "history", "WHERE job_id = ?", (job,))
        yield from read_jobs(connection, "jobs", "WHERE job_id = ?", (job,))
    else:
        yield from read_jobs(connection, "history", "WHERE ended_at >= ? ORDER BY ended_at", (since,))
        yield from read_jobs(connection, "jobs")


def _of_job(row: JobRow) -> Iterator[Event]:
    def event(time: float, name: str, machine: str | None = None, boards: int = 0, reason: str | None = None) -> Event:
        return Event(time, name, row.job_id, row.owner, machine, boards, reason=reason)

    yield event(row.created_at, "created")
    for had in row.earlier or ():
        yield event(had.began, "allocated", had.machine, had.boards)
        yield event(had.ended, "failed", had.machine, had.boards)
    place = row.allocation
    machine, boards = (None, 0) if place is None else (place.machine, len(place.boards))
    if row.allocated_at is not None and place is not None:
        yield event(row.allocated_at, "allocated", machine, boards)
    if row.ready_at is not None:
        yield event(row.ready_at, "ready", machine, boards)
    if row.ended_at is not None:
        yield event(row.ended_at, "ended", machine, boards, row.reason)


def _of_board(row: BoardRow) -> Iterator[Event]:
    where = f"{row.x},{row.y},{row.z}"
    for time, reason in row.failures:
        yield Event(time, "board failed", machine=row.machine, where=where, reason=reason)
    for report in row.reports:
        yield Event(
            report.time,
            "board reported",
            report.job,
            machine=row.machine,
            where=where,
            reason=report.text,
            by=report.user or report.owner or report.host,
        )
    if row.out_of_service is not None and row.since is not None:
        yield Event(row.since, "board closed", machine=row.machine, where=where, reason=row.out_of_service, by=row.by)


def _of_operators(facts: dict[str, Any]) -> Iterator[Event]:
    for name, fact in facts.items():
        kind, _, rest = name.partition("/")
        if kind in {"drained", "disabled", "stopped"}:
            with suppress(msgspec.ValidationError, ValueError):
                note = msgspec.convert(fact, Note)
                if kind == "disabled":
                    cabinet, frame, machine = rest.split("/", 2)
                    yield Event(
                        note.since,
                        "frame closed",
                        machine=machine,
                        where=f"{cabinet}/{frame}",
                        reason=note.reason,
                        by=note.by,
                    )
                else:
                    what = "drained" if kind == "drained" else "emergency stop"
                    yield Event(note.since, what, machine=rest or None, reason=note.reason, by=note.by)
