"""What is stored: the rows of a state, the changes of one batch, and a snapshot of everything.

Theory of operation. All of these are plain data: what a restart needs, and what storage keeps. Whoever makes one of
them fills it, and hands it on.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from spalloc_server.coordinates import Board
from spalloc_server.core.model.allocation import Allocation
from spalloc_server.core.model.power import FrameWork
from spalloc_server.core.model.request import Request

__all__ = [
    "LATEST",
    "MISSING",
    "SERVER",
    "BoardReport",
    "BoardRow",
    "BoardTimeRow",
    "Changes",
    "Holding",
    "JobRow",
    "Note",
    "ReleaseRow",
    "ResultRow",
    "SessionRow",
    "Snapshot",
    "TokenRow",
    "UnreadableRow",
    "UserRow",
]

SERVER = "server"
"""Who takes boards out of service that failed; anybody else is an operator."""


MISSING = "commits"
"""What stands for a table where commits are missing from a state."""


LATEST: Final = 1e12
"""Seconds from 1970, either way, of a stored time; the row of a later one is set aside."""


class Holding(msgspec.Struct, frozen=True, array_like=True):
    """Boards that a job had for a while."""

    machine: str
    boards: int
    began: float
    ended: float


class JobRow(msgspec.Struct, kw_only=True):
    """A job as it is stored: a live one while `ended_at` is None, else a line of history.

    Times are seconds since the Unix epoch.
    """

    job_id: int
    owner: str
    request: Request | None = None
    """What it asks for. A live job always has one; None where an older version ended the job."""
    args: list[Any] = []
    """Positional arguments of v1's `create_job` as they came, which `list_jobs` tells; nothing else reads them."""
    kwargs: dict[str, Any] = {}
    """Its other keyword arguments, likewise (without owner and keepalive)."""
    keepalive: float | None
    keepalivehost: str | None
    state: int
    power: bool | None
    created_at: float
    allocated_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    allocation: Allocation | None = None
    """Where the boards are; for a line of history, where they last were."""
    operation: int | None = None
    """The power operation that is under way, if any."""
    placements: int = 0
    """How often boards were given to it: more than once after a failure of hardware. Emergency stops do not count."""
    board_seconds: float = 0.0
    """Boards held times seconds held, up to its end."""
    created_from: str | None = None
    """The address that created it."""
    due: float | None = None
    """Not used any more, and not written. Earlier servers kept a job's place in the queue here; the column stays."""
    original: str | None = None
    """The request in the words of the door that it came by, as JSON; it is shown, and decides nothing."""
    session: str | None = None
    """Id of the session in which it was made, which lives as long as it does."""
    of_account: bool = False
    """Whether its owner is an account, whose name has been checked."""
    held: Note | None = None
    """Who has put it on hold, where it is queued and must not start."""
    earlier: list[Holding] | None = None
    """What it had before its last boards, or before it was queued again; None for nothing. `board_seconds` has it."""


class ReleaseRow(msgspec.Struct, kw_only=True):
    """Boards on their way from a job back to everybody: being switched off, then resting."""

    release_id: int
    """Number of the power operation that switches them off; unique."""
    job_id: int
    """The job that had them (it may have ended, or have been placed elsewhere)."""
    machine: str
    boards: list[Board]
    """Where they are on the machine; empty where the machine itself has gone, or nobody need wait for them."""
    frames: tuple[FrameWork, ...] = ()
    """The same for the hardware, so that the power-off can be driven to its end without the machine."""
    rest_until: float | None = None
    """None while the power-off is not confirmed; then when they may be given again (seconds since the epoch)."""


class Note(msgspec.Struct, frozen=True):
    """That an operator has closed something, or put a job on hold, and why."""

    reason: str
    by: str
    """The operator's name."""
    since: float
    """Seconds since the Unix epoch."""


class BoardReport(msgspec.Struct, frozen=True, array_like=True):
    """A user says that a board does not work."""

    time: float
    owner: str | None
    """Of the job that had the board then."""
    host: str
    """Address that the report came from."""
    text: str
    job: int | None = None
    """The job that had the board ready, then or last; None where none had it lately."""
    user: str | None = None
    """Who reports, where that has been verified."""


class BoardRow(msgspec.Struct, kw_only=True):
    """A board that has a record: out of service, or with failures or reports that are remembered."""

    machine: str
    x: int
    y: int
    z: int
    out_of_service: str | None = None
    """Why the board is not given to anybody; None while it is in service."""
    by: str | None = None
    """Who took it out of service: an operator's name, or `server`."""
    since: float | None = None
    """When it was taken out of service."""
    failures: list[tuple[float, str]] = []
    """Its failures: (time, reason), oldest first."""
    reports: list[BoardReport] = []
    """What users said of it, oldest first."""
    counts_from: float = 0.0
    """Failures and reports up to this time count no longer."""
    strikes: int = 0
    """How often it has been in quarantine, since an operator last returned it."""
    trial_at: float | None = None
    """When it may be tried again; None where it is not in quarantine, or there for good."""


class UserRow(msgspec.Struct, kw_only=True):
    """An account."""

    number: int
    """Never given to another account."""
    name: str
    role: str
    """Of `application.caller.ROLES`."""
    password: str | None = None
    """Its hash, with what it was made by; None where there is no password, so that only tokens lead to the account."""
    enabled: bool = True
    created_at: float
    last_log_in: float | None = None
    """Of later ones by Basic only one an hour is noted."""
    last_failure: float | None = None
    """When a wrong password was given last."""
    wrong_passwords: float = 0.0
    """How many counted then, see `accounts.attempts`."""
    known: list[str] = []
    """Networks from which it has logged in, the latest first."""


class TokenRow(msgspec.Struct, kw_only=True):
    """A token of an account."""

    id: str
    account: int
    hash: str
    """SHA-256 of the secret, hexadecimal; the secret has 256 random bits, so it cannot be guessed from this."""
    role: str | None
    """The most that it permits; None for all that the account may."""
    note: str
    created_at: float
    expires_at: float
    used_at: float | None = None
    """When it was used last, give or take an hour."""


class SessionRow(msgspec.Struct, kw_only=True):
    """A session of an account."""

    id: str
    account: int
    token: str | None = None
    """Id of the token that it began with, which bounds what it permits, and how long it lives."""
    began_at: float
    used_at: float
    """When it was used last, give or take an hour."""


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a command was answered that is done once, however often it is sent."""

    number: int
    """Later ones are higher."""
    id: str
    """Hash of who sent it, and of the id that it came with."""
    command: str
    """Hash of the command."""
    answer: str
    """JSON."""


class BoardTimeRow(msgspec.Struct, kw_only=True):
    """How a machine's boards spent a while: within one hour, or longer where nothing changed.

    The counts are those at its end, and hold until the next row's begin. A board that a job has is `in_use` although it
    is to go out of service; one that is `out` may also be resting.
    """

    machine: str
    began: float
    until: float
    boards: int
    """Those that are not dead."""
    in_use: int
    cooling: int
    """Being switched off, or resting."""
    out: int
    """Out of service, self-tests included."""
    boards_s: float = 0.0
    """Board-seconds from begin to end; so are the others."""
    in_use_s: float = 0.0
    cooling_s: float = 0.0
    out_s: float = 0.0


class Changes(msgspec.Struct, kw_only=True):
    """What one batch of the journal writes, atomically. Rows replace rows of the same key."""

    jobs: dict[int, JobRow] = {}
    boards: dict[tuple[str, int, int, int], BoardRow | None] = {}
    """None: nothing is to be remembered of the board; its row goes."""
    releases: dict[int, ReleaseRow | None] = {}
    """None: the boards have rested; the row goes."""
    facts: dict[str, Any] = {}
    """Named values that outlive a restart (the next job id, owners' run times, ...): plain JSON; None deletes."""
    users: dict[int, UserRow | None] = {}
    tokens: dict[str, TokenRow | None] = {}
    sessions: dict[str, SessionRow | None] = {}
    results: dict[int, ResultRow | None] = {}
    """None: nobody will ask for it any more; the row goes."""
    board_time: dict[tuple[str, float], BoardTimeRow] = {}
    """By machine and begin: those that are over. The present ones are facts."""

    def __bool__(self) -> bool:
        return any(getattr(self, table) for table in self.__struct_fields__)


class UnreadableRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored row that makes no sense."""

    table: str
    """Of the state; or `MISSING`."""
    key: tuple[Any, ...]
    """As it is stored."""
    reason: str
    row: dict[str, Any]
    """Its columns, as far as they could be read."""


class Snapshot(msgspec.Struct, kw_only=True):
    """All that a core needs to go on where another stopped."""

    jobs: list[JobRow] = []
    """Live jobs, and the last retired ones, in order of id."""
    boards: list[BoardRow] = []
    releases: list[ReleaseRow] = []
    facts: dict[str, Any] = {}
    users: list[UserRow] = []
    tokens: list[TokenRow] = []
    sessions: list[SessionRow] = []
    """In the order in which they were used last."""
    results: list[ResultRow] = []
    """In order of their numbers."""
    unreadable: list[UnreadableRow] = []
    """Rows that are none of the above although they should be."""
