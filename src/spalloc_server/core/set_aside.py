"""Stored rows that make no sense, and what is kept of them.

Theory of operation. A row that cannot be read, or that contradicts itself or the others, must cost no more than what it
is about. It is taken out of its table and kept as a fact: why, since when, and all that could be read of it. So nothing
is deleted, an operator sees it, and the next start does not meet it again.

The columns of such a row may be anything. Functions that read it take the columns that have the right type, and leave
the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.records import SERVER, address
from spalloc_server.core.model import LATEST, BoardRow, FrameWork, JobRow, JobState, SetAsideView, UnreadableRow

__all__ = ["PREFIX", "boards_of", "ended_row", "fact_name", "held_back", "to_fact", "views"]

PREFIX = "set_aside/"
"""How the names of such facts begin."""

SET_ASIDE = "Cancelled: the server could not read what it had stored of this job."
"""The reason of a job whose row was set aside."""


def key_in_text(row: UnreadableRow) -> str:
    """The key of a row as operators read it."""
    return "/".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in row.key)


def fact_name(row: UnreadableRow, taken: Collection[str]) -> str:
    """Return a name for the fact that keeps this row; none that is `taken`."""
    name = wanted = f"{PREFIX}{row.table}/{key_in_text(row)}"
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    return name


def to_fact(row: UnreadableRow, now: float) -> dict[str, Any]:
    """Return what is kept of a row, as plain JSON."""
    view = SetAsideView(table=row.table, key=key_in_text(row), reason=row.reason, since=now)
    return {**msgspec.to_builtins(view), "row": msgspec.to_builtins(row.row)}


def views(facts: Mapping[str, Any]) -> list[SetAsideView]:
    """Return what was set aside, in order of table and key."""
    found = []
    for name, fact in sorted(facts.items()):
        if name.startswith(PREFIX):
            try:
                found.append(msgspec.convert(fact, SetAsideView))
            except msgspec.ValidationError:  # it was changed by hand
                table, _, key = name.removeprefix(PREFIX).partition("/")
                found.append(SetAsideView(table=table, key=key, reason="unknown", since=0.0))
    return found


def ended_row(row: UnreadableRow, now: float) -> JobRow:
    """Return what history says of a job whose row makes no sense."""
    owner, ended = row.row.get("owner"), row.row.get("ended_at")
    return JobRow(
        job_id=row.key[0],
        owner=owner if isinstance(owner, str) else "unknown",
        keepalive=None,
        keepalivehost=None,
        state=JobState.destroyed,
        power=None,
        created_at=_time(row.row.get("created_at"), now),
        ended_at=_time(ended if row.table == "history" else None, now),
        reason=SET_ASIDE,
    )


def boards_of(row: UnreadableRow, machines: Mapping[str, Machine]) -> dict[str, list[Board]] | None:
    """Return by machine the boards that a job or a release had; None where the row does not tell."""
    columns = row.row
    place = columns.get("allocation") or columns
    if row.table == "jobs" and columns.get("state") == JobState.queued and place.get("machine") is None:
        return {}
    machine = machines.get(name) if isinstance(name := place.get("machine"), str) else None
    boards = _as(place.get("boards"), list[Board])
    if machine is not None and boards and all(board in machine.board_locations for board in boards):
        return {machine.name: sorted(set(boards))}
    frames = _as(columns.get("frames"), list[FrameWork])
    if not frames:
        return None
    places = {(frame.bmp, number) for frame in frames for number in frame.boards}
    return {
        name: [board for board in machine.board_locations if address(machine, board) in places]
        for name, machine in machines.items()
    }


def held_back(row: UnreadableRow, now: float) -> BoardRow | None:
    """Return a record that keeps a board out of service until an operator returns it.

    Returns:
        None where the row says that the board was in service, or does not say which board it is.
    """
    columns = row.row
    machine, *place = (columns.get(name) for name in ("machine", "x", "y", "z"))
    if not isinstance(machine, str) or not all(type(number) is int for number in place):
        return None
    if columns.get("out_of_service") is None and columns.get("by") is None:
        return None
    x, y, z = (int(number) for number in place if number is not None)
    reason, by = columns.get("out_of_service"), columns.get("by")
    return BoardRow(
        machine=machine,
        x=x,
        y=y,
        z=z,
        out_of_service=reason if isinstance(reason, str) else "what was stored of it cannot be read",
        by=by if isinstance(by, str) else SERVER,
        since=now,
    )


def _time(value: Any, otherwise: float) -> float:
    return value if isinstance(value, float | int) and abs(value) <= LATEST else otherwise


def _as(value: Any, kind: Any) -> Any:
    """`value` as this kind, or None where it is not."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, RecursionError):
        return None
