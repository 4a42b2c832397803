"""All that can be asked of the server: one struct a command.

Theory of operation. A door turns what its client sends into one of these, and hands it to `api.Application` with its
`Caller`. The class variables say what must be known of a command before it is performed. Their defaults are the safe
ones: who forgets to set one gets a command that needs an operator, is refused while nothing can be stored, waits for
its commit and is audited.

The last part names what can change, for those who subscribe to it (`subscriptions`).

On the local API socket the field `command` tells which struct it is. Answers are plain structs and values, which a JSON
encoder takes as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.application.caller import Permission
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.core.model import Request
from spalloc_server.core.model.arguments import DEFAULT_KEEPALIVE

MAX_REASON = 1000
"""Characters of an operator's reason (else an exception)."""

Whole: TypeAlias = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Reason: TypeAlias = Annotated[str, Meta(max_length=MAX_REASON, pattern=r"\S")]
Keepalive: TypeAlias = Annotated[float, Meta(ge=-MAX_SECONDS, le=MAX_SECONDS)]


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    """The base of all commands."""

    permission: ClassVar[Permission] = Permission.OPERATE
    """What the caller must be permitted."""
    changes: ClassVar[bool] = True
    """Whether it may change something that is stored, so that its answer waits for a commit."""
    even_if_read_only: ClassVar[bool] = False
    """Whether it is performed although nothing can be stored: what makes things safe takes effect in memory."""
    repeatable: ClassVar[bool] = False
    """Whether it may be sent again where no answer has come. What opens something may not: another operator may have
    closed it meanwhile."""
    audited: ClassVar[bool] = True
    """Whether the log tells who gave it, and what came of it."""
    manages_job: ClassVar[bool] = False
    """Whether it changes the job `job_id`, so that it matters whose that is."""
    at_hardware: ClassVar[bool] = False
    """Whether it waits for hardware: for `Application.ask_hardware`."""
    takes_long: ClassVar[bool] = False
    """Whether it may take a millisecond or more, so that a door lets others in between."""


class Look(Command, frozen=True):
    """The base of commands that change nothing."""

    permission = Permission.LOOK
    changes = False
    repeatable = True
    audited = False


class LongLook(Look, frozen=True):
    """The base of those among them that may take long."""

    takes_long = True


class Use(Command, frozen=True):
    """The base of what users do."""

    permission = Permission.USE
    audited = False


class OfJob(Use, frozen=True):
    """The base of what users do with a job. Naming it renews its lease."""

    job_id: Whole


class LookAtJob(OfJob, frozen=True):
    """The base of what changes nothing of a job but its lease, which is not stored."""

    changes = False
    repeatable = True


class ChangeOfJob(OfJob, frozen=True):
    """The base of what changes a job."""

    manages_job = True


class Safeguard(Command, frozen=True):
    """The base of what operators do to make things safe."""

    even_if_read_only = True
    repeatable = True


class OfBoard(Command, frozen=True):
    """The base of what is about one board (x, y, z)."""

    machine: str
    x: Whole
    y: Whole
    z: Whole


class OfFrame(Command, frozen=True):
    """The base of what is about one frame."""

    machine: str
    cabinet: Whole
    frame: Whole


# -------------------------------------------------------------------- what users ask


class CreateJob(Use, frozen=True, tag="create job"):
    """Queue a job; its number."""

    request: Request
    keepalive: Keepalive | None = DEFAULT_KEEPALIVE
    """Seconds; None for a job that never expires."""
    args: list[Any] | None = None
    """The request in the words of v1's `create_job`, which has checked it, for its `list_jobs`; None by other doors."""
    kwargs: dict[str, Any] = {}


class KeepAlive(LookAtJob, frozen=True, tag="keep job alive"):
    """Renew a job's lease."""


class GetJobState(LookAtJob, frozen=True, tag="job state"):
    """`JobStatus`."""


class GetJobMachineInfo(LookAtJob, frozen=True, tag="job machine"):
    """`JobMachineInfo`: which boards a job has, and how to reach them."""


class PowerOnJob(ChangeOfJob, frozen=True, tag="power job on"):
    """Switch a job's boards on, or reset them."""


class PowerOffJob(ChangeOfJob, frozen=True, tag="power job off"):
    """Switch a job's boards off."""

    repeatable = True


class DestroyJob(ChangeOfJob, frozen=True, tag="destroy job"):
    """End a job."""

    repeatable = True

    reason: str | None = None


class ListJobs(LongLook, frozen=True, tag="list jobs"):
    """List of `JobDescription`, live ones, oldest first."""


class JobRevisions(LongLook, frozen=True, tag="job revisions"):
    """List of (number, revision) of live jobs, oldest first: another revision where a job's description is another."""


class DescribeJob(Look, frozen=True, tag="describe job"):
    """`JobDescription` of a live job, as in `ListJobs`."""

    job_id: Whole


class ListMachines(LongLook, frozen=True, tag="list machines"):
    """List of `MachineDescription`, highest priority first."""


class BoardPosition(Look, OfBoard, frozen=True, tag="board position"):
    """Where board (x, y, z) is: (cabinet, frame, board), or None."""


class BoardAtPosition(Look, OfFrame, frozen=True, tag="board at position"):
    """Which board is at a place: (x, y, z), or None."""

    board: Whole


class WhereIs(Look, frozen=True, tag="where is"):
    """`core.model.replies.WhereIs`: a place in every kind of coordinates, or None."""

    place: dict[str, str | Whole]
    """One of the forms of `core.views.where_is`."""


class ReportProblem(Use, frozen=True, tag="report problem"):
    """Say that a board does not work; operators will see it."""

    board_address: str
    """As `JobMachineInfo.connections` tells it."""
    description: str


# -------------------------------------------------------------------- what operators see


class Status(LongLook, frozen=True, tag="status"):
    """How is everything? `views.ServerView`."""


class Machines(LongLook, frozen=True, tag="machines"):
    """List of `MachineView`."""


class Boards(LongLook, frozen=True, tag="boards"):
    """List of `BoardView`."""

    machine: str | None = None
    """Only of this machine."""
    bad: bool = False
    """Only those out of service, or with failures or reports on record; dead ones apart."""


class Jobs(LongLook, frozen=True, tag="jobs"):
    """List of `JobView`, live ones."""


class ShowJob(LongLook, frozen=True, tag="job"):
    """`JobView`; with the reason why it waits, where it does."""

    job_id: Whole


# -------------------------------------------------------------------- what operators change


class Kill(Command, frozen=True, tag="kill"):
    """End a job."""

    job_id: Whole
    reason: Reason


class DisableBoard(OfBoard, Safeguard, frozen=True, tag="disable board"):
    """Take a board out of service. `BoardView`."""

    reason: Reason


class EnableBoard(OfBoard, frozen=True, tag="enable board"):
    """Return a board to service. `BoardView`."""


class DisableFrame(OfFrame, Safeguard, frozen=True, tag="disable frame"):
    """Take a frame out of service. List of `BoardView`."""

    reason: Reason


class EnableFrame(OfFrame, frozen=True, tag="enable frame"):
    """Return a frame to service. List of `BoardView`."""


class Drain(Safeguard, frozen=True, tag="drain"):
    """Start no more jobs on a machine. The `Note` that this replaces, or None."""

    machine: str
    reason: Reason


class Undrain(Command, frozen=True, tag="undrain"):
    """Start jobs on a machine again. The `Note` that this ends, or None."""

    machine: str


class EmergencyStop(Safeguard, frozen=True, tag="emergency-stop"):
    """Switch everything off. The `Note` that this replaces, or None."""

    permission = Permission.STOP

    reason: Reason


class Resume(Command, frozen=True, tag="resume"):
    """The emergency is over. The `Note` that this ends, or None."""

    permission = Permission.STOP


# -------------------------------------------------------------------- what waits for hardware


class PowerCycle(OfBoard, frozen=True, tag="power-cycle"):
    """Switch a board on, verify it, and switch it off; `BoardView` after that, whose `last_trial` is the verdict."""

    at_hardware = True


class Temperatures(Look, frozen=True, tag="temperatures"):
    """List of `views.TemperaturesView`."""

    at_hardware = True

    machine: str
    cabinet: Whole | None = None
    """Only of this frame; `frame` is given too."""
    frame: Whole | None = None


class Blacklist(Look, OfBoard, frozen=True, tag="blacklist"):
    """What a board's flash says is broken on it: lines of text, see `hardware.blacklist`."""

    at_hardware = True


class SetBlacklist(OfBoard, frozen=True, tag="set blacklist"):
    """Write the lines of text into a board's flash. The board must not be a job's."""

    at_hardware = True
    changes = False  # of what this server stores: it is the flash that changes

    lines: list[str]


AnyCommand: TypeAlias = (
    CreateJob
    | KeepAlive
    | GetJobState
    | GetJobMachineInfo
    | PowerOnJob
    | PowerOffJob
    | DestroyJob
    | ListJobs
    | JobRevisions
    | DescribeJob
    | ListMachines
    | BoardPosition
    | BoardAtPosition
    | WhereIs
    | ReportProblem
    | Status
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
    | EmergencyStop
    | Resume
    | PowerCycle
    | Temperatures
    | Blacklist
    | SetBlacklist
)


# -------------------------------------------------------------------- what can be subscribed to

Name: TypeAlias = int | str


class Kind(StrEnum):
    """What can change."""

    JOB = "job"
    MACHINE = "machine"
    SERVER = "server"


class Key(NamedTuple):
    """What is listened to."""

    kind: Kind
    name: Name | None = None
    """A job's number, or a machine's name; None for all of this kind."""


SERVER = Key(Kind.SERVER)
"""That the server itself has changed: its configuration, an emergency stop, whether changes are refused."""
