"""What all commands have in common, and what can be subscribed to: the bases that the structs of commands stand on.

Theory of operation. The class variables say what must be known of a command before it is performed. Their defaults are
the safe ones: who forgets to set one gets a command that needs an operator, is refused while nothing can be stored,
waits for its commit and is audited.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from spalloc_server.application.caller import Permission
from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS

__all__ = ["SERVER", "ChangeOfJob", "Command", "Keepalive", "Key", "Kind", "LongLook", "Look", "LookAtJob", "Name"]
__all__ += ["OfBoard", "OfFrame", "OfJob", "Reason", "Safeguard", "Use", "Whole"]

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
    own_job: ClassVar[bool] = False
    """Whether it is about the job `job_id`, and nobody but its owner and operators may know that there is one."""
    waits: ClassVar[bool] = False
    """Whether it waits for hardware, or until a password is hashed: for `Application.ask`."""
    confidential: ClassVar[bool] = False
    """Whether its answer is a secret, of which nothing may be kept for a command that is sent again."""
    takes_long: ClassVar[bool] = False
    """Whether it may take a millisecond or more, so that a door lets others in between."""

    def told(self) -> dict[str, Any]:
        """Return what the audit tells of it."""
        return dict(msgspec.to_builtins(self))


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
