"""Who is who: log-ins, what they cost, what is told of them, and what accounts and tokens permit."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Awaitable
from typing import Any

import pytest
import structlog
from argon2 import PasswordHasher

from spalloc_server.accounts.attempts import FREE_OF_ACCOUNT, FREE_OF_PAIR
from spalloc_server.application import account_commands as commands, authentication as module, passwords
from spalloc_server.application.authentication import LONGEST_NAME, LONGEST_PASSWORD
from spalloc_server.application.caller import ROLES, least
from spalloc_server.application.commands import CreateJob
from spalloc_server.application.passwords import HASHING, MAX_QUEUED, Passwords
from spalloc_server.core.model.request import Request
from spalloc_server.errors import BusyError, CredentialsError, ReadOnlyError, RequestError
from tests.application.house import OPERATOR, PATIENCE, SECRET, SESSION, TOKEN, WEB, House, Plain


@pytest.fixture
async def house() -> House:
    return await House.built()


async def log_in(house: House, name: str = "bob", password: str = "secret", address: str = "10.0.0.1") -> Any:
    command = commands.LogIn(name=name, password=password, address=address)
    return (await house.application.ask(WEB, command)).value


async def refusal(asking: Awaitable[Any]) -> str:
    with pytest.raises(CredentialsError) as refused:
        await asking
    return str(refused.value)


# -------------------------------------------------------------------- what everybody is told


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("bob", "wrong"),
        ("bob", ""),
        ("nobody", "secret"),
        ("", ""),
        ("off", "secret"),
        ("bot", "secret"),
        ("broken", "secret"),
        ("x" * (LONGEST_NAME + 1), "secret"),
        ("bob", "secret" * LONGEST_PASSWORD),
    ],
    ids=["wrong", "empty", "unknown", "nobody", "disabled", "no password", "no hash", "long name", "long password"],
)
@pytest.mark.parametrize("kind", [commands.LogIn, commands.CheckPassword])
async def test_all_who_fail_are_told_the_same_after_the_same_work(
    house: House, name: str, password: str, kind: Any
) -> None:
    house.accounts.create("off", "user", password=house.hasher.hash("secret"), enabled=False)
    house.accounts.create("bot", "user")
    house.accounts.create("broken", "user", password="no hash at all")
    house.hasher.compared.clear()
    assert await refusal(house.application.ask(WEB, kind(name=name, password=password))) == "computer says no"
    assert len(house.hasher.compared) == 1
    assert len(house.accounts.sessions) == 1


async def test_the_comparison_for_nobody_is_made_with_no_password_that_anybody_can_give(house: House) -> None:
    for password in ("", "secret"):
        await refusal(log_in(house, "nobody", password))
    (first, _), (second, _) = house.hasher.compared
    assert first == second != house.accounts.named("bob").password


async def test_a_right_password_begins_a_session_with_an_id_of_the_servers_own(house: House) -> None:
    first, second = await log_in(house), await log_in(house)
    assert first.account == second.account == "bob"
    assert len({first.session, second.session, SESSION}) == 3
    assert house.application.caller("web", session=first.session, token=None, account=None, address=None).name == "bob"


async def test_names_that_are_nobodys_are_not_logged_as_they_may_be_passwords(house: House) -> None:
    with structlog.testing.capture_logs() as log:
        await refusal(log_in(house, "hunter2", "hunter2"))
        await refusal(log_in(house, "bob", "hunter2"))
    assert [(line["account"], line["address"]) for line in log] == [(None, "10.0.0.1"), ("bob", "10.0.0.1")]
    assert "hunter2" not in str(log)


async def test_the_audit_never_has_a_password(house: House) -> None:
    with structlog.testing.capture_logs() as log:
        await house.application.ask(OPERATOR, commands.CreateAccount(name="eva", password="hunter2"))
        await house.application.ask(OPERATOR, commands.ChangeAccount(name="eva", password="hunter2"))
        with pytest.raises(RequestError):
            await house.application.ask(OPERATOR, commands.CreateAccount(name="eva", password="hunter2"))
        await house.rest()
    assert sorted(line["command"] for line in log) == ["change account", "create account", "create account"]
    assert all(line["password"] is True for line in log)
    assert "hunter2" not in str(log)
    assert "hunter2" not in str(house.commits)


# -------------------------------------------------------------------- how often


async def test_whoever_has_many_wrong_passwords_must_wait_and_so_must_the_right_one(house: House) -> None:
    for _ in range(FREE_OF_PAIR):
        await refusal(log_in(house, password="wrong"))
    for name, password in (("bob", "secret"), ("bob", "wrong")):
        with pytest.raises(BusyError, match="try again in"):
            await log_in(house, name, password)
    assert (await log_in(house, address="10.0.0.2")).account == "bob"


async def test_an_account_that_there_is_not_is_refused_like_one_that_there_is(house: House) -> None:
    told = {}
    for name in ("bob", "nobody"):
        for _ in range(FREE_OF_PAIR):
            await refusal(log_in(house, name, "wrong"))
        with pytest.raises(BusyError) as refused:
            await log_in(house, name, "wrong")
        told[name] = str(refused.value)
    assert told["bob"] == told["nobody"]


async def test_an_attack_from_everywhere_delays_strangers_and_not_those_who_are_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    await log_in(house)
    for number in range(FREE_OF_ACCOUNT):
        await refusal(log_in(house, password="wrong", address=f"192.0.2.{number}"))
    assert house.application.perform(OPERATOR, commands.ShowAccount(name="bob")).value.locked
    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert (await log_in(house)).account == "bob"
    assert waited == []
    assert (await log_in(house, address="10.9.9.9")).account == "bob"
    assert len(waited) == 1


async def test_only_so_many_are_delayed_at_the_same_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELAYED", 2)
    for number in range(FREE_OF_ACCOUNT):
        await refusal(log_in(house, "nobody", "wrong", address=f"192.0.2.{number}"))
    delayed = [asyncio.create_task(log_in(house, "nobody", "x", address=f"10.0.1.{number}")) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="too many wrong passwords"):
        await log_in(house, "nobody", "x", address="10.0.2.1")
    for task in delayed:
        task.cancel()
    await asyncio.gather(*delayed, return_exceptions=True)
    assert house.application.authentication._delayed == 0


@pytest.mark.parametrize("kind", [commands.LogIn, commands.CheckPassword])
async def test_scripts_that_one_user_starts_at_once_all_log_in_by_one_check(house: House, kind: Any) -> None:
    scripts = 4 * FREE_OF_PAIR
    asked = [
        house.application.ask(WEB, kind(name="bob", password="secret", address="10.0.0.1")) for _ in range(scripts)
    ]
    assert {answer.value.account for answer in await asyncio.gather(*asked)} == {"bob"}
    assert len(house.hasher.compared) == 1
    assert house.accounts.attempts.of_account("bob") == 0


async def test_one_wrong_password_many_times_at_once_is_one_attempt_and_many_wrong_ones_are_many(house: House) -> None:
    same = [log_in(house, password="wrong") for _ in range(4 * FREE_OF_PAIR)]
    assert {type(each) for each in await asyncio.gather(*same, return_exceptions=True)} == {CredentialsError}
    assert len(house.hasher.compared) == round(house.accounts.attempts.of_account("bob")) == 1
    others = [log_in(house, password=f"wrong {number}") for number in range(4 * FREE_OF_PAIR)]
    told = [type(each) for each in await asyncio.gather(*others, return_exceptions=True)]
    assert told.count(CredentialsError) == FREE_OF_PAIR - 1
    assert told.count(BusyError) == 3 * FREE_OF_PAIR + 1


class Held(Plain):
    """Hashes once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.going = threading.Event()

    def verify(self, hash: str, password: str) -> bool:  # noqa: A002
        assert self.going.wait(PATIENCE)
        return super().verify(hash, password)


async def test_two_are_hashed_at_a_time_and_few_wait_with_places_for_who_is_known_and_for_operators() -> None:
    hasher = Held()
    hashing = Passwords(lambda: hasher)
    stored = hasher.hash("secret")
    asked = [asyncio.create_task(hashing.compare(stored, "secret", known=False)) for _ in range(MAX_QUEUED + HASHING)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="too many passwords"):
        await hashing.compare(stored, "secret", known=False)
    new = [asyncio.create_task(hashing.hash("another")) for _ in range(MAX_QUEUED - 1)]
    known = asyncio.create_task(hashing.compare(stored, "secret", known=True))
    await asyncio.sleep(0)
    assert hashing.waiting == 2 * MAX_QUEUED + HASHING
    for late in (hashing.hash("another"), hashing.compare(stored, "secret", known=True)):
        with pytest.raises(BusyError, match="too many passwords"):
            await late
    assert sum(thread.name.startswith("passwords") for thread in threading.enumerate()) >= HASHING
    hasher.going.set()
    assert await asyncio.gather(*asked, known) == [(True, None)] * (len(asked) + 1)
    assert await asyncio.gather(*new) == [hasher.hash("another")] * len(new)
    assert hashing.waiting == 0


async def test_a_password_of_nobody_is_compared_with_a_hash_too() -> None:
    hasher = Plain()
    hashing = Passwords(lambda: hasher)
    given = ["", "secret"]
    assert [await hashing.compare(None, each, known=False) for each in given] == [(False, None)] * 2
    assert hasher.compared == [(hasher.hash(""), each) for each in given]


async def test_an_attempt_that_finds_no_place_is_not_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_QUEUED", -HASHING)
    for _ in range(2 * FREE_OF_PAIR):
        with pytest.raises(BusyError, match="too many passwords are being checked"):
            await log_in(house)


# -------------------------------------------------------------------- while a password is looked at


async def while_hashing(house: House, change: Any, asking: Awaitable[Any]) -> Any:
    """What comes of a request, during whose hashing something else happens."""
    hasher = Held()
    house.application.authentication.passwords = Passwords(lambda: hasher)
    task = asyncio.ensure_future(asking)
    await asyncio.sleep(0)
    change()
    hasher.going.set()
    return await task


@pytest.mark.parametrize("what", ["password", "disabled", "deleted", "deleted and made anew"])
async def test_an_account_that_changes_meanwhile_is_another_one(house: House, what: str) -> None:
    def change() -> None:
        match what:
            case "password":
                house.accounts.change("bob", password=house.hasher.hash("another"))
            case "disabled":
                house.accounts.change("bob", enabled=False)
            case _:
                house.accounts.delete("bob")
        if what == "deleted and made anew":
            house.accounts.create("bob", "admin", password=house.hasher.hash("new"))

    await refusal(while_hashing(house, change, log_in(house)))
    assert not len(house.accounts.sessions)


async def test_a_disk_that_fills_meanwhile_begins_no_session(house: House) -> None:
    with pytest.raises(ReadOnlyError, match="full"):
        await while_hashing(house, lambda: house.application.refuse_changes("full"), log_in(house))
    assert len(house.accounts.sessions) == 1


async def test_a_hash_that_is_made_otherwise_by_now_is_made_anew(house: House) -> None:
    house.hasher.version = 2
    await log_in(house)
    assert house.accounts.named("bob").password == "2:terces"
    assert (await log_in(house)).account == "bob"


# -------------------------------------------------------------------- argon2


async def test_passwords_are_hashed_by_argon2() -> None:
    hashing = Passwords()
    stored = await hashing.hash("Zoë's")
    assert stored.startswith("$argon2id$")
    assert await hashing.compare(stored, "Zoë's", known=False) == (True, None)
    assert await hashing.compare(stored, "Zoe's", known=False) == (False, None)
    assert await hashing.compare("$argon2id$v=19$m=8,t=1,p=1$broken", "x", known=False) == (False, None)
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("x")
    right, rehashed = await hashing.compare(old, "x", known=False)
    assert right
    assert rehashed is not None
    assert await hashing.compare(rehashed, "x", known=False) == (True, None)


async def test_where_argon2_is_not_installed_the_error_says_how_to_install_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "argon2":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    house.application.authentication.passwords = Passwords()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RequestError, match=r"pip install 'spalloc-server\[web\]'"):
        await house.application.ask(OPERATOR, commands.CreateAccount(name="eva", password="x"))
    await house.application.ask(OPERATOR, commands.CreateAccount(name="bot"))


# -------------------------------------------------------------------- what accounts and tokens permit

RANKS = ["basic", "reader", "user", "operator", "admin"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("token_role", [None, *ROLES])
@pytest.mark.parametrize("max_role", ["reader", "user", "operator", "admin"])
async def test_a_caller_may_what_account_token_and_configuration_all_permit(
    house: House, role: str, token_role: str | None, max_role: str
) -> None:
    house.application.authentication.max_role = max_role
    house.accounts.change("bob", role=role)
    secret, token = house.accounts.tokens.create(1, role=token_role, days=1, note="")
    same = {"nmpi-exec": "user"}
    roles = [same.get(each, each) for each in (role, token_role, max_role) if each is not None]
    expected = ROLES[min(roles, key=RANKS.index)]
    caller = house.application.caller("web", session=None, token=token.id, account=None, address=None)
    assert caller.permissions == expected
    grant = house.application.perform(WEB, commands.CheckToken(secret=secret)).value
    assert ROLES[grant.role] == expected
    assert grant.token == token.id
    in_session = house.application.perform(WEB, commands.LogInWithToken(secret=secret)).value
    assert (in_session.account, in_session.role, in_session.token) == ("bob", grant.role, token.id)
    caller = house.application.caller("web", session=in_session.session, token=None, account=None, address=None)
    assert (caller.permissions, caller.session) == (expected, in_session.session)
    assert house.application.perform(WEB, commands.CheckSession(session=in_session.session)).value == in_session
    without = ROLES[min((same.get(role, role), max_role), key=RANKS.index)]
    for way in ({"session": SESSION}, {"account": "bob"}, {"token": TOKEN}):
        ways = {"session": None, "token": None, "account": None, **way}
        assert house.application.caller("web", **ways, address=None).permissions == without


async def test_what_is_no_token_or_session_begins_and_continues_nothing(house: House) -> None:
    sessions = len(house.accounts.sessions)
    for wrong in ("wrong", TOKEN, SESSION, SECRET + "x", "x" * 10_000):
        with pytest.raises(CredentialsError):
            house.application.perform(WEB, commands.LogInWithToken(secret=wrong))
    for wrong in ("wrong", TOKEN, SECRET, SESSION[:-1]):
        with pytest.raises(CredentialsError):
            house.application.perform(WEB, commands.CheckSession(session=wrong))
    house.application.perform(WEB, commands.LogOut(session=SESSION))
    with pytest.raises(CredentialsError):
        house.application.perform(WEB, commands.CheckSession(session=SESSION))
    assert len(house.accounts.sessions) == sessions - 1


def test_a_role_that_there_is_not_permits_nothing() -> None:
    assert least("admin", "king") == "king"
    assert "king" not in ROLES
    assert least("nmpi-exec", None, "user") == "nmpi-exec"


async def test_an_account_with_a_role_that_there_is_not_may_nothing(house: House) -> None:
    house.accounts.named("bob").role = "king"
    caller = house.application.caller("web", session=SESSION, token=None, account=None, address=None)
    assert not caller.permissions


async def test_a_caller_of_an_account_is_verified_and_has_its_session(house: House) -> None:
    caller = house.application.caller("web", session=SESSION, token=None, account=None, address="10.0.0.1")
    assert (caller.name, caller.verified, caller.session, caller.address) == ("bob", True, SESSION, "10.0.0.1")
    assert house.application.perform(caller, CreateJob(request=Request(owner="bob", boards=1))).value == 2


@pytest.mark.parametrize("command", [
    commands.CreateAccount(name="eva", role="king"),
    commands.ChangeAccount(name="bob", role="king"),
    commands.CreateToken(name="bob", role="king"),
], ids=lambda command: type(command).__name__)  # fmt: skip
async def test_nobody_gets_a_role_that_there_is_not(house: House, command: Any) -> None:
    async def ask() -> Any:
        return (
            await house.application.ask(OPERATOR, command)
            if command.waits
            else house.application.perform(OPERATOR, command)
        )

    with pytest.raises(RequestError, match="there is no role 'king'; there are basic, reader"):
        await ask()


async def test_only_what_waits_for_a_password_is_prepared(house: House) -> None:
    with pytest.raises(TypeError, match="does not wait"):
        await house.application.authentication.prepare(commands.ListAccounts())


def test_what_waits_for_a_password_says_so() -> None:
    assert all(kind.waits for kind in module.HASHING)
    assert not any(kind.waits for kind in module.ACCOUNTS)


async def test_a_session_that_began_with_a_token_is_not_kept_as_the_answer_to_a_command(house: House) -> None:
    log_in_once = commands.LogInWithToken(secret=SECRET)
    first, second = (house.application.perform(WEB, log_in_once, "0123456789abcdef").value for _ in range(2))
    assert first.session != second.session
    await house.rest()
    assert not house.journal.load(max_retired=0).results


async def test_who_shares_a_check_and_goes_away_leaves_it_to_the_others_and_the_last_ends_it() -> None:
    held, house = Held(), await House.built()
    house.application.authentication.passwords = Passwords(lambda: held)
    first, second, third = (asyncio.create_task(log_in(house)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    held.going.set()
    assert [(await each).account for each in (second, third)] == ["bob", "bob"]
    assert first.cancelled()
    held.going.clear()
    alone = asyncio.create_task(log_in(house))
    await asyncio.sleep(0)
    alone.cancel()
    again = asyncio.create_task(log_in(house))
    held.going.set()
    assert (await again).account == "bob"
    assert house.application.authentication._checks == {}
