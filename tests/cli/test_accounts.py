"""`spalloc-admin user` and `token`: accounts of a running server, and where passwords come from."""

from __future__ import annotations

import asyncio
import io
import json
import re
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spalloc_server.cli import accounts as module
from spalloc_server.cli.admin import main
from tests.frontends.operators.speaking import Operator
from tests.frontends.operators.test_accounts import FRONT_HELLO
from tests.house import Place

pytestmark = pytest.mark.usefixtures("quiet")


async def admin(place: Place, *arguments: object, typed: str | bytes = "") -> Result:
    line = [str(argument) for argument in (*arguments, "--state", place.state)]
    return await asyncio.to_thread(CliRunner().invoke, main, line, typed)


async def words(place: Place, *arguments: object, typed: str = "") -> str:
    """What a command that succeeds prints, its spaces single."""
    result = await admin(place, *arguments, typed=typed)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


async def complaint(place: Place, *arguments: object, typed: str | bytes = "") -> str:
    result = await admin(place, *arguments, typed=typed)
    assert result.exit_code == 1, result.output
    return result.stderr


async def logs_in(place: Place, name: str, password: str) -> bool:
    front = await Operator.connect(place, FRONT_HELLO)
    reply = await front.say({"command": "log in", "name": name, "password": password})
    front.close()
    await front.writer.wait_closed()
    return "return" in reply


async def test_an_account_is_added_listed_changed_and_removed(place: Place) -> None:
    async with place.serving():
        assert "ann user yes" in await words(place, "user", "add", "ann", typed="secret\n")
        assert await logs_in(place, "ann", "secret")
        assert "bot reader no" in await words(place, "user", "add", "bot", "--role", "reader", "--no-password")
        assert re.search(r"ann user yes \d+ s ago bot reader no$", await words(place, "user", "list"))
        changed = await words(place, "user", "set", "bot", "--rename", "robot", "--role", "admin", "--disable")
        assert "robot admin no disabled" in changed
        assert "disabled" not in await words(place, "user", "set", "robot", "--enable")
        assert "must log in again" in await words(place, "user", "password", "ann", typed="another\n")
        assert not await logs_in(place, "ann", "secret")
        assert await logs_in(place, "ann", "another")
        assert "is deleted" in await words(place, "user", "remove", "ann")
        assert not await logs_in(place, "ann", "another")
        assert "there is no account 'ann'" in await complaint(place, "user", "remove", "ann")


async def test_an_account_is_locked_by_wrong_passwords_until_it_is_unlocked(place: Place) -> None:
    async with place.serving() as server:
        await words(place, "user", "add", "ann", "--no-password")
        for number in range(20):
            server._accounts.wrong(server._accounts.try_password("ann", f"192.0.2.{number}"))
        assert "ann user no locked" in await words(place, "user", "list")
        assert "locked" not in await words(place, "user", "set", "ann", "--unlock")


async def test_a_password_can_be_made_up_and_is_told(place: Place) -> None:
    async with place.serving():
        for command in (("user", "add", "ann"), ("user", "password", "ann")):
            told = await words(place, *command, "--generate")
            (password,) = re.findall(r"password: (\S{16})$", told) or re.findall(r"password: (\S{16}) ", told)
            assert await logs_in(place, "ann", password)
        result = await admin(place, "user", "add", "bob", "--generate", "--json")
        assert json.loads(result.stdout)["name"] == "bob"
        assert await logs_in(place, "bob", result.stderr.removeprefix("password: ").strip())
        refused = await admin(place, "user", "add", "bob", "--generate")
        assert "password:" not in refused.output


async def test_a_password_is_typed_twice_and_not_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", Terminal.isatty, raising=False)
    async with place.serving():
        result = await admin(place, "user", "add", "ann", typed="secret\nsecert\nsecret\nsecret\n")
        assert result.exit_code == 0
        assert result.output.count("Password: ") == 2
        assert result.output.count("Once more: ") == 2
        assert "secret" not in result.output
        assert await logs_in(place, "ann", "secret")


@pytest.mark.parametrize(
    ("typed", "why"),
    [("", "the password is empty"), ("\nx\n", "the password is empty"), (b"\xff\xfe\n", "no text in UTF-8")],
)
async def test_a_password_that_is_none_is_refused(place: Place, typed: str | bytes, why: str) -> None:
    async with place.serving():
        assert why in await complaint(place, "user", "add", "ann", typed=typed)
        assert (await admin(place, "user", "list")).output.count("\n") == 1


async def test_a_password_is_generated_or_not_there(place: Place) -> None:
    async with place.serving():
        assert "give one of them" in await complaint(place, "user", "add", "x", "--generate", "--no-password")


async def test_tokens_are_made_listed_and_revoked(place: Place) -> None:
    async with place.serving() as server:
        for name in ("ann", "bob"):
            await words(place, "user", "add", name, "--no-password")
        made = await words(place, "token", "create", "ann", "--role", "reader", "--days", "1.5", "--note", "night runs")
        (secret,) = re.findall(r"spalloc_\S+", made)
        assert "ann reader night runs" in made
        await words(place, "token", "create", "bob")
        (other, _), (token, row) = [(each.id, each) for each in server._accounts.tokens.rows()]
        assert row.expires_at - row.created_at == 1.5 * 86400
        who = {"account": "ann", "role": "reader", "session": None, "token": token, "stamp": None}
        assert await checked(place, secret) == who
        listed = await words(place, "token", "list")
        assert token in listed
        assert other in listed
        assert secret not in listed
        assert other not in await words(place, "token", "list", "ann")
        assert f"token {token} of ann works no longer" in await words(place, "token", "revoke", token)
        assert await checked(place, secret) is None
        assert "there is no token" in await complaint(place, "token", "revoke", token)
        assert "there is no account 'eva'" in await complaint(place, "token", "list", "eva")
        made_for_programs = await admin(place, "token", "create", "bob", "--json")
        assert await checked(place, json.loads(made_for_programs.stdout)["secret"]) is not None


async def checked(place: Place, secret: str) -> Any:
    front = await Operator.connect(place, FRONT_HELLO)
    reply = await front.say({"command": "check token", "secret": secret})
    front.close()
    await front.writer.wait_closed()
    return reply.get("return")


async def test_what_people_have_typed_controls_no_terminal(place: Place) -> None:
    async with place.serving():
        await words(place, "user", "add", "ann", "--no-password")
        told = await admin(place, "token", "create", "ann", "--note", "\x1b[2J")
        assert "\x1b" not in told.output
        assert "cannot be called" in await complaint(place, "user", "add", "\x1b[2J", "--no-password")


def test_a_password_is_never_an_argument() -> None:
    parameters = {parameter.name for group in (module.user, module.token) for each in group.commands.values()
                  for parameter in each.params}  # fmt: skip
    assert not parameters & {"password", "secret"}
