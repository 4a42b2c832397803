"""Wrong passwords make further ones slow, and keep nobody out who is in the right."""

from __future__ import annotations

import pytest

from spalloc_server.accounts import attempts as module
from spalloc_server.accounts.attempts import (
    ACCOUNT_SECONDS,
    FREE_OF_ACCOUNT,
    FREE_OF_NETWORK,
    FREE_OF_PAIR,
    NETWORK_SECONDS,
    PAIR_SECONDS,
    Attempts,
)
from spalloc_server.errors import BusyError

HERE, THERE = "10.0.0.1", "10.0.0.2"


class Clock:
    now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(clock)


def refused(attempts: Attempts, name: str = "ann", network: str = HERE, *, known: bool = False) -> bool:
    """Whether an attempt is; it counts for nothing."""
    try:
        attempts.dropped(attempts.begin(name, network, known=known))
    except BusyError:
        return True
    return False


def fail(attempts: Attempts, times: int, name: str = "ann", network: str = HERE) -> None:
    for _ in range(times):
        attempts.begin(name, network, known=False)


def wait_after(attempts: Attempts, clock: Clock, network: str = HERE, name: str = "ann") -> float:
    """Seconds until the next attempt is not refused, which fails as well."""
    begun = clock.now
    while True:
        try:
            attempts.begin(name, network, known=False)
        except BusyError:
            clock.now += 0.5
        else:
            return clock.now - begun


def test_a_few_wrong_passwords_cost_nothing_and_more_of_them_ever_longer_waits(
    attempts: Attempts, clock: Clock
) -> None:
    assert [wait_after(attempts, clock) for _ in range(FREE_OF_PAIR)] == [0.0] * FREE_OF_PAIR
    waits = [wait_after(attempts, clock) for _ in range(12)]
    assert waits[:5] == sorted(waits[:5])
    assert 0 < waits[0] <= 1
    assert PAIR_SECONDS / 2 < max(waits) <= PAIR_SECONDS
    assert not refused(attempts, network=THERE)


def test_many_at_the_same_time_are_no_way_around(attempts: Attempts) -> None:
    fail(attempts, FREE_OF_PAIR)
    assert refused(attempts)


def test_the_refusal_says_for_how_long(attempts: Attempts) -> None:
    fail(attempts, FREE_OF_PAIR)
    with pytest.raises(BusyError, match="try again in 1 s"):
        attempts.begin("ann", HERE, known=False)


def test_a_right_password_clears_the_account_there_and_takes_only_itself_back_elsewhere(attempts: Attempts) -> None:
    fail(attempts, FREE_OF_PAIR - 1)
    attempts.right(attempts.begin("ann", HERE, known=False))
    assert attempts.of_account("ann") == FREE_OF_PAIR - 1
    fail(attempts, FREE_OF_PAIR)
    assert refused(attempts)


def test_whoever_has_an_account_cannot_clear_a_network_with_it(attempts: Attempts) -> None:
    for number in range(FREE_OF_NETWORK):
        fail(attempts, 1, name=f"user{number}")
        attempts.right(attempts.begin("mallory", HERE, known=True))
    assert refused(attempts, "anybody")


def test_a_network_that_tries_many_names_is_refused_but_for_those_who_come_from_there(
    attempts: Attempts, clock: Clock
) -> None:
    for number in range(FREE_OF_NETWORK):
        fail(attempts, 1, name=f"user{number}")
    assert refused(attempts, "bob")
    assert not refused(attempts, "bob", known=True)
    assert not refused(attempts, "bob", network=THERE)
    for number in range(20):
        wait_after(attempts, clock, name=f"more{number}")
    assert wait_after(attempts, clock, name="last") <= NETWORK_SECONDS


def test_nobody_can_keep_somebody_out_from_far_away(attempts: Attempts) -> None:
    for number in range(1000):
        fail(attempts, 1, name="admin", network=f"192.0.2.{number}")
    attempt = attempts.begin("admin", HERE, known=False)
    assert attempt.wait == ACCOUNT_SECONDS, "a while, and no refusal"
    assert attempts.begin("admin", THERE, known=True).wait == 0.0
    assert attempts.is_locked("admin")


def test_attempts_on_an_account_from_everywhere_become_slow(attempts: Attempts) -> None:
    waits = [attempts.begin("ann", f"192.0.2.{number}", known=False).wait for number in range(FREE_OF_ACCOUNT + 5)]
    assert waits == [*[0.0] * FREE_OF_ACCOUNT, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_everything_is_forgotten_in_time(attempts: Attempts, clock: Clock) -> None:
    fail(attempts, FREE_OF_PAIR)
    fail(attempts, FREE_OF_PAIR, network=THERE)
    assert attempts.is_locked("ann")
    clock.now += 60
    assert not attempts.is_locked("ann")
    clock.now += 3600
    assert attempts.of_account("ann") == 0.0
    fail(attempts, FREE_OF_PAIR)
    assert refused(attempts)


def test_an_attempt_that_was_not_looked_at_counts_for_nothing(attempts: Attempts) -> None:
    fail(attempts, FREE_OF_PAIR - 1)
    for _ in range(20):
        assert not refused(attempts)


def test_an_operator_can_have_it_forgotten(attempts: Attempts) -> None:
    fail(attempts, FREE_OF_PAIR)
    fail(attempts, FREE_OF_PAIR, name="bob")
    attempts.forget("ann")
    assert not refused(attempts)
    assert refused(attempts, "bob")


def test_names_and_networks_are_counted_up_to_a_bound(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COUNTS", 100)
    for number in range(1000):
        attempts.begin(f"user{number}", f"net{number}", known=False)
    fail(attempts, FREE_OF_PAIR, network="net")
    assert refused(attempts, network="net"), "the latest count"
    counts = (attempts._pairs, attempts._networks, attempts._accounts)
    assert [len(each._counts) for each in counts] == [100] * 3
