"""The longest that the core is at work at once, where very much is to be done: long queues, and frames that all fail.

Theory of operation. A controller without hardware is brought into the state; then each of its calls is timed by the
processor time that it takes. As in the server, what is there before is never looked at by the garbage collector.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.hostile import a_machine
from spalloc_server.cli.serve import GARBAGE_THRESHOLDS
from spalloc_server.config.machine import Machine
from spalloc_server.config.options import Limits
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.power import Outcome

__all__ = ["inputs"]

MANY = 1_000_000
"""No limit on jobs."""

SIZES = (3, 6, 12, 24, 48, 120)
"""Boards that jobs ask for."""


class Hall:
    """A controller whose hardware does at once what it is told, and the seconds of each call that is timed."""

    def __init__(self, machine: Machine) -> None:
        self.now = 1000.0
        self.controller = Controller(clock=lambda: self.now)
        self.seconds: list[float] = []
        self.configure(machine)
        self.first = self.create(len(machine.live_boards))

    def configure(self, machine: Machine) -> None:
        limits = Limits(queued_jobs=MANY, jobs_per_owner=MANY, jobs_per_address=MANY)
        self.timed(lambda: self.controller.configure(Configuration([machine], limits=limits)))

    def create(self, boards: int, **wishes: Any) -> int:
        return self.controller.create_job(
            boards, owner=f"owner {self.controller.next_id % 40}", keepalive=None, **wishes
        )

    def timed(self, call: Callable[[], object]) -> None:
        begin = time.process_time()
        call()
        self.seconds.append(time.process_time() - begin)

    def until_idle(self) -> None:
        """All calls of `tick` that are due at once."""
        while (wake_at := self.controller.wake_at()) is not None and wake_at <= self.now:
            self.timed(self.controller.tick)
            self.switch()

    def switch(self) -> None:
        self.controller.take_changes()
        for switch in self.controller.take_switches():
            self.controller.switched(Outcome(switch.operation))

    def settle(self) -> None:
        """What has happened so far is not timed, and no garbage."""
        self.switch()
        self.until_idle()
        gc.collect()
        gc.freeze()
        self.seconds.clear()

    def end_first(self) -> None:
        """The job that had all boards ends, and they have rested."""
        self.timed(lambda: self.controller.destroy_job(self.first))
        self.switch()
        self.now += 60.0
        self.timed(self.controller.tick)
        self.until_idle()


def reload(queued: int) -> list[float]:
    """A reload that changes what works of a machine, and the pass after it, with so many jobs that wait."""
    rng = random.Random(1)
    hall = Hall(a_machine(20, 20))
    for _ in range(queued):
        hall.create(rng.choice(SIZES))
    hall.settle()
    hall.configure(a_machine(20, 20, dead_boards=12, dead_links=6))
    hall.until_idle()
    hall.end_first()
    return hall.seconds


def ratios(queued: int) -> list[float]:
    """So many jobs wait that each have a `min_ratio` of their own, when boards become free."""
    rng = random.Random(2)
    hall = Hall(a_machine(20, 20))
    for _ in range(queued):
        hall.create(12, min_ratio=rng.random())
    hall.settle()
    hall.end_first()
    return hall.seconds


def frames(side: int) -> list[float]:
    """All frames of a machine fail in one turn of the event loop, and come back in another; 1,000 jobs wait."""
    machine = a_machine(side, side)
    hall = Hall(machine)
    for _ in range(1000):
        hall.create(12)
    hall.settle()

    def all_frames(reason: str | None) -> None:
        for bmp in machine.bmp_ips.values():
            hall.controller.frame_changed(bmp, reason)

    for reason in ("no answer", None):
        hall.timed(lambda: all_frames(reason))  # noqa: B023 - it is called at once
        hall.until_idle()
    return hall.seconds


def inputs(*, quick: bool) -> list[tuple[str, int, Callable[[], list[float]]]]:
    """(what, boards of the machine, what gives the seconds of each call)."""
    many, some = (10_000, 1_000) if quick else (100_000, 10_000)
    found: list[tuple[str, int, Callable[[], list[float]]]] = [
        (f"a reload, and boards that come free, with {many:,} queued", 1200, lambda: reload(many)),
        (f"boards that come free, with {some:,} queued and a min_ratio each", 1200, lambda: ratios(some)),
        ("all frames fail and come back, 1,200 boards", 1200, lambda: frames(20)),
        ("all frames fail and come back, 10,800 boards", 10800, lambda: frames(60)),
    ]
    return [(what, boards, partial(like_the_server, measure)) for what, boards, measure in found]


def like_the_server(measure: Callable[[], list[float]]) -> list[float]:
    """Measure with garbage collected as the server has it."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        return measure()
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
