"""How often an address may ask."""

from __future__ import annotations

import pytest

from spalloc_server.config.options import Limits
from spalloc_server.frontends.v1.rates import BURST_SECONDS, SWEEP_AT, Rates
from tests.frontends.v1.stand_in import running


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_is_ahead_of_the_rate_by_more_than_a_burst_waits_until_that_is_earned() -> None:
    clock = Clock()
    rates = Rates(10.0, clock)
    in_a_burst = round(10 * BURST_SECONDS)
    assert [rates.charge("a", "version") for _ in range(in_a_burst)] == [0.0] * in_a_burst
    assert rates.charge("a", "version") == pytest.approx(0.1)
    assert rates.charge("b", "version") == 0.0
    clock.now += 0.2
    assert rates.charge("a", "version") == 0.0


def test_without_a_rate_nobody_waits() -> None:
    rates = Rates(0.0, Clock())
    assert {rates.charge("a", "version") for _ in range(10_000)} == {0.0}


def test_keepalives_are_not_charged_like_other_commands() -> None:
    rates = Rates(10.0, Clock())
    others = [rates.charge("a", "version") for _ in range(100)]
    assert others[-1] > 0
    assert rates.charge("a", "job_keepalive") == 0.0
    assert [rates.charge("a", "job_keepalive") for _ in range(100)][-1] > 0
    assert rates.charge("a", "version") == pytest.approx(others[-1] + 0.1)


async def test_reconnecting_is_no_way_around_the_rate() -> None:
    async with running(Limits(commands_per_second=10.0), Clock()) as run:
        line = await run.connect()
        for _ in range(15):
            assert await line.ask("version") == {"return": "1.0.0"}
        await line.close()
        await run.until(lambda: not run.service.connections)
        rates = run.service.context.rates
        assert [rates.charge("127.0.0.1", "version") for _ in range(6)] == [0.0] * 5 + [pytest.approx(0.1)]


def test_addresses_that_have_earned_their_commands_are_forgotten() -> None:
    clock = Clock()
    rates = Rates(10.0, clock)
    for number in range(SWEEP_AT):
        rates.charge(f"early {number}", "version")
    clock.now += 1.0
    for number in range(SWEEP_AT):
        rates.charge(f"late {number}", "version")
    assert set(rates._due) == {f"late {number}" for number in range(SWEEP_AT)}
