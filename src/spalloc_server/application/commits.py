"""Nothing leaves before its commit: from the core's changes to the journal, and from there to the world.

Theory of operation. Whatever happens in one turn of the event loop makes one *batch*: the rows that changed, and the
effects that follow from them (power operations and notifications). The rows go to the journal at the end of the turn;
once they are durable, the replies that wait for the batch leave, and then its effects.

Where a commit fails, those who wait are told so. Their jobs would come to life without anybody knowing of them, so jobs
made in such a batch are ended again. All else in it stands: memory is the authority, the journal keeps the rows and
writes them as soon as it can. Until then effects are withheld, in order. Only in an emergency stop power-offs do
not wait for a disk that refuses, nor, for longer than `EMERGENCY_SECONDS`, for one that hangs.

`hold` names the commit that the latest changes wait for. Its outcome reaches those that asked for it: all outcomes
in order (`tell`), one outcome by a call back (`when_over`), or awaited (`durable`). Whatever the journal raises, each
commit comes to an end, so that nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from spalloc_server.controller import Controller, Effects
from spalloc_server.core.model import Changes
from spalloc_server.core.model.reasons import NOT_STORED
from spalloc_server.errors import StorageError
from spalloc_server.log.defects import DefectLog
from spalloc_server.storage.journal import Committed, Journal

__all__ = ["Commits", "Effects"]


EMERGENCY_SECONDS = 1.0
"""The longest that the power-offs of an emergency stop wait for the disk."""


FAILURES_KEPT = 1000
"""Commits that have failed whose reasons are remembered, for those who ask late."""

ENDED = "the server has ended before it was stored"
"""The outcome of a commit that another process has to finish."""

OnOutcome: TypeAlias = Callable[[str | None], None]
"""Called with why a commit could not be stored, or None where it was."""


class Commits:
    """Collects the core's changes, has them stored, and lets their effects go.

    Args:
        controller: the core.
        journal: where rows go.
        act: does the effects of a batch that is durable.
        defects: told what goes wrong that never should.
    """

    def __init__(
        self,
        controller: Controller,
        journal: Journal,
        *,
        act: Callable[[Effects], None],
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self._controller = controller
        self._journal = journal
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.stopped = False
        """Whether nothing is to be stored or done any more, or not yet: another process is the server."""
        self._flushing: asyncio.Handle | None = None
        self._withheld: list[Effects] = []
        self._storing: dict[int, Effects] = {}
        self._failures: dict[int, str] = {}
        self._told: list[Callable[[int, str | None], None]] = []
        self._waiting: dict[int, list[OnOutcome]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._known_ids = controller.next_id

    def hold(self) -> int | None:
        """Return the batch to wait for until all that the core says now is durable; None where it is.

        A command that changes nothing, since another one did the same before, waits for the batch of that one.
        """
        if not self._controller.changed:
            return self._number if self._storing else None
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
        effects = self._controller.take()
        self._idle.clear()
        self._storing[self._number] = effects
        if self._controller.stopped is not None:
            self._loop.call_later(EMERGENCY_SECONDS, self._stop_without_the_disk, self._number)
        self._write(effects.changes, partial(self._committed, self._number, effects))

    def tell(self, told: Callable[[int, str | None], None]) -> None:
        """Have `told` called with the number of each commit that is over, and why it failed, or None."""
        self._told.append(told)

    def when_over(self, commit: int, told: OnOutcome) -> None:
        """Have `told` called once `commit` is over; now, where it is already."""
        if self.stopped:
            told(ENDED)
        elif commit > self._number or commit in self._storing:
            self._waiting.setdefault(commit, []).append(told)
        else:
            told(self._failures.get(commit))

    def when_stored(self, commit: int, told: Callable[[StorageError | None], None]) -> None:
        """Have `told` called with None once `commit` is stored, or else with what those are told who wait for it."""
        text = "this could not be stored, and may be gone after a restart"
        self.when_over(commit, lambda error: told(None if error is None else StorageError(f"{text}: {error}")))

    async def durable(self, commit: int | None) -> None:
        """Wait until `commit` is stored; None is.

        Raises:
            StorageError: it could not be.
        """
        if commit is None:
            return
        outcome: asyncio.Future[StorageError | None] = self._loop.create_future()
        self.when_stored(commit, lambda error: None if outcome.done() else outcome.set_result(error))
        if (error := await outcome) is not None:
            raise error

    def stop(self) -> None:
        """Store and do nothing more: another process goes on, now or at the next start."""
        self.stopped = True
        for commit in tuple(self._waiting):
            self._tell_waiting(commit, ENDED)

    def settled(self) -> bool:
        """Whether all that has happened is stored, or has failed to be."""
        return not self._controller.changed and not self._storing

    async def settle(self) -> None:
        """Wait until all that has happened is stored, or has failed to be."""
        self.flush()
        await self._idle.wait()

    def _write(self, changes: Changes, committed: Committed) -> None:
        """Give rows to the journal. One that cannot be stored costs itself, and its job where it is a job's."""
        try:
            self._journal.write(changes, committed)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the commit must come to an end
            self._defects.note("a batch cannot be stored as a whole", exc)
            for name, part in _parts(changes):
                with self._defects.contained("a row cannot be stored", row=name):
                    self._store_part(part)
            try:
                self._journal.write(Changes(), committed)
            except Exception as last:  # noqa: BLE001 - likewise
                told = last if isinstance(last, StorageError) else StorageError(f"the journal failed: {last!r}")
                self._loop.call_soon(committed, told)

    def _store_part(self, part: Changes) -> None:
        try:
            self._journal.write(part, lambda _: None)
        except Exception:
            for job_id in part.jobs:
                self._controller.destroy_job(job_id, f"{NOT_STORED}: see its log")
            raise

    def _committed(self, number: int, effects: Effects, error: StorageError | None) -> None:
        if self.stopped:
            return
        del self._storing[number]
        self._withheld.append(effects)
        self._tell_outcome(number, None if error is None else str(error))
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
                self._controller.destroy_job(job_id, f"{NOT_STORED}: {error}")
        if not self._storing:
            self._idle.set()
        self.hold()

    def _tell_outcome(self, number: int, error: str | None) -> None:
        if error is not None:
            self._failures[number] = error
            if len(self._failures) > FAILURES_KEPT:
                del self._failures[next(iter(self._failures))]
        for told in self._told:
            with self._defects.contained("replies could not be sent"):
                told(number, error)
        self._tell_waiting(number, error)

    def _tell_waiting(self, number: int, error: str | None) -> None:
        for told in self._waiting.pop(number, ()):
            with self._defects.contained("replies could not be sent"):
                told(error)

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
    for table in Changes.__struct_fields__:
        yield from ((f"{table}/{key}", Changes(**{table: {key: row}})) for key, row in getattr(changes, table).items())
