"""What goes over the local API socket: hellos, many requests at a time, calls for others, changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from spalloc_server import __version__
from spalloc_server.application.commands import SERVER, Key, Kind
from spalloc_server.errors import RequestError
from spalloc_server.frontends.local_api import MAX_KEYS, PROTOCOL, key_in, text_of
from spalloc_server.frontends.operators import connection as connection_module, connections as connections_module
from spalloc_server.frontends.operators.connection import MAX_UNDER_WAY
from tests.frontends.operators.doors import Door, a_door
from tests.frontends.operators.speaking import HELLO, Operator, line_of, lines_of
from tests.house import PATIENCE

TEMPERATURES = {"command": "temperatures", "machine": "m"}
ANN = {"name": "ann", "address": "10.0.0.1", "roles": ["user"], "verified": True}
BOB = {"name": "bob", "roles": ["user"], "verified": True}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with a_door(tmp_path) as door:
        yield door


async def raw(operator: Operator) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        return dict(json.loads(await operator.reader.readline()))


# -------------------------------------------------------------------- hellos


async def test_the_server_says_who_it_is_and_answers_then(door: Door) -> None:
    operator = await door.connect(HELLO + line_of({"command": "jobs"}, 5))
    hello = (await raw(operator))["hello"]
    assert (hello["protocol"], hello["version"], hello["program"]) == (PROTOCOL, __version__, "spalloc_server")
    assert {"commands", "subscriptions", "for"} <= set(hello["capabilities"])
    assert (await raw(operator))["id"] == 5


@pytest.mark.parametrize(
    "line",
    [
        b'{"command": "status"}',
        b'{"command": "emergency-stop", "reason": "smoke"}',
        b"hello",
        b"[" * 100_000,
        b'{"hello": {"protocol": "one"}}',
        b"\xff\xfe",
        b"",
    ],
    ids=range(7),
)
async def test_a_program_that_sends_no_hello_is_told_what_to_install_in_a_form_that_older_ones_read(
    door: Door, line: bytes
) -> None:
    operator = await door.connect(line + b"\n" + line_of({"command": "undrain", "machine": "n"}))
    word = await raw(operator)
    assert f"Use the spalloc-admin of spalloc-server {__version__}" in word["exception"]
    assert not word.get("again")
    assert await operator.reader.read() == b""
    assert door.house.seen()["drained"] == ["n"]


@pytest.mark.parametrize("protocol", [0, 2, 99])
async def test_another_version_of_the_protocol_is_refused_with_what_to_install(door: Door, protocol: int) -> None:
    hello = {"hello": {"protocol": protocol, "version": "9.9", "program": "spalloc-admin", "colour": "blue"}}
    operator = await door.connect(json.dumps(hello).encode() + b"\n")
    word = await raw(operator)
    assert f"spalloc-admin 9.9 speaks version {protocol}: use the spalloc-admin of" in word["exception"]
    assert word["code"] == "protocol"


# -------------------------------------------------------------------- many requests at a time


async def test_a_request_that_waits_does_not_keep_later_ones_of_its_connection_waiting(door: Door) -> None:
    door.house.flash.going.clear()
    operator = await door.connect(HELLO + line_of(TEMPERATURES, 1) + line_of({"command": "jobs"}, 2))
    assert (await operator.line())["id"] == 2
    door.house.flash.going.set()
    assert (await operator.line())["id"] == 1


async def test_only_so_many_requests_of_a_connection_are_under_way(door: Door) -> None:
    door.house.flash.going.clear()
    since = door.house.subscriptions.revision(Key(Kind.JOB, 7))
    wait = {"command": "wait", "key": "job/7", "since": since}
    operator = await door.connect(HELLO + lines_of(wait, MAX_UNDER_WAY) + line_of({"command": "jobs"}, 1000))
    (connection,) = door.operators.connections._open
    async with asyncio.timeout(PATIENCE):
        while len(connection.under_way) < MAX_UNDER_WAY:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert 1000 not in connection.under_way
    door.house.subscriptions.publish(Kind.JOB, [7])
    replies = [await operator.line() for _ in range(MAX_UNDER_WAY + 1)]
    assert {reply["id"] for reply in replies} == {*range(1, MAX_UNDER_WAY + 1), 1000}


async def test_a_number_is_free_again_once_it_is_answered_and_not_before(door: Door) -> None:
    operator = await door.connect()
    for _ in range(2):
        operator.send(line_of({"command": "jobs"}, 1))
        assert "return" in await operator.line()
    door.house.flash.going.clear()
    operator.send(line_of(TEMPERATURES, 1) * 2)
    assert "request 1 is under way: a new one must have another number" in (await operator.line())["exception"]
    assert await operator.reader.read() == b""


@pytest.mark.parametrize("line", [b"what?", b"{}", b'{"id": -1, "command": {}}', b'{"id": 1}', b"[" * 100_000, b"\xff"])
async def test_what_is_no_request_ends_the_connection_with_a_word(door: Door, line: bytes) -> None:
    operator = await door.connect(HELLO + line + b"\n")
    assert "this is no request" in (await operator.line())["exception"]
    assert await operator.reader.read() == b""


async def test_a_command_that_this_version_does_not_know_is_told_from_one_that_fails(door: Door) -> None:
    operator = await door.connect()
    error = (await operator.say({"command": "dance"}))["error"]
    assert f"version {__version__} of the server does not understand this" in error["text"]
    assert error["code"] == "bad-request"
    door.house.core.job_views = None  # type: ignore[method-assign, assignment]
    error = (await operator.say({"command": "jobs"}))["error"]
    assert (error["code"], error["again"]) == ("internal", False)
    assert (await operator.say({"command": "keep job alive", "job_id": 1})) == {"return": None}


# -------------------------------------------------------------------- for others


async def test_a_program_asks_for_others_who_are_permitted_what_their_roles_say(door: Door) -> None:
    operator = await door.connect()
    create = {"command": "create job", "request": {"owner": "ann", "boards": 3}}
    assert await operator.say(create, **{"for": ANN}) == {"return": 2}
    assert door.house.core.created_from(2) == "10.0.0.1"
    destroy = {"command": "destroy job", "job_id": 2}
    assert (await operator.say(destroy, **{"for": BOB}))["error"]["code"] == "no-such"
    assert (await operator.say({"command": "undrain", "machine": "n"}, **{"for": ANN}))["error"]["code"] == "forbidden"
    assert await operator.say(destroy, **{"for": ANN}) == {"return": None}


async def test_what_v1_has_checked_is_not_taken_from_others(door: Door) -> None:
    create = {"command": "create job", "request": {"owner": "ann", "boards": 1}, "args": [10**300]}
    assert "only clients of v1 give `args`" in (await (await door.connect()).say(create))["error"]["text"]
    assert set(door.house.seen()["jobs"]) == {1}


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"boards": 2, "priority": 7}, "priority 7 is more than this server allows"),
        ({"boards": 2, "max_runtime": -1}, "max_runtime must be more than 0 seconds"),
        ({"boards": 1, "require_torus": True}, "a single board cannot be a torus"),
        ({"boards": 2, "tags": [str(tag) for tag in range(99)]}, "99 tags given: name at most 16"),
        ({"boards": 2**60}, "size must be a whole number from"),
        ({"boards": 2, "max_dead_links": -(2**60)}, "max_dead_links must be a whole number from"),
        ({"boards": 2, "board": [0, 0, 0]}, "ask for either boards"),
        ({}, "ask for either boards"),
        ({"boards": 2, "machine": "m", "tags": ["default"]}, "machine and tags exclude each other"),
        ({"boards": 2, "min_ratio": 2}, "min_ratio must be from 0"),
        ({"boards": 2, "owner": "x" * 257}, "owner of 257 characters given"),
    ],
)
async def test_a_request_is_checked_as_those_of_v1_are(door: Door, request_: dict[str, Any], told: str) -> None:
    reply = await (await door.connect()).say({"command": "create job", "request": {"owner": "ann", **request_}})
    assert told in reply["error"]["text"]
    assert reply["error"]["code"] == "bad-request"


async def test_a_role_that_there_is_not_is_an_error(door: Door) -> None:
    reply = await (await door.connect()).say({"command": "jobs"}, **{"for": {"name": "ann", "roles": ["king"]}})
    assert (
        "there is no role 'king'; there are basic, reader, user, nmpi-exec, operator, admin" in reply["error"]["text"]
    )


async def test_only_the_servers_own_user_and_root_may_ask_for_others(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_uid", lambda sock: 4242)
    operator = await door.connect()
    assert "return" in await operator.say({"command": "jobs"})
    error = (await operator.say({"command": "jobs"}, **{"for": ANN}))["error"]
    assert error["code"] == "forbidden"
    assert "uid 4242 may not ask for others" in error["text"]


async def test_each_caller_has_a_budget_of_its_own_and_the_operator_none(door: Door) -> None:
    door.house.application.admission.rate = 0.001
    operator = await door.connect()
    assert "return" in await operator.say({"command": "jobs"}, **{"for": ANN})
    error = (await operator.say({"command": "jobs"}, **{"for": ANN}))["error"]
    assert (error["code"], error["again"]) == ("busy", True)
    assert "ann asks for too much at once: try again in" in error["text"]
    assert "return" in await operator.say({"command": "keep job alive", "job_id": 1}, **{"for": ANN})
    assert "return" in await operator.say({"command": "jobs"}, **{"for": BOB})
    for _ in range(3):
        assert "return" in await operator.say({"command": "jobs"})


# -------------------------------------------------------------------- changes


def test_keys_are_texts_and_back() -> None:
    for text, key in {
        "jobs": Key(Kind.JOB),
        "machines": Key(Kind.MACHINE),
        "server": SERVER,
        "job/7": Key(Kind.JOB, 7),
        "machine/a/b": Key(Kind.MACHINE, "a/b"),
    }.items():
        assert (key_in(text), text_of(key)) == (key, text)
    assert text_of(Key(Kind.SERVER, "")) == "server"


@pytest.mark.parametrize(
    "text", ["", "job", "job/", "job/-1", "job/x", "job/" + "9" * 5000, "machine/", "server/x", "job/\u0663"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is nothing to subscribe to; that would be jobs, machines, server"):
        key_in(text)


async def test_subscribers_are_told_of_their_keys_only_and_once_changes_are_stored(door: Door) -> None:
    watching, acting = await door.connect(), await door.connect()
    revisions = await watching.ask("subscribe", keys=["machine/m", "jobs"])
    assert revisions.keys() == {"machine/m", "jobs"}
    door.house.journal.held = True
    acting.send(line_of({"command": "drain", "machine": "m", "reason": "moving"}))
    acting_too = await door.connect()
    acting_too.send(line_of({"command": "undrain", "machine": "n"}))
    while door.house.seen()["drained"] != ["m"]:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    await watching.ask("machines")
    assert watching.changed == []
    door.house.journal.held = False
    door.house.journal.commit()
    assert "return" in await acting.line()
    while not watching.changed:
        await watching.ask("machines")
    assert set(watching.changed) == {"machine/m"}
    await watching.ask("unsubscribe", keys=["machine/m"])
    watching.changed.clear()
    await acting.ask("undrain", machine="m")
    await acting.ask("kill", job_id=1, reason="night")
    while "job/1" not in watching.changed:
        await watching.ask("machines")
    assert set(watching.changed) == {"job/1"}


async def test_waiting_is_answered_with_another_revision_or_with_the_same_after_a_while(door: Door) -> None:
    operator = await door.connect()
    since = (await operator.ask("subscribe", keys=["server"]))["server"]
    assert await operator.ask("wait", key="server", since=since, seconds=0.0) == since
    operator.send(line_of({"command": "wait", "key": "server", "since": since}))
    await operator.ask("jobs")
    door.house.application.refuse_changes("full")
    assert (await operator.reply(1))["return"] != since
    assert (
        "Expected `float` <= 60.0"
        in (await operator.say({"command": "wait", "key": "jobs", "since": 0, "seconds": 61}))["error"]["text"]
    )


async def test_one_connection_subscribes_to_so_many_keys(door: Door) -> None:
    operator = await door.connect()
    await operator.ask("subscribe", keys=[f"job/{number}" for number in range(MAX_KEYS)])
    error = (await operator.say({"command": "subscribe", "keys": ["job/2000"]}))["error"]
    assert f"at most {MAX_KEYS} keys" in error["text"]


async def test_changes_for_a_client_that_does_not_read_are_merged_and_bounded(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_CHANGED", 100)
    operator = await door.connect()
    await operator.ask("subscribe", keys=["jobs", "machines"])
    (connection,) = door.operators.connections._open
    connection.pause_writing()
    for number in range(90):
        door.house.subscriptions.publish(Kind.JOB, [number, number])
    await asyncio.sleep(0)
    assert len(connection._changed) == 90
    for number in range(1000):
        door.house.subscriptions.publish(Kind.JOB, [number])
        assert len(connection._changed) <= 100
    assert connection._changed == {Key(Kind.JOB)}
    door.house.subscriptions.publish(Kind.MACHINE, ["m"])
    connection.resume_writing()
    await operator.ask("status")
    assert operator.changed == ["jobs", "machine/m"], "any of the jobs"


async def test_who_waits_for_changes_is_not_idle_and_who_does_not_is(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.1)
    watching, idle = await door.connect(), await door.connect()
    await watching.ask("subscribe", keys=["jobs"])
    assert (await idle.line())["again"] is True
    door.house.subscriptions.publish(Kind.JOB, [7])
    while watching.changed != ["job/7"]:
        await watching.ask("jobs")


async def test_a_connection_that_ends_is_forgotten_with_all_it_subscribed_to(door: Door) -> None:
    operator = await door.connect()
    await operator.ask("subscribe", keys=["jobs", "machine/m", "server"])
    operator.close()
    kinds = door.house.subscriptions._kinds.values()
    async with asyncio.timeout(PATIENCE):
        while any(each.of_all or each.listeners for each in kinds):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert not door.operators.connections._open
