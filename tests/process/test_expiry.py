"""When the core is called because time has passed."""

from __future__ import annotations

import asyncio
from typing import cast

from spalloc_server.controller import Controller, Defects, steady_time
from spalloc_server.process.expiry import Expiry
from tests.house import PATIENCE


class Core:
    """Says when it wants to be called, and is."""

    defects = Defects()

    def __init__(self) -> None:
        self.at: float | None = None
        self.called = asyncio.Event()

    def wake_at(self) -> float | None:
        return self.at

    def tick(self, _expire_before: float) -> None:
        self.called.set()


async def called(core: Core) -> None:
    async with asyncio.timeout(PATIENCE):
        await core.called.wait()
    core.called.clear()


async def test_the_core_is_called_at_the_time_that_it_says_and_again_where_that_stays_the_same() -> None:
    core = Core()
    expiry = Expiry(cast("Controller", core), lambda: None)
    core.at = steady_time()
    for _ in range(2):
        expiry.arm()
        expiry.arm()
        await called(core)
    assert expiry._wake is None
    expiry.stop()


async def test_the_core_is_called_earlier_where_it_says_so_and_not_once_it_has_nothing_to_wait_for() -> None:
    core = Core()
    expiry = Expiry(cast("Controller", core), lambda: None)
    core.at = steady_time() + 3600
    expiry.arm()
    later = expiry._wake
    expiry.arm()
    assert later is not None
    assert expiry._wake is later, "a timer that is right is left alone"
    core.at = steady_time()
    expiry.arm()
    assert later.cancelled()
    await called(core)
    core.at = steady_time() + 3600
    expiry.arm()
    last, core.at = expiry._wake, None
    expiry.arm()
    assert last is not None
    assert last.cancelled()


async def test_a_core_that_is_left_alone_is_called_again_only_after_it_is_armed_anew() -> None:
    core = Core()
    expiry = Expiry(cast("Controller", core), lambda: None)
    core.at = steady_time()
    expiry.arm()
    expiry.stop()
    assert expiry._wake is None
    expiry.arm()
    await called(core)
