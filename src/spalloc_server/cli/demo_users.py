"""The demo's imaginary users: networks that are simulated now and then, each through a TCP connection of its own."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from spalloc_server.cli.client import Client, ClientError
from spalloc_server.controller import JobState

__all__ = ["USERS", "use"]

USERS = (
    "retina",
    "visual-cortex",
    "cochlea",
    "hippocampus",
    "cerebellum",
    "basal-ganglia",
    "motor-cortex",
    "sudoku",
    "robot-arm",
    "mushroom-body",
)
"""Each has at most one job at a time, so that all together leave room for real users."""

SIZES = (1, 1, 1, 3, 3, 6, 12, 24, 24, 48, 96, 200)
"""Boards that they ask for, alike probable."""

THINKING_SECONDS = (0.5, 6.0)
RUNNING_SECONDS = (3.0, 20.0)
"""Shortest and longest; less than a job's keepalive."""


async def use(host: str, port: int, user: str) -> None:
    """Come, get boards, use them, give them back; and again, until cancelled. Come back where the server was away."""
    chance = random.Random(user)
    while True:
        with suppress(ClientError):
            async with Client.connect(host, port) as client:
                while True:
                    await _use_once(client, user, chance)
        await asyncio.sleep(THINKING_SECONDS[0])


async def _use_once(client: Client, user: str, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(*THINKING_SECONDS))
    job_id = await client.call("create_job", chance.choice(SIZES), owner=user)
    await client.wait_for_job(job_id, JobState.ready, JobState.destroyed)
    await asyncio.sleep(chance.uniform(*RUNNING_SECONDS))
    await client.call("destroy_job", job_id, "done")
