"""Accounts, sessions and tokens outlive the server: kills, restarts, upgrades, damaged rows, wrong clocks."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from spalloc_server.accounts.accounts import KEYS, NEXT, Accounts
from spalloc_server.config.settings import Configuration
from spalloc_server.core.defects import Defects
from spalloc_server.core.model.arguments import read_request
from spalloc_server.core.model.rows import Changes
from spalloc_server.core.outbox import Outbox
from spalloc_server.process.restoring import restored
from spalloc_server.process.stored_times import FACT, StoredTimes
from spalloc_server.storage.rows import encode
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import connect
from tests import damaged_rows
from tests.accounts.house import a_session, a_token, a_user
from tests.frontends.operators.speaking import Operator
from tests.frontends.operators.test_accounts import FRONT_HELLO
from tests.house import Place
from tests.processes import ServerProcess, running
from tests.storage.journals import stored
from tests.storage.memory_journal import MemoryJournal

DAY = 86400.0
LIST = {"command": "list machines"}


class Front:
    """Sessions and tokens of the account ann, as a front process uses them."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.ways: list[dict[str, str]] = []

    async def log_in(self, password: str = "secret") -> dict[str, Any]:
        return await self.operator.say({"command": "log in", "name": "ann", "password": password})

    async def get(self, token: str) -> None:
        """Have a session, a token, and the keys."""
        self.ways = [{"session": (await self.log_in())["return"]["session"]}, {"token": token}, {"account": "ann"}]
        self.keys = await self.operator.ask("signing keys")

    async def still(self, operator: Operator) -> list[bool]:
        """Which of them work by this connection; the keys come last."""
        works = ["return" in await operator.say(LIST, **{"for": way}) for way in self.ways]
        return [*works, await operator.ask("signing keys") == self.keys]


@asynccontextmanager
async def begun(place: Place) -> AsyncIterator[Front]:
    """An account, and all that leads to it, asked for at a server that runs."""
    async with Operator.of(place) as operator:
        await operator.ask("create account", name="ann", password="secret")
        token = (await operator.ask("create token", name="ann"))["view"]["id"]
    async with a_front(place) as operator:
        front = Front(operator)
        await front.get(token)
        yield front


@asynccontextmanager
async def a_front(place: Place) -> AsyncIterator[Operator]:
    operator = await Operator.connect(place, FRONT_HELLO)
    try:
        yield operator
    finally:
        operator.close()
        with suppress(ConnectionError):
            await operator.writer.wait_closed()


async def test_kill_9_and_a_restart_log_nobody_out(place: Place) -> None:
    async with running(place) as server:
        async with begun(place) as front:
            pass
        await server.kill()
    async with running(place) as server, a_front(place) as operator:
        assert await front.still(operator) == [True] * 4
        await operator.ask("log out", **front.ways[0])
        await server.kill()
    async with running(place) as server, a_front(place) as operator:
        assert await front.still(operator) == [False, True, True, True], "what has ended stays so"
        await server.stop()
    async with running(place, "--cold-start"), a_front(place) as operator:
        assert await front.still(operator) == [False, True, True, True]
        assert (await front_log_in(operator))["return"]["account"] == "ann"


async def front_log_in(operator: Operator) -> dict[str, Any]:
    return await Front(operator).log_in()


async def test_an_upgrade_logs_nobody_out_and_a_front_process_stays_one(place: Place) -> None:
    async with running(place) as server, begun(place) as front:
        await upgraded(server)
        assert await front.still(front.operator) == [True] * 4
        reply = await front.operator.say({"command": "status"})
        assert reply["error"]["code"] == "forbidden", "it is no operator now"


async def upgraded(server: ServerProcess) -> None:
    before = server.pid
    server.signal(signal.SIGUSR2)
    assert await server.serves() != before


async def test_damaged_rows_cost_what_they_are_about(place: Place) -> None:
    with structlog.testing.capture_logs():
        async with place.simulator(), place.serving(), begun(place) as front, Operator.of(place) as operator:
            await operator.ask("create account", name="bob", password="secret")
            await operator.ask("create token", name="bob")
    damage = [
        "UPDATE users SET role = x'ff' WHERE name = 'bob'",
        "INSERT INTO users VALUES (77, 'eva', 'user', NULL, 1, 1.0, NULL, NULL, 0.0, '{')",
        "INSERT INTO sessions VALUES ('s1', 1, NULL, 'noon', 1.0), ('s2', 55, NULL, 1.0, 1.0)",
        "INSERT OR REPLACE INTO facts VALUES ('next_account', '{}')",
    ]
    with closing(sqlite3.connect(place.state)) as connection, connection:
        for statement in damage:
            connection.execute(statement)
    with structlog.testing.capture_logs() as log:
        async with place.simulator(), place.serving(), a_front(place) as operator, Operator.of(place) as admin:
            assert await front.still(operator) == [True] * 4
            set_aside = {(row["table"], row["key"]) for row in (await admin.ask("status"))["set_aside"]}
            (token,) = {key for table, key in set_aside if table == "tokens"}
            assert set_aside == {
                *{("users", "2"), ("users", "77"), ("tokens", token), ("sessions", "s1"), ("facts", "next_account")}
            }
            assert [account["name"] for account in await admin.ask("list accounts")] == ["ann"]
            assert (await admin.ask("create account", name="bob"))["number"] >= 2
    assert sum(line["event"].startswith("stored row set aside") for line in log) == len(set_aside)
    with structlog.testing.capture_logs() as log:
        async with place.simulator(), place.serving(), a_front(place) as operator:
            assert await front.still(operator) == [True] * 4
    assert not any(line["event"].startswith("stored row set aside") for line in log)


async def test_whatever_is_damaged_accounts_can_be_made_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"users", "tokens", "sessions", "facts"}
    monkeypatch.setattr(damaged_rows, "TABLES", {name: damaged_rows.TABLES[name] for name in tables})
    rows = Changes(
        users={number: a_user(number=number, name=f"user{number}") for number in (1, 2, 3)},
        tokens={f"t{number}": a_token(id=f"t{number}", account=number, hash=f"{number}" * 64) for number in (1, 2, 3)},
        sessions={f"s{number}": a_session(id=f"s{number}", account=number) for number in (1, 2, 3)},
        facts={NEXT: 4, KEYS: [["a", "ab" * 32]]},
    )
    for seed in range(24):
        state = tmp_path / f"{seed}.db"
        with closing(connect(state)) as connection, connection:
            encode(rows).store(connection)
        damage = damaged_rows.Damage(state, random.Random(seed), set())
        damage.do(1 + seed % 5)
        journal = SqliteJournal.open(state, read_request=read_request, loop=asyncio.get_running_loop())
        with structlog.testing.capture_logs():
            core, accounts = restored(journal, StoredTimes(), Configuration(), state)
        row = accounts.create("new", "user")
        session, (secret, _) = (
            accounts.sessions.begin(row.number),
            accounts.tokens.create(row.number, role=None, days=1, note=""),
        )
        assert accounts.of_session(session) == (row, None), damage.done
        assert accounts.of_secret(secret) is not None, damage.done
        assert accounts.signing_keys(), damage.done
        for each in accounts.rows():
            accounts.delete(each.name)
        assert not len(accounts.sessions), damage.done
        await stored(journal, core.take_changes())
        await journal.close()


@pytest.mark.parametrize("ahead", [-400 * DAY, 400 * DAY])
async def test_a_clock_that_was_set_between_two_processes_ends_no_session_and_no_token(ahead: float) -> None:
    then = StoredTimes(boot="first").fact()
    now = then["at"]
    outbox = Outbox(Defects())
    accounts = Accounts(outbox, outbox.facts.__setitem__, clock=lambda: now + ahead, random=bytes)
    accounts.create("ann", "user")
    session = accounts.sessions.begin(1)
    _, token = accounts.tokens.create(1, role=None, days=1, note="")
    journal = MemoryJournal(loop=asyncio.get_running_loop())
    outbox.facts[FACT] = {**then, "at": now + ahead, "believed": now + ahead}
    journal.write(outbox.take_changes(), lambda _: None)
    journal.commit()
    journal.highest_id = lambda: 0  # type: ignore[attr-defined]
    with structlog.testing.capture_logs():
        _, after = restored(journal, StoredTimes(boot="second"), Configuration(), Path("state"))  # type: ignore[arg-type]
    assert after.of_session(session) is not None
    assert after.of_token(token.id) is not None
    assert after.tokens.rows()[0].expires_at == pytest.approx(now + DAY, abs=60)


async def test_a_server_that_serves_http_without_an_account_says_how_to_add_one(place: Place) -> None:
    with structlog.testing.capture_logs() as without:
        async with place.simulator(), place.serving():
            pass
    place.config.write_text(place.config.read_text().replace("[machine],", "[machine], web=Web(start=False),"))
    with structlog.testing.capture_logs() as first:
        async with place.simulator(), place.serving(), Operator.of(place) as operator:
            await operator.ask("create account", name="ann")
    with structlog.testing.capture_logs() as second:
        async with place.simulator(), place.serving():
            pass
    said = [[line["add"] for line in log if "nobody can log in" in line["event"]] for log in (without, first, second)]
    assert said == [[], [f"spalloc-admin user add NAME --state {place.state}"], []]
