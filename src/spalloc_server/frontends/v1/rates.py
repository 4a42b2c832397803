"""How often an address may ask.

Theory of operation. An address that sends more than `commands_per_second` is not refused anything: its connections are
read more slowly. For each address there is a time at which it will have earned the commands that it sent; where that
is more than `BURST_SECONDS` ahead, its next command waits. Keepalives are counted apart, so that a busy script does not
lose its jobs. An address is remembered until that time has passed, so reconnecting is no way around the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["BURST_SECONDS", "Rates"]

BURST_SECONDS = 2.0
"""An address may be ahead of `commands_per_second` by the commands of so much time."""

SWEEP_AT: Final = 64
"""Addresses that are remembered before those are looked for that have earned their commands, and can be forgotten."""


class Rates:
    """Counts the commands of each address.

    Args:
        rate: commands a second, on average; 0 for no limit. May be assigned anew.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._due: dict[str, list[float]] = {}
        """When each address will have earned its keepalives, and all its other commands."""
        self._sweep_at = SWEEP_AT

    def charge(self, host: str, command: str) -> float:
        """Count a command against its address; seconds to wait before the next one is read."""
        if not self.rate:
            return 0.0
        kind, now = command != "job_keepalive", self._clock()
        due = self._due.get(host) or self._remember(host, now)
        due[kind] = max(due[kind], now) + 1 / self.rate
        return max(0.0, due[kind] - now - BURST_SECONDS)

    def _remember(self, host: str, now: float) -> list[float]:
        if len(self._due) >= self._sweep_at:
            self._due = {each: due for each, due in self._due.items() if max(due) > now}
            self._sweep_at = max(SWEEP_AT, 2 * len(self._due))
        self._due[host] = due = [now, now]
        return due
