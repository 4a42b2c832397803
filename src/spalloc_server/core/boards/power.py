"""Power operations that are under way, and boards on their way back from their jobs.

Theory of operation. Every change of power is an *operation* with a number of its own. A job has at most one under way:
a newer one supersedes it, and the outcome of the older one then means nothing. Boards that leave a job make a
*release* for each frame: they are switched off by an operation that nothing supersedes, then they rest, then they are
free. Releases are stored, so that a restart drives power-offs to their end and keeps boards resting.

A release outlives its machine: the hardware must be switched off whatever the config file says. If the boards
come back, in a machine of any name, the release goes on there.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from copy import copy

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.records import address
from spalloc_server.core.job import Job
from spalloc_server.core.model import ReleaseRow, Switch
from spalloc_server.core.outbox import Outbox
from spalloc_server.core.placement.layout import frame_work, stopped_links
from spalloc_server.core.undo import Undo

__all__ = ["Power"]


class Power:
    """Numbers operations, remembers what each is for, and leaves them in the outbox for the hardware."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._last_operation = 0
        self._job_of: dict[int, int] = {}
        self._releases: dict[int, ReleaseRow] = {}
        self._rests: list[tuple[float, int]] = []

    def switch(self, job: Job, machine: Machine, *, on: bool) -> None:
        """Switch all of a job's boards; supersedes what is under way for the job."""
        assert job.allocation is not None
        boards = job.allocation.boards
        stopped = stopped_links(machine, boards, job.allocation.stopped or ()) if on else ()
        frames = frame_work(machine, boards, stopped)
        self.forget(job)
        job.operation = self._last_operation = self._last_operation + 1
        job.power = on
        self._job_of[job.operation] = job.job_id
        self._outbox.switches.append(Switch(job.operation, job.job_id, on, frames))

    def note_before(self, undo: Undo, job: Job | None = None) -> None:
        """Have an undo forget all operations that begin from now on, and put back the one that a job has under way."""
        if job is not None and job.operation is not None:
            undo.entries(job.operation, self._job_of)
        undo.call(self._take_back, self._last_operation)

    def _take_back(self, last: int) -> None:
        """Forget the operations after this one."""
        switches = self._outbox.switches
        while switches and switches[-1].operation > last:
            operation = switches.pop().operation
            self._job_of.pop(operation, None)
            if self._releases.pop(operation, None):
                del self._outbox.releases[operation]
        self._last_operation = last

    def forget(self, job: Job) -> None:
        """Ignore the outcome of the job's operation."""
        if job.operation is not None:
            del self._job_of[job.operation]
            job.operation = None

    def forget_job(self, job_id: int) -> None:
        """Ignore all outcomes of operations of this job, live or not."""
        self._job_of = {operation: job for operation, job in self._job_of.items() if job != job_id}

    def try_board(self, machine: Machine, board: Board) -> int:
        """Switch on a board that no job has, with all its links stopped; return the operation."""
        frames = frame_work(machine, [board], stopped_links(machine, [board]))
        self._last_operation += 1
        self._outbox.switches.append(Switch(self._last_operation, job_id=0, on=True, frames=frames))
        return self._last_operation

    def release(self, job_id: int, machine: Machine, boards: Iterable[Board], *, held: bool = True) -> None:
        """Switch boards off, for good as far as the job is concerned that had them.

        Each frame is a release of its own, so that boards never wait for another frame, which may be silent. Boards
        that are not `held` for it may be given meanwhile: what is asked of a frame is done in order.
        """
        frames: dict[str, list[Board]] = {}
        for board in boards:
            frames.setdefault(address(machine, board)[0], []).append(board)
        for of_frame in frames.values():
            self._last_operation += 1
            row = ReleaseRow(
                release_id=self._last_operation,
                job_id=job_id,
                machine=machine.name,
                boards=of_frame if held else [],
                frames=frame_work(machine, of_frame),
            )
            self._drive(row)

    def restore(self, row: ReleaseRow, now: float) -> bool:
        """Go on with a release of an earlier run of the server; False where its rest is over and the row goes."""
        self._outbox.releases[row.release_id] = row
        if row.rest_until is None:
            self._drive(row)
        elif row.rest_until > now:
            self._rest(row)
        else:
            self._outbox.releases[row.release_id] = None
            return False
        return True

    def skip_numbers(self, used: Iterable[int]) -> None:
        """Number operations from above these, which an earlier run of the server used."""
        self._last_operation = max([self._last_operation, *used])

    def job_of(self, operation: int) -> int | None:
        """Return the job that has this operation under way; None where it is superseded, or of no job."""
        return self._job_of.get(operation)

    def released(self, operation: int, rest_until: float | None) -> ReleaseRow | None:
        """Let the boards of a release, which are off, rest; return it. None where no release has this operation."""
        row = self._releases.get(operation)
        if row is None or row.rest_until is not None:
            return None
        self._outbox.releases[operation] = None if rest_until is None else row
        if rest_until is None:
            del self._releases[operation]
        else:
            row.rest_until = rest_until
            self._rest(row)
        return row

    def machine_gone(self, name: str) -> None:
        """Let the releases of a machine that has gone go on, with no boards to give back."""
        for row in self._releases.values():
            if row.machine == name:
                row.boards = []
                self._outbox.releases[row.release_id] = row

    def machine_came(self, machine: Machine, held: Container[Board] = ()) -> list[ReleaseRow]:
        """Assign boards on their way back to this new machine, if they are its boards; return their releases.

        Jobs have those that are `held` already: they were given again before they were off.
        """
        came = []
        boards = {address(machine, board): board for board in machine.live_boards if board not in held}
        for row in reversed(self._releases.values()):
            if not row.boards:
                places = ((frame.bmp, number) for frame in row.frames for number in frame.boards)
                row.boards = [boards.pop(place) for place in places if place in boards]
                if row.boards:
                    row.machine = machine.name
                    self._outbox.releases[row.release_id] = row
                    came.append(row)
        return came

    def end_rests(self, now: float) -> None:
        """Forget the releases whose boards have rested."""
        while self._rests and self._rests[0][0] <= now:
            release_id = heapq.heappop(self._rests)[1]
            if self._releases.pop(release_id, None) is not None:
                self._outbox.releases[release_id] = None

    def held(self) -> Iterable[tuple[str, Board, int]]:
        """(machine, board, job) of every board whose power-off is not confirmed."""
        for row in self._releases.values():
            if row.rest_until is None:
                for board in row.boards:
                    yield row.machine, board, row.job_id

    def rows(self) -> list[ReleaseRow]:
        """Copies of all releases."""
        return [copy(row) for row in self._releases.values()]

    def operations(self) -> dict[int, int]:
        """{operation under way: its job}."""
        return dict(self._job_of)

    def _drive(self, row: ReleaseRow) -> None:
        self._releases[row.release_id] = self._outbox.releases[row.release_id] = row
        self._outbox.switches.append(Switch(row.release_id, row.job_id, on=False, frames=row.frames))

    def _rest(self, row: ReleaseRow) -> None:
        assert row.rest_until is not None
        self._releases[row.release_id] = row
        heapq.heappush(self._rests, (row.rest_until, row.release_id))
