"""Jobs as the scheduler sees them: those that wait, and those that run.

Theory of operation. Plain data. A `Queue` fills it in, and policies read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spalloc_server.core.model import Allocation, Request
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Planes

__all__ = ["Running", "Waiting"]

OVERRUN = 0.3
"""A job that has run longer than predicted is expected to run on for this part of its time so far."""


@dataclass(slots=True)
class Waiting:
    """A queued job."""

    job_id: int
    request: Request
    since: float
    machines: tuple[str, ...]
    """Machines that could serve it if they were empty, highest priority first."""
    work: int = 0
    """Board-seconds that it would probably take when it joined; a whole number, so that sums are exact."""
    avoid: Mapping[str, Planes] = field(default_factory=dict)
    """By machine, the boards of frames in which its boards have failed already."""
    kind: Request = field(init=False)
    """What it asks for, as far as that affects its place (`request_kinds`)."""
    generation: int = 0
    """The generation of queues that it is in."""
    there: tuple[tuple[Topology, bool], ...] | None = None
    """Its machines' topologies, and whether they were closed, when `apart` was worked out."""
    apart: bool | None = None
    """Whether it can be served without the boards of `avoid`; None where that has not been worked out."""

    def __post_init__(self) -> None:
        self.kind = self.request  # until the queue knows better


@dataclass(slots=True)
class Running:
    """A job that has boards."""

    job_id: int
    request: Request
    allocation: Allocation
    started_at: float
    planes: Planes
    """Its boards."""
    predicted: float
    """How long it would probably run when it started, seconds."""

    def predicted_end(self, now: float) -> float:
        """When it will probably end, now that it has run so long."""
        seconds = max(self.predicted, (now - self.started_at) * (1 + OVERRUN))
        if self.request.max_runtime is not None:
            seconds = min(seconds, self.request.max_runtime)
        return self.started_at + seconds
