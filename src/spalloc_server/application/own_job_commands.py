"""What the owner of a job asks about it, and what everybody asks about machines, with more detail than v1 has.

Theory of operation. Jobs of others do not exist for a caller who may not operate: `NoSuchError`, as for a number that
no job has had. Only what is marked so renews the lease of the job.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.application.command_kinds import ChangeOfJob, LongLook, Look, LookAtJob, Use, Whole
from spalloc_server.coordinates import Board, Chip, Location

__all__ = [
    "BoardOfJob",
    "BoardPlace",
    "FindBoard",
    "FoundBoard",
    "JobDetails",
    "JobNumbers",
    "MachineDetails",
    "MachineDetailsOf",
]
__all__ += ["OwnJobDetails", "OwnJobMachine", "ReportIssue", "SubMachine"]


# -------------------------------------------------------------------- answers


class JobDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A live job, or one that has ended and is still remembered."""

    job_id: int
    owner: str
    state: int
    """`core.model.JobState`, as users see it."""
    power: bool | None
    created_at: float
    """Seconds since the Unix epoch, like all times."""
    ended_at: float | None
    reason: str | None
    keepalive: float | None
    keepalive_host: str | None
    kept_alive_at: float | None
    """When the lease was last renewed; None where that has not happened since the server started, or it has ended."""
    machine: str | None
    original: Any
    """The request in the words of the door that it came by, where that door has kept it."""
    revision: int
    """Of the key `job/NUMBER`, for `Wait`: read before everything else here."""


class SubMachine(msgspec.Struct, frozen=True, kw_only=True):
    """The boards that a job has."""

    machine: str
    width: int
    """In triads."""
    height: int
    depth: int
    """Boards of a triad: 3, or 1 for a job of one board."""
    power: bool
    """Whether all boards are on."""
    boards: list[Board]
    """The board of chip (0, 0) first."""
    connections: list[tuple[Chip, str]]
    """(Ethernet chip as the job counts chips, host) of each board, in the order of `boards`."""


class BoardPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A board, in every kind of coordinates."""

    board: Board
    place: Location | None
    """(cabinet, frame, board); None where a dead board has none."""
    address: str | None


class MachineDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, with what does not work of it."""

    name: str
    tags: list[str]
    width: int
    """In triads."""
    height: int
    in_service: bool
    """False while it is drained."""
    down_boards: list[BoardPlace]
    """Dead ones, and those out of service."""
    down_links: list[tuple[BoardPlace, int, BoardPlace, int]]
    """Each dead link once: a board, the direction of `links.Links`, the board at the other end, and its direction."""
    revision: int
    """Of the key `machine/NAME`."""


class FoundBoard(msgspec.Struct, frozen=True, kw_only=True):
    """A place on a machine in every kind of coordinates."""

    machine: str
    board: Board
    place: Location
    address: str
    chip: Chip
    """On the machine."""
    board_chip: Chip
    """The board's Ethernet chip, on the machine."""
    job_id: int | None
    """The job that has the board, whoever's it is."""
    job_chip: Chip | None
    """`chip`, as that job counts chips."""


# -------------------------------------------------------------------- commands


class OwnJobDetails(Use, frozen=True, tag="own job"):
    """`JobDetails`. The lease is not renewed."""

    changes = False
    repeatable = True

    job_id: Whole


class OwnJobMachine(LookAtJob, frozen=True, tag="own job machine"):
    """`SubMachine`, or None while the job has no boards. Renews the lease."""


class JobNumbers(LongLook, frozen=True, tag="job numbers"):
    """List of jobs' numbers, the newest first, whoever's they are."""

    ended: bool = False
    """Also those that have ended and are still remembered."""
    start: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class MachineDetailsOf(LongLook, frozen=True, tag="machine details"):
    """List of `MachineDetails`, by name; of one machine, where one is named (`NoSuchError` where there is none)."""

    name: str | None = None


Coordinates: TypeAlias = Annotated[list[Whole], Meta(min_length=2, max_length=3)]


class BoardOfJob(LookAtJob, frozen=True, tag="board of job"):
    """`FoundBoard` of a chip as the job counts chips, or None where it has none there. Renews the lease."""

    chip: Coordinates


class FindBoard(Look, frozen=True, tag="find board"):
    """`FoundBoard`, or None where there is no such board. Exactly one of the places is given."""

    machine: str
    board: Coordinates | None = None
    """(x, y, z)."""
    place: Coordinates | None = None
    """(cabinet, frame, board)."""
    chip: Coordinates | None = None
    """(x, y) on the machine."""
    address: str | None = None


class ReportIssue(ChangeOfJob, frozen=True, tag="report issue"):
    """Say that boards of a job do not work; how many boards this has taken out of service.

    `RequestError` where one of them is not the job's; then nothing is noted.
    """

    boards: list[str]
    """Addresses of boards."""
    issue: Annotated[str, Meta(max_length=1000, pattern=r"\S")]
