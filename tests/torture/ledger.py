"""What a server has acknowledged, and whether it is still true after a kill -9.

What was asked for and not answered may have happened or not. What was read counts only once a later change is
acknowledged, since reads do not wait for the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.house import Client

QUEUED, POWER, READY = 1, 2, 3

STROLL = 0.005
"""Seconds that a user may take between two changes."""

MEDDLING = 0.5
"""How often a user has something done to a job of which another user asks something at the same time."""

Board = tuple[int, int, int]


@dataclass
class Ledger:
    """All users together."""

    live: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    power: dict[int, bool] = field(default_factory=dict)
    """The last power that was acknowledged."""
    boards: dict[int, frozenset[Board]] = field(default_factory=dict)
    unanswered_creates: int = 0
    asked: Counter[int] = field(default_factory=Counter)
    """Jobs whose end, or whose power, was asked for, and how often, without an answer."""
    contested: set[int] = field(default_factory=set)
    """Those of them that several users have asked something for at once; nobody knows whose word is the last."""

    @property
    def uncertain(self) -> set[int]:
        """Jobs of which something was asked without an answer."""
        return {job_id for job_id, times in self.asked.items() if times}

    @contextmanager
    def asking(self, job_id: int) -> Iterator[None]:
        """Within, something is asked of a job; what raises is no answer."""
        if self.asked[job_id]:
            self.contested.add(job_id)
        self.asked[job_id] += 1
        yield
        self.asked[job_id] -= 1

    def switched(self, job_id: int, *, on: bool) -> None:
        """A change of power was acknowledged."""
        if job_id in self.contested:
            self.power.pop(job_id, None)
        elif job_id in self.boards:
            self.power[job_id] = on
        if not self.asked[job_id]:
            self.contested.discard(job_id)

    def check(self, jobs: list[dict[str, Any]]) -> None:
        """Hold the answer of `list_jobs`, right after a restart, against what is known; then learn from it."""
        found = {job["job_id"]: job for job in jobs}
        assert found.keys() >= self.live - self.uncertain, "an acknowledged job is lost"
        assert not found.keys() & self.ended, "an ended job is back"
        strangers = found.keys() - self.live
        assert len(strangers) <= self.unanswered_creates, "there are jobs that nobody asked for"
        held = [tuple(board) for job in jobs for board in job["boards"] or ()]
        assert len(held) == len(set(held)), "a board is held twice"
        for job_id, boards in self.boards.items():
            if job_id in found:
                assert {tuple(board) for board in found[job_id]["boards"]} == boards, "a job has other boards"
        for job_id in self.live - self.uncertain:
            if found[job_id]["state"] != QUEUED and job_id in self.power:
                assert found[job_id]["power"] is self.power[job_id], "a change of power is lost"
        self.live = set(found)
        for job_id in self.uncertain | strangers:
            self.power.pop(job_id, None)
        self.boards = {job_id: boards for job_id, boards in self.boards.items() if job_id in found}
        self.asked.clear()
        self.contested.clear()
        self.unanswered_creates = 0

    def begin_anew(self, *, numbers_go_on: bool) -> None:
        """The state was set aside: nothing of it is left but, where they go on, the numbers that were used."""
        if numbers_go_on:
            self.ended |= self.live
        else:
            self.ended.clear()
        self.live.clear()
        self.power.clear()
        self.boards.clear()
        self.asked.clear()
        self.contested.clear()
        self.unanswered_creates = 0


class LedgerUser:
    """Creates, switches and destroys jobs until the connection breaks."""

    def __init__(self, ledger: Ledger, client: Client, jobs: list[int], rng: random.Random) -> None:
        self._ledger, self._client, self._jobs, self._rng = ledger, client, jobs, rng
        self._read: dict[int, frozenset[Board]] = {}
        self.acknowledged = 0

    async def run(self) -> None:
        """Go on until the server is killed. Now and then meddle with a job of which somebody else asks just now."""
        while True:
            await asyncio.sleep(self._rng.uniform(0, STROLL))  # so that users do not march in step with the commits
            roll = self._rng.random()
            if (others := sorted(self._ledger.uncertain)) and self._rng.random() < MEDDLING:
                await self._change(self._rng.choice(others))
            elif not self._jobs or (roll < 0.4 and len(self._jobs) < 4):
                await self._create()
            elif roll < 0.7 or len(self._jobs) > 4:
                await self._destroy(self._jobs.pop(self._rng.randrange(len(self._jobs))))
            else:
                await self._switch(self._rng.choice(self._jobs), on=self._rng.random() < 0.5)
            self.acknowledged += 1

    async def _change(self, job_id: int) -> None:
        if self._rng.random() < 0.5:
            await self._destroy(job_id)
        else:
            await self._switch(job_id, on=self._rng.random() < 0.5)

    async def _create(self) -> None:
        self._ledger.unanswered_creates += 1
        job_id = await self._client.create(self._rng.choice((1, 1, 2, 3, 6)))
        self._ledger.unanswered_creates -= 1
        self._ledger.live.add(job_id)
        self._jobs.append(job_id)
        self._settle()
        info = await self._client.call("get_job_machine_info", job_id)
        if info["boards"] is not None:
            self._read[job_id] = frozenset(map(tuple, info["boards"]))

    async def _destroy(self, job_id: int) -> None:
        with self._ledger.asking(job_id):
            await self._client.call("destroy_job", job_id)
        self._ledger.live.discard(job_id)
        self._ledger.ended.add(job_id)
        self._settle()

    async def _switch(self, job_id: int, *, on: bool) -> None:
        with self._ledger.asking(job_id):
            await self._client.call("power_on_job_boards" if on else "power_off_job_boards", job_id)
        self._ledger.switched(job_id, on=on)

    def _settle(self) -> None:
        """A change was acknowledged: what was read before it is on the disk."""
        self._ledger.boards.update(self._read)
        self._read.clear()
