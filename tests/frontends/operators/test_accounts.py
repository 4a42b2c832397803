"""The local API socket for front processes: what they may themselves, and for whom they may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spalloc_server.application.account_commands import LogIn
from spalloc_server.frontends.local_api import FRONT_PROGRAM, is_front, socket_path
from spalloc_server.frontends.operators.service import Operators
from tests.application.house import SECRET, SESSION, TOKEN, House
from tests.application.test_every_command import EXAMPLES
from tests.frontends.operators.speaking import HELLO, Operator

FRONT_HELLO = HELLO.replace(b'"test"', f'"{FRONT_PROGRAM}"'.encode())
STATE = {"command": "job state", "job_id": 2}
END = {"command": "destroy job", "job_id": 1}


class Door:
    """A socket before an application, and a front process at it."""

    def __init__(self, house: House, operators: Operators, front: Operator, operator: Operator) -> None:
        self.house, self.operators, self.front, self.operator = house, operators, front, operator

    async def ask(self, command: dict[str, Any], **behalf: Any) -> Any:
        """What the front process gets for somebody; the code of an error."""
        reply = await self.front.say(command, **({"for": behalf} if behalf else {}))
        return reply["return"] if "return" in reply else reply["error"]["code"]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    house = await House.built()
    house.core.create_job(1, owner="bob", keepalive=None)
    house.commits.hold()
    await house.rest()
    async with AsyncExitStack() as stack:
        operators = Operators(house.application, state=tmp_path / "s", complain=lambda *_, **__: None)
        await stack.enter_async_context(operators)
        connections = []
        for hello in (FRONT_HELLO, HELLO):
            connections.append(await Operator.at(socket_path(tmp_path / "s"), hello))
            stack.callback(connections[-1].close)
        yield Door(house, operators, *connections)


def test_a_front_process_is_one_that_says_so() -> None:
    assert is_front(FRONT_HELLO)
    assert not is_front(HELLO)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example.command).__name__)
async def test_a_front_process_may_itself_authenticate_and_nothing_else(door: Door, example: Any) -> None:
    example.before(door.house)
    answer = await door.ask(msgspec.to_builtins(example.command))
    assert (answer == "forbidden") == (example.command.permission != "authenticate")


@pytest.mark.parametrize(
    "behalf",
    [
        {"name": "eve", "roles": ["admin"], "verified": True},
        {"name": "eve"},
        {"roles": ["basic"]},
        {"verified": True},
        {"address": "10.0.0.1"},
        {"session": SESSION, "roles": ["admin"]},
        {"session": SESSION, "name": "eve"},
        {"token": TOKEN, "verified": True},
        {"session": SESSION, "token": TOKEN},
        {"session": SESSION, "account": "bob"},
    ],
    ids=str,
)
async def test_a_front_process_may_not_say_who_somebody_is(door: Door, behalf: dict[str, Any]) -> None:
    assert await door.ask(STATE, **behalf) in {"forbidden", "bad-request"}


async def test_others_may_ask_for_accounts_and_name_people(door: Door) -> None:
    for behalf in ({"session": SESSION}, {"token": TOKEN}, {"account": "bob"}, {"name": "x", "roles": ["user"]}):
        assert "return" in await door.operator.say(STATE, **{"for": behalf})


@pytest.mark.parametrize("program", ["front", "operator"])
@pytest.mark.parametrize(
    "behalf",
    [
        {"session": "s" + 32 * "0"},
        {"session": ""},
        {"token": SECRET},
        {"token": "t0"},
        {"account": "nobody"},
        {"account": ""},
    ],
    ids=str,
)
async def test_what_leads_to_nobody_is_bad_credentials(door: Door, program: str, behalf: dict[str, Any]) -> None:
    reply = await getattr(door, program).say(STATE, **{"for": behalf})
    assert reply["error"]["code"] == "bad-credentials"


WAYS: list[dict[str, Any]] = [{"session": SESSION}, {"token": TOKEN}, {"account": "bob"}]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: next(iter(way)))
async def test_a_change_of_an_account_holds_for_the_next_request(door: Door, way: dict[str, Any]) -> None:
    assert (await door.ask(STATE, **way))["state"] == 3
    assert await door.ask(END, **way) == "no-such", "it is ann's"
    door.house.accounts.change("bob", role="reader")
    assert await door.ask(STATE, **way) == "forbidden"
    door.house.accounts.change("bob", role="admin")
    assert await door.ask(END, **way) == "no-such", "by HTTP nobody may more than a user"
    door.house.application.authentication.max_role = "operator"
    door.house.accounts.change("bob", enabled=False)
    assert await door.ask(STATE, **way) == "bad-credentials"
    door.house.accounts.change("bob", enabled=True)
    assert await door.ask(END, **way) == ("bad-credentials" if "session" in way else None)
    door.house.accounts.delete("bob")
    assert await door.ask(STATE, **way) == "bad-credentials"


async def test_a_password_that_was_checked_is_no_good_any_more_once_the_account_has_another(door: Door) -> None:
    grant = await door.ask({"command": "check password", "name": "bob", "password": "secret"})
    way = {"account": "bob", "stamp": grant["stamp"]}
    assert (await door.ask(STATE, **way))["state"] == 3
    door.house.accounts.change("bob", password=door.house.hasher.hash("another"))
    assert await door.ask(STATE, **way) == "bad-credentials"
    assert (await door.ask(STATE, account="bob"))["state"] == 3, "so say front processes of before"
    assert await door.ask(STATE, account="bob", stamp="") == "bad-credentials"


async def test_a_token_permits_no_more_than_its_role(door: Door) -> None:
    _, token = door.house.accounts.tokens.create(1, role="reader", days=1, note="")
    assert await door.ask(STATE, token=token.id) == "forbidden"
    assert isinstance(await door.ask({"command": "list machines"}, token=token.id), list)
    door.house.accounts.change("bob", role="basic")
    assert await door.ask({"command": "list machines"}, token=token.id) == "forbidden"


async def test_who_logs_in_uses_a_session_and_who_logs_out_does_not_any_more(door: Door) -> None:
    grant = await door.ask({"command": "log in", "name": "bob", "password": "secret", "address": "10.0.0.1"})
    session = grant["session"]
    created = await door.ask({"command": "create job", "request": {"owner": "bob", "boards": 1}}, session=session)
    assert created == 3
    assert await door.ask({"command": "destroy job", "job_id": 3}, session=session) is None
    assert await door.ask({"command": "log out", "session": session}) is None
    assert await door.ask(STATE, session=session) == "bad-credentials"
    assert (await door.ask(STATE, session=SESSION))["state"] == 3


async def test_nobody_can_say_which_id_a_session_is_to_have(door: Door) -> None:
    planted = "s" + 32 * "a"
    log_in = {"command": "log in", "name": "bob", "password": "secret"}
    assert await door.ask({**log_in, "session": planted}) == "bad-request"
    assert await door.ask(STATE, session=planted) == "bad-credentials"
    assert set(LogIn.__struct_fields__) == {"name", "password", "address"}


async def test_an_account_may_ask_so_often_whatever_way_it_comes(door: Door) -> None:
    door.house.application.admission.rate = 1.0
    answers = [await door.ask({"command": "list machines"}, **WAYS[number % 3]) for number in range(9)]
    assert answers[-1] == "busy"
    assert answers[0] != "busy"
    assert await door.ask({"command": "signing keys"}) != "busy"


async def test_errors_of_log_ins_tell_programs_what_to_do(door: Door) -> None:
    log_in = {"command": "log in", "name": "bob", "password": "wrong", "address": "10.0.0.1"}
    codes = [(await door.front.say(log_in))["error"] for _ in range(6)]
    assert [error["code"] for error in codes] == ["bad-credentials"] * 5 + ["busy"]
    assert codes[-1]["again"]
