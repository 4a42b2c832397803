"""What owners see of their jobs, and everybody of machines, with more detail than v1 has.

All of these are plain structs that a JSON encoder takes as they are. Times are seconds since the Unix epoch.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spalloc_server.coordinates import Board, Chip, Location

__all__ = ["BoardPlace", "FoundBoard", "JobDetails", "MachineDetails", "SubMachine"]


class JobDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A live job, or one that has ended and is still remembered."""

    job_id: int
    owner: str
    state: int
    """`JobState`, as users see it."""
    power: bool | None
    created_at: float
    ended_at: float | None
    reason: str | None
    """Why it has ended; of a live one, why it waits, that it is on hold, or that its run time will soon be over."""
    keepalive: float | None
    keepalive_host: str | None
    kept_alive_at: float | None
    """When the lease was last renewed, or began: with the job, or anew with the server. None where there is none, or it
    is over."""
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
    address: str | None
    """None where a dead board has none."""
    chip: Chip
    """On the machine."""
    board_chip: Chip
    """The board's Ethernet chip, on the machine."""
    job_id: int | None
    """The job that has the board, whoever's it is."""
    job_chip: Chip | None
    """`chip`, as that job counts chips."""
