"""Waiting for changes: who is woken when."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from spalloc_server.frontends.http import watching as module
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError
from spalloc_server.frontends.http.watching import WOKEN, Watching
from spalloc_server.frontends.local_api import Subscribe
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


async def test_where_subscribing_fails_each_key_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    asked = list[list[str]]()
    tasks = set[asyncio.Future[None]]()
    bad, away = "job/8", True

    async def ask(command: Any) -> msgspec.Raw:
        if not isinstance(command, Subscribe):
            return msgspec.Raw(b"null")
        asked.append(command.keys)
        await asyncio.sleep(0)
        if away:
            raise ServerAwayError("away or busy")
        if bad in command.keys:
            raise RefusedError("bad-request", f"{bad!r} is nothing to subscribe to")
        return msgspec.Raw(msgspec.json.encode(dict.fromkeys(command.keys, 2)))

    def begin(work: Any) -> None:
        tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(tasks.discard)

    watching = Watching(ask, begin, lambda: 0)
    polls = {key: asyncio.ensure_future(watching.changed(key, 1, PATIENCE)) for key in ("job/7", bad, "job/9")}
    await until(lambda: len(asked) > 6)
    assert sorted(asked[-1]) == ["job/7", bad, "job/9"], "while it is away they are asked for together"
    away = False
    async with asyncio.timeout(PATIENCE):
        assert [await polls[key] for key in ("job/7", "job/9")] == [2, 2]
    before = len(asked)
    await until(lambda: asked[before:].count([bad]) > 3)
    assert set(map(tuple, asked[before + 1 :])) == {(bad,)}
    assert len(tasks) <= 2, "there is one try at a time, however often it fails"
    polls[bad].cancel()
    await until(lambda: not tasks)
