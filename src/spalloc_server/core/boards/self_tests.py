"""Boards in quarantine are tried in the background: switched on, verified, and switched off again.

Theory of operation. A self-test is due when the board's time in quarantine is over, and begins once nobody has the
board, it has rested, and its frame answers. No self-test begins by itself where an operator has closed the frame or
drained the machine: somebody may be at work there.

While it lasts the board is held, by job 0, as if a job had it: so nobody can be given it, not even if an operator
returns it meanwhile. When the hardware has answered, the verdict goes on record (`BoardRecords`) and the board is
released, which switches it off and lets it rest like after any job. No frame has two self-tests at once, so that its
BMP stays free for jobs. A self-test that failed because of the frame is no verdict, and is done again.

Self-tests are not stored. After a restart the board is still in quarantine, its self-test is still due, and it starts
anew; only the release is stored, as all are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.power import Power
from spalloc_server.core.boards.records import BoardKey, BoardRecords, address
from spalloc_server.core.closures import Closures
from spalloc_server.core.defects import Defects
from spalloc_server.core.model import NO_JOB, PASSED, BoardFailure
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.core.undo import Undo

__all__ = ["SelfTests"]


class SelfTests:
    """Which boards are due, and which are being tried."""

    def __init__(
        self, scheduler: Scheduler, power: Power, boards: BoardRecords, closures: Closures, defects: Defects
    ) -> None:
        self._scheduler = scheduler
        self._power = power
        self._boards = boards
        self._closures = closures
        self._defects = defects
        self._failed: set[BoardKey] = set()
        """Boards that could not be tried, because of a defect; they stay in quarantine."""
        self._under_way: dict[int, tuple[Machine, Board]] = {}
        self.first: float | None = None
        """When the next self-test is due that waits for nothing but time; None where there is none."""
        self.verdicts: dict[BoardKey, str] = {}
        """The result of each board's last self-test since the server started, in words."""

    def begin_due(self, machines: Mapping[str, Machine], now: float) -> list[str]:
        """Begin the self-tests that are due and possible, at every change; return the names of their machines."""
        self.first = None
        if self._closures.stopped is not None:
            return []
        begun = []
        later = [time for time in self._boards.trial_at.values() if time > now]
        if len(later) < len(self._boards.trial_at):
            for (name, x, y, z), time in sorted(self._boards.trial_at.items()):
                if time > now or name not in machines or self._closed(machines[name], (x, y, z)):
                    continue
                if (name, x, y, z) in self._failed:
                    continue
                self._failed.add((name, x, y, z))
                with self._defects.contained(f"a self-test of board {(x, y, z)} of {name}"):
                    rests_until = self._scheduler.rests_until(name, (x, y, z))
                    if rests_until is not None:
                        later.append(rests_until)
                    elif self.possible(machines[name], (x, y, z), now) is None:
                        self.begin(machines[name], (x, y, z))
                        begun.append(name)
                    self._failed.discard((name, x, y, z))
        self.first = min(later, default=None)
        return begun

    def possible(self, machine: Machine, board: Board, now: float) -> str | None:
        """Why a board cannot be tried now; None where it can."""
        if board not in machine.live_boards:
            return "it is not a live board of the configuration"
        bmp, _ = address(machine, board)
        if (silent := self._boards.silent.get(bmp)) is not None:
            return silent
        if (holder := self._scheduler.holder(machine.name, board)) is not None:
            return f"job {holder} has it" if holder else "it is being switched already"
        if any(address(*other)[0] == bmp for other in self._under_way.values()):
            return "another board of its frame is being tried"
        rests_until = self._scheduler.rests_until(machine.name, board)
        if rests_until is not None and rests_until > now:
            return f"it was on lately, and rests for another {rests_until - now:.0f} s"
        return None

    def begin(self, machine: Machine, board: Board) -> None:
        """Begin the self-test of a board, which must be `possible`; as a whole, or not at all."""
        with Undo() as undo:
            self._power.note_before(undo)
            operation = self._power.try_board(machine, board)
            self._scheduler.hold(machine.name, [board], NO_JOB)
            self.verdicts.pop((machine.name, *board), None)
            self._under_way[operation] = machine, board

    def ended(self, operation: int, failures: Mapping[tuple[str, int], BoardFailure], now: float) -> Machine | None:
        """Record the result of a self-test; return the machine. None where the operation was of no self-test."""
        if operation not in self._under_way:
            return None
        machine, board = self._under_way.pop(operation)
        failure = failures.get(address(machine, board))
        if failure is not None and failure.frame_fault:  # nothing is known of the board
            verdict = f"cut off: {failure.reason}"
        else:
            reason = None if failure is None else failure.reason
            self._boards.tried(machine, board, reason, now)
            verdict = PASSED if reason is None else f"failed: {reason}"
        self.verdicts[machine.name, *board] = verdict
        self._power.release(NO_JOB, machine, [board])
        return machine

    def break_off(self, machine: str | None = None) -> None:
        """End all self-tests without a result, on a machine that goes, or on all; switch their boards off."""
        for operation, (on, board) in list(self._under_way.items()):
            if machine in (None, on.name):
                del self._under_way[operation]
                self.verdicts[on.name, *board] = "cut off before its end"
                self._power.release(NO_JOB, on, [board])
        self.verdicts = {key: verdict for key, verdict in self.verdicts.items() if key[0] != machine}

    def tries(self, machine: Machine, board: Board) -> bool:
        """Whether a board is being tried."""
        return (machine.name, board, NO_JOB) in self.held()

    def _closed(self, machine: Machine, board: Board) -> bool:
        """Whether an operator has closed the board's frame or drained its machine."""
        place = machine.board_locations.get(board)
        frame_is_closed = place is not None and (machine.name, place[:2]) in self._closures.frames
        return frame_is_closed or machine.name in self._closures.drained

    def held(self) -> Iterator[tuple[str, Board, int]]:
        """(machine, board, `NO_JOB`) of every board that is being tried."""
        for machine, board in self._under_way.values():
            yield machine.name, board, NO_JOB
