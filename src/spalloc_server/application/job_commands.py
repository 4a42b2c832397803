"""What operators do with jobs, many at a time: one struct a command, see `commands`.

Theory of operation. Each is done to all of its jobs or to none, and nothing starts in between: who ends all jobs of an
owner does not see the next ones start meanwhile. So one command is one transaction and one line of the audit.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from spalloc_server.application.command_kinds import Command, Reason, Whole
from spalloc_server.config.options import MAX_SECONDS

__all__ = ["MAX_JOBS", "ExtendJobs", "HoldJobs", "JobsCommand", "KillJobs", "ReleaseJobs", "SetPriority"]

MAX_JOBS = 200
"""Jobs that one command changes at once (else an exception)."""


class OfJobs(Command, frozen=True):
    """The base of what operators do with jobs: with all of these, or with none."""

    takes_long = True

    job_ids: Annotated[list[Whole], Meta(min_length=1, max_length=MAX_JOBS)]


class KillJobs(OfJobs, frozen=True, tag="kill jobs"):
    """End jobs, all at once. List of the numbers of those that this has ended: others had ended already."""

    reason: Reason


class HoldJobs(OfJobs, frozen=True, tag="hold jobs"):
    """Have queued jobs not start until they are released. List of their numbers."""

    repeatable = True

    reason: Reason


class ReleaseJobs(OfJobs, frozen=True, tag="release jobs"):
    """Have jobs that are held wait as before. List of their numbers; others were not held."""


class ExtendJobs(OfJobs, frozen=True, tag="extend jobs"):
    """Let jobs that have a `max_runtime` run longer. List of their numbers."""

    seconds: Annotated[float, Meta(gt=0, le=MAX_SECONDS)]


class SetPriority(OfJobs, frozen=True, tag="set priority"):
    """Give queued jobs another priority, and so other places in the queue. List of their numbers."""

    priority: Whole


JobsCommand: TypeAlias = KillJobs | HoldJobs | ReleaseJobs | ExtendJobs | SetPriority
