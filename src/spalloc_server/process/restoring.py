"""A start: the core is brought to where the last server left it, and the log says what could not be.

Theory of operation. What is stored is read and moved to the clock of this process (`stored_times`). Rows that make no
sense cost only what they are about (`core.restore`). Commits that are missing cannot be had back: the log says so, and
`spalloc-admin status` does at every look.
"""

from __future__ import annotations

from pathlib import Path

from spalloc_server.accounts.accounts import Accounts
from spalloc_server.application.authentication import accounts_of
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model import MISSING
from spalloc_server.log.logger import get_logger
from spalloc_server.process.stored_times import StoredTimes
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import consistent

__all__ = ["restored"]

log = get_logger(__name__)


def restored(
    journal: SqliteJournal, times: StoredTimes, configuration: Configuration, state: Path
) -> tuple[Controller, Accounts]:
    """Return a core and accounts that go on from what is stored; the configuration is still to be applied.

    Raises:
        DamagedStateError: what is stored does not fit together.
        StorageError: it cannot be read.
    """
    retired, rest = configuration.max_retired_jobs, configuration.seconds_before_free
    controller = Controller(max_retired_jobs=retired, seconds_before_free=rest)
    accounts = accounts_of(controller)
    snapshot = journal.load(max_retired=retired)
    moved_by = times.meet(snapshot)
    with consistent(state):
        highest = journal.highest_id()
        accounts.restore(snapshot, moved_by=moved_by)
        set_aside = controller.restore(snapshot, configuration.machines, highest_id=highest, moved_by=moved_by)
    for row in set_aside:
        if row.table == MISSING:
            log.error("commits are missing from the state", state=str(state), reason=row.reason)
        else:
            log.error("stored row set aside: it makes no sense", table=row.table, key=row.key, reason=row.reason)
    if configuration.web is not None and not accounts.rows():
        log.warning("nobody can log in: there are no accounts", add=f"spalloc-admin user add NAME --state {state}")
    return controller, accounts
