"""How much may be done before the event loop has its turn again.

Theory of operation. A pass over a long queue is cut into *steps*. A step does a bounded amount of work, and what is
left is done by later ones. The core has no clock, so work is counted in units: a unit is some two microseconds, and
everything is weighed by how long it takes. The work for one job is never cut, so a step can be longer by one
placement.
"""

from __future__ import annotations

from collections.abc import Iterator

from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Block, Planes

__all__ = ["STEP", "Metered", "Work"]

STEP = 1200
"""Units of work in one step: some milliseconds."""

START = 40
"""Units of work that starting a job is, apart from its boards."""

BOARD = 8
"""Units of work that each board of a job that starts is: its links are looked at, and it is told to the hardware."""


class Work:
    """What is left of the present step. It is less than nothing where the last job took more than was left."""

    def __init__(self) -> None:
        self.left = STEP

    def looked(self) -> None:
        """Count a waiting job that was looked at, with boards reserved and places known in vain as they often are."""
        self.left -= 2

    def judged(self) -> None:
        """Count a waiting job of which it was found out anew which machines could serve it."""
        self.left -= 3

    def started(self, boards: int) -> None:
        """Count a job that was started on so many boards."""
        self.left -= START + BOARD * boards

    def searched(self, triads: int) -> None:
        """Count a search for a place on a machine of so many triads; its floods are counted apart."""
        self.left -= 20 + triads // 100


class Metered(Topology):
    """A topology whose floods count as work."""

    work = Work()

    def layers(self, start: Planes, among: Planes, block: Block | None = None) -> Iterator[Planes]:
        """Boards reached from some, layer by layer, as `Topology.layers` tells."""
        work, units = self.work, 1 + self.torus.size // 250
        for reached in super().layers(start, among, block):
            work.left -= units
            yield reached
