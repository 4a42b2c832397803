"""What the world must do about what the core has done, until a shell fetches it.

Theory of operation. Whoever changes something notes it here: rows to store, power to switch, watchers to notify, events
for a log of jobs. What becomes of accounts is noted here as well (`accounts`), so that it is stored in the same
transactions. A shell fetches all of it at once with `take`, stores the changes, and only then acts on the rest. A
row is noted as it is, and copied when it is taken; so what changes often is stored once.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Any

from spalloc_server.core.defects import Defects
from spalloc_server.core.job import Job
from spalloc_server.core.model import (
    BoardRow,
    BoardTimeRow,
    Changes,
    Effects,
    JobEvent,
    JobRow,
    ReleaseRow,
    ResultRow,
    SessionRow,
    Switch,
    TokenRow,
    UserRow,
)

__all__ = ["Outbox"]

MAX_EVENTS = 100_000
"""Events that are kept for a shell that does not fetch them; the latest."""


class Outbox:
    """What has changed since it was last taken. None stands for a row that goes."""

    def __init__(self, defects: Defects) -> None:
        self._defects = defects
        self.jobs: dict[int, Job | JobRow] = {}
        self.boards: dict[Any, BoardRow | None] = {}
        self.releases: dict[Any, ReleaseRow | None] = {}
        self.facts: dict[str, Any] = {}
        self.users: dict[int, UserRow | None] = {}
        self.tokens: dict[str, TokenRow | None] = {}
        self.sessions: dict[str, SessionRow | None] = {}
        self.results: dict[int, ResultRow | None] = {}
        self.board_time: dict[tuple[str, float], BoardTimeRow] = {}
        """Those that are over, so they change no more."""
        self.switches: list[Switch] = []
        self.changed_jobs: set[int] = set()
        """Jobs whose watchers are to be notified."""
        self.changed_machines: set[str] = set()
        """Machines that changed, or on which boards were given or freed."""
        self.events: deque[JobEvent] = deque(maxlen=MAX_EVENTS)

    def has_changes(self) -> bool:
        """Return whether there is anything to take."""
        rows = self.jobs or self.boards or self.releases or self.facts or self.users or self.tokens or self.sessions
        return bool(rows or self.results or self.switches or self.changed_jobs or self.changed_machines)

    def take(self) -> Effects:
        """Return all that there is, and forget it."""
        effects = Effects(
            self.take_changes(), self.switches, self.changed_jobs, self.changed_machines, list(self.events)
        )
        self.switches, self.changed_jobs, self.changed_machines = [], set(), set()
        self.events.clear()
        return effects

    def take_changes(self) -> Changes:
        """Return the rows to store, and forget only these. A row that cannot be made is left out."""
        jobs = {}
        for job_id, job in self.jobs.items():
            with self._defects.contained("the row of a job", job_id):
                jobs[job_id] = job.row() if isinstance(job, Job) else job
        changes = Changes(
            jobs=jobs,
            boards={key: copy(row) for key, row in self.boards.items()},
            releases={key: copy(row) for key, row in self.releases.items()},
            facts=self.facts,
            users={key: copy(row) for key, row in self.users.items()},
            tokens={key: copy(row) for key, row in self.tokens.items()},
            sessions={key: copy(row) for key, row in self.sessions.items()},
            results=self.results,
            board_time=self.board_time,
        )
        self.jobs, self.boards, self.releases, self.facts = {}, {}, {}, {}
        self.users, self.tokens, self.sessions, self.results, self.board_time = {}, {}, {}, {}, {}
        return changes
