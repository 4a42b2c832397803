"""Why a job waits, in words and in data.

Theory of operation. A job waits because it does not fit on what is free, or because the boards on which it fits are
reserved for jobs before it. The answer names the boards that it will probably get (those reserved for it, or else those
on which it could start soonest if it were next), which jobs have them, and when it will probably start.
"""

from __future__ import annotations

import msgspec

from spalloc_server.core.model import NO_JOB, Allocation
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.placement.torus import NOTHING, Planes, union, without
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.reservation import Reservation, all_free, releases, soonest
from spalloc_server.core.scheduling.waiting import Waiting

__all__ = ["Explanation", "explain"]

NAMED_JOBS = 6
"""Most jobs that are named as holders of the boards that a job waits for."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job waits."""

    position: int
    """Place in the queue, from 1."""
    text: str
    """The whole answer in words."""
    waits_for: Allocation | None = None
    """The region that it will probably get; None where nothing of the machines that it may use is in service."""
    held_by: tuple[int, ...] = ()
    """Jobs that have boards of this region, among them ended ones whose boards are not powered off yet."""
    machines: tuple[str, ...] = ()
    """Machines that could serve it, those that are closed or out of service included."""
    predicted_start: float | None = None
    """When it will probably start, seconds since the epoch; while others go before it, not before then."""


def explain(
    queue: Queue,
    job: Waiting,
    position: int,
    reservation: Reservation | None,
    taken: dict[str, Planes],
    now: float,
    forecast: Forecast | None = None,
) -> Explanation:
    """Why a queued job waits.

    Args:
        queue: who waits and who runs.
        job: the job that waits.
        position: its place in the queue, from 1.
        reservation: the boards reserved for it, if any are.
        taken: by machine, the boards that are reserved, for whomever.
        now: the time.
        forecast: what is predicted of it, where that is known; else it is judged as if it were the next.
    """
    text = f"number {position} of {len(queue.waiting)} in the queue"
    machines = tuple(name for name in job.machines if name in queue.machines)
    reservation = reservation if reservation and _holds(queue, reservation) else None
    next_up = reservation or _soonest(queue, job, taken, now)
    if next_up is None:
        named = ", ".join(machines)
        if all(queue.machines[name].closed for name in machines):
            why = f"no job starts on {named} now" if machines else "its machines have changed just now"
        else:
            why = f"too little of {named} is in service for now"
        return Explanation(position=position, text=f"{text}; {why}", machines=machines)
    (x, y, width, height), planes = next_up.place
    machine = queue.machines[next_up.machine]
    boards = machine.torus.boards(planes)
    holders = {machine.holders.get(board, NO_JOB) for board in boards}
    held_by = tuple(sorted(holders - {NO_JOB}))
    many = "1 board" if len(boards) == 1 else f"{len(boards)} boards"
    text += f"; it waits for {many} of {width}x{height} triads at ({x}, {y}) of {next_up.machine}"
    if held_by:
        named = ", ".join(str(job_id) for job_id in held_by[:NAMED_JOBS])
        more = len(held_by) - NAMED_JOBS
        text += f", held by job{'s' if len(held_by) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}"
    start = all_free(planes, releases(queue, next_up.machine, now), now)
    if forecast and forecast.start is not None and forecast.earliest is not None and forecast.latest is not None:
        start = forecast.start
        text += f"; predicted to start in {_duration(start - now)}, "
        text += f"probably between {_duration(forecast.earliest - now)} and {_duration(forecast.latest - now)} from now"
    else:
        text += f"; predicted to start {'' if reservation else 'at the soonest '}in {_duration(start - now)}"
    allocation = machine.allocation(job.request, next_up.place)
    return Explanation(
        position=position,
        text=text,
        waits_for=allocation,
        held_by=held_by,
        machines=machines,
        predicted_start=start,
    )


def _holds(queue: Queue, reservation: Reservation) -> bool:
    """Whether all of what is reserved is still in service; it is reserved anew only when something starts or ends."""
    machine = queue.machines.get(reservation.machine)
    return machine is not None and not machine.closed and not any(without(reservation.boards, machine.topology.live))


def _soonest(queue: Queue, job: Waiting, taken: dict[str, Planes], now: float) -> Reservation | None:
    """Where the job could start soonest: on boards that are not reserved, or else on any."""
    for spared in (taken, {}):
        found = [
            Reservation(job.job_id, name, place, start, start, now, now)
            for name in job.machines
            if name in queue.machines and queue.machines[name].serves_now(job.kind)
            for start, place in [
                soonest(
                    job.kind,
                    queue.machines[name],
                    releases(queue, name, now),
                    union(spared.get(name, NOTHING), queue.avoided(job, name)),
                    now,
                )
                or (None, None)
            ]
            if start is not None and place is not None
        ]
        if found:
            return min(found, key=lambda reservation: reservation.start)
    return None


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    seconds = max(0.0, seconds)
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
