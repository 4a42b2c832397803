"""Tokens: what they lead to, until when, and what is known of their secrets."""

from __future__ import annotations

import pytest

from spalloc_server.accounts import tokens as module
from spalloc_server.core.model.rows import TokenRow
from spalloc_server.errors import BusyError, NoSuchError
from tests.accounts.house import DAY, HOUR, House


@pytest.fixture
def house() -> House:
    house = House()
    house.accounts.create("ann", "user")
    house.accounts.create("bob", "user")
    return house


def made(house: House, account: int = 1, days: float = 1.0, role: str | None = None) -> tuple[str, TokenRow]:
    return house.accounts.tokens.create(account, role=role, days=days, note="night")


def test_a_token_leads_to_its_account_by_secret_and_by_id_until_it_ends(house: House) -> None:
    secret, token = made(house)
    for found in (house.accounts.of_secret(secret), house.accounts.of_token(token.id)):
        assert found is not None
        assert (found[0].name, found[1].id) == ("ann", token.id)
    house.now += DAY - 1
    assert house.accounts.of_secret(secret)
    house.now += 1
    assert house.accounts.of_secret(secret) is None
    assert house.accounts.of_token(token.id) is None
    _, other = made(house)
    assert house.accounts.tokens.rows() == [other]


def test_secrets_are_long_and_not_kept(house: House) -> None:
    secret, token = made(house)
    assert secret.startswith("spalloc_")
    assert len(secret) == len("spalloc_") + 43
    assert secret not in str(token)
    for wrong in ("", secret[:-1], secret + "A", token.hash, token.id):
        assert house.accounts.of_secret(wrong) is None


def test_a_token_that_is_revoked_works_no_longer(house: House) -> None:
    secret, token = made(house)
    other, _ = made(house)
    assert house.accounts.tokens.revoke(token.id) == token
    assert house.accounts.of_secret(secret) is None
    assert house.accounts.of_secret(other) is not None
    with pytest.raises(NoSuchError, match=token.id):
        house.accounts.tokens.revoke(token.id)


def test_a_token_works_while_its_account_does(house: House) -> None:
    secret, _ = made(house)
    house.accounts.change("ann", enabled=False)
    assert house.accounts.of_secret(secret) is None
    house.accounts.change("ann", enabled=True, password="another")
    assert house.accounts.of_secret(secret) is not None
    house.accounts.delete("ann")
    house.accounts.create("ann", "admin")
    assert house.accounts.of_secret(secret) is None
    assert house.accounts.tokens.rows() == []


def test_its_use_is_written_once_an_hour(house: House) -> None:
    secret, token = made(house)
    house.written()
    assert token.used_at is None
    house.accounts.of_secret(secret)
    assert house.written() == ["tokens"]
    house.now += HOUR - 1
    house.accounts.of_token(token.id)
    assert house.written() == []
    house.now += 1
    house.accounts.of_token(token.id)
    assert house.written() == ["tokens"]


def test_tokens_are_listed_the_newest_first(house: House) -> None:
    ids: list[str] = []
    for account in (1, 2, 1):
        ids.insert(0, made(house, account)[1].id)
        house.now += 1
    assert [row.id for row in house.accounts.tokens.rows()] == ids
    assert [row.id for row in house.accounts.tokens.rows(2)] == [ids[1]]


def test_there_is_a_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 1)
    made(house)
    with pytest.raises(BusyError, match="revoke some"):
        made(house)
