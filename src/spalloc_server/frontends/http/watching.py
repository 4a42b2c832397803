"""What the server is asked to tell changes of, and who in this process waits for them.

Theory of operation. All who wait for one key share one subscription. The server says that a key has changed, not to
what; its revision is fetched by subscribing again. Where that fails, it is tried again and again, and key by key where
the server refuses. Who waits is woken, `WOKEN` at a time, and the next ones when most requests to the server have their
answers: ten thousand at once would hold up all others, here and there. A key that nobody has looked at for a while is
forgotten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError
from spalloc_server.frontends.local_api import MAX_KEYS, Subscribe, Unsubscribe
from spalloc_server.log.logger import Complaints

__all__ = ["Watching"]

WOKEN = 16
"""Requests that a change wakes in one cycle of the event loop, so that others have their turn."""

WAKE_SECONDS = 0.001
"""Between looks whether requests have been answered, so that further ones can be woken."""

WAKE_MOST_SECONDS = 0.02
"""After so long these are woken all the same."""

RETRY_SECONDS = 1.0
"""After so long the server is asked again to tell of changes, where it has refused that or has not answered."""

FORGET_SECONDS = 10.0
"""For so long after the last look at it a key stays subscribed to, because clients that poll come back."""

_revisions_in = msgspec.json.Decoder(dict[str, int]).decode


class _Watched:
    """A key that somebody waits for, or has waited for lately."""

    __slots__ = ("last", "revision", "waiters")

    def __init__(self) -> None:
        self.revision: int | None = None
        """None until the server has told it, and while it may be another."""
        self.waiters: set[asyncio.Future[None]] = set()
        self.last = 0.0


class Watching:
    """Waits for changes.

    Args:
        ask: sends a command to the server and returns the answer, as JSON.
        begin: begins a task.
        under_way: how many requests have no answer yet.
    """

    def __init__(
        self,
        ask: Callable[[Any], Awaitable[msgspec.Raw]],
        begin: Callable[[Coroutine[Any, Any, None]], None],
        under_way: Callable[[], int],
    ) -> None:
        self._ask, self._begin, self._under_way = ask, begin, under_way
        self._woken_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._keys: dict[str, _Watched] = {}
        self._failed = set[str]()
        """Keys that could not be subscribed to, and will be tried again."""
        self._complaints = Complaints()
        self._to_wake: deque[asyncio.Future[None]] = deque()
        self.closed = False
        """Whether nobody may wait any more: who does goes on at once."""

    async def changed(self, key: str, since: int, seconds: float) -> int:
        """Wait until the revision of `key` is not `since`, for at most `seconds`, see `Asking`."""
        watched = self._keys.get(key)
        if watched is None:
            watched = self._keys[key] = _Watched()
        deadline = self._loop.time() + seconds
        while True:
            now = watched.last = self._loop.time()
            revision = watched.revision
            if self.closed or now >= deadline or (revision is not None and revision != since):
                return since if revision is None else revision
            if revision is None and not watched.waiters:
                self._begin(self._subscribe([key]))
            await self._wait(watched, deadline)

    def hear(self, texts: list[str]) -> None:
        """The server says that these have changed."""
        stale = {text for text in texts if text in self._keys}
        for plural, prefix in (("jobs", "job/"), ("machines", "machine/")):
            if plural in texts:
                stale.update(key for key in self._keys if key.startswith(prefix))
            elif plural in self._keys and any(text.startswith(prefix) for text in texts):
                stale.add(plural)
        self._look_again(stale)

    def renew(self) -> None:
        """Everything may have changed, and the server may know of no subscriptions."""
        self._look_again(self._keys)

    def close(self) -> None:
        """Let nobody wait any more: who does goes on at once."""
        self.closed = True
        for watched in self._keys.values():
            self._wake(watched)

    async def forget(self) -> None:
        """Forget keys that nobody looks at any more, for ever."""
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            horizon = self._loop.time() - FORGET_SECONDS
            # All jobs, or all machines, are never forgotten: the single ones that are not subscribed to would go, too
            idle = {key: each for key, each in self._keys.items() if "/" in key and not each.waiters}
            old = [key for key, each in idle.items() if each.last < horizon]
            for key in old:
                del self._keys[key]
            with suppress(ServerAwayError, RefusedError):
                for begin in range(0, len(old), MAX_KEYS):
                    await self._ask(Unsubscribe(keys=old[begin : begin + MAX_KEYS]))

    async def _wait(self, watched: _Watched, deadline: float) -> None:
        waiter = self._loop.create_future()
        watched.waiters.add(waiter)
        timer = self._loop.call_at(deadline, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            watched.waiters.discard(waiter)

    def _look_again(self, keys: Iterable[str]) -> None:
        """Fetch the revisions of keys that somebody waits for; of others, when somebody does."""
        waited_for = []
        for key in keys:
            watched = self._keys[key]
            watched.revision = None
            if watched.waiters:
                waited_for.append(key)
        for begin in range(0, len(waited_for), MAX_KEYS):
            self._begin(self._subscribe(waited_for[begin : begin + MAX_KEYS]))

    async def _subscribe(self, keys: list[str]) -> None:
        """Subscribe to keys, and fetch their revisions; who waits for them is woken."""
        try:
            revisions = _revisions_in(await self._ask(Subscribe(keys=keys)))
        except (ServerAwayError, RefusedError) as exc:
            self._complaints.complain("the server does not tell of changes", keys=keys[:10], reason=str(exc))
            if isinstance(exc, RefusedError) and len(keys) > 1:  # one of them may be what is wrong
                for key in keys:
                    self._begin(self._subscribe([key]))
                return
            if not self._failed:
                self._begin(self._subscribe_again())
            self._failed.update(keys)
            return
        for key, revision in revisions.items():
            if (watched := self._keys.get(key)) is not None:
                watched.revision = revision
                self._wake(watched)

    async def _subscribe_again(self) -> None:
        """Subscribe to what has failed and is still waited for, after a while."""
        await asyncio.sleep(RETRY_SECONDS)
        failed, self._failed = self._failed, set()
        self._look_again([key for key in failed if key in self._keys and self._keys[key].revision is None])

    def _wake(self, watched: _Watched) -> None:
        idle = not self._to_wake
        self._to_wake.extend(watched.waiters)
        if idle and self._to_wake:
            self._loop.call_soon(self._wake_some)

    def _wake_some(self) -> None:
        now = self._loop.time()
        if self._under_way() >= WOKEN and now < self._woken_at + WAKE_MOST_SECONDS and not self.closed:
            self._loop.call_later(WAKE_SECONDS, self._wake_some)
            return
        self._woken_at = now
        for _ in range(min(WOKEN, len(self._to_wake))):
            _finish(self._to_wake.popleft())
        if self._to_wake:
            self._loop.call_soon(self._wake_some)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
