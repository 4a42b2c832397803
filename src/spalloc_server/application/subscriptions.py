"""Who wants to hear of which changes: of one job or machine, of all of them, or of the server itself.

Theory of operation. `publish` is told after each commit what has changed. A *listener* is called back with the names of
what it has asked for, and merges them until its client can take them: nothing is queued here. It hears of everything of
a kind or of a set of names, never both: asking for everything forgets the names, and single names can neither be added
to nor taken from everything (as v1 has it). Both directions are indexed, so that a change costs as much as it has
listeners, and a listener that leaves as much as it had asked for.

Each change gives its key a new *revision*. Who has read something at one revision can `wait` until it is another; so
nothing is missed between two looks. Revisions only tell same from different. They begin at the time of the start in
microseconds, so those of an earlier process differ, and a change is rather told twice than not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Hashable, Iterable
from typing import Protocol

from spalloc_server.application.commands import Key, Kind, Name

__all__ = ["Listener", "Subscriptions"]


MAX_ENDED = 10_000
"""Jobs that have ended whose last revisions are remembered, for those who have looked before and wait only now."""


class Listener(Hashable, Protocol):
    """Somebody who wants to hear of changes."""

    def hear(self, kind: Kind, names: Collection[Name]) -> None:
        """Take note that these have changed, soon after the commit; may be called repeatedly for one commit."""


class _OfKind:
    """Which listeners want to hear of which names of one kind."""

    def __init__(self) -> None:
        self.of_all: set[Listener] = set()
        self.listeners: dict[Name, set[Listener]] = {}
        self.names: dict[Listener, set[Name]] = {}
        self.revisions: dict[Name, int] = {}
        self.ended: deque[Name] = deque()
        """Names whose revisions will be forgotten, the oldest first."""
        self.revision = 0
        """Of all of this kind."""

    def forget(self, listener: Listener) -> None:
        self.of_all.discard(listener)
        for name in self.names.pop(listener, ()):
            self.leave(listener, name)

    def leave(self, listener: Listener, name: Name) -> None:
        others = self.listeners[name]
        others.discard(listener)
        if not others:
            del self.listeners[name]


class Subscriptions:
    """Tells listeners what has changed.

    Args:
        first: a revision that no earlier process has used; by default the time in microseconds.
    """

    def __init__(self, first: int | None = None) -> None:
        self._first = self._last = time.time_ns() // 1000 if first is None else first
        self._kinds = {kind: _OfKind() for kind in Kind}
        for each in self._kinds.values():
            each.revision = self._first

    # -- listeners

    def subscribe(self, listener: Listener, key: Key) -> None:
        """Let `listener` hear of changes of `key`."""
        of_kind = self._kinds[key.kind]
        if key.name is None:
            of_kind.forget(listener)
            of_kind.of_all.add(listener)
        elif listener not in of_kind.of_all:
            of_kind.names.setdefault(listener, set()).add(key.name)
            of_kind.listeners.setdefault(key.name, set()).add(listener)

    def unsubscribe(self, listener: Listener, key: Key) -> None:
        """Undo `subscribe`; of everything of this kind where `key` has no name."""
        of_kind = self._kinds[key.kind]
        if key.name is None:
            of_kind.forget(listener)
        elif key.name in of_kind.names.get(listener, ()):
            of_kind.names[listener].remove(key.name)
            of_kind.leave(listener, key.name)

    def forget(self, listener: Listener) -> None:
        """Undo all that `listener` has subscribed to."""
        for of_kind in self._kinds.values():
            of_kind.forget(listener)

    def subscribed(self, listener: Listener, kind: Kind) -> Collection[Name] | None:
        """Return the names of this kind that `listener` hears of; None for all of them."""
        of_kind = self._kinds[kind]
        return None if listener in of_kind.of_all else of_kind.names.get(listener, ())

    def count(self, listener: Listener) -> int:
        """Return how many keys `listener` has subscribed to."""
        return sum(1 if listener in each.of_all else len(each.names.get(listener, ())) for each in self._kinds.values())

    # -- changes

    def publish(self, kind: Kind, names: Collection[Name], ended: Iterable[Name] = ()) -> None:
        """Tell that these have changed; those that have ended change no more, and are forgotten after a while."""
        of_kind = self._kinds[kind]
        if names:
            self._last += 1
            of_kind.revision = self._last
            for listener in of_kind.of_all:
                listener.hear(kind, names)
        for name in names:
            of_kind.revisions[name] = self._last
            for listener in of_kind.listeners.get(name, ()):
                listener.hear(kind, (name,))
        for name in ended:
            of_kind.ended.append(name)
            if len(of_kind.ended) > MAX_ENDED:
                of_kind.revisions.pop(of_kind.ended.popleft(), None)
            for listener in of_kind.listeners.pop(name, ()):
                of_kind.names[listener].remove(name)

    def revision(self, key: Key) -> int:
        """Return the revision of `key`, which is another after each change."""
        of_kind = self._kinds[key.kind]
        return of_kind.revision if key.name is None else of_kind.revisions.get(key.name, self._first)

    async def wait(self, key: Key, since: int, seconds: float) -> int:
        """Wait until the revision of `key` is not `since`, for at most `seconds`; return it then."""
        waiter = _Waiter()
        self.subscribe(waiter, key)
        try:
            if self.revision(key) == since:
                async with asyncio.timeout(seconds):
                    await waiter.wait()
        except TimeoutError:
            pass
        finally:
            self.forget(waiter)
        return self.revision(key)


class _Waiter(asyncio.Event):
    """Is set by a change."""

    def hear(self, _kind: Kind, _names: Collection[Name]) -> None:
        self.set()
