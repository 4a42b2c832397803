"""Accounts: who may use the server by name, with which role, and what leads to them.

Theory of operation. An account has a name, a role, and perhaps a password, of which only the hash is here; hashing is
somebody else's. It is reached by a session, by a token, or by its name once the password has been checked; each of
these is a look into a dict. What it may is read from its row each time, so that a change holds at once. A password that
changes ends all sessions, and so does an account that is disabled; one that is deleted takes its tokens along as well.

Accounts change nothing but their own rows, which go to the journal together with all else (`core.outbox`). Numbers of
accounts, and the keys that cookies are signed with, are facts. A stored row that makes no sense costs that row only.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from spalloc_server.accounts.attempts import KNOWN, Attempt, Attempts
from spalloc_server.accounts.changes import NOTED_SECONDS, Changed
from spalloc_server.accounts.sessions import Sessions
from spalloc_server.accounts.stored_rows import moved, sorted_out
from spalloc_server.accounts.tokens import Tokens
from spalloc_server.config.hosts import network_of
from spalloc_server.core.model import Snapshot, TokenRow, UserRow
from spalloc_server.errors import BusyError, NoSuchError, RequestError

__all__ = ["KEYS", "NEXT", "Accounts", "stamp_of"]

MAX_ACCOUNTS = 10_000
"""Accounts in all."""

NEXT = "next_account"
"""The fact that holds the number of the next account."""

KEYS = "signing_keys"
"""The fact that holds what cookies are signed with: [id, secret in hexadecimal], the one to sign with first."""


def stamp_of(row: UserRow) -> str:
    """Return what stands for an account with the password that it has now.

    Another account, of the same name, and a password that is set anew have another one, as each hash has a salt of its
    own; which also keeps it from telling anything of the password.
    """
    return blake2b(f"{row.number}:{row.password}".encode(), digest_size=8).hexdigest()


class Accounts:
    """All accounts, with their sessions and tokens.

    Args:
        changed: where changed rows are noted.
        set_fact: stores a named value.
        clock: seconds since the Unix epoch; never goes back.
        random: so many random bytes.
    """

    def __init__(
        self,
        changed: Changed,
        set_fact: Callable[[str, Any], None],
        *,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self._changed = changed
        self._set_fact = set_fact
        self._clock = clock
        self._random = random
        self._next = 1
        self._keys: list[tuple[str, str]] = []
        self._by_number: dict[int, UserRow] = {}
        self._by_name: dict[str, UserRow] = {}
        self.sessions = Sessions(changed, clock, random)
        self.tokens = Tokens(changed, clock, random)
        self.attempts = Attempts(clock)

    # ---------------------------------------------------------------- who it is

    def of_session(self, session: str) -> tuple[UserRow, TokenRow | None] | None:
        """Return the account of a session that lives, and the token that it began with; both are used by this."""
        row = self.sessions.use(session)
        if row is None or row.token is not None:
            return None if row is None else self._with_account(self.tokens.use(row.token or ""))
        account = self._enabled(self._by_number.get(row.account))
        return None if account is None else (account, None)

    def of_token(self, token: str) -> tuple[UserRow, TokenRow] | None:
        """Return the account of the token with this id, and the token, which is used by this."""
        return self._with_account(self.tokens.use(token))

    def of_secret(self, secret: str) -> tuple[UserRow, TokenRow] | None:
        """Return the same for a token's secret."""
        return self._with_account(self.tokens.with_secret(secret))

    def of_name(self, name: str, stamp: str | None = None) -> UserRow | None:
        """Return the account of this name, where it is enabled, and has the password that `stamp` was of, if any is."""
        row = self._enabled(self._by_name.get(name))
        return row if row is None or stamp in {None, stamp_of(row)} else None

    def _with_account(self, token: TokenRow | None) -> tuple[UserRow, TokenRow] | None:
        account = None if token is None else self._enabled(self._by_number.get(token.account))
        return None if token is None or account is None else (account, token)

    @staticmethod
    def _enabled(row: UserRow | None) -> UserRow | None:
        return row if row is not None and row.enabled else None

    # ---------------------------------------------------------------- trying passwords

    def try_password(self, name: str, address: str | None) -> Attempt:
        """Count an attempt to log in; `right`, `wrong` or `dropped` says what became of it.

        Raises:
            BusyError: there were too many from there.
        """
        network, row = network_of(address), self._by_name.get(name)
        return self.attempts.begin(name, network, known=row is not None and network in row.known)

    def right(self, attempt: Attempt, row: UserRow, *, rehashed: str | None = None) -> None:
        """The password was that of `row`; `rehashed` is its hash as hashes are made now, where it was another."""
        self.attempts.right(attempt)
        now = self._clock()
        recent = row.last_log_in is not None and now - row.last_log_in < NOTED_SECONDS
        if rehashed is None and recent and attempt.known:
            return
        row.password = rehashed or row.password
        row.last_log_in = now
        row.known = [attempt.network, *(each for each in row.known if each != attempt.network)][:KNOWN]
        self._note_attempts(row)

    def wrong(self, attempt: Attempt) -> UserRow | None:
        """The password was wrong; the account that was meant, where there is one."""
        row = self._by_name.get(attempt.name)
        if row is not None:
            row.last_failure = self._clock()
            self._note_attempts(row)
        return row

    def _note_attempts(self, row: UserRow) -> None:
        row.wrong_passwords = self.attempts.of_account(row.name)
        self._changed.users[row.number] = row

    # ---------------------------------------------------------------- what operators do

    def named(self, name: str) -> UserRow:
        """Return the account of this name; `NoSuchError` where there is none."""
        if (row := self._by_name.get(name)) is None:
            raise NoSuchError(f"there is no account {name!r}")
        return row

    def numbered(self, number: int) -> UserRow:
        """Return the account of this number."""
        return self._by_number[number]

    def rows(self) -> list[UserRow]:
        """All of them, by name."""
        return [row for _, row in sorted(self._by_name.items())]

    def check_name(self, name: str) -> None:
        """Raise `RequestError` where no new account can have this name."""
        if name in self._by_name:
            raise RequestError(f"there is an account {name!r} already")
        if ":" in name or name != name.strip() or not name.isprintable():
            told = "a name has no colon, no controls and no space at its ends"
            raise RequestError(f"an account cannot be called {name!r}: {told}")

    def create(self, name: str, role: str, *, password: str | None = None, enabled: bool = True) -> UserRow:
        """Return a new account.

        Raises:
            RequestError: the name is taken, or cannot be one.
            BusyError: there are too many accounts.
        """
        self.check_name(name)
        if len(self._by_name) >= MAX_ACCOUNTS:
            raise BusyError(f"there are {MAX_ACCOUNTS} accounts already: delete some of them first")
        number, now = self._next, self._clock()
        row = UserRow(number=number, name=name, role=role, password=password, enabled=enabled, created_at=now)
        self._next += 1
        self._set_fact(NEXT, self._next)
        self.attempts.forget(name)
        self._put(row)
        self._changed.users[number] = row
        return row

    def change(
        self,
        name: str,
        *,
        new_name: str | None = None,
        role: str | None = None,
        password: str | None = None,
        enabled: bool | None = None,
        unlock: bool = False,
    ) -> UserRow:
        """Change what is not None of an account, and return it. `unlock` forgets wrong passwords.

        Raises:
            NoSuchError: there is no such account.
            RequestError: the new name is taken, or cannot be one.
        """
        row = self.named(name)
        if new_name not in (None, name):
            self.check_name(new_name)
            del self._by_name[name]
            row.name = new_name
            self._put(row)
        row.role = role or row.role
        row.password = password or row.password
        row.enabled = row.enabled if enabled is None else enabled
        if password is not None or not row.enabled:
            self.sessions.end_all(row.number)
        if unlock or password is not None:
            self.attempts.forget(name)
        self._note_attempts(row)
        return row

    def delete(self, name: str) -> None:
        """Forget an account with its sessions and tokens; `NoSuchError` where there is none."""
        row = self.named(name)
        self.sessions.end_all(row.number)
        self.tokens.revoke_all(row.number)
        del self._by_name[name], self._by_number[row.number]
        self._changed.users[row.number] = None

    # ---------------------------------------------------------------- keys

    def signing_keys(self) -> list[tuple[str, str]]:
        """Return (id, secret in hexadecimal) of what cookies are signed with, the one to sign with first."""
        if not self._keys:
            self._keys = [(self._random(4).hex(), self._random(32).hex())]
            self._set_fact(KEYS, self._keys)
        return list(self._keys)

    # ---------------------------------------------------------------- stop and go on

    def add_to(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot of the core, with all of this in it."""
        snapshot.users = self.rows()
        snapshot.tokens = self.tokens.rows()
        snapshot.sessions = self.sessions.rows()
        return snapshot

    def restore(self, snapshot: Snapshot, *, moved_by: float = 0.0) -> None:
        """Take over what is stored, before the core does.

        What makes no sense is added to the snapshot's unreadable rows, and taken out where the core would meet it.
        Other rows of it are taken as they are, and must not be used again.

        Args:
            snapshot: what was stored.
            moved_by: as for `core.restore.restore`: seconds by which the clock is ahead.
        """
        if moved_by:
            moved(snapshot, moved_by)
        lost = sorted_out(snapshot, self._clock(), {NEXT: int, KEYS: list[tuple[str, str]]})
        self._changed.sessions.update(dict.fromkeys(lost))
        for row in snapshot.users:
            self._put(row)
            if row.last_failure is not None:
                self.attempts.keep(row.name, row.wrong_passwords, row.last_failure)
        self.tokens.keep(snapshot.tokens)
        self.sessions.keep(snapshot.sessions)
        self._next = max([snapshot.facts.get(NEXT) or 1, *(1 + number for number in self._by_number)])
        self._keys = msgspec.convert(snapshot.facts.get(KEYS) or [], list[tuple[str, str]])
        if moved_by:
            self._changed.users.update({row.number: row for row in snapshot.users})
            self._changed.tokens.update({row.id: row for row in snapshot.tokens})
            self._changed.sessions.update({row.id: row for row in snapshot.sessions})

    def _put(self, row: UserRow) -> None:
        self._by_name[row.name] = self._by_number[row.number] = row
