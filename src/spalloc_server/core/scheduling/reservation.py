"""Where, and when, a job that cannot start now will be able to.

Theory of operation. The boards that are not free now come free at times that can be predicted. Adding them to the
free ones in that order gives ever larger sets of boards, in which a job that fits once fits ever after; so the first
set that it fits in is found in few steps, and tells both a place and a time. Nothing is tried before there are as
many boards as asked for, and most often that is already it, because boards need not be side by side to be connected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spalloc_server.core.model import Request
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.placement.search import Place, fewest
from spalloc_server.core.placement.torus import NOTHING, Planes, count, overlap, union, without
from spalloc_server.core.scheduling.queue import Queue

__all__ = ["Reservation", "all_free", "releases", "soonest"]

TIE_SECONDS = 1.0
"""Boards that come free within this time of each other count as coming free together."""

TIE_PART = 0.05
"""The same, as a part of the time until the first of them."""


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
    bold_until: float
    """Later jobs that are predicted to end after `start` may start on these boards if it is not after this time."""

    @property
    def boards(self) -> Planes:
        """The boards reserved."""
        return self.place[1]


def releases(queue: Queue, machine: str, now: float) -> list[tuple[float, Planes]]:
    """When boards that are not free now will probably be: (time, boards), soonest first."""
    occupancy = queue.machines[machine]
    at: dict[float, Planes] = {}
    held = NOTHING
    for job in queue.running.values():
        if job.allocation.machine == machine:
            end = job.predicted_end(now) + queue.seconds_before_free
            at[end] = union(at.get(end, NOTHING), job.planes)
            held = union(held, job.planes)
    live = occupancy.topology.live
    rest = without(without(live, occupancy.free), held)
    if any(rest):  # boards that are being powered off, or rest
        end = now + queue.seconds_before_free
        at[end] = union(at.get(end, NOTHING), rest)
    return [(end, overlap(planes, live)) for end, planes in sorted(at.items())]


def all_free(boards: Planes, ends: Sequence[tuple[float, Planes]], now: float) -> float:
    """When all of these boards will probably be free, by the `releases` of their machine."""
    return max((end for end, freed in ends if any(overlap(freed, boards))), default=now)


def soonest(
    kind: Request, occupancy: Occupancy, ends: Sequence[tuple[float, Planes]], taken: Planes, now: float
) -> tuple[float, Place] | None:
    """When a request that does not fit now will first fit, and where.

    Args:
        kind: what is asked for.
        occupancy: the machine.
        ends: when its boards come free, from `releases`.
        taken: boards that are meant for others, and do not count.
        now: the time.
    """
    free = without(occupancy.free, taken)
    least = fewest(kind, occupancy.topology)
    steps = []
    for boards in _together(ends, now):
        free = union(free, without(boards, taken))
        if count(free) >= least:
            steps.append(free)

    found: dict[int, Place | None] = {}

    def fits_at(step: int) -> bool:
        found[step] = occupancy.place(kind, FreeBoards(occupancy.topology, steps[step]))
        return found[step] is not None

    failed, step, stride = -1, 0, 1
    while step < len(steps) and not fits_at(step):
        if step == len(steps) - 1:
            return None
        failed, step, stride = step, min(step + stride, len(steps) - 1), 2 * stride
    while failed + 1 < step < len(steps):
        middle = (failed + step) // 2
        failed, step = (failed, middle) if fits_at(middle) else (middle, step)
    place = found.get(step)
    return place and (all_free(place[1], ends, now), place)


def _together(ends: Sequence[tuple[float, Planes]], now: float) -> Iterator[Planes]:
    """The boards that come free at nearly the same time, together, soonest first."""
    boards, until = NOTHING, -math.inf
    for end, freed in ends:
        if end > until:
            if any(boards):
                yield boards
            boards, until = NOTHING, end + max(TIE_SECONDS, TIE_PART * (end - now))
        boards = union(boards, freed)
    if any(boards):
        yield boards
