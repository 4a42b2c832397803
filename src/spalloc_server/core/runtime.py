"""How long a job will probably run: nobody says so, but people do similar things again.

Theory of operation. The prediction is the mean of the run times of the owner's last two jobs of the same size; where
there are none, of the owner's last two of any size; where there are none either, of everybody's last ones. A job that
says how long it may run at most is not predicted to run longer.
"""

from __future__ import annotations

from spalloc_server.core.messages import Request

__all__ = ["RunTimes"]


class RunTimes:
    """What is known of the run times of past jobs."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, object], list[float]] = {}
        self._owner: dict[str, list[float]] = {}
        self._all: list[float] = []

    def learn(self, request: Request, seconds: float) -> None:
        """A job that asked for this ran so many seconds."""
        key = (request.owner, _size(request))
        self._last[key] = [*self._last.get(key, ()), seconds][-2:]
        self._owner[request.owner] = [*self._owner.get(request.owner, ()), seconds][-2:]
        self._all = [*self._all, seconds][-50:]

    def predict(self, request: Request) -> float:
        """Seconds that a job that asks for this will probably run."""
        known = (
            self._last.get((request.owner, _size(request))) or self._owner.get(request.owner) or self._all or [600.0]
        )
        mean = sum(known) / len(known)
        return mean if request.max_runtime is None else min(mean, request.max_runtime)


def _size(request: Request) -> object:
    return request.boards or request.triads or request.board
