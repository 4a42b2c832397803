"""Stored times are moved along where the clock that wrote them was another than the present one.

Theory of operation. Durations are differences of times, so they must all be told by one clock. Where the clock was set
between two processes, what is stored of all that goes on is moved by as much: then each of them goes on where it was.
What has ended stays where it is; nobody waits for it.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import msgspec

from spalloc_server.core.model import BoardRow, JobRow, ReleaseRow, Snapshot

__all__ = ["moved"]

_NOTED = {"disabled": "since", "drained": "since", "stopped": "since", "owner": "at", "everybody": "at"}
"""Facts that have a time, by the first part of their names, and what it is called there."""


def moved(snapshot: Snapshot, seconds: float) -> Snapshot:
    """The same as if everything that goes on had happened, or were to happen, so much later."""

    def later(time: float | None) -> Any:
        return None if time is None else time + seconds

    def job(row: JobRow) -> JobRow:
        if row.ended_at is not None:
            return row
        times = {name: later(getattr(row, name)) for name in ("created_at", "allocated_at", "ready_at", "due")}
        held = row.held and msgspec.structs.replace(row.held, since=later(row.held.since))
        return msgspec.structs.replace(row, **times, held=held)

    def board(row: BoardRow) -> BoardRow:
        return msgspec.structs.replace(
            row,
            since=later(row.since),
            failures=[(later(time), reason) for time, reason in row.failures],
            reports=[msgspec.structs.replace(report, time=later(report.time)) for report in row.reports],
            counts_from=row.counts_from and later(row.counts_from),
            trial_at=later(row.trial_at),
        )

    def release(row: ReleaseRow) -> ReleaseRow:
        return msgspec.structs.replace(row, rest_until=later(row.rest_until))

    def fact(name: str, value: Any) -> Any:
        field = _NOTED.get(name.partition("/")[0])
        if field is None or not isinstance(value, dict) or not isinstance(value.get(field), int | float):
            return value
        return {**value, field: later(value[field])}

    whole = copy(snapshot)
    whole.jobs = [job(row) for row in snapshot.jobs]
    whole.boards = [board(row) for row in snapshot.boards]
    whole.releases = [release(row) for row in snapshot.releases]
    whole.facts = {name: fact(name, value) for name, value in snapshot.facts.items()}
    return whole
