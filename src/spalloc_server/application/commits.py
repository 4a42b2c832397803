"""Nothing leaves before its commit: from the core's changes to the journal, and from there to the world.

Theory of operation. Whatever happens in one turn of the event loop makes one *batch*: the rows that changed, and the
effects that follow from them (power operations and notifications). The rows go to the journal at the end of the turn;
once they are durable, the replies that wait for the batch leave, and then its effects.

Where a commit fails, those who wait are told so. Their jobs would come to life without anybody knowing of them, so jobs
made in such a batch are ended again. All else in it stands: memory is the authority, the journal keeps the rows and
writes them as soon as it can. Until then effects are withheld, in order. Only in an emergency stop power-offs do
not wait for a disk that refuses, nor, for longer than `EMERGENCY_SECONDS`, for one that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from spalloc_server.controller import Controller
from spalloc_server.core.model.events import JobEvent
from spalloc_server.core.model.power import Switch
from spalloc_server.core.model.rows import Changes
from spalloc_server.errors import StorageError
from spalloc_server.log.defects import DefectLog
from spalloc_server.storage.journal import Committed, Journal

__all__ = ["Batches", "Effects"]


EMERGENCY_SECONDS = 1.0
"""The longest that the power-offs of an emergency stop wait for the disk."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What follows from a batch, to be done once it is durable."""

    changes: Changes
    switches: list[Switch]
    jobs: set[int]
    """Jobs whose watchers are to be told."""
    machines: set[str]
    """Machines whose watchers are to be told."""
    events: list[JobEvent]
    """What happened to jobs, for those who keep a log of it."""


class Batches:
    """Collects the core's changes, has them stored, and lets their effects go.

    Args:
        controller: the core.
        journal: where rows go.
        settled: told the number of a batch, and why it could not be stored, or None where it could.
        act: does the effects of a batch that is durable.
        defects: told what goes wrong that never should.
    """

    def __init__(
        self,
        controller: Controller,
        journal: Journal,
        *,
        settled: Callable[[int, str | None], None],
        act: Callable[[Effects], None],
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self._controller = controller
        self._journal = journal
        self._settled = settled
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.stopped = False
        """Whether nothing is to be stored or done any more, or not yet: another process is the server."""
        self._flushing: asyncio.Handle | None = None
        self._withheld: list[Effects] = []
        self._storing: dict[int, Effects] = {}
        self._unsettled = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._known_ids = controller.next_id

    def hold(self) -> int | None:
        """The number of the batch to wait for until all that the core says now is durable; None where it is.

        A command that finds its work done already, by another client's, is as true as that one's batch is durable.
        """
        if not self._controller.changed:
            return self._number if self._unsettled else None
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)
        return self._number + 1

    def flush(self) -> None:
        """Give the present batch to the journal now; harmless where it is empty."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._controller.changed or self.stopped:
            return
        self._number += 1
        effects = Effects(
            self._controller.take_changes(),
            self._controller.take_switches(),
            self._controller.changed_jobs,
            self._controller.changed_machines,
            self._controller.take_events(),
        )
        self._unsettled += 1
        self._idle.clear()
        self._storing[self._number] = effects
        if self._controller.stopped is not None:
            self._loop.call_later(EMERGENCY_SECONDS, self._stop_without_the_disk, self._number)
        self._write(effects.changes, partial(self._committed, self._number, effects))

    def stop(self) -> None:
        """Store and do nothing more: another process goes on, now or at the next start."""
        self.stopped = True

    def settled(self) -> bool:
        """Whether all that has happened is stored, or has failed to be."""
        return not self._controller.changed and self._unsettled == 0

    async def settle(self) -> None:
        """Wait until all that has happened is stored, or has failed to be."""
        self.flush()
        await self._idle.wait()

    def _write(self, changes: Changes, committed: Committed) -> None:
        """Give rows to the journal. One that cannot be stored costs itself, and its job where it is a job's."""
        try:
            self._journal.write(changes, committed)
        except StorageError as exc:
            self._defects.note("a batch cannot be stored as a whole", exc)
            for name, part in _parts(changes):
                with self._defects.contained("a row cannot be stored", row=name):
                    self._store_part(part)
            try:
                self._journal.write(Changes(), committed)
            except StorageError as closed:
                self._loop.call_soon(committed, closed)

    def _store_part(self, part: Changes) -> None:
        try:
            self._journal.write(part, lambda _: None)
        except StorageError:
            for job_id in part.jobs:
                self._controller.destroy_job(job_id, "The server could not store this job: see its log")
            raise

    def _committed(self, number: int, effects: Effects, error: StorageError | None) -> None:
        if self.stopped:
            return
        del self._storing[number]
        self._withheld.append(effects)
        with self._defects.contained("replies could not be sent"):
            self._settled(number, None if error is None else str(error))
        new_jobs = [job_id for job_id in effects.changes.jobs if job_id >= self._known_ids]
        self._known_ids = max([self._known_ids, *(1 + job_id for job_id in new_jobs)])
        if error is None:
            withheld, self._withheld = self._withheld, []
            for ready in withheld:
                with self._defects.contained("what follows from a commit failed"):
                    self._act(ready)
        else:
            self._stop_in_an_emergency()
            for job_id in new_jobs:
                self._controller.destroy_job(job_id, f"The server could not store this job: {error}")
        self._unsettled -= 1
        if not self._unsettled:
            self._idle.set()
        self.hold()

    def _stop_without_the_disk(self, number: int) -> None:
        if number in self._storing and not self.stopped:
            self._stop_in_an_emergency()

    def _stop_in_an_emergency(self) -> None:
        """Let withheld power-offs go. The power-ons among them are void: the stop took all jobs' boards away."""
        if self._controller.stopped is not None:
            for effects in (*self._withheld, *self._storing.values()):
                offs = [switch for switch in effects.switches if not switch.on]
                effects.switches.clear()
                self._act(Effects(Changes(), offs, set(), set(), []))


def _parts(changes: Changes) -> Iterator[tuple[str, Changes]]:
    """Each row alone, by table and key."""
    yield from ((f"jobs/{key}", Changes(jobs={key: row})) for key, row in changes.jobs.items())
    yield from ((f"boards/{key}", Changes(boards={key: board})) for key, board in changes.boards.items())
    yield from ((f"releases/{key}", Changes(releases={key: release})) for key, release in changes.releases.items())
    yield from ((f"facts/{key}", Changes(facts={key: fact})) for key, fact in changes.facts.items())
