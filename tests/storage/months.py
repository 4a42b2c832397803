"""A month of a server in virtual time, with all that a month has: failures, crashes, restarts, upgrades and pruning.

Theory of operation. `Month` drives a core, stores what it changes as the journal does, and keeps books of its own: from
the log of jobs it knows who had how many boards from when to when. What is not stored when the server dies has not
happened, and is not in the books either.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model import BoardFailure, JobEvent, Outcome, Switch
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import RequestError
from spalloc_server.storage.accounting import prune
from spalloc_server.storage.reading import read_snapshot
from spalloc_server.storage.reports import Report, report
from spalloc_server.storage.rows import encode
from spalloc_server.storage.state_file import connect, transaction

__all__ = ["Held", "Month", "a_machine"]


def a_machine(name: str = "hall", frames: int = 2) -> Machine:
    """A machine of two triads a frame, side by side."""
    boards = [(x, y, z) for x in range(frames) for y in range(2) for z in range(3)]
    return Machine(
        name,
        width=frames,
        height=2,
        board_locations={(x, y, z): (0, x, 3 * y + z) for x, y, z in boards},
        bmp_ips={(0, frame): f"{name}-{frame}" for frame in range(frames)},
        spinnaker_ips={board: "{}-{}-{}-{}".format(name, *board) for board in boards},
    )


@dataclass
class Held:
    """Boards that a job had, or has while `ended` is None."""

    job_id: int
    owner: str
    machine: str
    boards: int
    began: float
    ended: float | None = None

    def seconds(self, since: float, until: float) -> float:
        """Board-seconds in a period."""
        ended = until if self.ended is None else self.ended
        return self.boards * max(0.0, min(ended, until) - max(self.began, since))


class Month:
    """A server, its state at `path`, and the books."""

    def __init__(self, path: Path, begin: float, *, rest: float = 30.0) -> None:
        self.begin = self.now = begin
        self.books: list[Held] = []
        self.ended = self.waits = 0
        self.connection = connect(path)
        self._configuration = Configuration([a_machine()], seconds_before_free=rest)
        self._failing = 0
        self.controller = Controller(clock=lambda: self.now)
        self.controller.configure(self._configuration)
        self.commit()

    def commit(self) -> None:
        """Store what has changed, and let the hardware do what it is told."""
        while self.controller.changed:
            effects = self.controller.take()
            with transaction(self.connection):
                encode(effects.changes).store(self.connection)
            for event in effects.events:
                self._book(event)
            for switch in effects.switches:
                self.controller.switched(Outcome(switch.operation, self._failures(switch)))

    def _failures(self, switch: Switch) -> tuple[BoardFailure, ...]:
        if not (switch.on and switch.job_id and self._failing):
            return ()
        self._failing -= 1
        frame = switch.frames[0]
        return (BoardFailure(frame.bmp, frame.boards[0], "FPGA 1 does not answer"),)

    def _book(self, event: JobEvent) -> None:
        held = next((each for each in self.books if each.job_id == event.job_id and each.ended is None), None)
        if event.event == "allocated":
            assert held is None
            assert event.machine is not None
            self.books.append(Held(event.job_id, event.owner, event.machine, len(event.boards), event.time))
        elif event.event in {"failed", "destroyed"}:
            if held is not None:
                held.ended = event.time
            self.ended += event.event == "destroyed"

    # ---------------------------------------------------------------- what happens

    def wait(self, seconds: float) -> None:
        """Let time pass, and rests end."""
        self.now += seconds
        self.controller.tick()
        self.commit()

    def create(self, owner: str, boards: int, failing: int = 0) -> None:
        """Make a job, whose boards fail as often as it is said."""
        self._failing = failing
        self.controller.create_job(boards, owner=owner, keepalive=None)
        self.commit()
        self._failing = 0

    def destroy(self, number: int) -> None:
        """End one of the live jobs."""
        if live := sorted(self.controller.state.jobs):
            self.controller.destroy_job(live[number % len(live)])
            self.commit()

    def stop_and_resume(self) -> None:
        """An emergency stop while boards are switched, and its end."""
        self.controller.create_job(1, owner="late", keepalive=None)
        self.controller.emergency_stop(reason="smoke", by="ann")
        self.commit()
        self.wait(60)
        self.controller.resume()
        self.commit()

    def close_board(self) -> None:
        """Take a board out of service, or back."""
        with suppress(RequestError):
            view = self.controller.board_view("hall", (0, 0, 0))
            if view.out_of_service is None:
                self.controller.disable_board("hall", (0, 0, 0), reason="it is hot", by="ann")
            else:
                self.controller.enable_board("hall", (0, 0, 0))
            self.commit()

    def crash(self) -> None:
        """Lose what is not stored, and start again."""
        if self.controller.state.jobs:
            self.controller.destroy_job(min(self.controller.state.jobs))  # which nobody hears of
        self.controller.create_job(1, owner="lost", keepalive=None)
        self._start(0.0)

    def reboot(self, seconds: float) -> None:
        """Stop, and start so much later in another boot: no time has passed for jobs."""
        self.now += seconds
        for each in self.books:
            if each.ended is None:
                each.began += seconds
        self._start(seconds)

    def upgrade(self) -> None:
        """Go on in another process, which reads the state."""
        self._start(0.0)

    def _start(self, moved_by: float) -> None:
        snapshot = read_snapshot(self.connection, read_request, max_retired=5)
        self.controller = Controller(clock=lambda: self.now)
        self.controller.restore(snapshot, self._configuration.machines, moved_by=moved_by)
        self.controller.configure(self._configuration)
        self.commit()

    def prune(self, before: float, most: int) -> None:
        """Move a few jobs that ended before this time to the sums."""
        with transaction(self.connection):
            prune(self.connection, before, most)

    # ---------------------------------------------------------------- what is reported

    def report(self, by: str, bounds: list[float], names: list[str]) -> Report:
        """A report as of now."""
        return report(self.connection, by, bounds, names, self.now)

    def seconds(self, since: float, until: float, *, owner: str | None = None) -> float:
        """Board-seconds by the books."""
        until = min(until, self.now)
        return sum(each.seconds(since, until) for each in self.books if owner in (None, each.owner))
