"""What operators see: the state of machines, frames, boards and jobs, with reasons, names and times.

Theory of operation. Everything is worked out when it is asked for, from the parts that know it; nothing is kept here.
The structs are what a service hands to a JSON encoder. All times are seconds since the Unix epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.job import Job
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import BoardRow, JobRow
from spalloc_server.core.model.views import BoardView, FrameView, JobView, MachineView, SetAsideView
from spalloc_server.core.restore import RecoverableEngine
from spalloc_server.core.set_aside import views
from spalloc_server.errors import RequestError

__all__ = ["ObservableEngine", "SetAsideView"]


class ObservableEngine(RecoverableEngine):
    """An engine that operators can look into."""

    def machine_views(self) -> list[MachineView]:
        """All machines, highest priority first."""
        return [self._machine_view(machine) for machine in self._machines.values()]

    def board_views(self, machine: str | None = None) -> Iterator[BoardView]:
        """The boards of a machine, or of all.

        Raises:
            RequestError: there is no such machine.
        """
        machines = self._machines.values() if machine is None else [self._machine(machine)]
        for each in machines:
            for board in sorted({*each.live_boards, *each.dead_boards}):
                yield self._board_view(each, board)

    def board_view(self, machine: str, board: Board) -> BoardView:
        """One board.

        Raises:
            RequestError: there is no such board.
        """
        return self._board_view(self._machine_with(machine, board), board)

    def live_jobs(self) -> set[int]:
        """Numbers of the live jobs."""
        return set(self._jobs)

    def job_views(self) -> list[JobView]:
        """All live jobs, oldest first."""
        return [_job_view(job) for job in self._jobs.values()]

    def job_view(self, job_id: int) -> JobView:
        """One job, live or ended; where it waits, with the reason why.

        Raises:
            RequestError: there is no such job, or none that is remembered.
        """
        job = self._jobs.get(job_id) or self._retired.get(job_id)
        if job is None:
            raise RequestError(f"no job {job_id} is known, neither a live one nor one that ended lately")
        view = _job_view(job)
        if job.state == JobState.queued:
            why = self._scheduler.explain(job_id, self._clock())
            view.reason, view.position, view.waits_for = why.text, why.position, why.waits_for
            view.held_by, view.predicted_start = why.held_by, why.predicted_start
        return view

    def set_aside(self) -> list[SetAsideView]:
        """Stored rows that made no sense at a start, in order of table and key."""
        return views(self._facts)

    def _machine(self, name: str) -> Machine:
        if name not in self._machines:
            there = ", ".join(self._machines) or "none"
            raise RequestError(f"there is no machine {name!r}; there are: {there}")
        return self._machines[name]

    def _machine_with(self, name: str, board: Board) -> Machine:
        machine = self._machine(name)
        if board not in machine.dead_boards and board not in machine.live_boards:
            raise RequestError(f"{name} has no board {board}; it has {machine.width} x {machine.height} triads of 3")
        return machine

    def _machine_view(self, machine: Machine) -> MachineView:
        states = Counter(self._board_state(machine, board) for board in {*machine.live_boards, *machine.dead_boards})
        out = [board for board in machine.live_boards if self._boards.out_of_service(machine, board) is not None]
        return MachineView(
            name=machine.name,
            tags=sorted(machine.tags),
            width=machine.width,
            height=machine.height,
            jobs=sum(
                job.allocation is not None and job.allocation.machine == machine.name for job in self._jobs.values()
            ),
            boards=dict(sorted(states.items())),
            out_of_service=len(out),
            frames=[view for frame in sorted(machine.frames) if (view := self._frame_view(machine, frame))],
            drained=self._drained.get(machine.name),
        )

    def _frame_view(self, machine: Machine, frame: Frame) -> FrameView | None:
        bmp = machine.bmp_ips[frame]
        silent, disabled = self._boards.silent.get(bmp), self._boards.frames.get((machine.name, frame))
        if silent is None and disabled is None:
            return None
        return FrameView(
            machine=machine.name, cabinet=frame[0], frame=frame[1], bmp=bmp, silent=silent, disabled=disabled
        )

    def _board_state(self, machine: Machine, board: Board) -> str:
        if board in machine.dead_boards:
            return "dead"
        job_id = self._scheduler.holder(machine.name, board)
        if job_id is not None:
            job = self._jobs.get(job_id)
            if job is not None and job.allocation is not None and board in job.allocation.boards:
                return "in use"
            return "on trial" if self._trials.tries(machine, board) else "switching off"
        if self._boards.out_of_service(machine, board) is not None:
            return "out of service"
        return "free" if self._scheduler.rests_until(machine.name, board) is None else "resting"

    def _board_view(self, machine: Machine, board: Board) -> BoardView:
        x, y, z = board
        view = BoardView(machine=machine.name, x=x, y=y, z=z, state=self._board_state(machine, board))
        if board in machine.board_locations:
            view.cabinet, view.frame, view.board = machine.board_locations[board]
            view.bmp = machine.bmp_ips.get((view.cabinet, view.frame))
        if view.state == "dead":
            return view
        view.job_id = self._scheduler.holder(machine.name, board) or None
        view.rests_until = self._scheduler.rests_until(machine.name, board)
        view.out_of_service = self._boards.out_of_service(machine, board)
        row = self._boards.row(machine, board) or BoardRow(machine=machine.name, x=x, y=y, z=z)
        view.last_trial = self._trials.verdicts.get((machine.name, x, y, z))
        view.trial_at, view.strikes, view.failures, view.reports = row.trial_at, row.strikes, row.failures, row.reports
        cabinet, frame, _ = machine.board_locations[board]
        note = self._boards.frames.get((machine.name, (cabinet, frame)))
        if row.out_of_service is not None:
            view.by, view.since = row.by, row.since
        elif note is not None:
            view.by, view.since = note.by, note.since
        return view


def _job_view(job: Job | JobRow) -> JobView:
    state = job.reported if isinstance(job, Job) else JobState(job.state)
    return JobView(
        job_id=job.job_id,
        owner=job.owner,
        state=state.name,
        power=job.power,
        args=job.args,
        kwargs=job.kwargs,
        host=job.keepalivehost,
        keepalive=job.keepalive,
        machine=job.allocation.machine if job.allocation else None,
        boards=list(job.allocation.boards) if job.allocation else [],
        created_at=job.created_at,
        allocated_at=job.allocated_at,
        ready_at=job.ready_at,
        ended_at=job.ended_at,
        placements=job.placements,
        reason=job.reason,
    )
