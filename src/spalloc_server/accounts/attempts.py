"""How often passwords may be tried.

Theory of operation. Wrong passwords are counted for the pair of account and network, for the network, and for the
account; each count runs down with time. Who tries from a network that has many wrong passwords on record, or many for
this account, is refused for a while, which grows with the count up to a minute or two. An account is guarded against
many networks, too. But anybody could keep its owner out if that were a refusal: so each attempt only waits for some
seconds, by itself, and a right password is right however many wrong ones came before.

Networks from which an account has logged in lately are *known*, and only its own wrong passwords from there count: so
neither somebody far away nor a neighbour's broken script hinders those who come from where they always come from.

An attempt counts from its beginning, so that a hundred at the same time are no way around it; a right password takes
its count back. Names count alike whether there is such an account or not. Counts are kept for a bounded number of names
and networks, the least recent of which are forgotten; that of an account is stored with it.

A network is what `config.hosts.network_of` makes of an address.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import ceil
from typing import NamedTuple

from spalloc_server.errors import BusyError

__all__ = ["Attempt", "Attempts"]

FREE_OF_PAIR = 5
"""Wrong passwords of one account from one network, before the next attempt is refused for a while."""

FREE_OF_NETWORK = 20
"""Wrong passwords from one network, likewise, for accounts that have not logged in from there."""

FREE_OF_ACCOUNT = 10
"""Wrong passwords of one account from anywhere, before further attempts from networks that it does not know wait."""

PAIR_SECONDS = 120.0
"""The longest time for which an account is refused from one network."""

NETWORK_SECONDS = 60.0
"""The longest time for which a network is refused."""

ACCOUNT_SECONDS = 4.0
"""The longest time for which an attempt waits because of others. Published clients wait for 10 s."""

PAIR_FORGIVEN_SECONDS = 600.0
"""One wrong password of an account from one network is forgotten in each of these."""

FORGIVEN_SECONDS = 60.0
"""One wrong password of an account, or from a network, is forgotten in each of these."""

MAX_COUNTS = 20_000
"""Pairs, networks and accounts, of each, whose wrong passwords are counted."""

KNOWN = 8
"""Networks of an account that are remembered."""


class Attempt(NamedTuple):
    """A password is tried."""

    name: str
    network: str
    known: bool
    """Whether the account has logged in from there."""
    wait: float
    """Seconds to wait before it is looked at."""


class _Counts:
    """Wrong passwords, by something."""

    def __init__(self, free: int, longest: float, forgiven: float) -> None:
        self._free, self._longest, self._forgiven = free, longest, forgiven
        self._counts: dict[Hashable, tuple[float, float]] = {}
        """(how many, as of when), the least recent first."""

    def count(self, key: Hashable, now: float) -> float:
        """How many count now."""
        count, at = self._counts.get(key, (0.0, now))
        return max(0.0, count - (now - at) / self._forgiven)

    def is_over(self, key: Hashable, now: float) -> bool:
        """Whether more count than are free; one that has begun to be forgotten still does."""
        return ceil(self.count(key, now)) >= self._free

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds that this many cost after the last of them."""
        over = ceil(self.count(key, now)) - self._free
        return 0.0 if over < 0 else min(self._longest, 2.0 ** min(over, 32))

    def refused(self, key: Hashable, now: float) -> float:
        """Seconds of that which are still to come."""
        return self.wait(key, now) - (now - self._counts.get(key, (0.0, 0.0))[1])

    def set(self, key: Hashable, count: float, at: float) -> None:
        """Have so many count."""
        self._counts.pop(key, None)
        if count > 0:
            self._counts[key] = count, at
        if len(self._counts) > MAX_COUNTS:
            del self._counts[next(iter(self._counts))]

    def add(self, key: Hashable, now: float, more: float = 1.0) -> None:
        """Count one more, or less; that does not change when the last was."""
        at = now if more > 0 else self._counts.get(key, (0.0, now))[1]
        self.set(key, max(0.0, self.count(key, at) + more), at)

    def forget(self, which: Callable[[Hashable], bool]) -> None:
        """Forget those."""
        for key in list(filter(which, self._counts)):
            del self._counts[key]


class Attempts:
    """Counts wrong passwords.

    Args:
        clock: seconds since the Unix epoch; never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pairs = _Counts(FREE_OF_PAIR, PAIR_SECONDS, PAIR_FORGIVEN_SECONDS)
        self._networks = _Counts(FREE_OF_NETWORK, NETWORK_SECONDS, FORGIVEN_SECONDS)
        self._accounts = _Counts(FREE_OF_ACCOUNT, ACCOUNT_SECONDS, FORGIVEN_SECONDS)

    def begin(self, name: str, network: str, *, known: bool) -> Attempt:
        """Count an attempt as wrong until it is known to be right.

        Raises:
            BusyError: nobody may try from there for a while.
        """
        now = self._clock()
        refused = self._pairs.refused((name, network), now)
        if not known:
            refused = max(refused, self._networks.refused(network, now))
        if refused > 0:
            raise BusyError(f"there were too many wrong passwords from here: try again in {ceil(refused)} s")
        attempt = Attempt(name, network, known, 0.0 if known else self._accounts.wait(name, now))
        self._pairs.add((name, network), now)
        self._networks.add(network, now)
        self._accounts.add(name, now)
        return attempt

    def right(self, attempt: Attempt) -> None:
        """The password was right."""
        self._pairs.set((attempt.name, attempt.network), 0.0, 0.0)
        self._take_back(attempt)

    def dropped(self, attempt: Attempt) -> None:
        """The password was not looked at."""
        self._pairs.add((attempt.name, attempt.network), self._clock(), -1.0)
        self._take_back(attempt)

    def _take_back(self, attempt: Attempt) -> None:
        now = self._clock()
        self._networks.add(attempt.network, now, -1.0)
        self._accounts.add(attempt.name, now, -1.0)

    def of_account(self, name: str) -> float:
        """How many wrong passwords of an account count now."""
        return self._accounts.count(name, self._clock())

    def is_locked(self, name: str) -> bool:
        """Whether attempts from networks that the account does not know must wait."""
        return self._accounts.is_over(name, self._clock())

    def keep(self, name: str, count: float, at: float) -> None:
        """Take over what is stored with an account."""
        self._accounts.set(name, count, at)

    def forget(self, name: str) -> None:
        """Forget the wrong passwords of an account."""
        self._accounts.set(name, 0.0, 0.0)
        self._pairs.forget(lambda key: isinstance(key, tuple) and key[0] == name)
