from __future__ import annotations

import asyncio

import pytest

from spalloc_server.application.account_commands import CheckPassword, CheckSession, CheckToken, LogIn
from spalloc_server.frontends.http import grants
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError
from spalloc_server.frontends.http.grants import Grants
from tests.frontends.http.fake_accounts import FakeServer

ALICE = CheckPassword(name="alice", password="wonder land", address="192.0.2.1")
WRONG = CheckPassword(name="alice", password="wrong")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server() -> FakeServer:
    return FakeServer()


async def test_who_was_checked_is_known_for_a_minute_from_wherever_it_comes(server: FakeServer) -> None:
    clock = Clock()
    known = Grants(server, clock=clock)
    elsewhere = CheckPassword(name="alice", password="wonder land", address="192.0.2.2")
    for moment in (0, 59, 61, 120):
        clock.now = moment
        assert (await known.check(ALICE)).account == (await known.check(elsewhere)).account == "alice"
    assert server.asked == {"CheckPassword": 2}


async def test_names_passwords_tokens_and_sessions_are_not_taken_for_each_other(server: FakeServer) -> None:
    known = Grants(server)
    server.passwords |= {"a": "bc", "ab": "c"}
    server.roles |= {"a": "user", "ab": "reader"}
    server.tokens["same"] = "alice"
    server.sessions["same"] = "bob"
    assert (await known.check(CheckPassword(name="a", password="bc"))).account == "a"
    assert (await known.check(CheckPassword(name="ab", password="c"))).account == "ab"
    assert (await known.check(CheckToken(secret="same"))).account == "alice"
    assert (await known.check(CheckSession(session="same"))).account == "bob"


async def test_what_is_wrong_is_not_remembered(server: FakeServer) -> None:
    known = Grants(server)
    for number in range(3):
        with pytest.raises(RefusedError):
            await known.check(WRONG)
        assert server.asked["CheckPassword"] == number + 1
    server.passwords["alice"] = "wrong"
    assert (await known.check(WRONG)).account == "alice"


@pytest.mark.parametrize("command", [ALICE, WRONG])
async def test_one_is_checked_once_however_many_ask_for_it(server: FakeServer, command: CheckPassword) -> None:
    known = Grants(server)
    server.going_on.clear()
    checks = [asyncio.create_task(known.check(command)) for _ in range(100)]
    await server.until_asked("CheckPassword")
    server.going_on.set()
    answers = await asyncio.gather(*checks, return_exceptions=True)
    assert len(answers) == 100
    assert {type(answer).__name__ for answer in answers} == {"Grant" if command is ALICE else "RefusedError"}
    assert server.asked == {"CheckPassword": 1}


async def test_a_check_goes_on_for_others_where_one_who_waits_for_it_goes_away(server: FakeServer) -> None:
    known = Grants(server)
    server.going_on.clear()
    first, second = (asyncio.create_task(known.check(ALICE)) for _ in range(2))
    await server.until_asked("CheckPassword")
    first.cancel()
    server.going_on.set()
    assert (await second).account == "alice"
    assert first.cancelled()


async def test_a_check_that_nobody_waits_for_any_more_fails_in_silence(server: FakeServer) -> None:
    known = Grants(server)
    server.going_on.clear()
    check = asyncio.create_task(known.check(WRONG))
    await server.until_asked("CheckPassword")
    check.cancel()
    server.going_on.set()
    await asyncio.wait({check})
    with pytest.raises(RefusedError):
        await known.check(WRONG)


async def test_no_more_are_remembered_than_there_is_room_for(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "REMEMBERED", 3)
    known = Grants(server)
    for number in range(5):
        server.tokens[str(number)] = "alice"
        await known.check(CheckToken(secret=str(number)))
    server.asked.clear()
    for number in (4, 3, 2):
        await known.check(CheckToken(secret=str(number)))
    assert not server.asked
    await known.check(CheckToken(secret="1"))
    assert server.asked == {"CheckToken": 1}


async def test_what_is_over_makes_room(server: FakeServer) -> None:
    clock = Clock()
    known = Grants(server, clock=clock)
    for number in range(100):
        server.tokens[str(number)] = "alice"
        clock.now = number
        await known.check(CheckToken(secret=str(number)))
    assert len(known._known) <= 61


async def test_neither_passwords_nor_tokens_are_kept(server: FakeServer) -> None:
    known = Grants(server)
    await known.check(ALICE)
    await known.check(CheckToken(secret="sesame-token"))
    assert "wonder" not in repr(vars(known))
    assert "sesame" not in repr(vars(known))


async def test_a_session_is_known_from_its_beginning_to_its_end(server: FakeServer) -> None:
    known = Grants(server)
    session = await known.begin(LogIn(name="alice", password="wonder land"))
    assert (await known.check(CheckSession(session=session))).account == "alice"
    assert server.asked == {"LogIn": 1}
    server.sessions.clear()
    known.forget(CheckSession(session=session))
    with pytest.raises(RefusedError):
        await known.check(CheckSession(session=session))


async def test_a_session_that_ends_while_it_is_checked_is_not_remembered(server: FakeServer) -> None:
    known = Grants(server)
    session = "s" + "1f" * 16
    server.sessions[session] = "alice"
    server.going_on.clear()
    check = asyncio.create_task(known.check(CheckSession(session=session)))
    await server.until_asked("CheckSession")
    server.sessions.clear()
    known.forget(CheckSession(session=session))
    server.going_on.set()
    assert (await check).account == "alice"  # as it was when this was asked
    with pytest.raises(RefusedError):
        await known.check(CheckSession(session=session))


async def test_only_so_many_are_checked_at_a_time_from_one_address(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "CHECKED_AT_ONCE", 5)
    known = Grants(server)
    server.going_on.clear()
    wrong = [CheckToken(secret=str(number), address="192.0.2.1") for number in range(20)]
    checks = [asyncio.create_task(known.check(each)) for each in wrong]
    for _ in range(3):
        await asyncio.sleep(0)
    right = [
        asyncio.create_task(each)
        for each in (
            known.check(CheckToken(secret="sesame-token", address="192.0.2.2")),
            known.begin(LogIn(name="bob", password="b", address="192.0.2.2")),
        )
    ]
    with pytest.raises(RefusedError) as refused:
        await known.begin(LogIn(name="bob", password="b", address="192.0.2.1"))
    assert refused.value.kind == "busy"
    server.going_on.set()
    await asyncio.gather(*right)
    answers = await asyncio.gather(*checks, return_exceptions=True)
    assert sorted(each.kind for each in answers if isinstance(each, RefusedError)) == 5 * ["bad-credentials"] + 15 * [
        "busy"
    ]
    assert (await known.check(CheckToken(secret="sesame-token", address="192.0.2.1"))).account == "alice"
    assert not known._checked


# -------------------------------------------------------------------- keys


async def test_keys_are_asked_for_once_by_all_who_wait_for_the_first(server: FakeServer) -> None:
    known = Grants(server)
    signers = await asyncio.gather(*(known.signer() for _ in range(50)))
    assert len(set(map(id, signers))) == 1
    assert server.asked == {"SigningKeys": 1}


async def test_keys_are_renewed_in_the_background(server: FakeServer) -> None:
    clock = Clock()
    known = Grants(server, clock=clock)
    first = await known.signer()
    clock.now = 61
    assert await known.signer() is first  # nobody waits
    await server.until_asked("SigningKeys")
    await asyncio.sleep(0)
    renewed = await known.signer(newest=True)
    assert renewed is not first
    assert server.asked == {"SigningKeys": 2}


async def test_old_keys_serve_while_the_server_is_away(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    known = Grants(server, clock=clock)
    first = await known.signer()

    async def away(*args: object, **kwargs: object) -> None:
        raise ServerAwayError("away")

    monkeypatch.setattr(server, "ask", away)
    for moment in range(0, 600, 30):
        clock.now = moment
        assert await known.signer() is first
        await asyncio.sleep(0)
    with pytest.raises(ServerAwayError):
        await Grants(server).signer()
