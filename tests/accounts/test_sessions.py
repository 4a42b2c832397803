"""Sessions: how long they live, and who ends them."""

from __future__ import annotations

import pytest

from spalloc_server.accounts import sessions as module
from spalloc_server.errors import BusyError
from tests.accounts.house import DAY, HOUR, House


@pytest.fixture
def house() -> House:
    house = House()
    house.accounts.create("ann", "user")
    house.accounts.create("bob", "user")
    return house


def begun(house: House, account: int = 1) -> str:
    return house.accounts.sessions.begin(account)


def lives(house: House, session: str) -> bool:
    return house.accounts.of_session(session) is not None


def test_a_session_lives_for_a_week_after_its_last_use(house: House) -> None:
    session = begun(house)
    for _ in range(4):
        house.now += 7 * DAY
        assert lives(house, session)
    house.now += 7 * DAY + HOUR + 1
    assert not lives(house, session)
    begun(house)
    assert len(house.accounts.sessions) == 1


def test_a_session_lives_as_long_as_a_job_of_it(house: House) -> None:
    session, other = begun(house), begun(house)
    house.jobs.add(session)
    house.now += 100 * DAY
    begun(house)
    assert lives(house, session)
    assert not lives(house, other)
    house.now += 6 * DAY
    house.jobs.clear()
    assert lives(house, session), "it was used a week ago"
    house.now += 8 * DAY
    begun(house)
    assert not lives(house, session)


def test_its_use_is_written_once_an_hour_and_not_with_each_request(house: House) -> None:
    session = begun(house)
    house.written()
    for _ in range(59):
        house.now += 60
        assert lives(house, session)
        assert house.written() == []
    house.now += 60
    assert lives(house, session)
    assert house.written() == ["sessions"]


def test_ids_are_made_here_and_never_taken_from_outside(house: House) -> None:
    planted = "s" + "0" * 32
    assert not lives(house, planted)
    assert begun(house) != planted
    assert not lives(house, planted)
    assert house.stored.take(house.outbox).sessions.keys() == {house.accounts.sessions.rows()[0].id}


def test_an_id_that_was_ended_leads_nowhere_any_more_and_ending_it_twice_is_harmless(house: House) -> None:
    session = begun(house)
    house.accounts.sessions.end(session)
    house.accounts.sessions.end(session)
    house.accounts.sessions.end("s1")
    assert not lives(house, session)
    assert house.stored.take(house.outbox).sessions == {session: None}


@pytest.mark.parametrize(
    "change", [{"password": "another"}, {"enabled": False}], ids=["another password", "it is disabled"]
)
def test_what_changes_an_account_for_the_worse_ends_its_sessions_and_no_others(
    house: House, change: dict[str, object]
) -> None:
    session, others = begun(house), begun(house, 2)
    house.accounts.change("ann", **change)  # type: ignore[arg-type]
    assert not lives(house, session)
    assert lives(house, others)
    house.accounts.change("ann", enabled=True)
    assert not lives(house, session)


def test_another_role_or_name_ends_no_session(house: House) -> None:
    session = begun(house)
    house.accounts.change("ann", role="reader", new_name="anna")
    found = house.accounts.of_session(session)
    assert found is not None
    assert (found[0].name, found[0].role) == ("anna", "reader")


def test_a_session_of_a_token_is_over_with_the_token_at_the_latest(house: House) -> None:
    _, revoked = house.accounts.tokens.create(1, role=None, days=30, note="")
    _, short = house.accounts.tokens.create(1, role="reader", days=2, note="")
    by_revoked = house.accounts.sessions.begin(1, revoked.id)
    by_short = house.accounts.sessions.begin(1, short.id)
    unused = house.accounts.sessions.begin(1, revoked.id)
    house.restart()
    found = house.accounts.of_session(by_short)
    assert found is not None
    assert found[1] is not None
    assert (found[0].name, found[1].id, found[1].role) == ("ann", short.id, "reader")
    house.accounts.tokens.revoke(revoked.id)
    assert not lives(house, by_revoked)
    assert not lives(house, unused)
    house.jobs.add(by_short)
    house.now += 2 * DAY
    assert not lives(house, by_short)


def test_a_session_of_a_token_is_over_after_a_week_without_use_as_any_other(house: House) -> None:
    _, token = house.accounts.tokens.create(1, role=None, days=30, note="")
    session = house.accounts.sessions.begin(1, token.id)
    house.now += 7 * DAY + HOUR + 1
    assert not lives(house, session)
    assert house.accounts.of_token(token.id) is not None


def test_a_session_of_a_token_is_over_where_the_account_is_disabled(house: House) -> None:
    _, token = house.accounts.tokens.create(1, role=None, days=30, note="")
    session = house.accounts.sessions.begin(1, token.id)
    house.accounts.change("ann", enabled=False)
    house.accounts.change("ann", enabled=True)
    assert not lives(house, session)


def test_a_session_in_use_outlives_any_number_of_others_that_begin_within_an_hour(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_OF_ACCOUNT", 3)
    in_use = begun(house)
    for _ in range(10):
        house.now += 60
        begun(house)
        assert lives(house, in_use)
    assert len(house.accounts.sessions) == 3


def test_the_session_that_was_used_the_longest_ago_and_has_no_job_gives_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_OF_ACCOUNT", 3)
    monkeypatch.setattr(module, "MAX_SESSIONS", 4)
    first, second, third = (begun(house) for _ in range(3))
    house.jobs.add(first)
    house.now += 2 * HOUR
    assert lives(house, second), "which is used by this"
    fourth = begun(house)
    assert [lives(house, each) for each in (first, second, third, fourth)] == [True, True, False, True]
    bobs = [begun(house, 2), begun(house, 2)]
    assert len(house.accounts.sessions) == 4
    assert all(lives(house, each) for each in (first, *bobs))
    house.jobs.update(row.id for row in house.accounts.sessions.rows())
    with pytest.raises(BusyError, match="all of them have jobs"):
        begun(house, 2)
