"""Which boards may be given to jobs, and what is remembered of those that may not.

Theory of operation. A board is out of service for any of three reasons: it has failed (the server's decision), an
operator says so, or its frame's BMP does not answer. The first two are records that outlive a restart; the last is
only as old as the silence. A board is in service when none of them holds. `BoardRecords` keeps the records and tells
the scheduler about every board whose service may have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy

from spalloc_server.configuration import Health, Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.messages import BoardRow
from spalloc_server.core.schedule import Scheduler

__all__ = ["SERVER", "BoardRecords"]

SERVER = "server"
"""Who takes boards out of service that failed; anybody else is an operator."""

REMEMBERED_FAILURES = 20
"""Failures of one board that are kept, the latest."""

BoardKey = tuple[str, int, int, int]
"""(machine, x, y, z)."""


class BoardRecords:
    """Records of boards, and the silence of frames."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.health = Health()
        """What is done about boards that fail."""
        self._scheduler = scheduler
        self._rows: dict[BoardKey, BoardRow] = {}
        self._silent: dict[str, str] = {}
        self._changed: set[BoardKey] = set()

    def restore(self, row: BoardRow) -> None:
        """Take over a record from an earlier run of the server; `apply` it to its machine afterwards."""
        self._rows[row.machine, row.x, row.y, row.z] = row

    def apply(self, machine: Machine, boards: Iterable[Board] | None = None) -> None:
        """Tell the scheduler which of these boards, or of all live ones, are out of service."""
        for board in machine.live_boards if boards is None else boards:
            row = self._rows.get((machine.name, *board))
            out = (row is not None and row.out_of_service is not None) or _bmp(machine, board)[0] in self._silent
            self._scheduler.set_out_of_service(machine.name, board, out)

    def frame_changed(self, bmp: str, reason: str | None, machines: Iterable[Machine]) -> set[str]:
        """A frame's BMP has fallen silent, or answers again (None); the names of the machines that it is of."""
        if reason is None:
            self._silent.pop(bmp, None)
        else:
            self._silent[bmp] = reason
        changed = set()
        for machine in machines:
            for frame, boards in machine.frames.items():
                if machine.bmp_ips[frame] == bmp:
                    self.apply(machine, [board for board in boards if board not in machine.dead_boards])
                    changed.add(machine.name)
        return changed

    def failed(
        self, machine: Machine, boards: Iterable[Board], failures: Mapping[tuple[str, int], str], now: float
    ) -> str:
        """Put failures on record, and boards that failed too often out of service.

        Args:
            machine: the machine of the boards.
            boards: those that were to be switched.
            failures: {(BMP, board number): reason} of those that were not.
            now: the time.

        Returns:
            Which boards failed, and why, in words.
        """
        texts = []
        for board in boards:
            reason = failures.get(_bmp(machine, board))
            if reason is None:
                continue
            texts.append(f"{board} of {machine.name}: {reason}")
            if _bmp(machine, board)[0] in self._silent:
                continue  # the silence is the frame's fault, and keeps its boards from being used by itself
            row = self._row(machine, board)
            row.failures = [*row.failures, (now, reason)][-REMEMBERED_FAILURES:]
            if len(row.failures) >= self.health.quarantine_after and row.out_of_service is None:
                row.out_of_service, row.by, row.since = reason, SERVER, now
                self.apply(machine, [board])
        return "; ".join(texts)

    def rows(self) -> list[BoardRow]:
        """Copies of all records."""
        return [copy(row) for row in self._rows.values()]

    def take_changes(self) -> dict[BoardKey, BoardRow | None]:
        """Records that changed since the last call; None for those that are gone."""
        changes = {key: copy(self._rows.get(key)) for key in self._changed}
        self._changed.clear()
        return changes

    def _row(self, machine: Machine, board: Board) -> BoardRow:
        x, y, z = board
        key = (machine.name, x, y, z)
        self._changed.add(key)
        return self._rows.setdefault(key, BoardRow(machine=machine.name, x=x, y=y, z=z))


def _bmp(machine: Machine, board: Board) -> tuple[str, int]:
    """(host of the BMP, number of the board) by which the hardware knows the board."""
    cabinet, frame, number = machine.board_locations[board]
    return machine.bmp_ips[cabinet, frame], number
