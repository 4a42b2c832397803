"""Sessions: who has logged in, until it is over.

Theory of operation. A session has an id that is made here, at random, and is never taken from outside: so nobody can
plant one. It lives for `SESSION_SECONDS` after its last use, and for as long as any job that was created in it: a
script that runs for weeks must not lose its job because it was silent. Its last use is noted once an hour at most, so
it may live an hour longer. The table has a bound for each account and in all; the session that was used the longest
ago, and has no job, gives way: in the order of all uses, since a client that sends a password begins a session with
each request, and a thousand of these must not end the one that is in use. Those that are over are forgotten when
another one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spalloc_server.accounts.changes import NOTED_SECONDS, Changed
from spalloc_server.core.model import SessionRow
from spalloc_server.errors import BusyError

__all__ = ["Sessions"]

SESSION_SECONDS = 7 * 86400.0
"""A session ends after so long without use, unless a job of it lives."""

SESSIONS_OF_ACCOUNT = 1000
"""Sessions of one account. One more ends the one that was used the longest ago and has no job."""

MAX_SESSIONS = 50_000
"""Sessions in all, likewise."""


class Sessions:
    """The sessions there are.

    Args:
        changed: where changed rows are noted.
        clock: seconds since the Unix epoch; never goes back.
        random: so many random bytes.
    """

    def __init__(self, changed: Changed, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self.has_jobs: Callable[[str], bool] = lambda _: False
        """Whether any job lives that was created in the session with this id; to be assigned."""
        self._changed = changed
        self._clock = clock
        self._random = random
        self._rows: dict[str, SessionRow] = {}
        """In the order in which they were used last."""
        self._of_account: dict[int, dict[str, SessionRow]] = {}
        """The same, by account."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> list[SessionRow]:
        """All of them, in the order in which they were used last."""
        return list(self._rows.values())

    def keep(self, rows: Iterable[SessionRow]) -> None:
        """Take over stored ones."""
        for row in sorted(rows, key=lambda row: row.used_at):
            self._put(row)

    def begin(self, account: int, token: str | None = None) -> str:
        """Begin a session, perhaps with a token; its id, which is `s` and 32 hexadecimal digits.

        Raises:
            BusyError: there are too many, and all have jobs.
        """
        self.sweep()
        if len(mine := self._of_account.get(account, {})) >= SESSIONS_OF_ACCOUNT:
            self._make_room(mine)
        if len(self._rows) >= MAX_SESSIONS:
            self._make_room(self._rows)
        now = self._clock()
        row = SessionRow(id=f"s{self._random(16).hex()}", account=account, token=token, began_at=now, used_at=now)
        self._put(row)
        self._changed.sessions[row.id] = row
        return row.id

    def use(self, session: str) -> SessionRow | None:
        """Return a session that lives, and note that it is used; None where there is none."""
        row = self._rows.get(session)
        if row is None:
            return None
        now = self._clock()
        if (unused := now - row.used_at) >= NOTED_SECONDS:
            if self._is_over(row, unused):
                return None
            row.used_at = now
            self._changed.sessions[session] = row
        self._put(row)
        return row

    def end(self, session: str) -> None:
        """End a session; harmless where there is none."""
        if (row := self._rows.pop(session, None)) is not None:
            of_account = self._of_account[row.account]
            del of_account[session]
            if not of_account:
                del self._of_account[row.account]
            self._changed.sessions[session] = None

    def end_all(self, account: int) -> None:
        """End all sessions of an account."""
        for session in list(self._of_account.get(account, ())):
            self.end(session)

    def sweep(self) -> None:
        """Forget those that are over."""
        for session in list(self._over()):
            self.end(session)

    def _over(self) -> Iterator[str]:
        now = self._clock()
        for session, row in self._rows.items():
            if (unused := now - row.used_at) <= SESSION_SECONDS:
                return  # nor are those behind it, which were used later
            if self._is_over(row, unused):
                yield session

    def _is_over(self, row: SessionRow, unused: float) -> bool:
        return unused > SESSION_SECONDS + NOTED_SECONDS and not self.has_jobs(row.id)

    def _make_room(self, among: dict[str, SessionRow]) -> None:
        for session in among:
            if not self.has_jobs(session):
                self.end(session)
                return
        raise BusyError("there are too many sessions, and all of them have jobs: end some jobs first")

    def _put(self, row: SessionRow) -> None:
        """Have it at the end, as the one that was used last."""
        self._rows.pop(row.id, None)
        self._rows[row.id] = row
        of_account = self._of_account.setdefault(row.account, {})
        of_account.pop(row.id, None)
        of_account[row.id] = row
