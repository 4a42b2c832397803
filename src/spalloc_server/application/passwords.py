"""Hashes of passwords, made and compared in threads of their own.

Theory of operation. Argon2 takes tens of milliseconds and megabytes on purpose. So two threads do it, which hold up
neither the event loop nor name lookups, and only so many wait for them; those who are known to come from where they
always come from, and operators who set passwords, have places of their own. A password of an account that there is not
is compared all the same, with a hash that nobody's password has: so the time tells nothing.

`argon2-cffi` belongs to the extra `web` and is imported when it is first needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from spalloc_server.errors import BusyError, RequestError

__all__ = ["Hasher", "Passwords"]

HASHING = 2
"""Passwords that are hashed at the same time."""

MAX_QUEUED = 64
"""Passwords that may wait for that; as many more of those who log in from where they have before, or that are set."""

MEMORY_KIB = 19_456
"""Memory that each takes meanwhile, in KiB."""

ROUNDS = 2
"""Passes of Argon2 over it, as OWASP advises for this much memory."""

T = TypeVar("T")


class Hasher(Protocol):
    """What `argon2.PasswordHasher` does."""

    def hash(self, password: str) -> str:
        """Return a new hash."""
        ...

    def verify(self, hash: str, password: str) -> Any:  # noqa: A002 - its name for it
        """Raise where the password is another."""
        ...

    def check_needs_rehash(self, hash: str) -> bool:  # noqa: A002
        """Whether hashes are made otherwise by now."""
        ...


def _argon2() -> Hasher:
    try:
        from argon2 import PasswordHasher
    except ImportError as exc:
        told = "passwords need argon2-cffi, which is not installed here: pip install 'spalloc-server[web]'"
        raise RequestError(told) from exc
    return PasswordHasher(time_cost=ROUNDS, memory_cost=MEMORY_KIB, parallelism=1)


class Passwords:
    """Hashes and compares.

    Args:
        make: makes what does it, when it is first needed.
    """

    def __init__(self, make: Callable[[], Hasher] = _argon2) -> None:
        self.waiting = 0
        """Passwords that are being hashed, or wait for it."""
        self._make = make
        self._hasher: Hasher | None = None
        self._nobodys: str | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def hash(self, password: str) -> str:
        """Return a hash to store.

        Raises:
            BusyError: too many wait.
            RequestError: argon2-cffi is not installed.
        """
        return await self._in_thread(MAX_QUEUED * 2, lambda hasher: hasher.hash(password))

    async def compare(self, stored: str | None, password: str, *, known: bool) -> tuple[bool, str | None]:
        """Return whether a password is the one that `stored` is a hash of, and a new hash where that is out of date.

        Raises as `hash`.

        Args:
            stored: the hash; None takes the same time, and is nobody's.
            password: what is given.
            known: whether it comes from where it has been right before.
        """
        limit = MAX_QUEUED * 2 if known else MAX_QUEUED
        return await self._in_thread(limit, partial(self._compare, stored, password))

    def _compare(self, stored: str | None, password: str, hasher: Hasher) -> tuple[bool, str | None]:
        if self._nobodys is None:  # in the first comparison of all, whoever's that is
            self._nobodys = hasher.hash("")
        try:
            hasher.verify(stored or self._nobodys, password)
        except Exception:  # noqa: BLE001 - it is another; or what is stored is no hash, and so no password is right
            return False, None
        if stored is None:
            return False, None
        return True, hasher.hash(password) if hasher.check_needs_rehash(stored) else None

    async def _in_thread(self, limit: int, work: Callable[[Hasher], T]) -> T:
        self._hasher = hasher = self._hasher or self._make()
        if self.waiting >= limit + HASHING:
            raise BusyError("too many passwords are being checked: try again in a second")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(HASHING, thread_name_prefix="passwords")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, hasher)
        finally:
            self.waiting -= 1
