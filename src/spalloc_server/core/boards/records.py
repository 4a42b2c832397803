"""Which boards may be given to jobs, and what is remembered of those that may not.

Theory of operation. A board is in service unless one of four things takes it out. It has failed, or its users have
reported it: then it is in *quarantine*, and is tried again later (`self_tests`), until it has been there too often. An
operator has taken it out, or its whole frame. Or its frame's BMP does not answer, or does not switch power. All but the
last are records that outlive a restart; the last ends once the BMP works again.

A quarantine is a *strike*, and so is a self-test that fails. A board that passes its self-test comes back with a clean
slate, that is, earlier failures and reports count no longer; yet they and the strikes are remembered. After
`Health.strikes` of them only an operator brings it back, and thereby wipes everything. An operator's word overrides
the server's, never the other way round.

A record is of hardware, not of a name: a board is known by its BMP's host and its number in the frame. It follows the
board to where a new configuration has it (`move`); while the board is in none, it is `away`, and stored as a fact.

Reports are hearsay, from users that nobody has verified. So they count only of those who can have known, once for each
user (or address) and for each job that had the board ready, and they close no more than `Health.report_share` of a
machine. All others are kept, for an operator to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy

import msgspec

from spalloc_server.config.hosts import canonical
from spalloc_server.config.machine import Frame, Machine
from spalloc_server.config.options import Health
from spalloc_server.coordinates import Board
from spalloc_server.core.closures import Closures
from spalloc_server.core.model import SERVER, BoardFailure, BoardReport, BoardRow, Note
from spalloc_server.core.outbox import Outbox
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.core.undo import Undo

__all__ = ["COUNTED_SECONDS", "REPORTS", "SERVER", "BoardKey", "BoardRecords", "address", "away_fact"]

REMEMBERED = 20
"""The latest failures, and the latest reports, that are remembered of a board."""

COUNTED_SECONDS = 7 * 86400.0
"""Failures and reports older than this count no longer."""

REPORTS = 2
"""Reports, from different users and different jobs, that put a board in quarantine."""

_REPORTED = "reported by"
"""How the reason begins of a board that reports have closed."""

BoardKey = tuple[str, int, int, int]
"""(machine, x, y, z)."""


class BoardRecords:
    """Records of boards, and the silence of frames. Each change of a record is made as a whole, or not at all."""

    def __init__(self, scheduler: Scheduler, closures: Closures, outbox: Outbox) -> None:
        self.health = Health()
        """What is done about boards that fail."""
        self.silent: dict[str, str] = {}
        """BMPs that do not answer, or do not switch power, with the reason."""
        self.trial_at: dict[BoardKey, float] = {}
        """Boards in quarantine, and when they may be tried."""
        self.away: dict[tuple[str, int], BoardRow] = {}
        """{(BMP, number in the frame): what is recorded of a board that no machine has at present}."""
        self._scheduler = scheduler
        self._closures = closures
        self._outbox = outbox
        self._frames: dict[str, list[tuple[Machine, Frame]]] = {}
        """By BMP, its frames."""
        self._rows: dict[BoardKey, BoardRow] = {}

    def set_machines(self, machines: Iterable[Machine]) -> None:
        """Take over a configuration's machines; `apply` to each what is recorded of it."""
        frames: dict[str, list[tuple[Machine, Frame]]] = {}
        for machine in machines:
            for frame in machine.frames:
                frames.setdefault(machine.bmp_ips[frame], []).append((machine, frame))
        self._frames = frames

    def move(self, gone: Iterable[Machine], came: Iterable[Machine]) -> dict[tuple[str, int], BoardRow | None]:
        """Move the records of boards from machines that go to the machines that have the boards now.

        `apply` them to these afterwards. Return what has changed of `away`: None for what is there no longer.
        """
        before = dict(self.away)
        for machine in gone:
            for board in machine.board_locations:
                if (row := self._rows.get((machine.name, *board))) is not None:
                    self._set((machine.name, *board), None, None)
                    self.away[_place(machine, board)] = row
        for machine in came:
            for board in machine.board_locations:
                if (row := self.away.pop(_place(machine, board), None)) is not None:
                    x, y, z = board
                    self.keep(msgspec.structs.replace(row, machine=machine.name, x=x, y=y, z=z))
        places = [place for place in before | self.away if before.get(place) is not self.away.get(place)]
        return {place: self.away.get(place) for place in places}

    def row(self, machine: Machine, board: Board) -> BoardRow | None:
        """What is recorded of a board."""
        return self._rows.get((machine.name, *board))

    def out_of_service(self, machine: Machine, board: Board) -> str | None:
        """Why a live board is not to be given to anybody; None where it may be."""
        row = self._rows.get((machine.name, *board))
        if row is not None and row.out_of_service is not None:
            return row.out_of_service
        cabinet, frame, _ = machine.board_locations[board]
        if note := self._closures.frames.get((machine.name, (cabinet, frame))):
            return note.reason
        return self.silent.get(machine.bmp_ips[cabinet, frame])

    def apply(self, machine: Machine, boards: Iterable[Board] | None = None) -> None:
        """Tell the scheduler which of these boards, or of all live ones, are out of service."""
        alike: dict[bool, list[Board]] = {True: [], False: []}
        for board in machine.live_boards if boards is None else boards:
            if board not in machine.dead_boards:
                alike[self.out_of_service(machine, board) is not None].append(board)
        for out, some in alike.items():
            self._scheduler.set_out_of_service(machine.name, some, out=out)

    # ---------------------------------------------------------------- what the hardware and its users say

    def frame_changed(self, bmp: str, reason: str | None) -> set[str]:
        """Note that a frame's BMP has fallen silent, or answers again (None); return the names of its machines."""
        if reason is None:
            self.silent.pop(bmp, None)
        else:
            self.silent[bmp] = reason
        frames = self._frames.get(bmp, ())
        for machine, frame in frames:
            self.apply(machine, machine.frames[frame])
        return {machine.name for machine, _ in frames}

    def failed(
        self, machine: Machine, boards: Iterable[Board], failures: Mapping[tuple[str, int], BoardFailure], now: float
    ) -> str:
        """Put failures on record, and boards that failed too often into quarantine.

        Args:
            machine: the machine of the boards.
            boards: those that were to be switched.
            failures: {(BMP, board number): why} of those that were not.
            now: the time.

        Returns:
            Which boards or frames failed, and why, in words.
        """
        texts: dict[str, None] = {}
        for board in boards:
            failure = failures.get(address(machine, board))
            if failure is None:
                continue
            if failure.frame_fault:
                cabinet, frame, _ = machine.board_locations[board]
                texts[f"cabinet {cabinet}, frame {frame} of {machine.name}: {failure.reason}"] = None
                continue
            texts[f"{board} of {machine.name}: {failure.reason}"] = None
            row = self._row(machine, board)
            row.failures = [*row.failures, (now, failure.reason)][-REMEMBERED:]
            since = max(row.counts_from, now - COUNTED_SECONDS)
            if sum(time > since for time, _ in row.failures) >= self.health.quarantine_after:
                self._quarantine(row, failure.reason, now)
            self.keep(row, machine)
        return "; ".join(texts)

    def reported(self, machine: Machine, board: Board, report: BoardReport) -> None:
        """Record a user's report that a board does not work. It replaces an older one of the same user."""
        row = self._row(machine, board)
        others = [other for other in row.reports if _who(other) != _who(report) or other.time <= row.counts_from]
        row.reports = [*others, report][-REMEMBERED:]
        since = max(row.counts_from, report.time - COUNTED_SECONDS)
        counted = _independent([other for other in row.reports if other.time > since])
        if counted >= REPORTS and self._reports_may_close_another(machine):
            self._quarantine(row, f"{_REPORTED} {counted} users, last: {report.text}", report.time)
        self.keep(row, machine)

    def _reports_may_close_another(self, machine: Machine) -> bool:
        closed = sum(
            row.by == SERVER and (row.out_of_service or "").startswith(_REPORTED)
            for row in self._rows.values()
            if row.machine == machine.name
        )
        share = self.health.report_share
        return share > 0 and closed < max(1, int(share * len(machine.live_boards)))

    def tried(self, machine: Machine, board: Board, reason: str | None, now: float) -> None:
        """Record the result of a self-test: the board works (None), or does not, for this reason."""
        row = self._row(machine, board)
        if reason is not None:
            row.failures = [*row.failures, (now, reason)][-REMEMBERED:]
            row.counts_from = now
            if row.by in (None, SERVER):
                row.out_of_service = None
                self._quarantine(row, f"failed when it was tried: {reason}", now)
        elif row.by == SERVER:
            row.out_of_service = row.by = row.since = row.trial_at = None
        else:
            return
        self.keep(row, machine)

    # ---------------------------------------------------------------- what operators say

    def disable(self, machine: Machine, board: Board, note: Note) -> None:
        """Take a board out of service until `enable`."""
        row = self._row(machine, board)
        row.out_of_service, row.by, row.since, row.trial_at = note.reason, note.by, note.since, None
        self.keep(row, machine)

    def enable(self, machine: Machine, board: Board) -> None:
        """Forget the record of a board, and so return it to service."""
        if (machine.name, *board) in self._rows:
            self._set((machine.name, *board), None, machine)

    # ---------------------------------------------------------------- rows

    def rows(self) -> list[BoardRow]:
        """Copies of all records."""
        return [copy(row) for row in self._rows.values()]

    def check(self, machines: Iterable[Machine]) -> None:
        """Assert every invariant."""
        waiting = {key: row.trial_at for key, row in self._rows.items() if row.trial_at is not None}
        assert waiting == self.trial_at, "a board in quarantine is forgotten"
        for key, row in self._rows.items():
            assert (row.out_of_service is None) == (row.by is None) == (row.since is None), f"{key} is half out"
            assert row.trial_at is None or row.by == SERVER, f"{key}: an operator's word would be undone"
        for machine in machines:
            out = {board for board in machine.live_boards if self.out_of_service(machine, board) is not None}
            assert out == self._scheduler.out_of_service(machine.name).intersection(machine.live_boards)

    def _quarantine(self, row: BoardRow, reason: str, now: float) -> None:
        if row.out_of_service is not None:
            return
        row.strikes += 1
        row.out_of_service, row.by, row.since, row.counts_from = reason, SERVER, now, now
        last = row.strikes >= self.health.strikes
        row.trial_at = None if last else now + self.health.quarantine_seconds

    def _row(self, machine: Machine, board: Board) -> BoardRow:
        """Return the record of a board, to be changed; then `keep` it."""
        x, y, z = board
        return copy(self._rows.get((machine.name, x, y, z))) or BoardRow(machine=machine.name, x=x, y=y, z=z)

    def keep(self, row: BoardRow, machine: Machine | None = None) -> None:
        """Keep a record, and apply it to its machine. After a restart, without the machine: `apply` it afterwards."""
        self._set((row.machine, row.x, row.y, row.z), row, machine)

    def _set(self, key: BoardKey, row: BoardRow | None, machine: Machine | None) -> None:
        with Undo() as undo:
            if machine is not None:
                undo.call(self.apply, machine, [key[1:]])
            self.note_before(key, undo)
            self._outbox.boards[key] = row
            if row is None:
                del self._rows[key]
            else:
                self._rows[key] = row
            if row is None or row.trial_at is None:
                self.trial_at.pop(key, None)
            else:
                self.trial_at[key] = row.trial_at
            if machine is not None:
                self.apply(machine, [key[1:]])

    def note_all_before(self, undo: Undo) -> None:
        """Have all records put back as they are now; then `apply` them."""
        undo.contents(self._rows, self.trial_at, self.away, self._outbox.boards)

    def note_before(self, key: BoardKey, undo: Undo) -> None:
        """Have an undo put back the record of a board; have it call `apply` after that."""
        undo.entries(key, self._rows, self.trial_at, self._outbox.boards)


def address(machine: Machine, board: Board) -> tuple[str, int]:
    """(host of the BMP, number of the board) by which the hardware knows the board."""
    cabinet, frame, number = machine.board_locations[board]
    return machine.bmp_ips[cabinet, frame], number


def _place(machine: Machine, board: Board) -> tuple[str, int]:
    """The same, in one spelling of the host."""
    host, number = address(machine, board)
    return canonical(host), number


def away_fact(place: tuple[str, int]) -> str:
    """Return the name of the fact that a board is away, and what is recorded of it."""
    return f"board/{place[1]}/{place[0]}"


def _who(report: BoardReport) -> tuple[str | None, str]:
    """Who has reported: a verified user, wherever that was, or else an address. An owner is only a word."""
    return (report.user, "") if report.user is not None else (None, report.host)


def _independent(reports: list[BoardReport]) -> int:
    """How many reports count: each of somebody else, and of another job that had the board ready."""
    counted: list[BoardReport] = []
    for report in reversed(reports):
        alike = (other.job == report.job or _who(other) == _who(report) for other in counted)
        if report.job is not None and not any(alike):
            counted.append(report)
    return len(counted)
