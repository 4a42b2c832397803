"""Between core and hardware: what follows from a commit, and what the hardware reports.

Theory of operation. `Consequences`: boards are switched, BMPs are watched, clients are told, and the log of jobs grows.
One effect must not spoil another: each is done by itself, and what it raises is put on record (`defects`). A power-on
that cannot even be begun counts as one that has failed, so that its job is placed elsewhere; a power-off is tried
again, since its boards are given to nobody before it is done.

`Reports`: outcomes of power operations, and frames that fall silent or answer again, are told to the log and to the
core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spalloc_server.application.commands import SERVER, Kind
from spalloc_server.application.commits import Effects
from spalloc_server.application.subscriptions import Subscriptions
from spalloc_server.controller import Controller
from spalloc_server.core.model import BoardFailure, Outcome, Switch
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger
from spalloc_server.process.job_lines import JobLines
from spalloc_server.process.job_log import JobLog

__all__ = ["Consequences", "Reports"]

SWITCH_AGAIN_SECONDS = 10.0
"""From a power-off that could not be begun to the next attempt."""

_STOPPED = "stopped"
"""The fact that an emergency stop holds."""

_MACHINES = "machines"
"""The fact that tells which machines there are."""


class Consequences:
    """Does the effects of batches.

    Args:
        hardware: switches boards.
        controller: tells which BMPs there are.
        subscriptions: tell what has changed.
        job_log: is appended to.
        on_outcome: told the end of what the hardware was not able to begin.
        defects: told what goes wrong that never should.
    """

    def __init__(
        self,
        hardware: Hardware,
        controller: Controller,
        subscriptions: Subscriptions,
        job_log: JobLog,
        on_outcome: Callable[[Outcome], None],
        defects: DefectLog,
    ) -> None:
        self._hardware = hardware
        self._controller = controller
        self._subscriptions = subscriptions
        self._job_log = job_log
        self._job_lines = JobLines()
        self._on_outcome = on_outcome
        self._defects = defects

    def act(self, effects: Effects) -> None:
        """Do the effects of a batch that is durable."""
        for switch in effects.switches:
            self._switch(switch)
        if _MACHINES in effects.changes.facts:
            with self._defects.contained("BMPs could not be watched"):
                self._hardware.watch(self._controller.bmps())
        ended = [row.job_id for row in effects.changes.jobs.values() if row.ended_at is not None]
        with self._defects.contained("subscribers could not be told of changes"):
            self._subscriptions.publish(Kind.JOB, effects.jobs, ended)
            self._subscriptions.publish(Kind.MACHINE, effects.machines)
            if _STOPPED in effects.changes.facts:
                self._subscriptions.publish(SERVER.kind, ("",))
        with self._defects.contained("the log of jobs failed"):
            self._job_log.append(effects.events)
            self._job_lines.tell(effects.events)

    def _switch(self, switch: Switch) -> None:
        try:
            self._hardware.switch(switch)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this operation only
            self._defects.note("boards could not be switched", exc, operation=switch.operation)
            loop = asyncio.get_running_loop()
            if switch.on:
                loop.call_soon(self._on_outcome, _failed(switch))
            else:
                loop.call_later(SWITCH_AGAIN_SECONDS, self._switch, switch)


def _failed(switch: Switch) -> Outcome:
    failures = [
        BoardFailure(frame.bmp, board, "internal error of the server", frame_fault=True)
        for frame in switch.frames
        for board in frame.boards
    ]
    return Outcome(switch.operation, tuple(failures))


log = get_logger(__name__)


class Reports:
    """Takes the reports of hardware. A defect of the core costs no more than the report that met it.

    Args:
        controller: the core.
        changed: called when that may have changed.
        defects: told what goes wrong that never should.
    """

    def __init__(self, controller: Controller, changed: Callable[[], object], defects: DefectLog) -> None:
        self._controller = controller
        self._changed = changed
        self._defects = defects
        self._out: set[str] = set()
        """BMPs whose frames do not work, which the log has been told."""

    def outcome(self, outcome: Outcome) -> None:
        """A power operation is over."""
        for failure in outcome.failures:
            if not failure.frame_fault:
                log.warning("board failed", bmp=failure.bmp, board=failure.board, reason=failure.reason)
        faults = {(failure.bmp, failure.reason) for failure in outcome.failures if failure.frame_fault}
        for bmp, reason in sorted(faults):
            if bmp not in self._out:
                log.warning("a frame's boards could not be switched", bmp=bmp, reason=reason)
        with self._defects.contained("a part of the core failed", doing="the outcome of a power operation"):
            self._controller.switched(outcome)
        self._changed()

    def frame(self, bmp: str, reason: str | None) -> None:
        """A frame does not work, for this reason; or, with None, works again."""
        (self._out.discard if reason is None else self._out.add)(bmp)
        if reason is None:
            log.info("frame works again: its boards are in service", bmp=bmp)
        else:
            log.warning("frame does not work: its boards are out of service", bmp=bmp, reason=reason)
        with self._defects.contained("a part of the core failed", doing="a frame that fell silent, or answers again"):
            self._controller.frame_changed(bmp, reason)
        self._changed()
