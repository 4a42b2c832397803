"""Stored rows of accounts: what makes no sense costs itself, and times go on by the clock of this process."""

from __future__ import annotations

from typing import Any

import pytest

from spalloc_server.accounts.accounts import KEYS, NEXT
from spalloc_server.core.model.rows import SessionRow, Snapshot, TokenRow, UserRow
from tests.accounts.house import DAY, HOUR, NOW, House, a_session, a_token, a_user

INFINITE, NO_NUMBER = float("inf"), float("nan")


def restored(*rows: Any, facts: dict[str, Any] | None = None) -> tuple[House, list[str]]:
    """Accounts that go on with these rows, and what was set aside."""
    house = House()
    snapshot = Snapshot(
        users=[row for row in rows if isinstance(row, UserRow)],
        tokens=[row for row in rows if isinstance(row, TokenRow)],
        sessions=[row for row in rows if isinstance(row, SessionRow)],
        facts=facts or {},
    )
    return house, house.begin(snapshot)


def test_rows_that_make_sense_are_taken_over() -> None:
    house, set_aside = restored(
        a_user(), a_token(used_at=NOW - 60), a_session(used_at=NOW - 60), facts={NEXT: 9, KEYS: [["k", "ab" * 32]]}
    )
    assert set_aside == []
    assert house.accounts.of_session("s1") == (house.accounts.named("ann"), None)
    assert house.accounts.of_token("t1") is not None
    assert house.accounts.create("bob", "user").number == 9
    assert house.accounts.signing_keys() == [("k", "ab" * 32)]
    assert house.written() == ["facts", "users"], "of bob alone"


@pytest.mark.parametrize(
    ("row", "table", "why"),
    [
        (a_user(number=2, name="ann"), "users/2", "its name 'ann' is empty, or another row has it"),
        (a_user(number=2, name=""), "users/2", "its name '' is empty"),
        (a_user(number=0, name="bob"), "users/0", "no number of an account"),
        (a_user(number=2**53, name="bob"), f"users/{2**53}", "no number of an account"),
        (a_user(number=2, name="bob", created_at=INFINITE), "users/2", "is no time"),
        (a_user(number=2, name="bob", last_log_in=NO_NUMBER), "users/2", "is no time"),
        (a_user(number=2, name="bob", last_failure=1e13), "users/2", "is no time"),
        (a_user(number=2, name="bob", wrong_passwords=-1.0), "users/2", "no number of wrong passwords"),
        (a_user(number=2, name="bob", wrong_passwords=NO_NUMBER), "users/2", "no number of wrong passwords"),
        (a_token(id="t2", account=7, hash="c"), "tokens/t2", "there is no account 7"),
        (a_token(id="t2"), "tokens/t2", "another row has it"),
        (a_token(id="t2", hash=""), "tokens/t2", "is empty"),
        (a_token(id="t2", hash="c", expires_at=INFINITE), "tokens/t2", "is no time"),
        (a_token(id="t2", hash="c", used_at=-1e13), "tokens/t2", "is no time"),
        (a_session(id="s2", used_at=NO_NUMBER), "sessions/s2", "is no time"),
        (a_session(id="s2", began_at=INFINITE), "sessions/s2", "is no time"),
    ],
)
def test_a_row_that_makes_no_sense_costs_itself_alone(row: Any, table: str, why: str) -> None:
    house, (told,) = restored(a_user(), a_token(), a_session(), row)
    assert told.startswith(f"{table}: ")
    assert why in told
    assert house.accounts.of_session("s1") == (house.accounts.named("ann"), None)
    assert house.accounts.of_token("t1") is not None
    assert len(house.accounts.rows()) == len(house.accounts.tokens.rows()) == len(house.accounts.sessions) == 1


@pytest.mark.parametrize(
    "facts",
    [
        {NEXT: "x"},
        {NEXT: 0},
        {NEXT: -3},
        {NEXT: 2**60},
        {KEYS: {}},
        {KEYS: [["k", "short"]]},
        {KEYS: [["k", "zz" * 32]]},
        {KEYS: [["", "ab" * 32]]},
        {KEYS: [["k"]]},
    ],
    ids=str,
)
def test_a_fact_that_makes_no_sense_is_set_aside_and_made_anew(facts: dict[str, Any]) -> None:
    (name,) = facts
    house, (told,) = restored(a_user(number=4), facts=facts)
    assert told.startswith(f"facts/{name}: ")
    assert house.accounts.create("bob", "user").number == 5
    assert len(house.accounts.signing_keys()) == 1


def test_a_fact_that_is_nothing_is_as_none() -> None:
    house, set_aside = restored(a_user(number=4), facts={NEXT: None, KEYS: None})
    assert set_aside == []
    assert house.accounts.create("bob", "user").number == 5
    assert len(house.accounts.signing_keys()) == 1


def test_where_an_account_is_lost_its_sessions_end() -> None:
    house, set_aside = restored(a_user(name=""), a_session(), a_token())
    assert [told.partition(":")[0] for told in set_aside] == ["users/1", "tokens/t1"]
    assert house.accounts.of_session("s1") is None
    assert house.stored.take(house.outbox).sessions == {"s1": None}


@pytest.mark.parametrize("moved", [3 * DAY, -3 * DAY, 400 * DAY, -400 * DAY])
def test_times_go_on_by_another_clock(moved: float) -> None:
    rows = [a_user(last_failure=NOW - 60, wrong_passwords=10.0), a_session(used_at=NOW - 6 * DAY), a_token()]
    house = House()
    house.now += moved
    snapshot = Snapshot(users=[rows[0]], sessions=[rows[1]], tokens=[rows[2]])  # type: ignore[list-item]
    house.begin(snapshot, moved_by=moved)
    assert house.accounts.attempts.of_account("ann") == 9
    assert house.accounts.named("ann").created_at == NOW + moved - DAY
    assert set(house.written()) == {"users", "tokens", "sessions"}, "all of them, in one step"
    house.now += DAY - HOUR
    assert house.accounts.of_token("t1") is not None
    house.now += HOUR
    assert house.accounts.of_token("t1") is None
    house.now += 2 * HOUR
    assert house.accounts.of_session("s1") is None


def test_nothing_that_is_stored_lies_in_the_future() -> None:
    late = NOW + 1000 * DAY
    user = a_user(last_log_in=late, last_failure=late, created_at=late, wrong_passwords=10.0)
    house, set_aside = restored(
        user, a_session(used_at=late, began_at=late), a_token(created_at=late, expires_at=late * 10)
    )
    assert set_aside == []
    assert {user.last_log_in, user.last_failure, user.created_at} == {NOW}
    house.now += 8 * DAY
    assert not house.accounts.attempts.is_locked("ann")
    assert house.accounts.of_session("s1") is None
    house.now += 3660 * DAY
    assert house.accounts.of_token("t1") is None
