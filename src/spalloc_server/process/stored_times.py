"""Stored times meet a new clock: whether it goes on where the last one was, and whether history may be deleted by it.

Theory of operation. Each process reads the wall clock once, and goes on by the monotonic one
(`controller.steady_time`), so two processes may have two clocks. Therefore it is stored now and then what time it was,
in which boot of the computer, and for how long that had been up. Within one boot the next process knows by this what
its predecessor's clock would say. After another boot it does not: then no time has passed for what goes on since a
server was last seen. In either case all stored times are moved by what its own clock says instead
(`core.moved_times`), so that no duration is ever the difference of two clocks.

History cannot be had back once it is deleted. A clock that is more than `DOUBTED_SECONDS` ahead of the last time that
was believed is not believed before it has held for `HOLD_SECONDS`. Until then that time stays what it was, so that it
is doubted anew in each process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from spalloc_server.controller import steady_time
from spalloc_server.core.model import Snapshot
from spalloc_server.log.logger import get_logger

__all__ = ["FACT", "NOTED_SECONDS", "StoredTimes"]

FACT = "clock"
"""The fact that says when a server was last seen."""

NOTED_SECONDS = 60.0
"""Between times at which that is stored."""

DOUBTED_SECONDS = 7 * 86400.0
"""A clock that is further ahead of the last time that was believed deletes no history at first."""

HOLD_SECONDS = 3600.0
"""For how long it must run without being set, to be believed."""

SLACK_SECONDS = 1.0
"""Two clocks that differ by less are taken for one."""

CENTURY: Final = 100 * 365 * 86400.0
"""In seconds. What happened so far ahead did not, and no server was seen so far off: the row is damaged."""

log = get_logger(__name__)


class _Seen(msgspec.Struct):
    at: float
    """Seconds since the Unix epoch, by the clock of that process."""
    boot: str
    """Which boot of the computer it was."""
    uptime: float
    """For how many seconds it had been up."""
    believed: float
    """The last time by which history was deleted, or might have been."""


def _uptime() -> float:
    """Seconds since the computer was started, sleep included where the system counts it; nobody can set this clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _present_boot() -> str:
    """Which boot of the computer this is; empty where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class StoredTimes:
    """Compares clocks. Its arguments are the clocks, and the name of the present boot."""

    def __init__(
        self,
        *,
        steady: Callable[[], float] = steady_time,
        wall: Callable[[], float] | None = None,
        uptime: Callable[[], float] = _uptime,
        boot: str | None = None,
    ) -> None:
        self._steady = steady
        self._wall = wall or time.time
        self._uptime = uptime
        self._boot = _present_boot() if boot is None else boot
        self._believed: float | None = None
        self._epoch: float | None = None
        """When the computer was started, as the wall clock has it: another where that has been set."""
        self._held_from = 0.0
        """The uptime since which it has not been."""

    def meet(self, snapshot: Snapshot) -> float:
        """By how many seconds stored times are to be moved so that they go on with the clock of this process.

        Says in the log where the clock must have been set. The snapshot goes on as one of this clock: its fact is new.
        """
        now, moved = self._steady(), 0.0
        last = max((time for time in _past(snapshot) if time is not None and time < now + CENTURY), default=None)
        seen = _seen(snapshot.facts.get(FACT), now)
        if seen is not None:
            here = seen.boot == self._boot != "" and seen.uptime <= self._uptime()
            if here:
                then = seen.at + self._uptime() - seen.uptime
            else:  # what was stored after it was last noted happened no later than this
                then = min(max(seen.at, last or seen.at), seen.at + 2 * NOTED_SECONDS)
            moved, self._believed = now - then, seen.believed
        else:
            here = False
            ended = [job.ended_at for job in snapshot.jobs if job.ended_at is not None]
            self._believed = max([*ended, *([] if last is None else [last])], default=None)
            moved = 0.0 if last is None else min(0.0, now - last)
        if abs(moved) < SLACK_SECONDS:
            moved = 0.0
        far = self._believed is not None and now - self._believed > DOUBTED_SECONDS
        if (moved and (here or moved < 0)) or (far and (moved or seen is None)):
            ahead = moved or now - (self._believed or now)
            kept = HOLD_SECONDS if far else 0.0
            log.warning(
                "the clock was set, or no server has run for long: durations go on from when one did",
                seconds=round(ahead, 1), history_kept_s=kept,
            )  # fmt: skip
        snapshot.facts[FACT] = self.fact()
        return moved

    def fact(self) -> dict[str, Any]:
        """What is to be stored of the present moment."""
        now = self._steady()
        believed = now if self._believed is None else self._believed
        return {"at": now, "boot": self._boot, "uptime": self._uptime(), "believed": believed}

    def believed(self) -> float | None:
        """The time by which history may be deleted; None while there is none. To be called every few seconds."""
        running = self._uptime()
        epoch = self._wall() - running
        if self._epoch is None or abs(epoch - self._epoch) >= SLACK_SECONDS:
            if self._epoch is not None:
                log.warning(
                    "the clock was set: the server goes on by the old one until its next start or upgrade",
                    seconds=round(epoch - self._epoch, 1),
                )
            self._held_from = running
        self._epoch = epoch
        now = min(self._steady(), self._wall())
        doubted = self._believed is not None and now - self._believed > DOUBTED_SECONDS
        if doubted and running - self._held_from < HOLD_SECONDS:
            return None
        self._believed = now
        return now


def _past(snapshot: Snapshot) -> Iterator[float | None]:
    """When something of all that goes on has happened."""
    for job in snapshot.jobs:
        if job.ended_at is None:
            yield from (job.created_at, job.allocated_at, job.ready_at)
    for board in snapshot.boards:
        yield from (board.since, *(time for time, _ in board.failures), *(report.time for report in board.reports))
    for user in snapshot.users:
        yield from (user.created_at, user.last_log_in, user.last_failure)
    for token in snapshot.tokens:
        yield from (token.created_at, token.used_at)
    for session in snapshot.sessions:
        yield from (session.began_at, session.used_at)


def _seen(fact: Any, now: float) -> _Seen | None:
    """When a server was last seen; None where that is not told, or is no time at which there was one."""
    with suppress(msgspec.ValidationError):
        seen = msgspec.convert(fact, _Seen)
        if max(abs(seen.at - now), abs(seen.believed - now)) < CENTURY:
            return seen
    return None
