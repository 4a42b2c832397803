"""Why no machine could ever serve a request, in words for its owner."""

from __future__ import annotations

from spalloc_server.core.model import Request
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.scheduling.queue import Queue, allows

__all__ = ["why_none"]


def why_none(queue: Queue, request: Request) -> str:
    """Say what was asked for, and what there is: the largest machine, or the nearest number that works."""
    allowed = [occupancy for occupancy in queue.machines.values() if allows(request, occupancy.machine)]
    asked = _in_words(request)
    if not allowed and request.machine is not None:
        return f"asked for {asked}; there is no machine {request.machine!r}"
    if not allowed:
        return f"asked for {asked}; no machine has the tags {', '.join(sorted(request.tags))}"
    largest = max(allowed, key=Occupancy.working)
    if request.boards is not None and 1 < request.boards <= largest.working():
        nearest = largest.nearest_size(queue.kind(request))
        return (
            f"asked for {asked}; on {largest.machine.name} no rectangle was found in which so many working boards "
            "are connected and reach all edges; the nearest number of boards that works: "
            + ("none was found" if nearest is None else f"{nearest}")
        )
    return (
        f"asked for {asked}; the largest that there is: {largest.machine.name}, {largest.torus.width}x"
        f"{largest.torus.height} triads with {largest.working()} working boards"
    )


def _in_words(request: Request) -> str:
    if request.board is not None:
        words = f"board {request.board}"
    elif request.triads is not None:
        words = f"{request.triads[0]}x{request.triads[1]} triads"
        words += f" from triad {request.root} on" if request.root else ""
    else:
        words = f"{request.boards} board{'' if request.boards == 1 else 's'}"
    if request.require_torus:
        words += " as a torus"
    if request.min_ratio and request.boards is not None and not request.single:
        words += f" in a rectangle of ratio {request.min_ratio:g} or more"
    if request.max_dead_boards is not None and not request.single:
        words += f", at most {request.max_dead_boards} of them dead"
    if request.max_dead_links is not None and not request.single:
        words += f", at most {request.max_dead_links} dead links"
    return words
