"""What the commands answer: one struct a reply, its fields named as the protocol names them.

A service can hand any of these to a JSON encoder as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from spalloc_server.coordinates import Board, BoardLink, Chip, Location

__all__ = ["JobDescription", "JobMachineInfo", "JobStatus", "MachineDescription", "WhereIs"]


class JobStatus(msgspec.Struct, frozen=True):
    """Reply of `get_job_state`; all but `state` are None for a job that is unknown, `reason` apart where it ended."""

    state: int
    power: bool | None = None
    keepalive: float | None = None
    reason: str | None = None
    start_time: float | None = None
    keepalivehost: str | None = None


class JobMachineInfo(msgspec.Struct, frozen=True):
    """Reply of `get_job_machine_info`; all None while the job has no boards."""

    width: int | None = None
    """In chips."""
    height: int | None = None
    connections: Sequence[tuple[Chip, str]] | None = None
    """(Ethernet chip as the job counts chips, host) of each board."""
    machine_name: str | None = None
    boards: Sequence[Board] | None = None


class JobDescription(msgspec.Struct, frozen=True, omit_defaults=True):
    """One job of the reply of `list_jobs`."""

    job_id: int
    owner: str
    start_time: float
    keepalive: float | None
    state: int
    power: bool | None
    args: Sequence[Any]
    kwargs: dict[str, Any]
    allocated_machine_name: str | None
    boards: Sequence[Board] | None
    keepalivehost: str | None
    notice: str | None = None
    """Of a job that waits, its place in the queue, or that it is on hold, where that is known."""


class MachineDescription(msgspec.Struct, frozen=True):
    """One machine of the reply of `list_machines`; sizes in triads."""

    name: str
    tags: Sequence[str]
    width: int
    height: int
    dead_boards: Sequence[Board]
    dead_links: Sequence[BoardLink]


class WhereIs(msgspec.Struct, frozen=True):
    """Reply of `where_is`: one place in every kind of coordinates."""

    machine: str
    logical: Board
    physical: Location
    chip: Chip
    """On the machine."""
    board_chip: Chip
    """On the board."""
    job_id: int | None
    """The job that has the board."""
    job_chip: Chip | None
    """As that job counts chips."""
