"""Who wants to hear of which jobs, or of which machines.

Theory of operation. A client watches everything or a set of keys, never both: asking for everything forgets the keys,
and single keys can neither be added to nor taken from everything (as published servers have it). Both directions are
indexed, so that a change costs as much as it has watchers, and a client that leaves as much as it had watches.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["Watches"]

C = TypeVar("C", bound=Hashable)
K = TypeVar("K", bound=Hashable)


class Watches(Generic[C, K]):
    """Which clients watch which keys."""

    def __init__(self) -> None:
        self._of_all: set[C] = set()
        self._clients: dict[K, set[C]] = {}
        self._keys: dict[C, set[K]] = {}

    def watched(self, client: C) -> Collection[K] | None:
        """What `client` watches; None for everything."""
        return None if client in self._of_all else self._keys.get(client, ())

    def watch(self, client: C, key: K | None) -> None:
        """Tell `client` of changes of `key`; of all keys where it is None."""
        if key is None:
            self.forget(client)
            self._of_all.add(client)
        elif client not in self._of_all:
            self._keys.setdefault(client, set()).add(key)
            self._clients.setdefault(key, set()).add(client)

    def unwatch(self, client: C, key: K | None) -> None:
        """Undo `watch`; all of them where `key` is None."""
        if key is None:
            self.forget(client)
        elif key in self._keys.get(client, ()):
            self._keys[client].remove(key)
            self._leave(client, key)

    def forget(self, client: C) -> None:
        """Remove all that `client` watches."""
        self._of_all.discard(client)
        for key in self._keys.pop(client, ()):
            self._leave(client, key)

    def drop(self, keys: Iterable[K]) -> None:
        """Nobody watches these by name any longer: they will not change again."""
        for key in keys:
            for client in self._clients.pop(key, ()):
                self._keys[client].remove(key)

    def affected(self, keys: Collection[K]) -> Iterator[tuple[C, Collection[K]]]:
        """(client, keys of interest) of everybody who is to hear that `keys` changed; a client may come repeatedly."""
        if keys:
            for client in self._of_all:
                yield client, keys
        for key in keys:
            for client in self._clients.get(key, ()):
                yield client, (key,)

    def _leave(self, client: C, key: K) -> None:
        clients = self._clients[key]
        clients.remove(client)
        if not clients:
            del self._clients[key]
