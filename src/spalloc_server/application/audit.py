"""The audit: a line in the log for each command that operators give, with who gave it and what came of it.

Theory of operation. A command that was performed is logged as soon as its outcome is known: with its commit, be that
stored or not. A disk that does not answer must not hide what was done, so after `LATE_SECONDS` a first line says that
the outcome is not known yet. What was refused or failed is logged, too: so many lines a second (`log.logger`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from spalloc_server.application.caller import Caller
from spalloc_server.application.commands import Command
from spalloc_server.application.commits import Commits
from spalloc_server.log.logger import Complaints, get_logger

__all__ = ["Audit"]

LATE_SECONDS = 2.0
"""After so long without an outcome the log tells that a command was performed."""

log = get_logger(__name__)


class Audit:
    """Logs commands.

    Args:
        commits: tells their outcomes.
        clock: seconds, monotonic.
    """

    def __init__(self, commits: Commits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._commits = commits
        self._complaints = Complaints(clock)

    def performed(self, caller: Caller, command: Command, commit: int | None, *, ended: int = 0) -> None:
        """Log a command that was performed, and how many jobs it `ended`, once `commit` is over; without one, now."""
        if commit is None:
            log.info("command performed", **_facts(caller, command), outcome="done")
            return
        late = asyncio.get_running_loop().call_later(LATE_SECONDS, self._late, caller, command)

        def over(error: str | None) -> None:
            late.cancel()
            if error is None:
                log.info("command performed", **_facts(caller, command), jobs_ended=ended, outcome="stored")
            else:
                told = f"not stored: {error}"
                facts = _facts(caller, command)
                log.error("command performed but not stored", **facts, jobs_ended=ended, outcome=told)

        self._commits.when_over(commit, over)

    def not_performed(self, caller: Caller, command: Command, error: Exception, *, refused: bool) -> None:
        """Log a command that was refused, or that failed."""
        told = f"{'refused' if refused else 'failed'}: {str(error) or type(error).__name__}"
        self._complaints.complain("command not performed", **_facts(caller, command), outcome=told)

    def _late(self, caller: Caller, command: Command) -> None:
        told = f"the disk has not answered for {LATE_SECONDS:g} s"
        log.warning("command performed but not stored yet", **_facts(caller, command), outcome=told)


def _facts(caller: Caller, command: Command) -> dict[str, object]:
    return {"by": caller.shown, "door": caller.door, "address": caller.address, **command.told()}
