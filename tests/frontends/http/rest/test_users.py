"""`admin/users`: accounts in the Java server's words."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from spalloc_server.application.account_commands import AccountView, ChangeAccount, CreateAccount, DeleteAccount
from spalloc_server.frontends.http.asking import RefusedError
from tests.frontends.http.rest.client import BOB, ROOT, Client, StandIn, who

ROOT_USER = AccountView(number=1, name="root", role="admin", has_password=True)
TOLD = {
    "user-name": "bob",
    "has-password": True,
    "enabled": True,
    "locked": False,
    "trust-level": "USER",
    "last-successful-login": "2021-10-11T12:13:14Z",
    "open-id-subject": None,
    "groups": {},
    "internal": True,
}


@pytest.fixture
def client() -> Client:
    client = Client(StandIn(), who("admin", "root"))
    return client.answering(ListAccounts=[ROOT_USER, BOB], CreateAccount=BOB, ChangeAccount=BOB, DeleteAccount=None)


def changes(client: Client) -> list[Any]:
    return [each for each in client.server.asked if isinstance(each, CreateAccount | ChangeAccount | DeleteAccount)]


async def test_users_are_listed_by_name(client: Client) -> None:
    answer = await client.get("admin/users")
    assert [*answer.json.items()] == [("bob", f"{ROOT}/admin/users/4"), ("root", f"{ROOT}/admin/users/1")]


@pytest.mark.parametrize(
    ("role", "trust"),
    [
        ("basic", "BASIC"),
        ("reader", "READER"),
        ("user", "USER"),
        ("nmpi-exec", "NMPI_EXEC"),
        ("operator", "ADMIN"),
        ("admin", "ADMIN"),
    ],
)
async def test_a_user_is_told(client: Client, role: str, trust: str) -> None:
    client.answering(ListAccounts=[ROOT_USER, replace(BOB, role=role)])
    assert (await client.get("admin/users/4")).json == {**TOLD, "trust-level": trust}


@pytest.mark.parametrize("number", ["5", "abc", "+4", "4.0", "\uff14", "9" * 40])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_user_that_there_is_not_is_not_found(client: Client, method: str, number: str) -> None:
    body: Any = {"enabled": True} if method == "PUT" else b""
    answer = await client.send(method, f"/spalloc/srv/spalloc/admin/users/{number}", body)
    assert answer.summary == (404, "no such user")
    assert changes(client) == []


NEW = {"user-name": "bob", "trust-level": "USER", "password": "secret", "internal": True, "enabled": True}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (NEW, {"password": "secret"}),
        ({"user-name": " bob ", "trust-level": "USER"}, {}),
        ({**NEW, "enabled": False}, {"password": "secret", "enabled": False}),
        ({**NEW, "trust-level": "ADMIN"}, {"password": "secret", "role": "admin"}),
        ({**NEW, "trust-level": "BASIC"}, {"password": "secret", "role": "basic"}),
        ({**NEW, "trust-level": "NMPI_EXEC"}, {"password": "secret", "role": "nmpi-exec"}),
        ({**NEW, "groups": {}, "locked": False, "has-password": True}, {"password": "secret"}),
    ],
)
async def test_a_user_is_created(client: Client, body: Any, wanted: dict[str, Any]) -> None:
    answer = await client.send("POST", "admin/users", body)
    assert (answer.status, answer.headers["location"], answer.json) == (201, f"{ROOT}/admin/users/4", TOLD)
    assert changes(client) == [CreateAccount(name="bob", **wanted)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**NEW, "user-name": " "}, "must not be blank"),
        ({"trust-level": "USER"}, "must not be blank"),
        ({"user-name": "bob"}, "a trust level must be given"),
        ({**NEW, "trust-level": "KING"}, "trust-level: "),
        ({**NEW, "internal": False}, "there are only internal users"),
        ({**NEW, "open-id-subject": "sub"}, "there are only internal users"),
        ({**NEW, "user-id": 4}, "user-id is chosen by the server"),
        ({**NEW, "locked": True}, "users are locked by wrong passwords only"),
        ({**NEW, "password": ""}, "password: "),
        ({**NEW, "bogus": 1}, "the body: "),
    ],
)
async def test_a_user_that_makes_no_sense_is_not_created(client: Client, body: Any, said: str) -> None:
    answer = await client.send("POST", "admin/users", body)
    assert (answer.status, answer.text[: len(said)]) == (400, said)
    assert changes(client) == []


async def test_a_name_that_is_taken_is_refused(client: Client) -> None:
    client.answering(CreateAccount=RefusedError("bad-request", "there is an account bob already"))
    assert (await client.send("POST", "admin/users", NEW)).summary == (400, "there is an account bob already")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, {}),
        ({"user-name": "bob", "trust-level": "USER"}, {}),
        ({"trust-level": "READER"}, {"role": "reader"}),
        ({"enabled": False}, {"enabled": False}),
        ({"user-name": "robert", "password": "new"}, {"new_name": "robert", "password": "new"}),
        ({"user-name": " robert "}, {"new_name": "robert"}),
        ({"user-name": " bob "}, {}),
        ({"locked": False}, {"unlock": True}),
    ],
)
async def test_a_user_is_changed(client: Client, body: Any, wanted: dict[str, Any]) -> None:
    assert (await client.send("PUT", "admin/users/4", body)).json == TOLD
    assert changes(client) == [ChangeAccount(name="bob", **wanted)]


@pytest.mark.parametrize("name", ["", " "])
async def test_a_user_keeps_a_name(client: Client, name: str) -> None:
    assert (await client.send("PUT", "admin/users/4", {"user-name": name})).summary == (400, "must not be blank")
    assert changes(client) == []


async def test_who_is_locked_is_unlocked(client: Client) -> None:
    client.answering(ListAccounts=[replace(BOB, locked=True)])
    await client.send("PUT", "admin/users/4", {"locked": False})
    assert changes(client) == [ChangeAccount(name="bob", unlock=True)]


async def test_an_operator_stays_one_where_nothing_else_is_said(client: Client) -> None:
    client.answering(ListAccounts=[replace(BOB, role="operator")])
    await client.send("PUT", "admin/users/4", {"trust-level": "ADMIN"})
    await client.send("PUT", "admin/users/4", {"trust-level": "USER"})
    assert changes(client) == [ChangeAccount(name="bob"), ChangeAccount(name="bob", role="user")]


async def test_a_user_is_deleted(client: Client) -> None:
    answer = await client.send("DELETE", "admin/users/4")
    assert (answer.status, answer.text) == (200, "deleted user bob")
    assert changes(client) == [DeleteAccount(name="bob")]


@pytest.mark.parametrize(
    ("method", "body"), [("DELETE", b""), ("PUT", {"trust-level": "USER"}), ("PUT", {"enabled": False})]
)
async def test_nobody_can_lock_the_own_account_out(client: Client, method: str, body: Any) -> None:
    answer = await client.send(method, "admin/users/1", body)
    assert (answer.status, answer.text[:10]) == (400, "nobody can")
    assert changes(client) == []


async def test_the_own_password_can_be_changed(client: Client) -> None:
    await client.send("PUT", "admin/users/1", {"password": "new", "trust-level": "ADMIN", "enabled": True})
    assert changes(client) == [ChangeAccount(name="root", password="new", enabled=True)]
