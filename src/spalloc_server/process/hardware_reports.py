"""What the hardware reports, told to the log and to the core."""

from __future__ import annotations

from collections.abc import Callable

from spalloc_server.controller import Controller
from spalloc_server.core.model.power import Outcome
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Reports"]

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

    def outcome(self, outcome: Outcome) -> None:
        """A power operation is over."""
        for failure in outcome.failures:
            log.warning("board failed", bmp=failure.bmp, board=failure.board, reason=failure.reason)
        with self._defects.contained("a part of the core failed", doing="the outcome of a power operation"):
            self._controller.switched(outcome)
        self._changed()

    def frame(self, bmp: str, reason: str | None) -> None:
        """A frame does not work, for this reason; or, with None, works again."""
        if reason is None:
            log.info("frame works again: its boards are in service", bmp=bmp)
        else:
            log.warning("frame does not work: its boards are out of service", bmp=bmp, reason=reason)
        with self._defects.contained("a part of the core failed", doing="a frame that fell silent, or answers again"):
            self._controller.frame_changed(bmp, reason)
        self._changed()
