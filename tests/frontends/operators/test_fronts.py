"""Front processes at the local API socket: many requests at a time, of many clients, some of which are sent again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.application.commands import Key, Kind
from spalloc_server.application.web_settings import web_settings
from spalloc_server.config.options import Web
from spalloc_server.config.settings import Configuration
from spalloc_server.errors import NoSuchError
from spalloc_server.frontends.local_api import MAX_KEYS, MAX_LINE
from spalloc_server.frontends.operators import connection as connection_module, service as service_module
from spalloc_server.frontends.operators.connection import BEGUN_IN_A_TURN, MAX_UNDER_WAY_OF_FRONT, Connection
from spalloc_server.frontends.operators.service import _is_repeatable
from tests.core.machines import a_machine
from tests.frontends.operators.doors import Door, a_door
from tests.frontends.operators.speaking import HELLO, line_of, lines_of
from tests.house import PATIENCE

FRONT = HELLO.replace(b'"test"', b'"spalloc_web"')
BOB: dict[str, Any] = {"for": {"account": "bob", "address": "127.0.0.7"}}
CREATE = {"command": "create job", "request": {"owner": "bob", "boards": 1}}
ONCE = {"once": "0123456789abcdef", **BOB}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with a_door(tmp_path) as door:
        yield door


def connection_of(door: Door) -> Connection:
    (connection,) = door.operators.connections._open
    return connection


async def until_under_way(door: Door, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(len(each.under_way) for each in door.operators.connections._open) != number:  # noqa: ASYNC110
            await asyncio.sleep(0)


# -------------------------------------------------------------------- many requests


async def test_more_requests_of_a_front_are_under_way_than_of_others(door: Door) -> None:
    wait = {"command": "wait", "key": "job/7", "since": door.house.subscriptions.revision(Key(Kind.JOB, 7))}
    front = await door.connect(FRONT + lines_of(wait, MAX_UNDER_WAY_OF_FRONT + 1))
    await until_under_way(door, MAX_UNDER_WAY_OF_FRONT)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(connection_of(door).under_way) == MAX_UNDER_WAY_OF_FRONT
    door.house.subscriptions.publish(Kind.JOB, [7])
    replies = [await front.line() for _ in range(MAX_UNDER_WAY_OF_FRONT)]
    assert {reply["id"] for reply in replies} == set(range(1, MAX_UNDER_WAY_OF_FRONT + 1))


async def test_what_has_come_is_begun_in_one_go_and_others_are_served_after_so_many(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Counter[int]()
    turn, loop, begin = 0, asyncio.get_running_loop(), door.operators._begin

    def tick() -> None:
        nonlocal turn
        turn += 1
        if sum(turns.values()) < 100:
            loop.call_soon(tick)

    def counted(connection: Connection, line: bytes) -> Any:
        turns[turn] += 1
        return begin(connection, line)

    monkeypatch.setattr(door.operators.connections, "_answer", counted)
    front = await door.connect(FRONT)
    loop.call_soon(tick)
    front.send(b"".join(line_of({"command": "job numbers"}, n) if n == 50 else owned(n) for n in range(1, 101)))
    numbers = [(await front.line())["id"] for _ in range(100)]
    assert sorted(numbers) == list(range(1, 101))
    assert [number for number in numbers if number != 50] == [*range(1, 50), *range(51, 101)]
    assert max(turns.values()) == BEGUN_IN_A_TURN


def owned(number: int) -> bytes:
    return line_of({"command": "find board", "machine": "m", "board": [0, 0, 0]}, number, **BOB)


async def test_what_is_answered_at_once_takes_no_task_and_leaves_in_one_write(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await door.connect(FRONT)
    assert "return" in await front.say({"command": "find board", "machine": "m", "chip": [1, 1]}, **BOB)
    transport = connection_of(door)._transport
    assert transport is not None
    writes: list[bytes] = []
    monkeypatch.setattr(connection_of(door), "_transport", Watched(transport, writes))
    front.send(b"".join(owned(number) for number in range(1, 21)))
    assert [(await front.line())["id"] for _ in range(20)] == list(range(1, 21))
    assert not door.operators.connections._requests
    assert len(writes) == 1


class Watched:
    """A transport, and what is written to it."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)


async def test_the_hello_comes_before_all_replies_and_has_an_epoch_of_its_own_for_each_server(
    door: Door, tmp_path: Path
) -> None:
    epochs = set()
    (tmp_path / "other").mkdir()
    async with a_door(tmp_path / "other") as other:
        for each in (door, door, other):
            front = await each.connect(FRONT + owned(1))
            hello = json.loads(await front.reader.readline())["hello"]
            assert {"once", "web", "accounts"} <= set(hello["capabilities"])
            epochs.add(hello["epoch"])
            assert (await front.line())["id"] == 1
    assert len(epochs) == 2


# -------------------------------------------------------------------- once


async def test_a_request_that_is_sent_again_on_another_connection_is_answered_alike(door: Door) -> None:
    first = await (await door.connect(FRONT)).say(CREATE, **ONCE)
    again = await door.connect(FRONT)
    assert await again.say(CREATE, **ONCE) == first == {"return": 2}
    other = await again.say({**CREATE, "keepalive": None}, **ONCE)
    assert other["error"]["code"] == "bad-request"
    assert "another command was sent under this id" in other["error"]["text"]
    assert set(door.house.seen()["jobs"]) == {1, 2}


async def test_a_request_that_is_sent_again_before_it_is_stored_is_answered_once_it_is(door: Door) -> None:
    door.house.journal.held = True
    first = await door.connect(FRONT + line_of(CREATE, 1, **ONCE))
    await until_under_way(door, 1)
    first.close()
    again = await door.connect(FRONT + line_of(CREATE, 1, **ONCE) + line_of(CREATE, 2, **ONCE))
    await until_under_way(door, 2)
    door.house.journal.commit()
    assert [await again.line() for _ in range(2)] == [{"id": 1, "return": 2}, {"id": 2, "return": 2}]
    assert set(door.house.seen()["jobs"]) == {1, 2}


@pytest.mark.parametrize("once", ["short", "x" * 65, "0123456789abcde\n", "0123456789abcdé", 7])
async def test_an_id_is_so_long_and_printable(door: Door, once: Any) -> None:
    front = await door.connect(FRONT)
    assert "no request" in (await front.say(CREATE, **BOB, once=once))["exception"]


def test_with_an_id_a_request_may_go_along_at_an_upgrade_unless_nothing_is_kept_of_it() -> None:
    token = {"command": "create token", "name": "bob"}
    cycle = {"command": "power-cycle", "machine": "m", "x": 0, "y": 0, "z": 0}
    kept = [_is_repeatable(line_of(command, 1, **more)) for command in (CREATE, token, cycle) for more in ({}, ONCE)]
    assert kept == [False, True, False, False, False, False]


# -------------------------------------------------------------------- many keys


async def test_a_front_subscribes_to_more_keys_and_keeps_them_at_an_upgrade(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_KEYS_OF_FRONT", 2 * MAX_KEYS + 500)
    front = await door.connect(FRONT)
    pages = [[f"job/{page}{number:03}" for number in range(MAX_KEYS)] for page in (1, 2)]
    for keys in (*pages, [f"job/3{number:03}" for number in range(500)]):
        assert len(await front.ask("subscribe", keys=keys)) == len(keys)
    reply = await front.say({"command": "subscribe", "keys": ["machines"]})
    assert f"at most {2 * MAX_KEYS + 500} keys" in reply["error"]["text"]
    left = connection_of(door)
    unanswered = left.unanswered()
    assert max(map(len, unanswered.split(b"\n"))) < MAX_LINE // 10
    after = Connection(door.operators.connections, left.user, left.trusted, unanswered)
    door.operators.connections._open[after] = None
    transport = left._transport
    assert transport is not None
    after.connection_made(transport)
    assert set(after.keys) == set(left.keys)
    assert after.is_front
    after.abort()


async def test_a_front_whose_names_are_too_many_is_told_that_any_of_them_may_have_changed(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_CHANGED", 100)
    front = await door.connect(FRONT)
    await front.ask("subscribe", keys=[f"job/{number}" for number in range(200)])
    door.house.subscriptions.publish(Kind.JOB, range(200))
    await front.say({"command": "find board", "machine": "m", "chip": [1, 1]}, **BOB)
    assert front.changed == ["jobs"]


# -------------------------------------------------------------------- settings


async def test_a_front_is_told_of_the_configuration_and_hears_when_it_is_read_again(door: Door) -> None:
    front = await door.connect(FRONT)
    reply = await front.say({"command": "web settings"})
    assert reply["error"]["code"] == "no-such"
    assert "no [web]" in reply["error"]["text"]
    await front.ask("subscribe", keys=["server"])
    door.house.application.configure(Configuration(web=Web(port=8443)))
    assert (await front.ask("web settings"))["web"]["port"] == 8443
    assert front.changed == ["server"]


def test_files_are_told_by_absolute_paths_and_a_machine_on_loopback_is_a_simulated_one(tmp_path: Path) -> None:
    machine = a_machine("m", 1, 1)
    web = Web(tls_certificate="tls/hall.pem", proxies=("127.0.0.0/8",))
    told = web_settings(Configuration([machine], web=web), tmp_path / "hall.toml", tmp_path / "hall.state")
    assert told.web.tls_certificate == str(tmp_path / "tls" / "hall.pem")
    assert told.web.tls_key == ""
    assert told.state == str(tmp_path / "hall.state")
    assert not told.simulated
    machine = machine._replace(bmp_ips={(0, 0): "127.0.0.3"})
    assert web_settings(Configuration([machine], web=web), tmp_path / "hall.toml", tmp_path / "s").simulated
    with pytest.raises(NoSuchError):
        web_settings(Configuration(), tmp_path / "hall.toml", tmp_path / "s")
