"""The connection to the server: many requests at once, and what becomes of them while the server is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spalloc_server.config.options import Web
from spalloc_server.frontends.http import connection as module
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebSettings
from spalloc_server.frontends.local_api import MAX_LINE, Behalf
from tests.frontends.http.fake_socket import FakeServer, Peek, Poke, Touch, connected, fake_server, until
from tests.house import PATIENCE


async def test_many_requests_are_under_way_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        answers = await asyncio.gather(*(connection.ask(Peek(what=number), int) for number in range(100)))
        assert answers == list(range(100))


async def test_the_server_is_told_for_whom_it_is_asked(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        await connection.ask(Peek(), type(None), behalf=Behalf(session="s1", address="127.0.0.9"))
        assert server.commands("peek")[0]["for"] == {"session": "s1", "address": "127.0.0.9"}


async def test_what_changes_something_has_an_id_of_its_own(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        await connection.ask(Poke(), type(None))
        await connection.ask(Poke(), type(None))
        await connection.ask(Poke(), type(None), once="0123456789abcdef")
        first, second, third = (said["once"] for said in server.commands("poke"))
        assert first != second
        assert third == "0123456789abcdef"


async def test_a_refusal_is_told_with_its_code(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        server.answers["peek"] = lambda _: {"error": {"code": "no-such", "text": "no such job", "again": False}}
        with pytest.raises(RefusedError, match="no such job") as refused:
            await connection.ask(Peek(), int)
        assert refused.value.kind == "no-such"


async def test_a_command_whose_answer_was_lost_is_sent_again_with_the_same_id(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        answer = server.answers["poke"]
        server.answers["poke"] = lambda _: ConnectionError()  # it dies between commit and answer
        asked = asyncio.create_task(connection.ask(Poke(what=7), int))
        await until(lambda: server.commands("poke"))
        await server.die()
        server.answers["poke"] = answer
        later = asyncio.create_task(connection.ask(Peek(what=8), int))
        await server.start()
        assert await asked == 7
        assert await later == 8
        first, second = server.commands("poke")
        assert first["once"] == second["once"]


async def test_what_may_not_be_done_twice_is_not_sent_again(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        server.answers["touch"] = lambda _: ConnectionError()
        with pytest.raises(RefusedError, match="was away") as refused:
            await connection.ask(Touch(), int)
        assert refused.value.kind == "outcome-unknown"
        assert len(server.commands("touch")) == 1


async def test_requests_are_held_no_longer_than_they_may(tmp_path: Path) -> None:
    async with fake_server(tmp_path, hold_seconds=0.2) as server, connected(server) as connection:
        server.silent = True
        sent = asyncio.create_task(connection.ask(Peek(), int))
        await until(lambda: server.commands("peek"))
        await server.die()
        begun = asyncio.get_running_loop().time()
        outcomes = await asyncio.gather(sent, connection.ask(Peek(), int), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ServerAwayError, ServerAwayError]
        assert 0.1 < asyncio.get_running_loop().time() - begun < PATIENCE


async def test_a_server_that_says_nothing_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    async with fake_server(tmp_path, hold_seconds=0.0) as server, connected(server) as connection:
        server.silent = True
        begun = asyncio.get_running_loop().time()
        with pytest.raises(ServerAwayError):
            await connection.ask(Peek(), int)
        assert asyncio.get_running_loop().time() - begun < 4.0  # though earlier requests might have waited for longer


async def test_no_more_requests_are_held_than_may_be(tmp_path: Path) -> None:
    async with fake_server(tmp_path, held_requests=3) as server, connected(server) as connection:
        server.silent = True
        held = [asyncio.create_task(connection.ask(Peek(), int)) for _ in range(3)]
        await until(lambda: len(server.commands("peek")) == 3)
        with pytest.raises(ServerAwayError):
            await connection.ask(Peek(), int)
        for task in held:
            task.cancel()


async def test_a_request_whose_client_has_left_is_not_sent_again(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        await server.die()
        asked = asyncio.create_task(connection.ask(Peek(what=1), int))
        await asyncio.sleep(0)
        asked.cancel()
        await server.start()
        assert await connection.ask(Peek(what=2), int) == 2
        assert [said["command"]["what"] for said in server.commands("peek")] == [2]


async def test_all_who_wait_for_a_key_share_one_subscription(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        waiting = [asyncio.create_task(connection.changed("job/7", 100, PATIENCE)) for _ in range(100)]
        await until(lambda: ["job/7"] in [said["command"]["keys"] for said in server.commands("subscribe")])
        await connection.ask(Peek(), type(None))
        server.change("job/7")
        assert await asyncio.gather(*waiting) == [101] * 100
        assert sum("job/7" in said["command"]["keys"] for said in server.commands("subscribe")) == 2


async def test_who_waits_for_a_revision_that_is_past_is_answered_at_once(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        assert await connection.changed("job/7", 99, PATIENCE) == 100


async def test_who_has_waited_for_long_enough_is_told_the_same(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        assert await connection.changed("job/7", 100, 0.05) == 100


async def test_after_the_server_was_away_everything_may_have_changed(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        waiting = asyncio.create_task(connection.changed("job/7", 100, PATIENCE))
        await until(lambda: ["job/7"] in [said["command"]["keys"] for said in server.commands("subscribe")])
        await server.die()
        server.revisions["job/7"] = 500
        await server.start()
        assert await waiting == 500


async def test_another_process_of_the_server_may_know_of_changes(tmp_path: Path) -> None:
    versions: list[str] = []
    async with fake_server(tmp_path) as server, connected(server, on_version=versions.append) as connection:
        waiting = asyncio.create_task(connection.changed("job/7", 100, PATIENCE))
        await until(lambda: ["job/7"] in [said["command"]["keys"] for said in server.commands("subscribe")])
        server.revisions["job/7"], server.version = 200, "2.0"
        server.greet()
        assert await waiting == 200
        assert versions == ["2.0"]


async def test_one_follows_a_key_from_revision_to_revision(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        seen = []
        async for revision in connection.follow("jobs"):
            seen.append(revision)
            if len(seen) == 3:
                break
            server.revisions["jobs"] = revision + 1
            server.change("job/5")
        assert seen == [100, 101, 102]


async def test_who_follows_a_key_is_done_when_nobody_may_wait_any_more(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        followed = connection.follow("job/1")
        assert await anext(followed) == 100
        following = asyncio.ensure_future(anext(followed, None))
        await asyncio.sleep(0)
        connection.stop_waiting()
        assert await following is None  # and it does not turn in circles, which would keep this process from ending


async def test_settings_are_fetched_again_when_the_server_has_changed(tmp_path: Path) -> None:
    told: list[WebSettings | None] = []
    async with fake_server(tmp_path) as server, connected(server, on_settings=told.append) as connection:
        server.web = type(server.web)(port=4711)
        server.change("server")
        await until(lambda: len(told) == 2)
        assert connection.settings.web.port == 4711


async def test_settings_are_fetched_again_where_the_server_was_too_busy_to_tell_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "RETRY_MOST_SECONDS", 0.05)
    async with fake_server(tmp_path, hold_seconds=0.0) as server, connected(server) as connection:
        server.web = Web(plain_http=True, port=4711, hold_seconds=0.0)
        server.silent = True
        server.change("server")
        await until(lambda: len(server.commands("subscribe")) > 3)
        server.silent = False
        await until(lambda: connection.settings.web.port == 4711)


async def test_a_connection_that_ends_tells_all_who_wait(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        server.silent = True
        asked = asyncio.create_task(connection.ask(Peek(), int))
        waiting = asyncio.create_task(connection.changed("job/7", 100, PATIENCE))
        await until(lambda: server.commands("peek"))
        await connection.close()
        with pytest.raises(ServerAwayError):
            await asked
        assert await waiting == 100


async def test_a_line_that_is_none_ends_the_connection_and_another_is_made(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        for writer in server.writers:
            writer.write(b"nonsense\n")
        assert await connection.ask(Peek(what=3), int) == 3
        assert isinstance(server, FakeServer)


async def test_a_request_that_is_too_long_for_the_server_harms_no_other(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        other = asyncio.create_task(connection.ask(Peek(what=1), int))
        with pytest.raises(RefusedError, match="too much at once") as refused:
            await connection.ask(Peek(what="x" * MAX_LINE), str)
        assert refused.value.kind == "bad-request"
        assert await other == 1


async def test_who_follows_a_key_is_let_go_of_when_nobody_may_wait_any_more(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as server, connected(server) as connection:
        seen: list[int] = []

        async def follow() -> None:
            async for revision in connection.follow("job/7"):
                seen.append(revision)  # noqa: PERF401 - as it comes

        following = asyncio.create_task(follow())
        await until(lambda: seen)
        connection.stop_waiting()
        async with asyncio.timeout(PATIENCE):
            await following
        assert len(seen) == 1
