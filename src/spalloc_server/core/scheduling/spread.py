"""How far predictions of starts are off: learnt from those that were made before.

Theory of operation. A forecast says how long a job will wait if all predictions of run times come true and nobody else
comes. Neither is so. How much longer or shorter jobs then wait depends on how busy the machines are, and with what. So
each forecast is remembered, and compared with when its job starts; the time for which an operator keeps a job from
starting says nothing about forecasts, so what was said before that is forgotten. Of the last forecasts of a *kind* (as
far ahead, for jobs as large, found in the same way) the middle one corrects the next forecast, and most are its spread:
all but the earliest twentieth and the latest tenth. A job that waits longer than its spread said is learnt from at
once, with the wait that is predicted of it by then: else those that wait for long would be heard of too late.

Nothing of this is stored: after a restart it begins with what is usual.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Container
from typing import TypeAlias

__all__ = ["Spreads"]

AHEAD = 60.0, 300.0, 1800.0, 7200.0, 36000.0
"""Seconds ahead that are kinds apart."""

LARGE_PART = 0.1
"""Part of its machines' boards from which on a job is large."""

SAMPLES = 300
"""The last forecasts of a kind that are compared with what happened."""

AGAIN = 20
"""Quantiles are found again when one in so many of those that were seen is new."""

USUAL = 0.35, 0.5, 0.8, 0.9, 1.0, 1.0, 1.1, 1.3, 1.8, 2.5, 4.0
"""How long jobs wait, by what was predicted, until enough have been seen."""

Kind: TypeAlias = tuple[int, bool, bool]
"""(Number of the part of `AHEAD`, whether the job is large, whether it was estimated)."""


class Spreads:
    """Corrects forecasts, and says how far off they may be."""

    def __init__(self) -> None:
        self._seen: dict[Kind, deque[float]] = {}
        """Waits by what was predicted."""
        self._quantiles: dict[Kind, tuple[float, float, float]] = {}
        self._unsorted: dict[Kind, int] = {}
        """How many have been seen since the quantiles were found."""
        self._said: dict[int, dict[Kind, tuple[float, float]]] = {}
        """By job and kind, the first forecast: (when it was made, how many seconds ahead)."""

    def spread(
        self, job_id: int, now: float, start: float, *, part: float, estimated: bool
    ) -> tuple[float, float, float]:
        """Return (earliest, start, latest) of a job that is predicted to start at `start`.

        Args:
            job_id: the job.
            now: the time.
            start: when it would start if all went as predicted.
            part: the part of its machines' boards that it asks for.
            estimated: whether only the work before it was counted.
        """
        ahead = max(0.0, start - now)
        kind = bisect(AHEAD, ahead), part >= LARGE_PART, estimated
        base = max(ahead, AHEAD[0])
        self._learn_from_late(job_id, now, ahead)
        self._said.setdefault(job_id, {}).setdefault(kind, (now, base))
        low, middle, high = self._quantiles.get(kind) or _quantiles(USUAL)
        best = middle * base if ahead >= AHEAD[0] else ahead
        return now + min(low * base, best), now + best, now + max(high * base, best)

    def started(self, job_id: int, now: float) -> None:
        """Learn from a job that starts."""
        for kind, (said_at, base) in self._said.pop(job_id, {}).items():
            self._learn(kind, (now - said_at) / base)

    def _learn_from_late(self, job_id: int, now: float, ahead: float) -> None:
        """Learn from a job that still waits, where that is longer than was said."""
        said = self._said.get(job_id, {})
        for kind, (said_at, base) in [*said.items()]:
            by_then = (now - said_at + ahead) / base
            if by_then > (self._quantiles.get(kind) or _quantiles(USUAL))[2]:
                self._learn(kind, by_then)
                del said[kind]

    def _learn(self, kind: Kind, wait: float) -> None:
        seen = self._seen.setdefault(kind, deque(USUAL, SAMPLES))
        seen.append(wait)
        self._unsorted[kind] = self._unsorted.get(kind, 0) + 1
        if AGAIN * self._unsorted[kind] >= len(seen):  # sorting takes time, and thousands may be learnt from at once
            self._unsorted[kind], self._quantiles[kind] = 0, _quantiles(tuple(seen))

    def forget(self, job_id: int) -> None:
        """Forget what was said of a job: no forecast could have foreseen for how long it is kept from starting."""
        self._said.pop(job_id, None)

    def forget_all_but(self, waiting: Container[int]) -> None:
        """Forget what was said of jobs that wait no more, and never started."""
        self._said = {job_id: said for job_id, said in self._said.items() if job_id in waiting}


def _quantiles(values: tuple[float, ...]) -> tuple[float, float, float]:
    """Return what a twentieth, half and nine tenths are below."""
    ordered = sorted(values)
    return ordered[len(ordered) // 20], ordered[len(ordered) // 2], ordered[9 * len(ordered) // 10]
