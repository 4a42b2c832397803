"""The whole server on simulated hardware: jobs live, and outlive it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog

from spalloc_server.config import watch as config_watch
from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import ConfigurationError, DamagedStateError, SpallocServerError, StorageError
from spalloc_server.hardware.scp import Command
from spalloc_server.process.upgrade import Predecessor
from spalloc_server.server import Server
from spalloc_server.storage.history import read_state
from spalloc_server.storage.rows import Rows
from spalloc_server.storage.sqlite import SqliteJournal
from spalloc_server.storage.state_file import state_path
from tests.house import HASTE, PATIENCE, Client, Place
from tests.processes import ServerProcess
from tests.storage.disk import Disk, Operation

QUEUED, POWER, READY, DESTROYED = 1, 2, 3, 4


class Clients:
    """Clients whose connections are closed at the end of the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def connect(self, server: Server | ServerProcess) -> Client:
        client = await Client.connect(server.address)
        self._stack.push_async_callback(client.close)
        return client


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk on which commits go on only while this is set."""
    going = threading.Event()
    going.set()
    commit = SqliteJournal._commit

    def commit_when_it_goes_on(journal: SqliteJournal, rows: Rows) -> StorageError | None:
        going.wait(PATIENCE)
        return commit(journal, rows)

    monkeypatch.setattr(SqliteJournal, "_commit", commit_when_it_goes_on)
    yield going
    going.set()


@pytest.mark.quick
async def test_a_job_gets_boards_that_are_on_and_fenced_off_and_gives_them_back(place: Place, clients: Clients) -> None:
    async with place.simulator() as simulator, place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        assert (await client.until(job_id, READY))["power"] is True
        info = await client.call("get_job_machine_info", job_id)
        numbers = {await_number(info, board) for board in map(tuple, info["boards"])}
        assert {number for _, number in simulator.boards_on()} >= numbers
        assert len(simulator.stopped_links()) == 12
        await client.call("destroy_job", job_id, "enough")
        await until(lambda: not simulator.boards_on() & {(place.hosts[0], number) for number in numbers})
        assert simulator.counters.overlaps == 0


async def test_a_restart_keeps_jobs_and_leaves_their_boards_alone(place: Place, clients: Clients) -> None:
    async with place.simulator() as simulator:
        async with place.serving() as server:
            client = await clients.connect(server)
            running, waiting = await client.create(12), await client.create(12)
            await client.until(running, READY)
            info = await client.call("get_job_machine_info", running)
            cycles = simulator.power_cycles()
        async with place.serving() as server:
            client = await clients.connect(server)
            assert (await client.call("get_job_state", running))["state"] == READY
            assert await client.call("get_job_machine_info", running) == info
            assert (await client.call("get_job_state", waiting))["state"] == QUEUED
            assert simulator.power_cycles() == cycles
            assert await client.create() == waiting + 1


async def test_a_cold_start_forgets_jobs_and_keeps_the_old_state_under_another_name(
    place: Place, clients: Clients
) -> None:
    async with place.simulator():
        async with place.serving() as server:
            client = await clients.connect(server)
            job_id = await client.create()
        async with place.serving(cold_start=True) as server:
            client = await clients.connect(server)
            assert (await client.call("get_job_state", job_id))["state"] == 0
            assert await client.create() == job_id + 1, "numbers are never used again"
            assert len(list(place.folder.glob(".config.py.state.db*"))) >= 2


async def test_a_cold_start_switches_off_what_was_left_on_and_keeps_closed_what_operators_have_closed(
    place: Place, clients: Clients
) -> None:
    async with place.simulator() as simulator:
        async with place.serving() as server:
            client = await clients.connect(server)
            await client.until(await client.create(12), READY)
            server.controller.disable_board("m", (0, 0, 0), reason="smells", by="eve")
        assert len(simulator.boards_on()) == 12
        async with place.serving(cold_start=True) as server:
            client = await clients.connect(server)
            job_id = await client.create(3)
            await client.until(job_id, READY)
            info = await client.call("get_job_machine_info", job_id)
            mine = {(place.hosts[0], await_number(info, board)) for board in map(tuple, info["boards"])}
            await until(lambda: simulator.boards_on() == mine)
            assert server.controller.board_view("m", (0, 0, 0)).out_of_service == "smells"


async def test_what_operators_have_closed_stays_closed_through_a_cold_start_under_another_name(place: Place) -> None:
    async with place.simulator():
        async with place.serving() as server:
            server.controller.disable_board("m", (0, 0, 0), reason="smells", by="eve")
        place.configure(name="n")
        async with place.serving(cold_start=True) as server:
            assert server.controller.board_view("n", (0, 0, 0)).out_of_service == "smells"
        kept = place.config.read_text()
        place.config.write_text("configuration = Configuration(ip='127.0.0.1')")
        async with place.serving():
            pass
        async with place.serving(cold_start=True):
            pass
        place.config.write_text(kept.replace("Machine('n'", "Machine('o'"))
        async with place.serving() as server:
            assert server.controller.board_view("o", (0, 0, 0)).out_of_service == "smells"


async def test_the_end_of_a_job_is_acknowledged_to_nobody_before_it_is_stored(
    place: Place, clients: Clients, disk: threading.Event
) -> None:
    async with place.simulator(), place.serving() as server:
        first, second = await clients.connect(server), await clients.connect(server)
        job_id = await first.create(3)
        await first.until(job_id, READY)
        await server._commits.settle()
        disk.clear()
        ends = [asyncio.create_task(first.call("destroy_job", job_id))]
        await until(lambda: len(server._commits._storing) == 1)
        ends.append(asyncio.create_task(second.call("destroy_job", job_id)))
        await until(lambda: len(server._service.context.waiting) == 2 or any(end.done() for end in ends))
        assert not any(end.done() for end in ends)
        assert [row.ended_at for row in read_state(place.state, read_request).jobs] == [None]
        disk.set()
        assert await asyncio.gather(*ends) == [None, None]
        assert read_state(place.state, read_request).jobs == []


async def test_a_silent_job_is_destroyed_and_its_watchers_are_told(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create(keepalive=0.1)
        await client.call("notify_job")
        while (await client.line()) != {"jobs_changed": [job_id]} or server.controller.list_jobs():
            pass
        status = await client.call("get_job_state", job_id)
        assert (status["state"], status["reason"]) == (DESTROYED, "Job timed out.")


async def test_a_reload_changes_what_may_change_and_keeps_running_jobs(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create()
        place.configure(tags="new")
        server.reload()
        assert (await client.call("list_machines"))[0]["tags"] == ["new"]
        await client.until(job_id, READY)


async def test_how_boards_are_switched_is_configured_and_changed_by_a_reload(place: Place, clients: Clients) -> None:
    def configure(stagger_ms: int) -> None:
        place.configure()
        text = place.config.read_text()
        place.config.write_text(text.replace("ip=", f"hardware=Hardware(stagger_ms={stagger_ms}), ip="))

    configure(3)
    async with place.simulator() as simulator, place.serving(timings=None) as server:
        client = await clients.connect(server)
        await client.until(await client.create(), READY)
        configure(5)
        server.reload()
        await client.until(await client.create(), READY)
        powers = [r for _, r in simulator.frames[place.hosts[0]].commands if r.command == Command.POWER]
        assert [request.arg1 >> 16 for request in powers] == [3, 5]


async def test_a_bad_config_changes_nothing_at_a_reload(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        before = await client.call("list_machines")
        for text in ("configuration = Configuration([1])", "}", "1 / 0", ""):
            place.config.write_text(text)
            server.reload()
        assert await client.call("list_machines") == before


async def test_an_empty_configuration_drains_everything(place: Place, clients: Clients) -> None:
    async with place.simulator() as simulator, place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create(12)
        await client.until(job_id, READY)
        with place.config.open("a") as file:
            file.write("configuration = Configuration(ip='127.0.0.1')\n")
        server.reload()
        assert (await client.call("get_job_state", job_id))["reason"] == "Machine removed."
        assert await client.call("list_machines") == []
        await until(lambda: not simulator.boards_on() & {(place.hosts[0], number) for number in range(12)})


async def test_a_changed_address_moves_the_server_and_its_clients_come_again(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create()
        place.config.write_text(place.config.read_text().replace("ip='127.0.0.1'", "ip='127.0.0.2'"))
        server.reload()
        with pytest.raises(EOFError):
            await client.line()
        await until(lambda: server.address[0] == "127.0.0.2")
        client = await clients.connect(server)
        await client.until(job_id, READY)


def free_port() -> int:
    """A port that nobody uses, and that the system gives to nobody who asks for any."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("", port))
            return port


async def test_an_address_changes_though_the_server_has_its_port_already(place: Place, clients: Clients) -> None:
    text = place.config.read_text()
    place.config.write_text(text.replace("ip='127.0.0.1'", "ip=''"))
    async with place.simulator(), place.serving(port=free_port()) as server:
        port = server.address[1]
        place.config.write_text(text)
        server.reload()
        await until(lambda: server.address == ("127.0.0.1", port))
        client = await clients.connect(server)
        place.config.write_text(text.replace("ip='127.0.0.1'", "ip=''").replace("'default'", "'new'"))
        server.reload()
        await until(lambda: server.address == ("0.0.0.0", port))
        with pytest.raises(EOFError):
            await client.line()
        client = await clients.connect(server)
        place.config.write_text(text.replace("ip='127.0.0.1'", "ip='192.0.2.1'"))
        server.reload()
        assert (await client.call("list_machines"))[0]["tags"] == ["new"], "all of a bad config is refused"
        await until(lambda: server._service.acceptor.address == ("0.0.0.0", port))
        await clients.connect(server)


async def test_an_address_that_cannot_be_had_changes_nothing(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        before = await client.call("list_machines")
        place.configure(tags="new")
        place.config.write_text(place.config.read_text().replace("ip='127.0.0.1'", "ip='192.0.2.1'"))
        server.reload()
        assert await client.call("list_machines") == before


async def test_a_watched_config_is_reloaded_when_it_is_replaced(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving(watch_config=True) as server:
        client = await clients.connect(server)
        await client.call("notify_machine")
        other = Place(place.folder, place.hosts)
        other.configure(tags="new")
        replacement = place.config.with_name("replacement")
        place.config.rename(replacement)
        replacement.rename(place.config)
        while (await client.call("list_machines"))[0]["tags"] != ["new"]:
            await client.line()


def reloads(log: list[structlog.typing.EventDict]) -> int:
    """How often the config has been read again, successfully or not."""
    return len(of_configs(log))


def of_configs(log: list[structlog.typing.EventDict]) -> list[structlog.typing.EventDict]:
    """What is said of configs; a busy computer's event loop may stall meanwhile."""
    return [entry for entry in log if entry["event"].startswith("configuration ")]


@pytest.mark.parametrize("damage", ["", "# nothing\n", "cut off"])
async def test_a_watched_config_that_is_empty_or_cut_off_changes_nothing(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(config_watch, "WATCH_SECONDS", 0.01)
    async with place.simulator(), place.serving(watch_config=True) as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        whole = place.config.read_text()
        with structlog.testing.capture_logs() as log:
            place.config.write_text(whole[: len(whole) // 2] if damage == "cut off" else damage)
            await until(lambda: reloads(log) == 1)
        assert [entry["event"] for entry in of_configs(log)] == ["configuration not changed: the file is bad"]
        assert (await client.call("get_job_state", job_id))["state"] in (POWER, READY)
        assert server.address[0] == "127.0.0.1"
        with structlog.testing.capture_logs() as log:
            place.config.write_text(whole)
            await until(lambda: reloads(log) == 1)
        assert [(entry["event"], entry["changes"]) for entry in of_configs(log)] == [("configuration reloaded", "none")]


async def test_a_watched_config_is_reloaded_when_a_file_changes_that_it_names(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watch, "WATCH_SECONDS", 0.01)
    tags = place.folder / "tags"
    tags.write_text("default")
    text = place.config.read_text().replace("{'default'}", f"{{__import__('pathlib').Path({str(tags)!r}).read_text()}}")
    place.config.write_text(text)
    async with place.simulator(), place.serving(watch_config=True) as server:
        client = await clients.connect(server)
        await client.call("notify_machine")
        tags.write_text("renewed")
        while (await client.call("list_machines"))[0]["tags"] != ["renewed"]:
            await client.line()


async def test_a_line_appended_drains_everything_and_the_log_warns_of_the_jobs_that_end(
    place: Place, clients: Clients
) -> None:
    async with place.simulator() as simulator, place.serving() as server:
        client = await clients.connect(server)
        running, waiting = await client.create(12), await client.create(3)
        await client.until(running, READY)
        with place.config.open("a") as file:
            file.write("configuration = Configuration()\n")
        with structlog.testing.capture_logs() as log:
            server.reload()
        (warning,) = [entry for entry in log if entry["log_level"] == "warning" and "jobs" in entry]
        assert warning["event"] == "the configuration ends jobs"
        assert (warning["jobs"], warning["machines"], warning["job_ids"]) == (2, ["m"], [running, waiting])
        await until(lambda: server.address[0] == "0.0.0.0")  # as that configuration has it
        client = await clients.connect(server)
        assert (await client.call("get_job_state", running))["reason"] == "Machine removed."
        assert (await client.call("get_job_state", waiting))["state"] == DESTROYED
        await until(lambda: not simulator.boards_on())


async def test_a_reload_that_ends_no_job_warns_of_none(place: Place, clients: Clients) -> None:
    async with place.simulator(), place.serving() as server:
        await (await clients.connect(server)).create(12)
        place.configure(tags="new")
        with structlog.testing.capture_logs() as log:
            server.reload()
        assert [entry["event"] for entry in log if "job_ids" in entry] == []


async def test_a_machine_gets_another_name_under_its_jobs_by_a_reload_and_at_a_start(
    place: Place, clients: Clients
) -> None:
    async with place.simulator() as simulator:
        async with place.serving() as server:
            client = await clients.connect(server)
            job_id = await client.create(3, machine="m")
            await client.until(job_id, READY)
            before, on = await client.call("get_job_machine_info", job_id), simulator.boards_on()
            place.configure(name="n")
            server.reload()
            assert await client.call("get_job_machine_info", job_id) == {**before, "machine_name": "n"}
            (described,) = await client.call("list_jobs")
            assert described["allocated_machine_name"] == "n"
        place.configure(name="o")
        async with place.serving() as server:
            client = await clients.connect(server)
            assert await client.call("get_job_machine_info", job_id) == {**before, "machine_name": "o"}
            assert simulator.boards_on() == on
            await client.call("destroy_job", job_id)
            await until(lambda: not simulator.boards_on())


async def test_a_start_with_a_config_that_ends_jobs_warns(place: Place, clients: Clients) -> None:
    async with place.simulator():
        async with place.serving() as server:
            job_id = await (await clients.connect(server)).create(12)
        place.configure(name="other")
        place.config.write_text(place.config.read_text().replace("'board-", "'elsewhere-"))
        with structlog.testing.capture_logs() as log:
            async with place.serving():
                pass
        (warning,) = [entry for entry in log if entry["event"] == "the configuration ends jobs"]
        assert (warning["jobs"], warning["machines"], warning["job_ids"]) == (1, ["m"], [job_id])


async def test_a_defect_in_a_reload_is_logged_and_costs_nothing(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        before = await client.call("list_machines")
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as log:
            patch.setattr(server._source, "read", Mock(side_effect=ZeroDivisionError))
            server.reload()
        assert [entry["event"] for entry in log] == ["reload failed"]
        assert await client.call("list_machines") == before


async def test_a_config_that_is_changed_while_the_server_starts_is_reloaded(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_journal = Server._open_journal

    def saved_meanwhile(server: Server, predecessor: Predecessor | None) -> None:
        place.configure(tags="new")
        open_journal(server, predecessor)

    monkeypatch.setattr(Server, "_open_journal", saved_meanwhile)
    async with place.simulator(), place.serving(watch_config=True) as server:
        client = await clients.connect(server)
        await client.call("notify_machine")
        while (await client.call("list_machines"))[0]["tags"] != ["new"]:
            await client.line()


async def test_a_second_stop_does_not_wait_for_a_disk_that_hangs(
    place: Place, clients: Clients, disk: threading.Event
) -> None:
    async with place.simulator():
        server, ready = Server(place.config, port=0, timings=HASTE), asyncio.Event()
        running = asyncio.create_task(server.run(on_ready=ready.set))
        await ready.wait()
        client = await clients.connect(server)
        disk.clear()
        create = asyncio.create_task(client.create(3))
        await until(lambda: len(server._commits._storing) == 1)
        server.stop()
        server.stop()
        async with asyncio.timeout(PATIENCE / 2):
            await running
        with pytest.raises((EOFError, ConnectionError)):
            await create
        assert not disk.is_set()


async def test_the_job_log_tells_a_jobs_life_a_line_an_event(place: Place, clients: Clients) -> None:
    job_log = place.folder / "jobs.jsonl"
    async with place.simulator(), place.serving(job_log=job_log) as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        await client.until(job_id, READY)
        await client.call("destroy_job", job_id, "enough")
    events = [json.loads(line) for line in job_log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["created", "allocated", "ready", "destroyed"]
    assert {event["owner"] for event in events} == {"me"}
    assert (events[-1]["reason"], len(events[1]["boards"])) == ("enough", 3)
    assert [event.get("seconds", -1) >= 0 for event in events] == [False, True, True, True]


async def test_the_log_tells_what_happens_to_jobs_and_how_many_a_reload_and_a_stop_have_ended(
    place: Place, clients: Clients
) -> None:
    with structlog.testing.capture_logs() as log:
        async with place.simulator(), place.serving() as server:
            client = await clients.connect(server)
            for owner in ("ann", "bob"):
                await client.until(await client.create(3, owner=owner), READY)
            await client.call("destroy_job", 1, "enough")
            place.configure(name="n")
            place.config.write_text(place.config.read_text().replace("'board-", "'elsewhere-"))
            server.reload()
            last = await client.create(1)
            await client.until(last, READY)
    lines = [entry for entry in log if entry["event"].startswith("job ")]
    assert [(line["event"], line["job"]) for line in lines] == [
        *(("job created", 1), ("job allocated", 1), ("job ready", 1)),
        *(("job created", 2), ("job allocated", 2), ("job ready", 2)),
        *(("job ended", 1), ("job ended", 2)),
        *(("job created", 3), ("job allocated", 3), ("job ready", 3)),
    ]
    ended = lines[6]
    assert (ended["owner"], ended["machine"], ended["boards"], ended["reason"]) == ("ann", "m", 3, "enough")
    (reload,) = (entry for entry in log if entry["event"] == "configuration reloaded")
    assert reload["jobs_ended"] == 1
    assert log[-1] == {"event": "stopped: jobs keep their boards", "log_level": "info", "jobs": 1, "jobs_ended": 0}


async def test_a_board_in_quarantine_comes_back_by_itself_to_a_server_that_nobody_uses(
    place: Place, clients: Clients
) -> None:
    settings = "health=Health(quarantine_seconds=0.3), ip='127.0.0.1'"
    place.config.write_text(place.config.read_text().replace("ip='127.0.0.1'", settings))
    async with place.simulator() as simulator, place.serving() as server:
        client = await clients.connect(server)
        for reporter in ("here", "there"):
            await client.until(job_id := await client.create(0, 0, 0), READY)
            server.controller.report_problem("board-0-0-0", "it is dead", reporter=reporter)
            await client.call("destroy_job", job_id)
        await client.close()
        assert server.controller.machine_views()[0].out_of_service == 1
        await until(lambda: server.controller.machine_views()[0].boards == {"free": 12})
        assert simulator.power_cycles()[place.hosts[0], 0] == (3, 3)


async def test_a_second_server_is_refused_the_same_state(place: Place) -> None:
    async with place.simulator(), place.serving():
        with pytest.raises(SpallocServerError, match=str(place.state)):
            async with place.serving():
                pass


async def test_a_config_that_is_bad_at_the_start_is_an_error(place: Place) -> None:
    place.config.write_text("configuration = 3")
    with pytest.raises(ConfigurationError):
        async with place.serving():
            pass


async def test_a_dead_bmp_does_not_keep_a_server_from_starting(place: Place, clients: Clients) -> None:
    async with place.serving() as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        async with place.simulator():
            await client.until(job_id, READY)


def test_a_server_can_run_in_a_thread(place: Place) -> None:
    server = Server(place.config, port=0)
    server.start()
    assert server.is_alive()
    with socket.create_connection(server.address, timeout=PATIENCE) as client:
        client.sendall(b'{"command": "version"}\n')
        assert client.recv(100) == b'{"return":"1.0.0"}\n'
    with pytest.raises(RuntimeError, match="this Server runs already"):
        server.start()
    server.stop_and_join()
    assert not server.is_alive()
    server.stop_and_join()
    with pytest.raises(RuntimeError, match="a Server runs once; make another"):
        server.start()


def test_a_server_in_a_thread_that_cannot_start_says_why(place: Place) -> None:
    place.config.write_text("configuration = 3")
    server = Server(place.config, port=0)
    with pytest.raises(ConfigurationError):
        server.start()
    server.join(PATIENCE)
    assert not server.is_alive()


def test_the_state_stands_beside_the_config() -> None:
    assert state_path(Path("a/b.toml")) == Path("a/.b.toml.state.db")


def await_number(info: dict[str, list[list[int]]], board: tuple[int, ...]) -> int:
    """The number within its frame of a board of the machine that `Place.configure` makes by default."""
    x, y, z = board
    assert [x, y, z] in info["boards"]
    return x * 6 + y * 3 + z


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - simulated hardware tells nobody when it has acted
            await asyncio.sleep(0.01)


async def test_a_damaged_state_is_left_alone_until_an_operator_says_what_to_do(place: Place, clients: Clients) -> None:
    async with place.simulator():
        async with place.serving() as server:
            job_id = await (await clients.connect(server)).create()
        damaged = place.state.read_bytes()[:5000] + b"damage" * 1000
        place.state.write_bytes(damaged)
        with pytest.raises(DamagedStateError, match=f"{place.state} is damaged.* put a backup in its place, or"):
            async with place.serving():
                pass
        assert place.state.read_bytes() == damaged
        async with place.serving(cold_start=True) as server:
            assert await (await clients.connect(server)).create() >= 1
        aside = place.state.with_name(f"{place.state.name}.aside-1")
        assert aside.read_bytes() == damaged
        assert job_id == 1


async def test_with_a_disk_that_refuses_reads_go_on_changes_are_refused_and_all_recovers(
    place: Place, clients: Clients
) -> None:
    def full(operation: Operation) -> int:
        return sqlite3.SQLITE_FULL if operation.kind == "write" else 0

    with Disk() as disk, structlog.testing.capture_logs() as log:
        async with place.simulator() as simulator, place.serving() as server:
            client = await clients.connect(server)
            job_id = await client.create(3, keepalive=60.0)
            await client.until(job_id, READY)
            on = simulator.boards_on()
            disk.fault = full
            with pytest.raises(RuntimeError, match="could not store this"):
                await client.create(3)
            with pytest.raises(RuntimeError, match="cannot store anything at present"):
                await client.call("create_job", owner="me")
            for change in ("destroy_job", "power_off_job_boards"):
                with pytest.raises(RuntimeError, match="cannot store anything at present"):
                    await client.call(change, job_id)
            assert [job["job_id"] for job in await client.call("list_jobs")] == [job_id]
            assert await client.call("job_keepalive", job_id) is None
            assert (await client.call("get_job_state", job_id))["state"] == READY
            assert simulator.boards_on() == on
            disk.fault = lambda _: 0
            async with asyncio.timeout(PATIENCE):
                while server._application.read_only is not None:  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.05)
            await client.call("destroy_job", job_id)
            await until(lambda: not simulator.boards_on())
        async with place.simulator(), place.serving() as server:
            assert await (await clients.connect(server)).call("list_jobs") == []
    events = [entry["event"] for entry in log]
    assert events.count("state cannot be written: changes are refused until it can") == 1
    assert events.count("state can be written again: nothing was lost") == 1


SPOILS = {
    "DELETE FROM facts WHERE name = 'machine/m'": ("", True),
    "UPDATE facts SET value = '[1]' WHERE name = 'machine/m'": ("facts/machine/m", True),
    "UPDATE facts SET value = '\"x\"' WHERE name = 'next_id'": ("facts/next_id", True),
    "UPDATE facts SET value = '[3]' WHERE name = 'machines'": ("facts/machines", True),
    "UPDATE jobs SET args = '[\"x\"]'": ("", True),  # which only `list_jobs` tells
    "UPDATE jobs SET request = NULL": ("", True),
    "UPDATE jobs SET request = NULL, args = '[\"x\"]'": ("jobs/1", False),
    'UPDATE jobs SET request = \'{"owner":"me"}\'': ("jobs/1", False),
    'UPDATE jobs SET request = \'{"owner":"me","boards":"3"}\'': ("jobs/1", False),
    "UPDATE jobs SET machine = 'elsewhere'": ("jobs/1", False),
    "UPDATE jobs SET boards = '[[9, 9, 0]]'": ("jobs/1", False),
    "UPDATE jobs SET boards = '[[0, '": ("jobs/1", False),
    "UPDATE jobs SET width = 77": ("jobs/1", False),
    "UPDATE jobs SET state = 9": ("jobs/1", False),
    "UPDATE jobs SET ready_at = 9e300": ("jobs/1", False),
    "UPDATE jobs SET ended_at = 7": ("jobs/1", False),
    "INSERT INTO releases VALUES (99, 7, 'm', '[[0, 2, 1]]', '[]', NULL)": ("releases/99", True),
    "INSERT INTO releases SELECT 99, job_id, machine, boards, '[]', NULL FROM jobs": ("releases/99", True),
    "INSERT INTO boards VALUES ('m', 0, 0, 0, 'why', NULL, NULL, '[]', '[]', 0, -1, NULL)": ("boards/m/0/0/0", True),
}
"""Damage that the database knows nothing of, the row that is set aside for it, and whether the job lives on."""


@pytest.mark.parametrize("spoil", SPOILS)
async def test_rows_that_do_not_fit_together_cost_no_more_than_themselves(
    place: Place, clients: Clients, spoil: str
) -> None:
    named, lives = SPOILS[spoil]
    async with place.simulator() as simulator:
        async with place.serving() as server:
            client = await clients.connect(server)
            await client.until(await client.create(3), READY)
        with closing(sqlite3.connect(place.state)) as connection, connection:
            connection.execute(spoil)
        for start in (1, 2):  # at the second everything is sound again
            with structlog.testing.capture_logs() as logs:
                async with place.serving() as server:
                    client = await clients.connect(server)
                    state = await client.call("get_job_state", 1)
                    assert state["state"] == (READY if lives else DESTROYED)
                    assert lives or state["reason"].startswith("Cancelled: the server could not read")
                    everything = await client.create(*((2, 1) if lives else (2, 2)), owner="next", keepalive=None)
                    assert everything > start
                    await client.until(everything, READY)
                    await client.call("destroy_job", everything)
                    server.controller.check()
            told = [f"{log['table']}/{log['key']}" for log in logs if log["event"].startswith("stored row set aside")]
            assert told == ([named] if named and start == 1 else [])
            assert server.defects.count == 0
        assert simulator.counters.errors == 0
