"""A job, and its states and transitions as a table.

Theory of operation. Everything that changes a job's state is an `Event`, and `TRANSITIONS` says what follows from it:

    queued --allocated--> power --switched--> ready --asked--> power
                            |  ^                 |
                            |  +-----asked----+  |
                            +--failed--> queued  |
    any of the three --ended--> destroyed

A pair that is not in the table cannot happen; `Job.apply` raises where it does, because then the core itself is wrong.
A job whose boards failed is queued again, yet tells its users that it is still being switched on (`reported`): for them
the power-on just takes longer, and some published clients give up on a job that goes back to the queue.
"""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from spalloc_server.config.machine import Frame
from spalloc_server.core.model import STATES, JobRow, JobState, Request

__all__ = ["TRANSITIONS", "Event", "Job", "JobState"]


class Event(Enum):
    """What can happen to a job."""

    allocated = auto()
    switched = auto()
    asked = auto()
    """A user asks for power on or off."""
    failed = auto()
    """The hardware could not switch its boards; they are taken away."""
    ended = auto()


TRANSITIONS: dict[tuple[JobState, Event], JobState] = {
    (JobState.queued, Event.allocated): JobState.power,
    (JobState.queued, Event.ended): JobState.destroyed,
    (JobState.power, Event.switched): JobState.ready,
    (JobState.power, Event.asked): JobState.power,
    (JobState.power, Event.failed): JobState.queued,
    (JobState.power, Event.ended): JobState.destroyed,
    (JobState.ready, Event.asked): JobState.power,
    (JobState.ready, Event.ended): JobState.destroyed,
}


SHORT_REASON = 120
"""Characters of the reason that history keeps of a job that never had boards."""

RUNTIME_WARNING = 60.0
"""Seconds before the end of a bounded run time at which the job's user is warned; half-time where it is shorter."""


class Job(JobRow, kw_only=True):
    """A live job: its row, what it asked for, and when its lease runs out."""

    request: Request
    deadline: float | None = None
    """When it expires unless it is named before; None where it never does."""
    bound: float | None = None
    """When its user is to be warned that its run time will soon be over; after that, when it will be over."""
    warning: str | None = None
    """The warning, once it has been given."""
    waits: str | None = None
    """What its user was last told about its place in the queue, where that is predicted."""
    failed_in: frozenset[tuple[str, Frame]] = frozenset()
    """(machine, frame) of boards that have failed it since it was last ready."""
    revision: int = 0
    """How often anything that clients see of it has changed since the server started."""

    def apply(self, event: Event) -> None:
        """Take the transition of the table; `KeyError` where it has none."""
        self.state = TRANSITIONS[JobState(self.state), event]

    @property
    def reported(self) -> JobState:
        """The state as users see it."""
        placed_before = self.state == JobState.queued and self.allocated_at is not None
        return JobState.power if placed_before else STATES[self.state]

    @property
    def ends_at(self) -> float | None:
        """When the run time that was asked for is over; None where it is not bounded, or has not begun."""
        if self.request.max_runtime is None or self.ready_at is None:
            return None
        return self.ready_at + self.request.max_runtime

    @property
    def notice(self) -> str | None:
        """What the user of a job that lives is to know: why it waits, or that its time is over soon."""
        if self.held is not None:
            return f"On hold, by {self.held.by}: {self.held.reason}"
        return self.waits if self.state == JobState.queued else self.warning

    @property
    def warned_at(self) -> float:
        """When the user of a job whose run time is bounded is to be warned."""
        assert self.ends_at is not None
        assert self.ready_at is not None
        return max(self.ends_at - RUNTIME_WARNING, (self.ready_at + self.ends_at) / 2)

    @property
    def run_time_over(self) -> str:
        """The first half of the sentences that warn its user, and that give the reason of its end."""
        return f"The run time of {self.request.max_runtime:g} s that was asked for is over"

    def warn(self, now: float) -> None:
        """Warn its user that the run time is over soon."""
        assert self.ends_at is not None
        self.bound = self.ends_at
        self.warning = f"{self.run_time_over} in {max(0.0, self.ends_at - now):.0f} s; then the job will be ended."
        self.revision += 1

    def extended(self, now: float) -> None:
        """The run time is over later than before: warn its user later, or anew where that time has come already."""
        if self.bound is not None and self.warned_at < self.bound:
            self.warn(now)
        elif self.bound is not None:
            self.bound, self.warning = self.warned_at, None

    def row(self) -> JobRow:
        """A copy of what is stored, which later changes of the job leave alone."""
        return JobRow(**{name: getattr(self, name) for name in _ROW_FIELDS})

    def last_row(self) -> JobRow:
        """What history keeps: of a job that never had boards, little. Such jobs cost their creators nothing."""
        row = self.row()
        row.session, row.kwargs = None, {}  # which the request says as well
        if row.allocated_at is None:
            row.request, row.reason = None, row.reason and row.reason[:SHORT_REASON]
            row.original = None
        return row


_ROW_FIELDS = tuple(field.name for field in msgspec.structs.fields(JobRow))
