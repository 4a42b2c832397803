"""All that can be asked of the server: one struct a command.

Theory of operation. A door turns what its client sends into one of these, and hands it to `api.Application` with its
`Caller`. `command_kinds` has what they have in common; those about accounts are in `account_commands`,
those of the owners of jobs in `own_job_commands`, and what operators do with many jobs is in `job_commands`.

On the local API socket the field `command` tells which struct it is. Answers are plain structs and values, which a JSON
encoder takes as they are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from spalloc_server.application.account_commands import (
    ChangeAccount,
    CheckPassword,
    CheckSession,
    CheckToken,
    CreateAccount,
    CreateToken,
    DeleteAccount,
    ListAccounts,
    ListTokens,
    LogIn,
    LogInWithToken,
    LogOut,
    RevokeToken,
    ShowAccount,
    SigningKeys,
)
from spalloc_server.application.caller import Permission
from spalloc_server.application.command_kinds import (
    SERVER,
    ChangeOfJob,
    Command,
    Keepalive,
    Key,
    Kind,
    LongLook,
    Look,
    LookAtJob,
    Name,
    OfBoard,
    OfFrame,
    OfJob,
    Reason,
    Safeguard,
    Use,
    Whole,
)
from spalloc_server.application.front_commands import Figures
from spalloc_server.application.job_commands import JobsCommand
from spalloc_server.application.own_job_commands import OwnJobCommand
from spalloc_server.application.web_settings import TellWebSettings
from spalloc_server.core.model import Request
from spalloc_server.core.model.arguments import DEFAULT_KEEPALIVE

__all__ = ["SERVER", "AnyCommand", "Command", "Key", "Kind", "Look", "Name", "OfBoard", "OfJob"]
__all__ += ["Blacklist", "BoardAtPosition", "BoardPosition", "Boards", "ChangeAccount", "CheckPassword"]
__all__ += ["CheckSession", "CheckToken", "CreateAccount", "CreateJob", "CreateToken", "DeleteAccount", "DescribeJob"]
__all__ += ["DestroyJob", "DisableBoard", "DisableFrame", "Drain", "EmergencyStop", "EnableBoard", "EnableFrame"]
__all__ += [
    "Figures",
    "GetJobMachineInfo",
    "GetJobState",
    "ImportMachines",
    "JobRevisions",
    "Jobs",
    "KeepAlive",
    "Kill",
]
__all__ += ["ListAccounts", "ListJobs", "ListMachines", "ListTokens", "LogIn", "LogInWithToken", "LogOut", "Machines"]
__all__ += ["PowerCycle", "PowerOffJob", "PowerOnJob", "RemoveMachine", "ReportProblem", "Resume", "RevokeToken"]
__all__ += ["SetBlacklist", "ShowAccount", "ShowJob", "SigningKeys", "Status", "TellWebSettings", "Temperatures"]
__all__ += ["StopByCode", "Undrain", "WhereIs"]


# -------------------------------------------------------------------- what users ask


class CreateJob(Use, frozen=True, tag="create job"):
    """Queue a job; its number."""

    request: Request
    keepalive: Keepalive | None = DEFAULT_KEEPALIVE
    """Seconds; None for a job that never expires."""
    args: list[Any] | None = None
    """The request in the words of v1's `create_job`, which has checked it, for its `list_jobs`; None by other doors."""
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    original: dict[str, Any] | None = None
    """The request in the words of the door that it came by, for `JobDetails`; it decides nothing."""


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


class ImportMachines(Command, frozen=True, tag="import machines"):
    """Add machines that the configuration does not have. List of their `MachineView`."""

    takes_long = True

    definitions: str
    """Machine definitions in JSON, see `config.definitions`; their settings of the server are left aside."""

    def told(self) -> dict[str, Any]:
        """Return the names of the machines; the whole definitions are in the state."""
        from spalloc_server.config.definitions import names_in  # few servers need it

        return {"command": "import machines", "machines": names_in(self.definitions)}


class RemoveMachine(Command, frozen=True, tag="remove machine"):
    """Remove a machine that was imported, and end its jobs."""

    takes_long = True

    machine: str


class EmergencyStop(Safeguard, frozen=True, tag="emergency-stop"):
    """Switch everything off. The `Note` that this replaces, or None."""

    permission = Permission.STOP

    reason: Reason


class StopByCode(Safeguard, frozen=True, tag="emergency-stop by code"):
    """Do as `EmergencyStop`, where the code is that of `[web] emergency_code`; front processes may ask it."""

    permission = Permission.AUTHENTICATE

    code: str
    reason: Reason

    def told(self) -> dict[str, Any]:
        """Return all but the code."""
        return {"command": "emergency-stop by code", "reason": self.reason}


class Resume(Command, frozen=True, tag="resume"):
    """The emergency is over. The `Note` that this ends, or None."""

    permission = Permission.STOP


# -------------------------------------------------------------------- what waits for hardware


class PowerCycle(OfBoard, frozen=True, tag="power-cycle"):
    """Switch a board on, verify it, and switch it off; `BoardView` after that, whose `last_trial` is the verdict."""

    waits = True


class Temperatures(Look, frozen=True, tag="temperatures"):
    """List of `views.TemperaturesView`."""

    waits = True

    machine: str
    cabinet: Whole | None = None
    """Only of this frame; `frame` is given too."""
    frame: Whole | None = None


class Blacklist(Look, OfBoard, frozen=True, tag="blacklist"):
    """What a board's flash says is broken on it: lines of text, see `hardware.blacklist`."""

    waits = True


class SetBlacklist(OfBoard, frozen=True, tag="set blacklist"):
    """Write the lines of text into a board's flash. The board must not be a job's."""

    waits = True
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
    | Figures
    | Machines
    | Boards
    | Jobs
    | ShowJob
    | Kill
    | JobsCommand
    | DisableBoard
    | EnableBoard
    | DisableFrame
    | EnableFrame
    | Drain
    | Undrain
    | ImportMachines
    | RemoveMachine
    | EmergencyStop
    | StopByCode
    | Resume
    | PowerCycle
    | Temperatures
    | Blacklist
    | SetBlacklist
    | OwnJobCommand
    | TellWebSettings
    | LogIn
    | LogInWithToken
    | LogOut
    | CheckPassword
    | CheckSession
    | CheckToken
    | SigningKeys
    | ListAccounts
    | ShowAccount
    | CreateAccount
    | ChangeAccount
    | DeleteAccount
    | CreateToken
    | ListTokens
    | RevokeToken
)
