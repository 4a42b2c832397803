"""`spalloc_server` or `spalloc_web` as a process that tells what it has.

    python -m tests.torture.counted SOCKET PROGRAM [OPTION]...

Whoever connects to SOCKET is told, as a line of JSON, how many tasks the event loop has, and of what kinds, and how
many blocks of memory Python has given out. `?` is answered as things are; `!` once garbage has been collected, which
holds the program up for a moment. Tables that only fill up to a bound have small bounds here, and answers are
remembered for a short time: so a soak sees all of them full, and what grows still is a leak.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any

FULL = 50
"""Entries of a table that is full."""

REMEMBERED_SECONDS = 5.0

_lru_cache = functools.lru_cache


def small_cache(maxsize: Any = FULL, typed: bool = False) -> Any:
    """Do as `functools.lru_cache`, but be full with few entries; what has no bound has none here."""
    if callable(maxsize):
        return _lru_cache(FULL)(maxsize)
    return _lru_cache(maxsize and min(maxsize, FULL), typed)


def main() -> None:
    socket, program = sys.argv[1:3]
    del sys.argv[1:3]
    functools.lru_cache = small_cache
    from spalloc_server.accounts import sessions
    from spalloc_server.application import once, subscriptions
    from spalloc_server.cli import process, start

    sessions.SESSIONS_OF_ACCOUNT = subscriptions.MAX_ENDED = FULL
    once.LIFE_SECONDS = REMEMBERED_SECONDS
    run = process.run
    process.run = lambda program, main: run(program, counted(main, socket))
    {"spalloc_server": start.serve, "spalloc_web": start.web}[program]()


async def counted(serve: Coroutine[Any, Any, None], socket: str) -> None:
    """Serve, and tell who asks."""
    async with await asyncio.start_unix_server(tell, socket):
        await serve


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, until the connection is closed."""
    while asked := await reader.read(1):
        if asked == b"!":
            gc.collect()
        blocks, tasks = sys.getallocatedblocks(), asyncio.all_tasks()
        kinds = Counter(task.get_coro().__qualname__ for task in tasks)  # type: ignore[union-attr]
        writer.write(json.dumps({"tasks": len(tasks), "kinds": kinds, "blocks": blocks}).encode() + b"\n")
    writer.close()


if __name__ == "__main__":
    main()
