"""Waiting for changes: who is woken when."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from spalloc_server.frontends.http.watching import WOKEN, Watching
from tests.frontends.http.fake_socket import until
from tests.house import PATIENCE


def waiting(watching: Watching) -> int:
    return len(watching._keys["job/7"].waiters) if "job/7" in watching._keys else 0


async def test_while_requests_have_no_answer_no_more_are_woken_at_once_but_all_are() -> None:
    revision, tasks = 1, set()
    under_way = 0

    async def ask(_command: Any) -> msgspec.Raw:
        return msgspec.Raw(b'{"job/7":%d}' % revision)

    def begin(work: Any) -> None:
        tasks.add(asyncio.ensure_future(work))

    watching = Watching(ask, begin, lambda: under_way)
    counts = []

    async def poll() -> None:
        nonlocal under_way
        assert await watching.changed("job/7", 1, PATIENCE) == 2
        under_way += 1
        counts.append(under_way)
        await asyncio.sleep(0)
        under_way -= 1

    polls = [asyncio.ensure_future(poll()) for _ in range(10 * WOKEN)]
    await until(lambda: waiting(watching) == len(polls))
    revision = 2
    watching.hear(["job/7"])
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*polls)
    assert max(counts) < 3 * WOKEN

    under_way = WOKEN  # and these are never answered
    late = [asyncio.ensure_future(watching.changed("job/7", 2, PATIENCE)) for _ in range(3 * WOKEN)]
    await until(lambda: waiting(watching) == len(late))
    revision = 3
    watching.hear(["job/7"])
    async with asyncio.timeout(PATIENCE):
        assert set(await asyncio.gather(*late)) == {3}
