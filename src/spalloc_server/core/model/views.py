"""What operators are shown: machines, frames, boards and jobs."""

from __future__ import annotations

from typing import Any

import msgspec

from spalloc_server.coordinates import Board
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.rows import BoardReport, Note

__all__ = ["PASSED", "BoardView", "FrameView", "JobView", "MachineView"]

PASSED = "passed"
"""The verdict on a board that works."""


class FrameView(msgspec.Struct, kw_only=True):
    """A frame that is not in service."""

    machine: str
    cabinet: int
    frame: int
    bmp: str
    silent: str | None = None
    """Why nothing can be switched in it: its BMP does not answer, or does not switch power."""
    disabled: Note | None = None


class MachineView(msgspec.Struct, kw_only=True):
    """A machine, and how many of its boards are in which state."""

    name: str
    tags: list[str]
    width: int
    """In triads."""
    height: int
    jobs: int
    boards: dict[str, int]
    """By `BoardView.state`; boards that could be given to jobs are `free`."""
    out_of_service: int
    """Boards out of service, whatever their state; dead ones apart."""
    frames: list[FrameView]
    """Those not in service."""
    drained: Note | None = None
    imported: bool = False
    """Whether it was imported, and is not of the configuration."""


class BoardView(msgspec.Struct, kw_only=True):
    """A board."""

    machine: str
    x: int
    y: int
    z: int
    state: str
    """`dead` (in the configuration), `in use`, `on trial`, `switching off`, `resting`, `out of service` or `free`."""
    cabinet: int | None = None
    """None, like the following two, where a dead board has no place in the configuration."""
    frame: int | None = None
    board: int | None = None
    bmp: str | None = None
    address: str | None = None
    """Host of the board itself."""
    job_id: int | None = None
    """The job that has the board, or had it last while it is being switched off."""
    out_of_service: str | None = None
    """Why it is not given to anybody, or will not be any more; the reasons of its frame included."""
    by: str | None = None
    """Who says so."""
    since: float | None = None
    rests_until: float | None = None
    trial_at: float | None = None
    """When the server tries it again; None where it needs an operator."""
    last_trial: str | None = None
    """What came of its last self-test since the server started: `passed`, `failed: ...` or `cut off ...`."""
    strikes: int = 0
    failures: list[tuple[float, str]] = []
    reports: list[BoardReport] = []


class JobView(msgspec.Struct, kw_only=True):
    """A job."""

    job_id: int
    owner: str
    state: str
    power: bool | None
    args: list[Any]
    kwargs: dict[str, Any]
    host: str | None
    """Address that it was last named from."""
    keepalive: float | None
    machine: str | None
    boards: list[Board]
    created_at: float
    allocated_at: float | None
    ready_at: float | None
    ended_at: float | None
    placements: int
    """How often boards were given to it; emergency stops do not count."""
    reason: str | None
    """Why it ended; or, where it waits, why it waits."""
    position: int | None = None
    """Its place in the queue, from 1. This and all below are set for a job that waits."""
    waits_for: Allocation | None = None
    """The region that it would get if it were the next. This and `held_by` are set where the job is asked for alone."""
    held_by: tuple[int, ...] = ()
    """Jobs that have boards of this region, ended ones whose boards are not known to be off included."""
    predicted_start: float | None = None
    """When it will probably start."""
    earliest_start: float | None = None
    """Four of five jobs start from then on, and not after `latest_start`; None where that is not known yet."""
    latest_start: float | None = None
    held: Note | None = None
    """Who has put it on hold, where it waits and must not start. This and all below are set wherever they apply."""
    priority: int = 0
    max_runtime: float | None = None
    """Seconds for which it may have its boards; None for no limit, and where that is not known any more."""
    ends_at: float | None = None
    """When its run time is over; None where there is no limit, or it has not begun."""


class SetAsideView(msgspec.Struct, kw_only=True):
    """A stored row that was set aside."""

    table: str
    """`jobs`, `history`, `boards`, `releases` or `facts`; or `commits`, where some are missing."""
    key: str
    """Which row: the number of the job or of the release, the board, the name of the fact."""
    reason: str
    """What is wrong with it."""
    since: float
    """When it was set aside, seconds since the Unix epoch."""
