"""How many jobs one owner, one address and all together may have; and how many jobs a session has.

Theory of operation. Live jobs are counted as they come and go, so that judging a new one costs the same however many
there are. A job counts for the address that created it, whoever has kept it alive since; one that a program which
embeds the core has made counts for none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from spalloc_server.config.hosts import network_of
from spalloc_server.config.options import Limits
from spalloc_server.core.job import Job
from spalloc_server.errors import RequestError

__all__ = ["Quotas"]

T = TypeVar("T")


class Quotas:
    """Counts of live jobs."""

    def __init__(self) -> None:
        self.limits = Limits()
        self._owners: Counter[str | None] = Counter()
        self._networks: Counter[str] = Counter()
        self.sessions: Counter[str | None] = Counter()
        """Live jobs by the session in which they were made."""

    def admit(self, owner: str, address: str | None, queued: int) -> None:
        """Judge a job that is about to be made, while so many wait already.

        Raises:
            RequestError: it would be one too many; the text is for its owner.
        """
        limits = self.limits
        of_address = 0 if address is None else self._networks[network_of(address)]
        for has, most, whose in (
            (self._owners[owner], limits.jobs_per_owner, f"{owner!r} has"),
            (of_address, limits.jobs_per_address, f"{network_of(address)} has"),
            (queued, limits.queued_jobs, "the queue holds"),
        ):
            if most and has >= most:
                raise RequestError(
                    f"{whose} {has} jobs, and {most} is the most that this server allows: "
                    "destroy those that are not needed any more, or try again when some have ended"
                )

    def add(self, job: Job) -> None:
        """A job lives."""
        self._owners[job.owner] += 1
        self._networks[network_of(job.created_from)] += 1
        self.sessions[job.session] += 1

    def remove(self, job: Job) -> None:
        """A job has ended."""
        _less(self._owners, job.owner)
        _less(self._networks, network_of(job.created_from))
        _less(self.sessions, job.session)

    def recount(self, jobs: Iterable[Job]) -> None:
        """These are the jobs that live, whatever was counted before."""
        self._owners, self._networks, self.sessions = Counter(), Counter(), Counter()
        for job in jobs:
            self.add(job)

    def check(self, jobs: list[Job]) -> None:
        """Assert that these are the jobs that live."""
        assert self._owners == Counter(job.owner for job in jobs)
        assert self._networks == Counter(network_of(job.created_from) for job in jobs)
        assert self.sessions == Counter(job.session for job in jobs)


def _less(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
