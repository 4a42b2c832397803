"""What is known of single boards beyond who has them: failures, and why some are not given to anybody.

Theory of operation. A board is out of service for any of three reasons: it has failed (the server's decision), an
operator says so, or its frame's BMP does not answer. The first two are records that outlive a restart; the last is
only as old as the silence. A board is in service when none of them holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from spalloc_server.coordinates import Board
from spalloc_server.core.messages import BoardRow

__all__ = ["SERVER", "BoardRecords"]

SERVER = "server"
"""Who takes boards out of service that failed; anybody else is an operator."""

REMEMBERED_FAILURES = 20
"""Failures of one board that are kept, the latest."""

BoardKey = tuple[str, int, int, int]
"""(machine, x, y, z)."""


class BoardRecords:
    """Records of boards by (machine, x, y, z)."""

    def __init__(self) -> None:
        self._rows: dict[BoardKey, BoardRow] = {}
        self._changed: set[BoardKey] = set()

    def restore(self, row: BoardRow) -> None:
        """Take over a record from an earlier run of the server."""
        self._rows[row.machine, row.x, row.y, row.z] = row

    def failed(self, machine: str, board: Board, reason: str, now: float) -> int:
        """Note a failure; the number of failures on record since the board was last put into service."""
        row = self._row(machine, board)
        row.failures = [*row.failures, (now, reason)][-REMEMBERED_FAILURES:]
        return len(row.failures)

    def take_out(self, machine: str, board: Board, *, reason: str, by: str, now: float) -> None:
        """Take the board out of service; an operator's word stands over the server's."""
        row = self._row(machine, board)
        if row.out_of_service is None or row.by == SERVER:
            row.out_of_service, row.by, row.since = reason, by, now

    def put_back(self, machine: str, board: Board) -> None:
        """The board is in service again and starts with a clean record."""
        key = (machine, *board)
        if self._rows.pop(key, None) is not None:
            self._changed.add(key)

    def out_of_service(self, machine: str, board: Board) -> bool:
        """Whether a record keeps the board from being given to anybody."""
        row = self._rows.get((machine, *board))
        return row is not None and row.out_of_service is not None

    def of_machine(self, machine: str) -> Iterator[BoardRow]:
        """The records of a machine's boards."""
        return (row for row in self._rows.values() if row.machine == machine)

    def rows(self) -> list[BoardRow]:
        """All records."""
        return list(self._rows.values())

    def take_changes(self) -> dict[BoardKey, BoardRow | None]:
        """Records that changed since the last call; None for those that are gone."""
        changes = {key: copy(self._rows.get(key)) for key in self._changed}
        self._changed.clear()
        return changes

    def _row(self, machine: str, board: Board) -> BoardRow:
        x, y, z = board
        self._changed.add((machine, x, y, z))
        return self._rows.setdefault((machine, x, y, z), BoardRow(machine=machine, x=x, y=y, z=z))
