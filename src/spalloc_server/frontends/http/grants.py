"""What the server says of those who ask: asked once, and remembered for a minute.

Theory of operation. A password costs the server a tenth of a second, and a client that has no session sends it with
each request. So what the server has granted to a pair of name and password, to a token or to a session is remembered
for `REMEMBERED_SECONDS`, under a hash with a key that only this process knows. While one is being checked, further
requests with the same wait for that check. What was refused is not remembered: the server counts wrong passwords.

A grant says who somebody is. Whether that still holds, and what the account may at present, the server looks up with
each command, whatever is remembered here; who is refused then is forgotten.

Requests that wait for a check take places at the connection to the server, so of each address only `CHECKED_AT_ONCE`
do: whoever sends passwords or tokens without end from there keeps nobody out elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import msgspec

from spalloc_server.application.account_commands import (
    CheckPassword,
    CheckSession,
    CheckToken,
    Grant,
    LogIn,
    LogInWithToken,
    SigningKey,
    SigningKeys,
)
from spalloc_server.frontends.http.asking import Asking, RefusedError
from spalloc_server.frontends.http.sessions import Signer

__all__ = ["Check", "Grants"]

Check: TypeAlias = CheckPassword | CheckToken | CheckSession

REMEMBERED_SECONDS = 60.0
"""For so long a password, token or session that was found good is not checked again."""

REMEMBERED = 20_000
"""Passwords, tokens and sessions that are remembered; with one more, the oldest is forgotten."""

CHECKED_AT_ONCE = 128
"""Passwords and tokens from one address that are checked at the same time. One more is answered with 429."""

KEY_SECONDS = 60.0
"""After so long the keys that sign cookies are asked for again, while the old ones are still used."""

NEW_KEY_SECONDS = 5.0
"""Where a cookie has another signature than those of the keys, these are asked for again, but not more often."""

T = TypeVar("T")


class Grants:
    """Who somebody is, and the keys that tell so of cookies.

    Args:
        asking: the server.
        clock: seconds.
    """

    def __init__(self, asking: Asking, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._asking = asking
        self._clock = clock
        self._hash_key = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[float, Grant]] = {}
        """With when it is forgotten, the oldest first."""
        self._checks: dict[bytes, asyncio.Task[Grant]] = {}
        self._checked = Counter[str | None]()
        """How many are being checked, by address."""
        self._signer: Signer | None = None
        self._keys_at = 0.0
        self._new_keys: asyncio.Task[Signer] | None = None

    async def check(self, command: Check) -> Grant:
        """Return what the server grants to this, or has granted within the last minute.

        Raises:
            RefusedError: it grants nothing.
            ServerAwayError: it does not answer.
        """
        key = self._hashed(command)
        if (known := self._known.get(key)) is not None and known[0] > self._clock():
            return known[1]
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = _task(self._ask(key, command))
        return await asyncio.shield(check)  # it is also others'

    async def begin(self, command: LogIn | LogInWithToken) -> str:
        """Begin a session; its id.

        Raises:
            RefusedError: name and password, or token, are not right.
            ServerAwayError: the server does not answer.
        """
        grant = await self._granted(command)
        if grant.session is None or not grant.session.startswith("s"):
            raise RefusedError("internal", "the server has begun a session without an id")
        self._remember(self._hashed(CheckSession(session=grant.session)), grant)
        return grant.session

    def forget(self, command: Check) -> None:
        """Forget what was granted to this, and what may be answered at this moment."""
        key = self._hashed(command)
        self._known.pop(key, None)
        self._checks.pop(key, None)

    async def signer(self, *, newest: bool = False) -> Signer:
        """Return what signs cookies and checks them.

        Args:
            newest: whether the server is asked for its keys now, unless it just has been.

        Raises:
            RefusedError, ServerAwayError: there are no keys yet.
        """
        age = self._clock() - self._keys_at
        if self._new_keys is None and (self._signer is None or age > (NEW_KEY_SECONDS if newest else KEY_SECONDS)):
            self._new_keys = _task(self._ask_for_keys())
        if self._signer is None or (newest and self._new_keys is not None):
            assert self._new_keys is not None
            return await asyncio.shield(self._new_keys)
        return self._signer

    async def _ask(self, key: bytes, command: Check) -> Grant:
        task = asyncio.current_task()
        try:
            grant = await self._granted(command)
            if self._checks.get(key) is task:  # it has not been forgotten meanwhile
                self._remember(key, grant)
            return grant
        finally:
            if self._checks.get(key) is task:
                del self._checks[key]

    async def _granted(self, command: Check | LogIn | LogInWithToken) -> Grant:
        """Return what the server grants; sessions are made by the server, so nobody can have many of them checked."""
        if isinstance(command, CheckSession):
            return await self._asking.ask(command, Grant)
        address = command.address
        if self._checked[address] >= CHECKED_AT_ONCE:
            raise RefusedError(
                "busy", "too many passwords and tokens from here are being checked: try again in a second"
            )
        self._checked[address] += 1
        try:
            return await self._asking.ask(command, Grant)
        finally:
            self._checked[address] -= 1
            if not self._checked[address]:
                del self._checked[address]

    def _remember(self, key: bytes, grant: Grant) -> None:
        now = self._clock()
        self._known.pop(key, None)  # so that it goes to the end
        self._known[key] = now + REMEMBERED_SECONDS, grant
        while len(self._known) > REMEMBERED or next(iter(self._known.values()))[0] <= now:
            del self._known[next(iter(self._known))]

    async def _ask_for_keys(self) -> Signer:
        try:
            self._signer = signer = Signer(await self._asking.ask(SigningKeys(), list[SigningKey]))
        except ValueError as error:
            raise RefusedError("internal", f"the server's keys for sessions are of no use: {error}") from error
        finally:
            self._keys_at, self._new_keys = self._clock(), None
        return signer

    def _hashed(self, command: Check) -> bytes:
        """Return what stands for `command`, without the address: it is the same from wherever it comes."""
        if not isinstance(command, CheckSession):
            command = msgspec.structs.replace(command, address=None)
        return hashlib.blake2b(msgspec.json.encode(command), key=self._hash_key, digest_size=32).digest()


def _task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Return a task that several may wait for, or nobody: how it ended need not be looked at."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
