"""Turns of WebSockets: who is served when, and for how long all others wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spalloc_server.frontends.http import turns as module
from spalloc_server.frontends.http.turns import Turns
from tests.frontends.http.fake_socket import until


class Clock:
    """Pieces of work take a millisecond each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)

    def work(self, name: str, pieces: int) -> Callable[[], bool]:
        def piece() -> bool:
            nonlocal pieces
            self.now += 0.001
            self.order.append(name)
            pieces -= 1
            return pieces > 0

        return piece


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0035)
    return Clock(monkeypatch)


async def test_what_is_little_is_done_at_once(clock: Clock) -> None:
    turns = Turns()
    for name in "ab":
        turns.take(name, clock.work(name, 1))
    assert clock.order == ["a", "b"]


async def test_all_together_do_no_more_in_one_cycle_than_one_might(clock: Clock) -> None:
    turns = Turns()
    for number in range(100):
        turns.take("flood", clock.work(f"{number}", 10))
    begun = clock.now
    assert begun <= 0.004
    for _ in range(5):
        await asyncio.sleep(0)
        assert clock.now - begun <= 0.004 + 1e-9
        begun = clock.now
    await until(lambda: len(clock.order) == 1000)


async def test_an_account_gets_no_more_for_having_many(clock: Clock) -> None:
    turns = Turns()
    for number in range(50):
        turns.take("flood", clock.work(f"flood{number}", 100))
    before = len(clock.order)
    turns.take("ann", clock.work("ann", 2))
    assert clock.order[before:] == [], "who comes waits, as others do"
    await until(lambda: clock.order.count("ann") == 2)
    assert [name[:5] for name in clock.order[before : before + 4]] == ["flood", "ann", "flood", "ann"]


async def test_those_of_one_account_have_turns_of_their_own(clock: Clock) -> None:
    turns = Turns()
    for name in "abc":
        turns.take("ann", clock.work(name, 6))
    await until(lambda: len(clock.order) == 18)
    assert clock.order[4:10] in (list("abcabc"), list("bcabca"), list("cabcab"))


async def test_what_fails_costs_nobody_else_a_turn(clock: Clock) -> None:
    def fails() -> bool:
        raise ValueError("a defect")

    turns = Turns()
    turns.take("ann", clock.work("ann", 10))
    turns.take("bob", fails)
    turns.take("bob", clock.work("bob", 3))
    told = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    await until(lambda: len(clock.order) == 13)
    assert told == ["a defect"]
