"""Predictions from the past: how long an owner's next job will probably run, and the owner's share of recent use.

Theory of operation. Requests state no run time, but people do similar things again. The prediction is the mean of the
run times of the owner's last two jobs of the same size (Tsafrir, Etsion and Feitelson, 2007); where there are none, of
the owner's last two of any size; where there are none either, of everybody's last ones. A job that says how long it may
run at most is not predicted to run longer. A job that runs longer than predicted is predicted anew, to run on for a
fraction of what it has run already.

An owner's use is counted in board-seconds, of which half are forgotten after every half-life. An owner's share is
that of all owners' use. Of the owners, those are remembered whose jobs ended last.
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
    total: float = 0.0
    """What everybody had used by then."""


class Past:
    """All owners' past."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._owners: dict[str, Owner] = {}
        """In order of their last jobs' ends, the latest at the end."""
        self._everybody = Owner()
        self._changed: set[str] = set()

    def learn(self, request: Request, boards: int, seconds: float, now: float) -> None:
        """A job that asked for this had so many boards for so long."""
        owner = self._owners[request.owner] = self._owners.pop(request.owner, Owner())
        size = _size(request)
        owner.sizes[size] = [*owner.sizes.pop(size, ()), seconds][-SIMILAR:]
        if len(owner.sizes) > MAX_SIZES:
            del owner.sizes[next(iter(owner.sizes))]
        owner.last = [*owner.last, seconds][-SIMILAR:]
        self._everybody.last = [*self._everybody.last, seconds][-EVERYBODY:]
        for one in (owner, self._everybody):
            one.used, one.at = self._used(one, now) + boards * seconds, now
        owner.total = self._everybody.used
        self._changed |= {f"owner/{request.owner}", "everybody"}
        self._forget()

    def predict(self, request: Request) -> float:
        """Seconds that a job that asks for this will probably run."""
        owner = self._owners.get(request.owner, Owner())
        known = owner.sizes.get(_size(request)) or owner.last or self._everybody.last or [UNKNOWN]
        mean = sum(known) / len(known)
        return mean if request.max_runtime is None else min(mean, request.max_runtime)

    def share(self, owner: str, now: float) -> float:
        """An owner's part of all use, 0 to 1; for a time before the last count, the part at that count."""
        one = self._owners.get(owner, Owner())
        if self.counted(owner, now):
            return one.used / one.total
        now = max(now, self._everybody.at)  # the two amounts were counted at different times
        total = self._used(self._everybody, now)
        return self._used(one, now) / total if total > 0 else 0.0

    def counted(self, owner: str, since: float) -> bool:
        """Whether an owner's use has been counted since then; if so, other owners' jobs do not change the share."""
        one = self._owners.get(owner)
        return one is not None and one.total > 0 and since <= one.at

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
            elif name.startswith("owner/"):
                owners[name.removeprefix("owner/")] = _owner(fact)
        self._owners = dict(sorted(owners.items(), key=lambda item: item[1].at))
        self._forget()

    def _forget(self) -> None:
        """Keep no more owners than are remembered."""
        while len(self._owners) > MAX_OWNERS:
            name = next(iter(self._owners))
            del self._owners[name]
            self._changed.add(f"owner/{name}")

    def _used(self, owner: Owner, now: float) -> float:
        halvings = max(0.0, now - owner.at) / self.half_life
        return owner.used * math.pow(0.5, halvings)


def _owner(fact: Any) -> Owner:
    owner = msgspec.convert(fact, Owner)
    amounts = (owner.used, owner.total, *owner.last, *chain(*owner.sizes.values()))
    if not all(0 <= amount <= LARGEST for amount in amounts):
        raise ValueError("use and run times are not negative, and not absurdly long")
    if not abs(owner.at) <= LARGEST or any(not some for some in owner.sizes.values()):
        raise ValueError("when it was counted, or what was counted, is missing")
    return owner


def _size(request: Request) -> str:
    if request.triads is not None:
        return f"{request.triads[0]}x{request.triads[1]}"
    return str(request.boards or 1)
