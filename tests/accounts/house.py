"""Accounts whose clock and randomness a test holds, and a restart from what they have stored."""

from __future__ import annotations

import itertools
from copy import copy
from typing import Any

from spalloc_server.accounts.accounts import Accounts
from spalloc_server.core.defects import Defects
from spalloc_server.core.model.rows import Changes, SessionRow, Snapshot, TokenRow, UserRow
from spalloc_server.core.outbox import Outbox

NOW = 1_700_000_000.0
HOUR, DAY = 3600.0, 86400.0


class Stored:
    """What a disk has."""

    def __init__(self) -> None:
        self.rows = Changes()

    def take(self, outbox: Outbox) -> Changes:
        """Store what has changed; return that."""
        changes = outbox.take_changes()
        for table in Changes.__struct_fields__:
            getattr(self.rows, table).update(getattr(changes, table))
        return changes

    def snapshot(self) -> Snapshot:
        return Snapshot(
            users=[copy(row) for _, row in sorted(self.rows.users.items()) if row is not None],
            tokens=[copy(row) for row in self.rows.tokens.values() if row is not None],
            sessions=[copy(row) for row in self.rows.sessions.values() if row is not None],
            facts={name: value for name, value in self.rows.facts.items() if value is not None},
        )


class House:
    """Accounts on a disk of their own."""

    def __init__(self) -> None:
        self.now = NOW
        self.stored = Stored()
        self.jobs: set[str] = set()
        """Sessions that have jobs."""
        self._numbers = itertools.count(1)
        self.begin(Snapshot())

    def begin(self, snapshot: Snapshot, moved_by: float = 0.0) -> list[str]:
        """Go on from this, in a new process; the tables and keys of what makes no sense."""
        self.outbox = Outbox(Defects())
        self.accounts = Accounts(self.outbox, self.set_fact, clock=lambda: self.now, random=self.random)
        self.accounts.restore(snapshot, moved_by=moved_by)
        self.accounts.sessions.has_jobs = self.jobs.__contains__
        return [f"{row.table}/{row.key[0]}: {row.reason}" for row in snapshot.unreadable]

    def restart(self, moved_by: float = 0.0) -> list[str]:
        self.stored.take(self.outbox)
        return self.begin(self.stored.snapshot(), moved_by)

    def set_fact(self, name: str, value: Any) -> None:
        self.outbox.facts[name] = value

    def random(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")

    def written(self) -> list[str]:
        """Tables of which rows have changed since this was asked last."""
        changes = self.stored.take(self.outbox)
        return [table for table in Changes.__struct_fields__ if getattr(changes, table)]


def a_user(**changes: Any) -> UserRow:
    fields = {"number": 1, "name": "ann", "role": "user", "password": "$argon2id$x", "created_at": NOW - DAY}
    return UserRow(**{**fields, **changes})


def a_token(**changes: Any) -> TokenRow:
    times = {"created_at": NOW - DAY, "expires_at": NOW + DAY}
    return TokenRow(**{"id": "t1", "account": 1, "hash": "ab" * 32, "role": None, "note": "", **times, **changes})


def a_session(**changes: Any) -> SessionRow:
    return SessionRow(**{"id": "s1", "account": 1, "began_at": NOW - DAY, "used_at": NOW - HOUR, **changes})
