"""Predictions from the past: how long an owner's next job will probably run, and the owner's share of recent use.

Theory of operation. Requests state no run time, but people do similar things again. The prediction is the mean of the
run times of the owner's last two jobs of the same size (Tsafrir, Etsion and Feitelson, 2007); where there are none, of
the owner's last two of any size; where there are none either, of everybody's last ones. A job that says how long it may
run at most is not predicted to run longer. A job that runs longer than predicted is predicted anew, to run on for a
fraction of what it has run already.

An owner's use is counted in board-seconds, of which half are forgotten after every half-life. Of the owners, those are
remembered whose jobs ended last. The sums of their use, and of its squares, are kept up with every job that ends, for
the order of the queue is worked out from them at every pass (`order`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import msgspec

from spalloc_server.core.model import Request

__all__ = ["Past"]

UNKNOWN = 600.0
"""Seconds predicted while no job has ended yet."""

SIMILAR = 2
"""An owner's last jobs whose mean run time predicts that of the next."""

EVERYBODY = 50
"""The last jobs of all owners whose mean run time predicts that of a new owner's first job."""

MAX_SIZES = 16
"""Sizes of jobs for which an owner's run times are kept: those used last."""


MAX_OWNERS = 10_000
"""Owners that are remembered; those whose jobs ended last."""


LARGEST = 1e18
"""No stored amount of board-seconds is larger; the row of a larger one is set aside."""


class Owner(msgspec.Struct):
    """What is kept of an owner. Run times in seconds, oldest first."""

    last: list[float] = []
    sizes: dict[str, list[float]] = {}
    """By size, the one used last at the end."""
    used: float = 0.0
    """Board-seconds, as they counted at `at`."""
    at: float = 0.0


class Past:
    """All owners' past."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._owners: dict[str, Owner] = {}
        """In order of their last jobs' ends, the latest at the end."""
        self._everybody = Owner()
        self._mean = UNKNOWN
        """Predicted for an owner of whom nothing is known."""
        self._changed: set[str] = set()
        self._sum = self._squares = 0.0
        """Of all owners' use, as it counted at `_at`."""
        self._at = 0.0

    def learn(self, request: Request, boards: int, seconds: float, now: float) -> None:
        """A job that asked for this had so many boards for so long."""
        owner = self._owners[request.owner] = self._owners.pop(request.owner, Owner())
        size = _size(request)
        owner.sizes[size] = [*owner.sizes.pop(size, ()), seconds][-SIMILAR:]
        if len(owner.sizes) > MAX_SIZES:
            del owner.sizes[next(iter(owner.sizes))]
        owner.last = [*owner.last, seconds][-SIMILAR:]
        self._everybody.last = [*self._everybody.last, seconds][-EVERYBODY:]
        self._mean = sum(self._everybody.last) / len(self._everybody.last)
        if now < self._at:  # the clock went back
            self._sum_up(now)
        before, (total, squares) = self._used(owner, now), self.sums(now)
        owner.used, owner.at = before + boards * seconds, now
        self._sum, self._squares = total - before + owner.used, squares - before**2 + owner.used**2
        self._at = now
        self._changed |= {f"owner/{request.owner}", "everybody"}
        self._forget()

    def predict(self, request: Request) -> float:
        """Seconds that a job that asks for this will probably run."""
        owner = self._owners.get(request.owner)
        known = owner and (owner.sizes.get(_size(request)) or owner.last)
        mean = sum(known) / len(known) if known else self._mean
        return mean if request.max_runtime is None else min(mean, request.max_runtime)

    def used(self, owner: str, now: float) -> float:
        """An owner's use in board-seconds, as it counts now."""
        one = self._owners.get(owner)
        return 0.0 if one is None else self._used(one, now)

    def sums(self, now: float) -> tuple[float, float]:
        """The sum of all owners' use as it counts now, and the sum of its squares."""
        left = math.pow(0.5, max(0.0, now - self._at) / self.half_life)
        return self._sum * left, self._squares * left**2

    def set_half_life(self, half_life: float) -> None:
        """Have use forgotten sooner or later from now on, as if it had always been so."""
        if half_life != self.half_life:
            self.half_life = half_life
            self._sum_up(self._at)

    def facts(self) -> dict[str, Any]:
        """What has changed since the last call, as plain JSON; None for an owner who is forgotten."""
        changed, self._changed = self._changed, set()
        return {
            name: msgspec.to_builtins(
                self._everybody if name == "everybody" else self._owners.get(name.removeprefix("owner/"))
            )
            for name in changed
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take back what `facts` gave, ever, in whatever order; other facts are left alone.

        Raises:
            ValueError: a fact is not of its form, or has numbers that cannot be.
        """
        owners = {}
        for name, fact in facts.items():
            if name == "everybody":
                self._everybody = _owner(fact)
                self._mean = sum(self._everybody.last or [UNKNOWN]) / max(1, len(self._everybody.last))
            elif name.startswith("owner/"):
                owners[name.removeprefix("owner/")] = _owner(fact)
        self._owners = dict(sorted(owners.items(), key=lambda item: item[1].at))
        self._sum_up(max((owner.at for owner in owners.values()), default=0.0))
        self._forget()

    def _forget(self) -> None:
        """Keep no more owners than are remembered."""
        while len(self._owners) > MAX_OWNERS:
            name = next(iter(self._owners))
            used = self._used(self._owners[name], self._at)
            del self._owners[name]
            self._sum, self._squares = max(0.0, self._sum - used), max(0.0, self._squares - used**2)
            self._changed.add(f"owner/{name}")

    def _sum_up(self, at: float) -> None:
        """Work out the sums anew, as use counts at this time."""
        used = [self._used(owner, at) for owner in self._owners.values()]
        self._sum, self._squares, self._at = sum(used), sum(each**2 for each in used), at

    def _used(self, owner: Owner, now: float) -> float:
        halvings = max(0.0, now - owner.at) / self.half_life
        return owner.used * math.pow(0.5, halvings)


def _owner(fact: Any) -> Owner:
    owner = msgspec.convert(fact, Owner)
    amounts = (owner.used, *owner.last, *chain(*owner.sizes.values()))
    if not all(0 <= amount <= LARGEST for amount in amounts):
        raise ValueError("use and run times are not negative, and not absurdly long")
    if not abs(owner.at) <= LARGEST or any(not some for some in owner.sizes.values()):
        raise ValueError("when it was counted, or what was counted, is missing")
    return owner


def _size(request: Request) -> str:
    if request.triads is not None:
        return f"{request.triads[0]}x{request.triads[1]}"
    return str(request.boards or 1)
