"""The JSON of REST: a struct for each kind of body and answer, whose names are those of the Java server.

Theory of operation. Names are in kebab case, and what is None is left out of answers, except in `original-request`,
which repeats all fields. What a field may be is said here once: bodies are checked by it, and the OpenAPI document
(`frontends.http.rest.openapi`) tells it. Texts of errors that published clients show are the Java server's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board, Chip, Location

__all__ = ["AdminAnswer", "BoardAsked", "BriefMachine", "CreateAnswer", "CreateBody", "DownLink", "IssueAnswer"]
__all__ += ["IssueBody", "JobStateAnswer", "JobsAnswer", "LinkEnd", "MachineAnswer", "MachinesAnswer", "PlaceAnswer"]
__all__ += ["PowerMessage", "ReportedBoard", "RootAnswer", "SubMachineAnswer", "TriadSize", "Trust", "UserAnswer"]
__all__ += ["UserBody", "Version", "WhereIsAnswer"]

Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
Index: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Filled: TypeAlias = Annotated[str, Meta(pattern=r"\S", max_length=256)]
Seconds: TypeAlias = Annotated[float, Meta(extra_json_schema={"minimum": 30, "maximum": 300})]
Duration: TypeAlias = Annotated[
    str, Meta(max_length=64, description="ISO 8601", examples=["PT60S"], extra_json_schema={"pattern": "^[-+]?[Pp]"})
]


class Told(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """The base of answers."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The base of bodies."""


# -------------------------------------------------------------------- the service


class Version(Told, frozen=True, kw_only=True):
    """Of the server."""

    major_version: int
    minor_version: int
    revision: int


class RootAnswer(Told, frozen=True, kw_only=True):
    """What there is; links only for who may follow them."""

    version: Version
    jobs_ref: str | None = None
    machines_ref: str | None = None
    csrf_header: str | None = None
    csrf_token: str | None = None
    """Of the session; requests that change something repeat it in the header of that name."""


class AdminAnswer(Told, frozen=True, kw_only=True):
    """What administrators can do."""

    import_machines: str
    set_board_enabled: str


# -------------------------------------------------------------------- machines


class PlaceAnswer(Told, frozen=True, kw_only=True, omit_defaults=False):
    """A board in every kind of coordinates; null where a dead board has none."""

    x: int
    y: int
    z: int
    cabinet: int | None
    frame: int | None
    board: int | None
    address: str | None


class LinkEnd(Told, frozen=True, kw_only=True):
    """One end of a link."""

    board: PlaceAnswer
    direction: Literal["N", "E", "SE", "S", "W", "NW"]


DownLink: TypeAlias = tuple[LinkEnd, LinkEnd]


class BriefMachine(Told, frozen=True, kw_only=True):
    """A machine in the list of machines."""

    name: str
    tags: list[str]
    uri: str
    width: int
    """In triads."""
    height: int
    dead_boards: list[PlaceAnswer]
    dead_links: list[DownLink]


class MachinesAnswer(Told, frozen=True, kw_only=True):
    """The machines in service, by name."""

    machines: list[BriefMachine]


class MachineAnswer(Told, frozen=True, kw_only=True):
    """A machine."""

    name: str
    tags: list[str]
    width: int
    """In triads."""
    height: int
    down_boards: list[PlaceAnswer]
    down_links: list[DownLink]
    lookup_by_physical_board: str
    lookup_by_logical_board: str
    lookup_by_chip: str
    lookup_by_address: str


class WhereIsAnswer(Told, frozen=True, kw_only=True):
    """A place on a machine in every kind of coordinates, and the job that has it."""

    job_id: int | None = None
    job_ref: str | None = None
    job_chip: Chip | None = None
    """As that job counts chips."""
    chip: Chip
    """On the machine."""
    logical_board_coordinates: Board
    machine: str
    machine_ref: str
    board_chip: Chip
    """The board's Ethernet chip, on the machine."""
    physical_board_coordinates: Location | None = None


# -------------------------------------------------------------------- jobs


class JobsAnswer(Told, frozen=True, kw_only=True):
    """A page of the list of jobs, the newest first."""

    jobs: list[str]
    prev: str | None = None
    next: str | None = None


class TriadSize(Asked, frozen=True, kw_only=True):
    """A rectangle of triads."""

    width: Count
    height: Count


class BoardAsked(Asked, frozen=True, kw_only=True):
    """A board, by (x, y, z), else by (cabinet, frame, board), else by its address."""

    x: Index | None = None
    y: Index | None = None
    z: Annotated[int, Meta(ge=0, le=2)] | None = None
    cabinet: Index | None = None
    frame: Index | None = None
    board: Index | None = None
    address: Filled | None = None


class CreateBody(Asked, frozen=True, kw_only=True):
    """What a job asks for; one board where no size is given."""

    owner: Annotated[str, Meta(max_length=256)] | None = None
    """Only administrators may name another than themselves."""
    group: Annotated[str, Meta(max_length=256)] | None = None
    """Kept and shown, like the next two, of which one may be given; it decides nothing."""
    nmpi_collab: Annotated[str, Meta(max_length=256)] | None = None
    nmpi_job_id: Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | None = None
    keepalive_interval: Seconds | Duration | None = None
    """30 to 300 seconds; required."""
    num_boards: Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER, extra_json_schema={"minimum": 1})] | None = None
    dimensions: TriadSize | None = None
    board: BoardAsked | None = None
    machine_name: Annotated[str, Meta(max_length=256)] | None = None
    """Either this, or tags."""
    tags: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=16)] | None = None
    max_dead_boards: Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER, extra_json_schema={"minimum": 0})] | None = None


class CreateAnswer(Told, frozen=True, kw_only=True):
    """A new job."""

    job_id: int
    job_ref: str


class OriginalRequest(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What the job has asked for, each field, as far as it is known."""

    owner: str | None = None
    group: str | None = None
    nmpi_collab: str | None = None
    nmpi_job_id: int | None = None
    keepalive_interval: float | None = None
    """Seconds."""
    num_boards: int | None = None
    dimensions: TriadSize | None = None
    board: BoardAsked | None = None
    machine_name: str | None = None
    tags: list[str] = []
    max_dead_boards: int = 0


class JobStateAnswer(Told, frozen=True, kw_only=True):
    """A job."""

    state: Literal["UNKNOWN", "QUEUED", "POWER", "READY", "DESTROYED"]
    owner: str
    start_time: datetime
    finish_time: datetime | None = None
    reason: str | None = None
    keepalive_host: str | None = None
    keepalive_ref: str
    machine_ref: str
    power_ref: str
    chip_ref: str
    proxy_ref: str | None = None
    """Of the WebSocket to its boards, while it has any."""
    original_request: OriginalRequest | None = None
    keep_alive_time: datetime | None = None


class SubMachineAnswer(Told, frozen=True, kw_only=True):
    """The boards that a job has."""

    width: int
    """In triads."""
    height: int
    depth: int
    """3, or 1 for a single board."""
    machine_name: str
    connections: list[tuple[Chip, str]]
    """Ethernet chip as the job counts chips, and address, of each board."""
    boards: list[Board]
    power: str
    machine_ref: str


class PowerMessage(Asked, frozen=True, kw_only=True):
    """Whether a job's boards are on, or shall be."""

    power: Literal["ON", "OFF"]


class ReportedBoard(Asked, frozen=True, kw_only=True):
    """A board of a job, by a chip of it as the job counts chips, or as in `BoardAsked`."""

    machine: Annotated[str, Meta(max_length=256)] | None = None
    """Not needed: it is the job's."""
    chip: Annotated[list[Index], Meta(min_length=2, max_length=2)] | None = None
    x: Index | None = None
    y: Index | None = None
    z: Index | None = None
    cabinet: Index | None = None
    frame: Index | None = None
    board: Index | None = None
    address: Filled | None = None


class IssueBody(Asked, frozen=True, kw_only=True):
    """That boards of a job do not work."""

    issue: Annotated[str, Meta(max_length=1000, pattern=r"\S")]
    boards: Annotated[list[ReportedBoard], Meta(min_length=1, max_length=1000)]


class IssueAnswer(Told, frozen=True, kw_only=True):
    """What has been done about it."""

    action: str


# -------------------------------------------------------------------- users

Trust: TypeAlias = Literal["BASIC", "READER", "USER", "ADMIN", "NMPI_EXEC"]


class UserBody(Asked, frozen=True, kw_only=True):
    """A user; what is not given stays as it is, or has its default. Fields of answers are taken, and do not matter."""

    user_name: Annotated[str, Meta(max_length=256)] | None = None
    password: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    enabled: bool | None = None
    locked: bool | None = None
    """Only false means something: forget wrong passwords."""
    trust_level: Trust | None = None
    internal: bool | None = None
    """Must not be false: there is no other way to log in yet."""
    has_password: bool | None = None
    user_id: int | None = None
    open_id_subject: str | None = None
    groups: dict[str, str] | None = None
    last_successful_login: str | None = None
    last_failed_login: str | None = None


class UserAnswer(Told, frozen=True, kw_only=True):
    """A user."""

    user_name: str
    has_password: bool
    enabled: bool
    locked: bool
    trust_level: Trust
    last_successful_login: datetime | None = None
    last_failed_login: datetime | None = None
    open_id_subject: None
    groups: dict[str, str]
    internal: bool
