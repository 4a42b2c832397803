"""Tokens: what programs show in place of a password.

Theory of operation. The secret of a token is 256 random bits, which are told once, and of which only the SHA-256 is
kept: what is random needs no slow hash. A token permits no more than its role, and no more than its account may at that
moment. It ends at its time, and can be revoked at any. Those that have ended are forgotten when another one is made.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from hashlib import sha256

from spalloc_server.accounts.changes import NOTED_SECONDS, Changed
from spalloc_server.core.model import TokenRow
from spalloc_server.errors import BusyError, NoSuchError

__all__ = ["Tokens"]

MAX_TOKENS = 10_000
"""Tokens of all accounts together that have not ended."""

LONGEST_DAYS = 3660.0
"""For so long a token may work."""


class Tokens:
    """The tokens there are.

    Args:
        changed: where changed rows are noted.
        clock: seconds since the Unix epoch; never goes back.
        random: so many random bytes.
    """

    def __init__(self, changed: Changed, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._changed = changed
        self._clock = clock
        self._random = random
        self._rows: dict[str, TokenRow] = {}
        self._by_hash: dict[str, TokenRow] = {}

    def rows(self, account: int | None = None) -> list[TokenRow]:
        """Those of an account, or all, the newest first."""
        found = (row for row in self._rows.values() if account is None or row.account == account)
        return sorted(found, key=lambda row: row.created_at, reverse=True)

    def keep(self, rows: Iterable[TokenRow]) -> None:
        """Take over stored ones."""
        for row in rows:
            self._rows[row.id] = self._by_hash[row.hash] = row

    def create(self, account: int, *, role: str | None, days: float, note: str) -> tuple[str, TokenRow]:
        """Return the secret of a new token, and the token.

        Raises:
            BusyError: there are too many.
        """
        self.sweep()
        if len(self._rows) >= MAX_TOKENS:
            raise BusyError(f"there are {MAX_TOKENS} tokens already: revoke some of them first")
        secret = "spalloc_" + urlsafe_b64encode(self._random(32)).decode().rstrip("=")
        now = self._clock()
        row = TokenRow(
            id=f"t{self._random(8).hex()}",
            account=account,
            hash=_hash(secret),
            role=role,
            note=note,
            created_at=now,
            expires_at=now + days * 86400,
        )
        self.keep([row])
        self._changed.tokens[row.id] = row
        return secret, row

    def with_secret(self, secret: str) -> TokenRow | None:
        """Return the token that has this secret; None where none does that works."""
        row = self._by_hash.get(_hash(secret))
        return None if row is None else self.use(row.id)

    def use(self, token: str) -> TokenRow | None:
        """Return a token that works, and note that it is used; None where there is none."""
        row = self._rows.get(token)
        now = self._clock()
        if row is None or now >= row.expires_at:
            return None
        if row.used_at is None or now - row.used_at >= NOTED_SECONDS:
            row.used_at = now
            self._changed.tokens[token] = row
        return row

    def revoke(self, token: str) -> TokenRow:
        """Forget a token, and return it.

        Raises:
            NoSuchError: there is none with this id.
        """
        row = self._rows.pop(token, None)
        if row is None:
            raise NoSuchError(f"there is no token {token!r}; `spalloc-admin token list` shows their ids")
        del self._by_hash[row.hash]
        self._changed.tokens[token] = None
        return row

    def revoke_all(self, account: int) -> None:
        """Forget all tokens of an account."""
        for row in self.rows(account):
            self.revoke(row.id)

    def sweep(self) -> None:
        """Forget those that have ended."""
        now = self._clock()
        for row in [row for row in self._rows.values() if now >= row.expires_at]:
            self.revoke(row.id)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
