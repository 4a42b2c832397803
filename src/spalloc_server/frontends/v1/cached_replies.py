"""Replies that are asked for again and again, encoded once.

Theory of operation. Users' programs ask for a job's state far more often than anything changes, and thousands of jobs
are listed by many clients every second. So what was sent of a job is kept, with the job's revision, until that is
another. Replies about jobs that are not live are dropped once there are more of them than of live ones.
"""

from __future__ import annotations

from spalloc_server.application.api import Application
from spalloc_server.application.caller import Caller
from spalloc_server.application.commands import DescribeJob, GetJobState, JobRevisions
from spalloc_server.frontends.v1.replies import encode, reply
from spalloc_server.log.defects import DefectLog

__all__ = ["CachedReplies"]

SPARE_REPLIES = 1024
"""Replies about jobs that are not live that are kept in any case."""


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
                cached = revision, encode(self._application.perform(caller, DescribeJob(job_id=job_id)).value)
        return cached

    def _drop_ended(self, caller: Caller) -> None:
        live = dict(self._application.perform(caller, JobRevisions()).value)
        self._states = {job_id: cached for job_id, cached in self._states.items() if job_id in live}
        self._most_states = 2 * len(self._states) + SPARE_REPLIES
