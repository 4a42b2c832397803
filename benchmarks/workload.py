"""Traces of jobs as people submit them.

People work in campaigns: an owner submits a run of jobs alike, of one size, whose run times vary by about a third
around a median of the campaign's own, more of them by day than by night. So an owner's last jobs say something about
the next one; nobody states a run time. `lab` has many single boards and few large jobs, `large` hardly any single
boards, `single` little else.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.core.model.request import Request
from spalloc_server.core.simulation import TraceJob

__all__ = ["BOARDS", "JOBS", "MIXES", "Trace"]

BOARDS = 1200
"""Of the machine that the traces are meant for."""

JOBS = 4000
OWNERS = 40
DAY = 86400.0

MIXES = {
    "lab": (
        (1, 0.52),
        (3, 0.14),
        (6, 0.09),
        (12, 0.08),
        (24, 0.07),
        (48, 0.05),
        (120, 0.03),
        (300, 0.015),
        (600, 0.005),
    ),
    "large": ((3, 0.15), (12, 0.2), (24, 0.2), (60, 0.17), (120, 0.16), (300, 0.08), (600, 0.035), (1200, 0.005)),
    "single": ((1, 0.9), (2, 0.04), (3, 0.06)),
}
"""Each (boards, part of all campaigns that ask for about so many)."""


@dataclass(frozen=True)
class Trace:
    """One trace, made anew wherever it is needed.

    `load` is what is asked for: board-seconds, by all that the machine has while jobs are submitted.
    """

    mix: str
    load: float
    seed: int
    jobs: int = JOBS

    @property
    def name(self) -> str:
        """As tables name it."""
        return f"{self.mix}, load {self.load:g}, seed {self.seed}"

    def rows(self) -> list[tuple[float, float, str, int]]:
        """(submitted at, seconds, owner, boards), in order of submission."""
        rng = random.Random(f"{self.mix}/{self.seed}")
        campaigns = []
        missing = self.jobs
        while missing:
            length = min(missing, 1 + int(rng.expovariate(1 / 12)))
            missing -= length
            boards = _size(rng, self.mix)
            median = min(7200.0, max(30.0, rng.lognormvariate(math.log(400), 1.0)))
            owner = f"user{rng.randrange(OWNERS)}"
            runs = [min(14400.0, max(10.0, median * rng.lognormvariate(0, 0.35))) for _ in range(length)]
            campaigns.append((owner, boards, median, runs))
        span = sum(seconds * boards for _, boards, _, runs in campaigns for seconds in runs) / (BOARDS * self.load)
        rows = []
        for owner, boards, median, runs in campaigns:
            at = _by_day(rng, span)
            for seconds in runs:
                rows.append((at % span, seconds, owner, boards))
                at += rng.expovariate(2 / median)
        return [(round(at, 1), round(seconds, 1), owner, boards) for at, seconds, owner, boards in sorted(rows)]

    def trace_jobs(self) -> list[TraceJob]:
        """As the simulator takes them."""
        return [
            TraceJob(at, seconds, Request(owner=owner, boards=boards, tags=DEFAULT_TAGS))
            for at, seconds, owner, boards in self.rows()
        ]


def _size(rng: random.Random, mix: str) -> int:
    sizes, weights = zip(*MIXES[mix], strict=True)
    base: int = rng.choices(sizes, weights)[0]
    return base if base <= 3 or base == BOARDS else max(2, int(base * rng.uniform(0.7, 1.3)))


def _by_day(rng: random.Random, span: float) -> float:
    """A moment of the span; by day (8 to 20) three times as likely as by night."""
    while True:
        at = rng.uniform(0, span)
        if 8 <= (at / 3600) % 24 < 20 or rng.random() < 1 / 3:
            return at
