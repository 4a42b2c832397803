"""What a restart makes of stored rows of accounts: which make sense, and when what they tell was by the present clock.

Theory of operation. A row that makes no sense, or that contradicts another, is set aside (`core.set_aside`): it costs
what it is about. Where an account is lost, its sessions are of no use and end; its tokens are set aside, too. Times are
moved along with all that goes on (`core.moved_times`): a week without use is a week of this server's clock. None lies
in the future, so that a clock that was ahead for a while makes nothing live for ever.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from spalloc_server.accounts.tokens import LONGEST_DAYS
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.core.model import LATEST, SessionRow, Snapshot, TokenRow, UnreadableRow, UserRow

__all__ = ["moved", "sorted_out"]

_HEX = frozenset(string.hexdigits.lower())

Row = TypeVar("Row", UserRow, TokenRow, SessionRow)


def moved(snapshot: Snapshot, seconds: float) -> None:
    """Have everything happen so much later."""
    for row in snapshot.users:
        _move(row, ("created_at", "last_log_in", "last_failure"), seconds)
    for token in snapshot.tokens:
        _move(token, ("created_at", "expires_at", "used_at"), seconds)
    for session in snapshot.sessions:
        _move(session, ("began_at", "used_at"), seconds)


def _move(row: Any, names: Iterable[str], seconds: float) -> None:
    for name in names:
        if (time := getattr(row, name)) is not None:
            setattr(row, name, time + seconds)


def sorted_out(snapshot: Snapshot, now: float, facts: Mapping[str, Any]) -> list[str]:
    """Leave only rows that make sense, and move the others to the unreadable ones.

    Args:
        snapshot: what was stored; it is changed.
        now: no row tells of later.
        facts: kinds of the named values that accounts have.

    Returns:
        Ids of sessions whose account is lost.
    """
    for name, kind in facts.items():
        try:
            _check_fact(msgspec.convert(snapshot.facts.get(name), kind | None))
        except (msgspec.ValidationError, ValueError) as error:
            row = {"name": name, "value": snapshot.facts.pop(name)}
            snapshot.unreadable.append(UnreadableRow(table="facts", key=(name,), reason=str(error), row=row))
    checks = _Checks(now)
    bad = snapshot.unreadable
    snapshot.users = list(_sound("users", snapshot.users, "number", checks.user, bad))
    snapshot.tokens = list(_sound("tokens", snapshot.tokens, "id", checks.token, bad))
    lost = [row.id for row in snapshot.sessions if row.account not in checks.numbers]
    sessions = [row for row in snapshot.sessions if row.account in checks.numbers]
    snapshot.sessions = list(_sound("sessions", sessions, "id", checks.session, bad))
    return lost


def _sound(
    table: str, rows: Iterable[Row], key: str, check: Callable[[Row], None], bad: list[UnreadableRow]
) -> Iterator[Row]:
    for row in rows:
        try:
            check(row)
        except ValueError as error:
            told = {"key": (getattr(row, key),), "reason": str(error), "row": msgspec.to_builtins(row)}
            bad.append(UnreadableRow(table=table, **told))
        else:
            yield row


def _check_fact(value: int | list[tuple[str, str]] | None) -> None:
    if isinstance(value, int):
        _check_number(value)
    elif value is not None and not all(name and len(key) == 64 and _HEX.issuperset(key) for name, key in value):
        raise ValueError("a key has an id, and 64 hexadecimal digits")


def _check_number(number: int) -> None:
    if not 1 <= number < MAX_NUMBER:
        raise ValueError(f"{number} is no number of an account")


class _Checks:
    """Looks at rows, one after another; raises `ValueError` where one makes no sense. Times to come become `now`."""

    def __init__(self, now: float) -> None:
        self.numbers: set[int] = set()
        """Of accounts."""
        self._taken: set[str] = set()
        """Names of accounts, and hashes of tokens."""
        self._now = now

    def user(self, row: UserRow) -> None:
        self._times(row, "created_at", "last_log_in", "last_failure")
        _check_number(row.number)
        if not 0 <= row.wrong_passwords <= LATEST:  # nor is it, where it is not a number
            raise ValueError(f"{row.wrong_passwords} is no number of wrong passwords")
        self._take(row.name, "name")
        self.numbers.add(row.number)

    def token(self, row: TokenRow) -> None:
        self._times(row, "created_at", "used_at")
        if not abs(row.expires_at) <= LATEST:
            raise ValueError(f"{row.expires_at} is no time")
        row.expires_at = min(row.expires_at, row.created_at + LONGEST_DAYS * 86400)
        if row.account not in self.numbers:
            raise ValueError(f"there is no account {row.account}")
        self._take(row.hash, "hash")

    def session(self, row: SessionRow) -> None:
        self._times(row, "began_at", "used_at")

    def _times(self, row: Row, *names: str) -> None:
        for name in names:
            time = getattr(row, name)
            if time is not None and not abs(time) <= LATEST:  # nor is it, where it is not a number
                raise ValueError(f"{time} is no time")
            setattr(row, name, None if time is None else min(time, self._now))

    def _take(self, name: str, what: str) -> None:
        if not name or name in self._taken:
            raise ValueError(f"its {what} {name!r} is empty, or another row has it")
        self._taken.add(name)
