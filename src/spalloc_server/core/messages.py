"""The nouns that the core's modules and the shells share: what is asked, what is given, what must be done.

Theory of operation. All of these are plain data. A `Request` is what a user asked for, parsed and validated once
(`request.parse_request`). An `Allocation` is the piece of a machine that answers it. A `Switch` asks the hardware
shell to switch a job's boards, already in the hardware's own terms: hosts of BMPs and board numbers within a frame.
An `Outcome` is the hardware's answer. These do not change once they are made. The rows are what a restart needs, and
what the storage shell keeps, as `Changes` and as a `Snapshot`; whoever makes one of them fills it, and hands it on.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board, BoardLink, WrapAround
from spalloc_server.links import Links

__all__ = [
    "NO_JOB",
    "Allocation",
    "BoardFailure",
    "BoardReport",
    "BoardRow",
    "Changes",
    "FrameWork",
    "JobEvent",
    "JobRow",
    "Kind",
    "Note",
    "Outcome",
    "ReleaseRow",
    "Request",
    "Snapshot",
    "Switch",
    "UnreadableRow",
]


NO_JOB = 0
"""The number under which boards are held and switched that no job has."""

Kind: TypeAlias = tuple[object, ...]
"""All of a request that bears on its place, but the number of boards."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a job asks for. Exactly one of `boards`, `triads` and `board` is set.

    A request for one board (`boards == 1` or `board`) is a *single*: it gets one board and no rectangle.
    """

    owner: str
    boards: int | None = None
    """At least this many boards, as a rectangle of triads (one board where 1)."""
    triads: tuple[int, int] | None = None
    """Exactly (width, height) triads."""
    board: Board | None = None
    """This very board; `machine` says of which machine."""
    machine: str | None = None
    """Only this machine. Never together with `tags`."""
    tags: frozenset[str] = frozenset()
    """Only machines that have all of these; empty where `machine` is given."""
    min_ratio: float = 0.0
    """Least height/width, or width/height, of a rectangle for `boards`; 0 to 1."""
    max_dead_boards: int | None = None
    """Most dead or unreachable boards, of those asked for; None for any number."""
    max_dead_links: int | None = None
    """Most dead links inside the block; None for any number."""
    require_torus: bool = False
    """The block must span an axis on which the machine wraps (with `triads`: the whole machine)."""
    max_runtime: float | None = None
    """Seconds after which the job is ended; None for no bound."""
    priority: int = 0
    """Higher goes first; the configuration bounds it."""

    @property
    def single(self) -> bool:
        """Whether this asks for one board, and so for no rectangle."""
        return self.boards == 1 or self.board is not None

    @property
    def asked(self) -> int:
        """Boards asked for; never negative, although sizes may be, which no machine can serve."""
        if self.triads is not None:
            return max(0, BOARDS_PER_TRIAD * self.triads[0] * self.triads[1])
        return max(0, self.boards or 1)

    @property
    def kind(self) -> Kind:
        """What two requests must have in common so that the one for more boards cannot be easier to place."""
        return (
            self.triads,
            self.board,
            self.min_ratio,
            self.max_dead_boards,
            self.max_dead_links,
            self.require_torus,
            self.single,
        )


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a machine that serves one request.

    For a single board `width` and `height` are 1 and (x, y) is the board's triad. Otherwise the block is `width` x
    `height` triads from the triad (x, y) rightwards and upwards, wrapping over the machine's edges, and board
    (x, y, 0) is always one of `boards`. All of it is decided when the boards are given; no change of the
    configuration changes what a job is.
    """

    machine: str
    x: int
    y: int
    width: int
    height: int
    boards: tuple[Board, ...]
    """The boards handed out, in machine coordinates, sorted; all connected by live links inside the block."""
    single: bool = False
    """Serves a request for one board; then `boards` has that one board, whichever z it is."""
    wraps: WrapAround | None = WrapAround.none
    """The axes that it wraps around, as its user is told; None in rows from before this was stored."""
    stopped: tuple[BoardLink, ...] | None = ()
    """Links between its own boards that are stopped, from both ends; None likewise."""


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
    """It is not the board's fault but its frame's, which does not do what it is told: nothing is known of the board."""


class JobEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a log of jobs."""

    time: float
    """Seconds since the Unix epoch."""
    event: str
    """`created`, `allocated`, `power` (asked for by a user), `ready`, `failed` (hardware), or `destroyed`."""
    job_id: int
    owner: str
    host: str | None = None
    """Address that the job was last named from."""
    power: bool | None = None
    """What is asked for, or what the boards are."""
    machine: str | None = None
    boards: tuple[Board, ...] = ()
    reason: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The end of a `Switch`: all of it done where `failures` is empty."""

    operation: int
    failures: tuple[BoardFailure, ...] = ()


class JobRow(msgspec.Struct, kw_only=True):
    """A job as it is stored: a live one while `ended_at` is None, else a line of history.

    Times are seconds since the Unix epoch.
    """

    job_id: int
    owner: str
    args: list[Any]
    """Positional arguments of `create_job`, as they came."""
    kwargs: dict[str, Any]
    """Its other keyword arguments, as they came (without owner and keepalive)."""
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
    """Its place in the queue, as a time, when it joined (see the policies); None where it is to be worked out anew."""


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
    """That an operator has closed something, and why."""

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


class Changes(msgspec.Struct, kw_only=True):
    """What one batch of the journal writes, atomically. Rows replace rows of the same key."""

    jobs: dict[int, JobRow] = {}
    boards: dict[tuple[str, int, int, int], BoardRow | None] = {}
    """None: nothing is to be remembered of the board; its row goes."""
    releases: dict[int, ReleaseRow | None] = {}
    """None: the boards have rested; the row goes."""
    facts: dict[str, Any] = {}
    """Named values that outlive a restart (the next job id, owners' run times, ...): plain JSON; None deletes."""

    def __bool__(self) -> bool:
        return bool(self.jobs or self.boards or self.releases or self.facts)


class UnreadableRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored row that makes no sense."""

    table: str
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
    unreadable: list[UnreadableRow] = []
    """Rows that are none of the above although they should be."""
