"""Where, and when, a job that cannot start now will be able to.

Theory of operation. The boards that are not free now come free at times that can be predicted. Adding them to the
free ones in that order gives ever larger sets of boards, in which a job that fits once fits ever after; so the first
set that it fits in is found in few steps, and tells both a place and a time. Nothing is tried before there are as
many boards as asked for, and most often that is already it, because boards need not be side by side to be connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spalloc_server.core.book import Book
from spalloc_server.core.ground import Ground
from spalloc_server.core.messages import Request
from spalloc_server.core.occupancy import Occupancy
from spalloc_server.core.placement import Place, fewest, fits, place
from spalloc_server.core.torus import Planes, count, overlap, union, without

__all__ = ["Reservation", "all_free", "releases", "soonest"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Boards on which a job will be able to start, and when."""

    job_id: int
    machine: str
    place: Place
    start: float
    """Predicted, seconds on the scheduler's axis."""
    promised: float
    """What `start` was when these boards were chosen."""
    since: float
    """When the job first had a reservation."""

    @property
    def boards(self) -> Planes:
        """The boards reserved."""
        return self.place[1]


def releases(book: Book, machine: str, now: float) -> list[tuple[float, Planes]]:
    """When boards that are not free now will probably be: (time, boards), soonest first."""
    occupancy = book.machines[machine]
    live = occupancy.topology.live
    rest = without(live, occupancy.free)
    ends = []
    for job in book.running.values():
        if job.allocation.machine == machine:
            ends.append((job.predicted_end(now) + book.seconds_before_free, overlap(job.planes, live)))
            rest = without(rest, job.planes)
    if any(rest):  # boards that are being powered off, or rest
        ends.append((now + book.seconds_before_free, rest))
    return sorted(ends)


def all_free(boards: Planes, ends: Sequence[tuple[float, Planes]], now: float) -> float:
    """When all of these boards will probably be free, by the `releases` of their machine."""
    return max((end for end, freed in ends if any(overlap(freed, boards))), default=now)


def soonest(
    request: Request, occupancy: Occupancy, ends: Sequence[tuple[float, Planes]], taken: Planes
) -> tuple[float, Place] | None:
    """When a request that does not fit now will first fit, and where.

    Args:
        request: what is asked for.
        occupancy: the machine.
        ends: when its boards come free, from `releases`.
        taken: boards that are meant for others, and do not count.
    """
    free = without(occupancy.free, taken)
    least = fewest(request, occupancy.topology)
    steps = []
    for end, boards in ends:
        free = union(free, without(boards, taken))
        if count(free) >= least:
            steps.append((end, free))

    def fits_at(step: int) -> bool:
        return fits(request, Ground(occupancy.topology, steps[step][1]))

    failed, step, stride = -1, 0, 1
    while step < len(steps) and not fits_at(step):
        if step == len(steps) - 1:
            return None
        failed, step, stride = step, min(step + stride, len(steps) - 1), 2 * stride
    while failed + 1 < step < len(steps):
        middle = (failed + step) // 2
        failed, step = (failed, middle) if fits_at(middle) else (middle, step)
    if step >= len(steps):
        return None
    end, free = steps[step]
    found = place(request, Ground(occupancy.topology, free))
    return found and (end, found)
