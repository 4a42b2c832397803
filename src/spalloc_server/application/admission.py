"""How often a caller may ask: one budget of rates, whatever door the caller comes by.

Theory of operation. Nothing is refused here: `charge` says for how long the next command of this caller must wait, and
the door waits, or tells the caller to. Keepalives are counted apart, so that a busy program does not lose its jobs. So
are creations of jobs, each of which leaves a line of history: they have a budget of their own, which is for campaigns
of a whole laboratory, and of which `delay` tells before one is done, so that many connections are no way around it. A
key (an address, or a verified name) is forgotten once it has earned what it has sent, and not before: else a caller
could get around the limit by connecting again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum

from spalloc_server.config.options import Limits

__all__ = ["Admission", "Charged"]

BURST_SECONDS = 2.0
"""A caller may be ahead of its rate by the commands of so much time."""

CREATE_BURST = 1000
"""Jobs that may be created in a row from one address, before their rate counts."""

SWEEP_KEYS = 1024
"""Callers whose rates are remembered before those are looked for that can be forgotten."""


class Charged(IntEnum):
    """What is counted apart."""

    KEEPALIVE = 0
    COMMAND = 1
    CREATE = 2


class Admission:
    """Counts commands.

    Args:
        rate: commands a second of one caller, on average; 0 for no limit. May be assigned anew.
        creates: jobs a second that one caller creates, likewise.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float = 0.0, creates: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.creates = creates
        self._clock = clock
        self._due: dict[str, list[float]] = {}
        """When a caller will have earned its commands, by `Charged`."""
        self._sweep_at = SWEEP_KEYS

    def configure(self, limits: Limits) -> None:
        """Count by the rates of a configuration."""
        self.rate, self.creates = limits.commands_per_second, limits.creates_per_second

    def charge(self, key: str, kind: Charged = Charged.COMMAND) -> float:
        """Count a command; return the seconds to wait before the next one of this caller."""
        rate, ahead = self._budget(kind)
        if not rate:
            return 0.0
        now = self._clock()
        due = self._due.get(key)
        if due is None:
            if len(self._due) >= self._sweep_at:
                self._sweep(now)
            due = self._due[key] = [0.0] * len(Charged)
        due[kind] = max(due[kind], now) + 1 / rate
        return max(0.0, due[kind] - now - ahead)

    def delay(self, key: str, kind: Charged = Charged.COMMAND) -> float:
        """Return the seconds that this caller must wait now, without counting anything."""
        rate, ahead = self._budget(kind)
        due = self._due.get(key) if rate else None
        return 0.0 if due is None else max(0.0, due[kind] - self._clock() - ahead)

    def _budget(self, kind: Charged) -> tuple[float, float]:
        """(commands a second, by how many seconds a caller may be ahead)."""
        if kind is not Charged.CREATE:
            return self.rate, BURST_SECONDS
        return self.creates, CREATE_BURST / self.creates if self.creates else 0.0

    def _sweep(self, now: float) -> None:
        """Forget who has earned everything. The more must be kept, the later comes the next sweep."""
        self._due = {key: due for key, due in self._due.items() if max(due) > now}
        self._sweep_at = max(SWEEP_KEYS, 2 * len(self._due))
