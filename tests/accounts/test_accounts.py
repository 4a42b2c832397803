"""Accounts: names and numbers, what deleting takes along, keys, and what is remembered of log-ins."""

from __future__ import annotations

import pytest

from spalloc_server.accounts import accounts as module
from spalloc_server.accounts.accounts import KEYS, NEXT
from spalloc_server.accounts.attempts import FREE_OF_ACCOUNT, FREE_OF_PAIR, KNOWN
from spalloc_server.core.closures import KEPT_FACTS
from spalloc_server.errors import BusyError, NoSuchError, RequestError
from tests.accounts.house import DAY, House


@pytest.fixture
def house() -> House:
    house = House()
    house.accounts.create("ann", "user", password="hash")
    return house


def test_a_number_is_never_given_twice(house: House) -> None:
    assert house.accounts.create("bob", "user").number == 2
    house.accounts.delete("bob")
    house.restart()
    assert house.accounts.create("bob", "user").number == 3


def test_a_name_is_one_accounts_alone(house: House) -> None:
    with pytest.raises(RequestError, match="there is an account 'ann' already"):
        house.accounts.create("ann", "reader")
    house.accounts.create("bob", "user")
    with pytest.raises(RequestError, match="there is an account 'bob' already"):
        house.accounts.change("ann", new_name="bob", role="admin")
    assert house.accounts.named("ann").role == "user", "nothing has changed"
    house.accounts.change("ann", new_name="eva")
    assert house.accounts.of_name("ann") is None
    assert house.accounts.create("ann", "user").number == 3
    assert [row.name for row in house.accounts.rows()] == ["ann", "bob", "eva"]


def test_the_same_name_is_no_new_one(house: House) -> None:
    house.accounts.change("ann", new_name="ann", role="reader")
    assert house.accounts.named("ann").role == "reader"


@pytest.mark.parametrize("name", ["a:b", " ann", "ann ", "a\nb", "a\x1b[2J", "\u202egnp"])
def test_a_name_has_no_colon_no_controls_and_no_space_at_its_ends(house: House, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be called"):
        house.accounts.create(name, "user")
    with pytest.raises(RequestError, match="cannot be called"):
        house.accounts.change("ann", new_name=name)


@pytest.mark.parametrize("name", ["ann@example.org", "Zoë Ó", "openid.ann", "7"])
def test_other_names_are_good(house: House, name: str) -> None:
    assert house.accounts.create(name, "user").name == name


def test_what_there_is_not_is_no_such(house: House) -> None:
    for do in (house.accounts.named, house.accounts.delete, house.accounts.change):
        with pytest.raises(NoSuchError, match="there is no account 'bob'"):
            do("bob")


def test_there_is_a_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ACCOUNTS", 1)
    with pytest.raises(BusyError, match="delete some"):
        house.accounts.create("bob", "user")


def test_an_account_takes_its_sessions_and_tokens_along(house: House) -> None:
    session = house.accounts.sessions.begin(1)
    secret, _ = house.accounts.tokens.create(1, role=None, days=1, note="")
    house.accounts.delete("ann")
    assert house.accounts.of_session(session) is None
    assert house.accounts.of_secret(secret) is None
    house.stored.take(house.outbox)
    left = house.stored.snapshot()
    assert (left.users, left.tokens, left.sessions) == ([], [], [])


def test_keys_are_made_once_and_kept(house: House) -> None:
    ((name, secret),) = house.accounts.signing_keys()
    assert len(bytes.fromhex(secret)) == 32
    house.restart()
    assert house.accounts.signing_keys() == [(name, secret)]
    assert {NEXT, KEYS} <= set(KEPT_FACTS)


def logged_in(house: House, address: str) -> bool:
    """Whether the network was known before."""
    attempt = house.accounts.try_password("ann", address)
    house.accounts.right(attempt, house.accounts.named("ann"))
    return attempt.known


def test_the_last_networks_are_known(house: House) -> None:
    assert not logged_in(house, "10.0.0.1")
    assert logged_in(house, "10.0.0.1")
    house.restart()
    assert logged_in(house, "10.0.0.1")
    for number in range(2, KNOWN + 2):
        assert not logged_in(house, f"10.0.0.{number}")
    assert not logged_in(house, "10.0.0.1")
    assert len(house.accounts.named("ann").known) == KNOWN


def test_log_ins_from_a_known_network_are_written_once_an_hour(house: House) -> None:
    logged_in(house, "10.0.0.1")
    house.written()
    house.now += 3599
    logged_in(house, "10.0.0.1")
    assert house.written() == []
    house.now += 1
    logged_in(house, "10.0.0.1")
    assert house.written() == ["users"]
    assert house.accounts.named("ann").last_log_in == house.now


def test_a_hash_that_is_out_of_date_is_replaced(house: House) -> None:
    logged_in(house, "10.0.0.1")
    attempt = house.accounts.try_password("ann", "10.0.0.1")
    house.accounts.right(attempt, house.accounts.named("ann"), rehashed="newer")
    house.restart()
    assert house.accounts.named("ann").password == "newer"


def test_wrong_passwords_are_kept_across_a_restart_and_run_down_meanwhile(house: House) -> None:
    for number in range(FREE_OF_ACCOUNT):
        house.accounts.wrong(house.accounts.try_password("ann", f"10.0.0.{number}"))
    house.restart()
    assert house.accounts.attempts.is_locked("ann")
    assert house.accounts.named("ann").last_failure == house.now
    house.now += 120
    house.restart()
    assert house.accounts.attempts.of_account("ann") == FREE_OF_ACCOUNT - 2


def test_wrong_passwords_of_nobody_leave_no_row(house: House) -> None:
    house.written()
    assert house.accounts.wrong(house.accounts.try_password("bob", "10.0.0.1")) is None
    assert house.written() == []


@pytest.mark.parametrize("change", [{"unlock": True}, {"password": "another"}], ids=lambda change: next(iter(change)))
def test_an_operator_can_unlock_an_account(house: House, change: dict[str, object]) -> None:
    for _ in range(FREE_OF_PAIR):
        house.accounts.wrong(house.accounts.try_password("ann", "10.0.0.1"))
    with pytest.raises(BusyError):
        house.accounts.try_password("ann", "10.0.0.1")
    house.accounts.change("ann", **change)  # type: ignore[arg-type]
    assert house.accounts.try_password("ann", "10.0.0.1").wait == 0.0
    assert house.accounts.named("ann").wrong_passwords == 0.0


def test_who_gets_a_name_anew_begins_without_the_wrong_passwords_of_others(house: House) -> None:
    for _ in range(FREE_OF_PAIR):
        house.accounts.try_password("bob", "10.0.0.1")
    house.accounts.create("bob", "user")
    assert house.accounts.try_password("bob", "10.0.0.1").wait == 0.0


def test_a_restart_loses_nothing(house: House) -> None:
    session = house.accounts.sessions.begin(1)
    secret, token = house.accounts.tokens.create(1, role="reader", days=1, note="x")
    before = house.accounts.named("ann")
    assert house.restart() == []
    assert house.accounts.named("ann") == before
    assert house.accounts.of_session(session) == (before, None)
    assert house.accounts.tokens.rows() == [token]
    assert house.accounts.of_secret(secret) is not None
    house.now += DAY
    house.restart()
    assert house.accounts.of_secret(secret) is None
