"""What operators ask of a running server, and what it answers.

Theory of operation. A connection to the Unix socket `<state>.sock` carries one JSON object a line: `AnyRequest` there,
its `command` field telling which, and `{"return": ...}` or `{"exception": "..."}` back. Whoever may connect may do
everything: the socket's permissions admit the server's own user only. Who it was is known from the operating system,
not from what is said. An exception with `"again": true` beside it says that nothing was done, and that the request may
be sent again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model.rows import Note
from spalloc_server.core.model.views import MachineView, SetAsideView

__all__ = [
    "AnyRequest",
    "Blacklist",
    "Boards",
    "DisableBoard",
    "DisableFrame",
    "Drain",
    "EmergencyStop",
    "EnableBoard",
    "EnableFrame",
    "Jobs",
    "Kill",
    "Machines",
    "PowerCycle",
    "Request",
    "Resume",
    "ServerView",
    "SetBlacklist",
    "ShowJob",
    "Status",
    "Temperatures",
    "TemperaturesView",
    "Undrain",
    "socket_path",
]


MAX_REASON = 1000
"""Characters of an operator's reason (else an exception)."""

Whole: TypeAlias = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Reason: TypeAlias = Annotated[str, Meta(max_length=MAX_REASON)]


def socket_path(state: Path) -> Path:
    """Where the server of this state listens to operators."""
    return state.with_name(f"{state.name}.sock")


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    """The base of all requests."""

    repeatable: ClassVar[bool] = False
    """Whether it may be sent again where no reply has come. What opens something may not: another operator may have
    closed it meanwhile."""


class _OfBoard(Request):
    machine: str
    x: Whole
    y: Whole
    z: Whole


class _OfFrame(Request):
    machine: str
    cabinet: Whole
    frame: Whole


class Status(Request, tag="status"):
    """How is everything? `ServerView`."""

    repeatable = True


class Machines(Request, tag="machines"):
    """List of `MachineView`."""

    repeatable = True


class Boards(Request, tag="boards"):
    """List of `BoardView`."""

    repeatable = True

    machine: str | None = None
    """Only of this machine."""
    bad: bool = False
    """Only those out of service, or with failures or reports on record; dead ones apart."""


class Jobs(Request, tag="jobs"):
    """List of `JobView`, live ones."""

    repeatable = True


class ShowJob(Request, tag="job"):
    """`JobView`; with the reason why it waits, where it does."""

    repeatable = True

    job_id: Whole


class Kill(Request, tag="kill"):
    """End a job."""

    job_id: Whole
    reason: Reason


class DisableBoard(_OfBoard, tag="disable board"):
    """Take a board out of service. `BoardView`."""

    repeatable = True

    reason: Reason


class EnableBoard(_OfBoard, tag="enable board"):
    """Return a board to service. `BoardView`."""


class DisableFrame(_OfFrame, tag="disable frame"):
    """Take a frame out of service. List of `BoardView`."""

    repeatable = True

    reason: Reason


class EnableFrame(_OfFrame, tag="enable frame"):
    """Return a frame to service. List of `BoardView`."""


class Drain(Request, tag="drain"):
    """Start no more jobs on a machine."""

    repeatable = True

    machine: str
    reason: Reason


class Undrain(Request, tag="undrain"):
    """Start jobs on a machine again."""

    machine: str


class PowerCycle(_OfBoard, tag="power-cycle"):
    """Switch a board on, verify it, and switch it off; `BoardView` after that, whose `last_trial` is the verdict."""


class EmergencyStop(Request, tag="emergency-stop"):
    """Switch everything off."""

    repeatable = True

    reason: Reason


class Resume(Request, tag="resume"):
    """The emergency is over."""


class Temperatures(Request, tag="temperatures"):
    """List of `TemperaturesView`."""

    repeatable = True

    machine: str
    cabinet: Whole | None = None
    """Only of this frame; `frame` is given too."""
    frame: Whole | None = None


class Blacklist(_OfBoard, tag="blacklist"):
    """What a board's flash says is broken on it: lines of text, see `hardware.blacklist`."""

    repeatable = True


class SetBlacklist(_OfBoard, tag="set blacklist"):
    """Write the lines of text into a board's flash. The board must not be a job's."""

    lines: list[str]


AnyRequest: TypeAlias = (
    Status
    | Machines
    | Boards
    | Jobs
    | ShowJob
    | Kill
    | DisableBoard
    | EnableBoard
    | DisableFrame
    | EnableFrame
    | Drain
    | Undrain
    | PowerCycle
    | EmergencyStop
    | Resume
    | Temperatures
    | Blacklist
    | SetBlacklist
)


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
