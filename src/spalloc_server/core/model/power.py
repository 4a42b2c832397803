"""Power operations: what the hardware is asked for, and what it answers.

Theory of operation. A `Switch` is already in the hardware's own terms: hosts of BMPs and numbers of boards within a
frame. An `Outcome` is the answer to one. Neither changes once it is made.
"""

from __future__ import annotations

from typing import Final

import msgspec

from spalloc_server.links import Links

__all__ = ["NO_JOB", "BoardFailure", "FrameWork", "Outcome", "Switch"]


NO_JOB: Final = 0
"""The number under which boards are held and switched that no job has."""


class FrameWork(msgspec.Struct, frozen=True):
    """One frame's part of a `Switch`, in the terms of the frame's BMP."""

    bmp: str
    """Host of the frame's BMP."""
    boards: tuple[int, ...]
    """Numbers of the boards within the frame, 0-23, sorted."""
    stopped: tuple[tuple[int, Links], ...] = ()
    """(board number, link): links to stop after power-on, because what lies beyond belongs to others or is dead."""


class Switch(msgspec.Struct, frozen=True):
    """Switch a job's boards on (a power cycle where they are on already; verify; set links), or off.

    The hardware answers each with one `Outcome`. Operations on the same boards act in the order in which they were
    asked for. A later operation of the same `job_id` on all of an earlier *power-on*'s boards in a frame makes that
    void there: it stops where it stands, and needs no outcome. A power-off is never void, and is tried until it is
    done: boards are waiting to be given back, and its outcome gives them.
    """

    operation: int
    """Number of the operation, rising, never reused within a server's state."""
    job_id: int
    """The job, or 0 for work on boards that no job has (tests of quarantined boards)."""
    on: bool
    frames: tuple[FrameWork, ...]


class BoardFailure(msgspec.Struct, frozen=True):
    """A board that could not be switched, or whose FPGAs stayed wrong."""

    bmp: str
    board: int
    reason: str
    """For operators and users: what was tried and what was seen."""
    frame_fault: bool = False
    """It is not the board's fault but its frame's, which does not do its commands: nothing is known of the board."""


class Outcome(msgspec.Struct, frozen=True):
    """The end of a `Switch`: all of it done where `failures` is empty."""

    operation: int
    failures: tuple[BoardFailure, ...] = ()
