"""The lines that v1's clients are sent, and those that are asked for again and again, encoded once.

Theory of operation. A reply is `{"return": ...}` or `{"exception": ...}`. What commands answer are plain structs whose
fields bear the protocol's names (`core.model.replies`), so they are encoded as they are. But the notice of a job that
waits stands behind the address of its user: published clients print that of every job, and know no other field that
could hold more words.

Users' programs ask for a job's state far more often than anything changes, and thousands of jobs are listed by many
clients every second. So what was sent of a job is kept, with the job's revision, until that is another. Replies about
jobs that are not live are dropped once there are more of them than of live ones.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spalloc_server.application.api import Application, Caller
from spalloc_server.application.commands import DescribeJob, GetJobState, JobRevisions
from spalloc_server.core.model import JobDescription
from spalloc_server.log.defects import DefectLog

__all__ = ["PROTOCOL_VERSION", "RETURN_NULL", "CachedReplies", "encode", "exception_reply", "notification", "reply"]

PROTOCOL_VERSION = "1.0.0"
"""Reply of `version`. Every published client checks it before anything else: it must be three plain integers, and no
range that all of them accept is wider than [0.4.0, 2.0.0). The version of this package is told by `--version`."""

RETURN_NULL = b'{"return":null}\n'
"""The reply of commands that have nothing to tell."""

encode = msgspec.json.Encoder().encode


SPARE_REPLIES = 1024
"""Replies about jobs that are not live that are kept in any case."""


class _Return(msgspec.Struct):
    value: Any = msgspec.field(name="return")


class _Exception(msgspec.Struct):
    text: str = msgspec.field(name="exception")


def reply(value: Any) -> bytes:
    """The line that tells a client what its command has come to."""
    return RETURN_NULL if value is None else encode(_Return(value)) + b"\n"


def exception_reply(text: str) -> bytes:
    """The line that tells a client that its command failed."""
    return encode(_Exception(text)) + b"\n"


def notification(kind: str, changed: list[Any]) -> bytes:
    """The line that tells a client what changed; `kind` is jobs_changed or machines_changed."""
    return encode({kind: changed}) + b"\n"


def _listed(job: JobDescription) -> JobDescription:
    """A job as clients are told of it."""
    if job.notice is None:
        return job
    host = f"{job.keepalivehost}; {job.notice}" if job.keepalivehost else job.notice
    return msgspec.structs.replace(job, keepalivehost=host, notice=None)


class CachedReplies:
    """Answers `get_job_state` and `list_jobs`.

    Args:
        application: knows the jobs.
        defects: told what goes wrong that never should.
    """

    def __init__(self, application: Application, defects: DefectLog) -> None:
        self._application = application
        self._defects = defects
        self._states: dict[int, tuple[int, bytes]] = {}
        """{job: (revision, line)}."""
        self._listed: dict[int, tuple[int, bytes]] = {}
        """{job: (revision, its description in the reply of `list_jobs`)}."""
        self._revisions: list[tuple[int, int]] = []
        """(job, revision) of all that `_list` tells of."""
        self._list = b'{"return":[]}\n'
        self._most_states = SPARE_REPLIES

    def job_state(self, caller: Caller, command: GetJobState) -> bytes:
        """Renew the job's lease, and return the line that tells its state."""
        revision = self._application.renew(caller, command.job_id)
        cached = self._states.get(command.job_id)
        if cached is not None and cached[0] == revision:
            return cached[1]
        line = reply(self._application.perform(caller, command).value)
        self._states[command.job_id] = revision, line
        if len(self._states) > self._most_states:
            self._drop_ended(caller)
        return line

    def jobs(self, caller: Caller) -> bytes:
        """Return the line that lists all live jobs. One that cannot be described is left out."""
        revisions = self._application.perform(caller, JobRevisions()).value
        if revisions != self._revisions:
            self._revisions = revisions
            self._listed = {job_id: self._description(caller, job_id, revision) for job_id, revision in revisions}
            self._list = b'{"return":[' + b",".join([line for _, line in self._listed.values() if line]) + b"]}\n"
        return self._list

    def _description(self, caller: Caller, job_id: int, revision: int) -> tuple[int, bytes]:
        cached = self._listed.get(job_id)
        if cached is None or cached[0] != revision:
            cached = revision, b""
            with self._defects.contained("a job could not be listed", job_id=job_id):
                cached = revision, encode(_listed(self._application.perform(caller, DescribeJob(job_id=job_id)).value))
        return cached

    def _drop_ended(self, caller: Caller) -> None:
        live = dict(self._application.perform(caller, JobRevisions()).value)
        self._states = {job_id: cached for job_id, cached in self._states.items() if job_id in live}
        self._most_states = 2 * len(self._states) + SPARE_REPLIES
