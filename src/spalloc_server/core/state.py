"""All that the core knows.

Theory of operation. `State` holds the parts and does nothing. A `Job` knows its own life (`job`), the `Scheduler` who
waits and which boards are whose, `Power` which operations are under way and which boards are on their way back,
`BoardRecords` which boards are not to be used, `SelfTests` which of them are being tried again, `Deadlines` whose lease
or run time is over, `Closures` what operators have closed. What the world must do about it piles up in the `Outbox`.

What can happen to it is in `transitions`, what the world tells in `engine`, what users and operators command in
`commands` and `operations`; `views` tells of it, `restore` brings it back, `check` asserts that it agrees with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.core.boards.power import Power
from spalloc_server.core.boards.records import BoardRecords
from spalloc_server.core.boards.self_tests import SelfTests
from spalloc_server.core.closures import Closures
from spalloc_server.core.deadlines import Deadlines
from spalloc_server.core.defects import Defects
from spalloc_server.core.job import Job
from spalloc_server.core.model import BoardTimeRow, JobRow, ResultRow
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.outbox import Outbox
from spalloc_server.core.quotas import Quotas
from spalloc_server.core.scheduling.scheduler import Scheduler

__all__ = ["State"]


class State:
    """Jobs, machines, queue and leases of one server.

    Args:
        clock: the time in seconds since the Unix epoch; it never goes back.
        configuration: what applies until another is applied; its machines come with `Engine.configure`.
        next_id: number of the first job.
    """

    def __init__(self, clock: Callable[[], float], configuration: Configuration, next_id: int = 1) -> None:
        self.clock = clock
        self.configuration = configuration
        self.next_id = next_id
        self.machines: dict[str, Machine] = {}
        """By name, highest priority first."""
        self.imported: dict[str, Machine] = {}
        """Those of them that no configuration has, but that were imported; in order of their imports."""
        self.jobs: dict[int, Job] = {}
        """Those that live, oldest first."""
        self.retired: dict[int, JobRow] = {}
        """The last of those that have ended, in order of their ends."""
        self.facts: dict[str, Any] = {}
        """Named values that outlive a restart."""
        self.results: dict[int, ResultRow] = {}
        """What commands that are done once were answered, in order of their numbers."""
        self.defects = Defects()
        """What has gone wrong in the core itself."""
        self.outbox = Outbox(self.defects)
        self.closures = Closures()
        self.scheduler = Scheduler()
        self.power = Power(self.outbox)
        self.boards = BoardRecords(self.scheduler, self.closures, self.outbox)
        self.self_tests = SelfTests(self.scheduler, self.power, self.boards, self.closures, self.defects)
        self.quotas = Quotas()
        self.leases = Deadlines(self.jobs, attrgetter("deadline"))
        self.run_times = Deadlines(self.jobs, attrgetter("bound"))
        self.in_words: Callable[[Forecast], str] | None = None
        """Tells users what is predicted of a job that waits; None where nothing is."""
        self.board_time: dict[str, BoardTimeRow] = {}
        """How each machine's boards spend the present hour, see `board_time`."""
        self.reclaim_at: float | None = None
        """When boards that are held for nobody, because of a defect, are to be switched off."""
        self.reclaimed_at = float("-inf")
        """When that was done last."""
