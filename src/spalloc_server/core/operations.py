"""What operators do: boards, frames and machines out of service and back, and everything off in an emergency.

Theory of operation. What an operator closes stays closed until an operator opens it again: across restarts, reloads
and machines that go and come back. Boards have records of their own (`boards`); frames, machines and the emergency
stop are facts that hold a `Note`: the reason, who, and when. Nothing here takes a running job's boards away, except
`kill` and the emergency stop.

In an emergency everything is switched off, whether a job has it or not, and boards that are dead in the configuration
but have a place in a frame too. Jobs that were being used end with the reason;
jobs that were not ready yet go back to the queue, where they and all new ones wait for `resume`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.records import SERVER
from spalloc_server.core.model.power import NO_JOB
from spalloc_server.core.model.rows import BoardReport, Note, Snapshot
from spalloc_server.core.model.views import BoardView, SetAsideView
from spalloc_server.core.views import ObservableEngine
from spalloc_server.errors import RequestError

__all__ = ["KEPT_FACTS", "OperableEngine"]

KEPT_FACTS = ("next_id", "disabled", "drained", "stopped")
"""Facts that outlive a cold start, by the first part of their names: numbers of jobs are never used twice, and what
operators have closed stays closed."""

MAX_REPORT = 500
"""Characters of a report that are kept."""

_STOPPED = "stopped"


class OperableEngine(ObservableEngine):
    """An engine that operators can command. Every command raises `RequestError` for what there is not."""

    def _take_fact(self, name: str, value: Any, now: float) -> None:
        kind, _, rest = name.partition("/")
        if kind == "disabled":
            cabinet, frame, machine = rest.split("/", 2)
            self._boards.frames[machine, (int(cabinet), int(frame))] = _note(value)
        elif kind == "drained":
            self._drained[rest] = _note(value)
        elif name == _STOPPED:
            self.stopped = _note(value)
        else:
            super()._take_fact(name, value, now)

    def _in_place_of_fact(self, name: str, now: float) -> Any:
        """What an operator has closed stays closed, even where nobody can read any more why."""
        if name.partition("/")[0] in {"disabled", "drained", _STOPPED}:
            return _fact(Note("the stored reason cannot be read", SERVER, now))
        return super()._in_place_of_fact(name, now)

    def restore(
        self, snapshot: Snapshot, configured: Iterable[Machine] = (), *, highest_id: int = 0
    ) -> list[SetAsideView]:
        """Go on where another left off; see `RecoverableEngine.restore`."""
        set_aside = super().restore(snapshot, configured, highest_id=highest_id)
        self._close()
        return set_aside

    # ---------------------------------------------------------------- boards and frames

    def disable_board(self, machine: str, board: Board, *, reason: str, by: str) -> BoardView:
        """Take a board out of service; a job that has it keeps it."""
        there = self._live(machine, board)
        self._boards.disable(self._machines[machine], there, self._note(reason, by))
        return self._touched(machine, there)

    def enable_board(self, machine: str, board: Board) -> BoardView:
        """Return a board to service and forget its failures, reports and strikes; its frame is another matter."""
        there = self._live(machine, board)
        self._boards.enable(self._machines[machine], there)
        return self._touched(machine, there)

    def disable_frame(self, machine: str, frame: Frame, *, reason: str, by: str) -> list[BoardView]:
        """Take all boards of a frame out of service; jobs that have some keep them."""
        return self._set_frame(machine, frame, self._note(reason, by))

    def enable_frame(self, machine: str, frame: Frame) -> list[BoardView]:
        """Return a frame to service; what speaks against single boards of it stays."""
        return self._set_frame(machine, frame, None)

    def power_cycle(self, machine: str, board: Board) -> BoardView:
        """Try a board that nobody has: on, verify, off. It goes on record like any trial."""
        there = self._live(machine, board)
        if self.stopped is not None:
            raise RequestError("nothing is switched on until the emergency stop is over: `resume`")
        obstacle = self._trials.possible(self._machines[machine], there, self._clock())
        if obstacle is not None:
            raise RequestError(f"board {there} of {machine} cannot be power-cycled now: {obstacle}")
        self._trials.begin(self._machines[machine], there)
        return self._touched(machine, there)

    def report_problem(self, host: str, text: str, *, reporter: str) -> None:
        """A user says that the board at this address does not work; unknown addresses are no error.

        Args:
            host: address of the board, as `get_job_machine_info` gives it.
            text: what does not work.
            reporter: address that the report comes from.
        """
        for machine in self._machines.values():
            for board in machine.live_boards:
                if machine.spinnaker_ips[board] == host:
                    job = self._jobs.get(self._scheduler.holder(machine.name, board) or NO_JOB)
                    owner = None if job is None else job.owner
                    report = BoardReport(self._clock(), owner, reporter, text[:MAX_REPORT])
                    self._boards.reported(machine, board, report)
                    self._touched(machine.name, board)

    # ---------------------------------------------------------------- machines, jobs, everything

    def drain(self, machine: str, *, reason: str, by: str) -> None:
        """Start no more jobs on a machine; those that run there go on, others may wait for it."""
        self._machine(machine)
        self._set_drained(machine, self._note(reason, by))

    def undrain(self, machine: str) -> None:
        """Start jobs on a machine again; also on one that has gone, should it come back."""
        if machine not in self._drained:
            self._machine(machine)
        self._set_drained(machine, None)

    def kill(self, job_id: int, *, reason: str, by: str) -> None:
        """End a job; its user is told by whom and why."""
        if job_id not in self._jobs:
            raise RequestError(f"there is no live job {job_id}")
        now = self._clock()
        self._finish(self._jobs[job_id], f"Ended by {by}: {reason}", now)
        self._schedule(now)

    def emergency_stop(self, *, reason: str, by: str) -> None:
        """Switch everything off, and nothing on, until `resume`."""
        now = self._clock()
        self.stopped = self._note(reason, by)
        self._set_fact(_STOPPED, _fact(self.stopped))
        self._close()
        with self._contained("trials that are broken off"):
            self._trials.break_off()
        text = f"Emergency stop by {by}: {reason}"
        for job in list(self._jobs.values()):
            with self._contained("the emergency stop of a job", job):
                if job.ready_at is not None:
                    self._end(job, text, now)
                elif job.allocation is not None:
                    self._requeue(job, text, now)
                    job.placements -= 1  # the hardware did not fail it
        for machine in self._machines.values():
            with self._contained("the emergency stop of a machine"):
                self._switch_off_idle(machine)
            self._changed_machines.add(machine.name)

    def switch_off_unused(self) -> None:
        """Switch off what nobody has, for a start that knows of no jobs: others may have left boards on.

        Nobody waits for it longer than for its turn in a frame.
        """
        for machine in self._machines.values():
            idle = [board for board in machine.board_locations if self._scheduler.holder(machine.name, board) is None]
            self._power.release(NO_JOB, machine, idle, held=False)

    def resume(self) -> None:
        """The emergency is over: jobs that wait may start."""
        self.stopped = None
        self._set_fact(_STOPPED, None)
        self._close()
        self._changed_machines.update(self._machines)
        self._schedule(self._clock())

    # ---------------------------------------------------------------- helpers

    def _note(self, reason: str, by: str) -> Note:
        return Note(reason, by, self._clock())

    def _live(self, machine: str, board: Board) -> Board:
        """The board, if it is one that the configuration lets live."""
        if board in self._machine_with(machine, board).dead_boards:
            raise RequestError(
                f"board {board} of {machine} is dead in the configuration; nothing else can be said of it"
            )
        return board

    def _touched(self, machine: str, board: Board) -> BoardView:
        self._changed_machines.add(machine)
        self._schedule(self._clock())
        return self._board_view(self._machines[machine], board)

    def _set_frame(self, machine: str, frame: Frame, note: Note | None) -> list[BoardView]:
        there = self._machine(machine)
        if frame not in there.frames:
            raise RequestError(f"{machine} has no cabinet {frame[0]}, frame {frame[1]}; it has {sorted(there.frames)}")
        if note is None:
            self._boards.frames.pop((machine, frame), None)
        else:
            self._boards.frames[machine, frame] = note
        self._set_fact(f"disabled/{frame[0]}/{frame[1]}/{machine}", _fact(note))
        self._boards.apply(there, there.frames[frame])
        self._changed_machines.add(machine)
        self._schedule(self._clock())
        return [self._board_view(there, board) for board in there.frames[frame]]

    def _set_drained(self, machine: str, note: Note | None) -> None:
        if note is None:
            self._drained.pop(machine, None)
        else:
            self._drained[machine] = note
        self._set_fact(f"drained/{machine}", _fact(note))
        self._close()
        self._changed_machines.add(machine)
        self._schedule(self._clock())

    def _close(self) -> None:
        self._scheduler.close(self._drained, everything=self.stopped is not None)
        self._trials.paused, self._trials.drained = self.stopped is not None, self._drained

    def check(self) -> None:
        """Assert every invariant."""
        super().check()
        for machine in self._machines.values():
            for (name, frame), note in self._boards.frames.items():
                if name == machine.name and frame in machine.frames:
                    for board in machine.frames[frame]:
                        assert board in machine.dead_boards or self._boards.out_of_service(machine, board), note
        closed = {name: _fact(note) for name, note in self._drained.items()}
        notes = {name: note for name, note in self._facts.items() if name.startswith("drained/")}
        stored = {name.removeprefix("drained/"): note for name, note in notes.items()}
        assert closed == stored
        if self.stopped is not None:
            assert not any(job.allocation for job in self._jobs.values()), "a job has boards in an emergency"


def _fact(note: Note | None) -> dict[str, Any] | None:
    return None if note is None else dict(msgspec.to_builtins(note))


def _note(fact: Any) -> Note:
    return msgspec.convert(fact, Note)
