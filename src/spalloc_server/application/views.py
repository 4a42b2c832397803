"""Answers that tell more than the core knows: how the server is, and what boards' sensors say."""

from __future__ import annotations

import msgspec

from spalloc_server.core.model import MachineView, Note, SetAsideView

__all__ = ["ServerView", "TemperaturesView"]


class ServerView(msgspec.Struct, kw_only=True):
    """How everything is."""

    version: str
    pid: int
    config: str
    state: str
    address: tuple[str, int]
    """Where clients connect."""
    started_at: float
    """Seconds since the Unix epoch."""
    connections: int
    """Of clients."""
    refusal: str | None
    """Why changes are refused, if they are: the disk is full, for example."""
    stopped: Note | None
    """The emergency stop that holds, if any."""
    jobs: dict[str, int]
    """Live jobs by state."""
    machines: list[MachineView]
    defects: int = 0
    """How often something went wrong in the server itself, since it started."""
    last_defect: str | None = None
    """The last of these, in one line; the log tells more."""
    set_aside: list[SetAsideView] = []
    """Stored rows that made no sense at a start."""


class TemperaturesView(msgspec.Struct, kw_only=True):
    """What a board's sensors say; or why they could not be read."""

    machine: str
    x: int
    y: int
    z: int
    cabinet: int
    frame: int
    board: int
    error: str | None = None
    top: float | None = None
    """Degrees Celsius, like `bottom` and `external`."""
    bottom: float | None = None
    external: tuple[float | None, float | None] = (None, None)
    fans: tuple[int | None, int | None] = (None, None)
    """Revolutions per minute."""
    volts_supply: float | None = None
    warning: int = 0
    shutdown: int = 0
    """Why the BMP cut the power by itself."""
