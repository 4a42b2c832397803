"""What the owner of a job asks about it, and what everybody asks about machines, with more detail than v1 has.

Theory of operation. Jobs of others do not exist for a caller who may not operate: `NoSuchError`, as for a number that
no job has had. Only what is marked so renews the lease of the job.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from spalloc_server.application.command_kinds import ChangeOfJob, LongLook, Look, LookAtJob, Use, Whole
from spalloc_server.core.model.details import BoardPlace, FoundBoard, JobDetails, MachineDetails, SubMachine

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
__all__ += ["OwnJobCommand", "OwnJobDetails", "OwnJobMachine", "ReportIssue", "SubMachine"]


class OwnJobDetails(Use, frozen=True, tag="own job"):
    """`JobDetails`. The lease is not renewed."""

    changes = False
    repeatable = True
    own_job = True

    job_id: Whole


class OwnJobMachine(LookAtJob, frozen=True, tag="own job machine"):
    """`SubMachine`, or None while the job has no boards. Renews the lease."""

    own_job = True


class JobNumbers(LongLook, frozen=True, tag="job numbers"):
    """List of jobs' numbers, the newest first, whoever's they are."""

    ended: bool = False
    """Also those that have ended and are still remembered."""
    start: Annotated[int, Meta(ge=0, le=2**53)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class MachineDetailsOf(LongLook, frozen=True, tag="machine details"):
    """List of `MachineDetails`, by name; of one machine, where one is named (`NoSuchError` where there is none)."""

    name: str | None = None


MAX_BOARDS = 4096
"""Boards that one report may name."""

Coordinates: TypeAlias = Annotated[list[Whole], Meta(min_length=2, max_length=3)]


class BoardOfJob(LookAtJob, frozen=True, tag="board of job"):
    """`FoundBoard` of a chip as the job counts chips, or None where it has none there. Renews the lease."""

    own_job = True

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

    own_job = True

    boards: Annotated[list[str], Meta(min_length=1, max_length=MAX_BOARDS)]
    """Addresses of boards."""
    issue: Annotated[str, Meta(max_length=1000, pattern=r"\S")]


OwnJobCommand: TypeAlias = (
    OwnJobDetails | OwnJobMachine | JobNumbers | MachineDetailsOf | BoardOfJob | FindBoard | ReportIssue
)
