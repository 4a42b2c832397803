"""A new process takes over, and clients notice nothing; where it cannot, the old one goes on."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from unittest.mock import Mock

import pytest
import structlog

from spalloc_server.core.model.arguments import read_request
from spalloc_server.errors import StorageError, UpgradeError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.process import upgrade
from spalloc_server.server import Server
from spalloc_server.simulator.frame import SimulatedTimings
from spalloc_server.simulator.simulator import Simulator
from spalloc_server.storage.history import read_state
from tests.frontends.operators.speaking import HELLO, Operator, line_of
from tests.house import PATIENCE, Client, Place
from tests.processes import ServerProcess, events, running
from tests.test_server import DESTROYED, POWER, READY, Clients, clients, until
from tests.torture.halls import Hall

__all__ = ["clients"]


async def upgraded(server: ServerProcess) -> None:
    before = server.pid
    server.signal(signal.SIGUSR2)
    assert await server.serves() != before


async def test_clients_and_their_watches_move_to_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator() as simulator, running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(12)
        await client.until(job_id, READY)
        cycles = simulator.power_cycles()
        watcher = await clients.connect(server)
        await watcher.call("notify_job", job_id)
        waiting = asyncio.create_task(watcher.line())
        await upgraded(server)
        assert (await client.call("get_job_state", job_id))["state"] == READY
        assert simulator.power_cycles() == cycles
        await client.call("destroy_job", job_id, "enough")
        assert await waiting == {"jobs_changed": [job_id]}
        newcomer = await clients.connect(server)
        assert await newcomer.call("version") == "1.0.0"
        assert simulator.counters.overlaps == 0


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


FAULTS = {
    "exits at once": "has ended",
    "hangs": "says nothing",
    "talks nonsense": "nonsense",
    "is of another format": "cannot take over from version",
    "exits once warm": "has ended",
    "exits instead of being ready": "has ended",
    "hangs once warm": "timed out",
    "brings the state to a newer schema": "has ended",
}
"""How a successor may fail (`tests.launcher`), and a word of what the log says then."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_new_process_that_fails_changes_nothing(place: Place, clients: Clients, fault: str) -> None:
    haste = {"hangs": {"WARM_SECONDS": "1"}, "hangs once warm": {"HANDOVER_SECONDS": "0.5"}}.get(fault, {})
    async with place.simulator() as simulator, running(place, **haste) as server:
        client = await clients.connect(server)
        job_id = await client.create(12)
        await client.until(job_id, READY)
        cycles = simulator.power_cycles()
        (place.folder / "fault").write_text(fault)
        server.signal(signal.SIGUSR2)
        await until(lambda: any(event["event"].startswith("upgrade failed") for event in events(place)))
        [failure] = [event for event in events(place) if event["event"].startswith("upgrade failed")]
        assert FAULTS[fault] in failure["error"]
        assert (await client.call("get_job_state", job_id))["state"] == READY
        assert await client.create(3) == job_id + 1
        assert await (await clients.connect(server)).call("version") == "1.0.0"
        assert simulator.power_cycles() == cycles
        if fault == "exits once warm":
            (place.folder / "fault").unlink()
            await upgraded(server)
            assert len(await client.call("list_jobs")) == 2


async def test_nothing_is_left_open_in_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        for _ in range(20):
            await clients.connect(server)
        await upgraded(server)
        before = open_files(server)
        await upgraded(server)
        assert open_files(server) <= before + 10  # some come and go; connections that leak would be 20


async def test_replies_that_were_not_read_yet_come_once_and_whole(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        await (await clients.connect(server)).create(3)
        client = await clients.connect(server)
        client._reader._transport.pause_reading()  # type: ignore[attr-defined]
        count = 20_000  # more than the buffers of both ends take
        client._writer.write(b'{"command": "list_machines"}\n' * count + b'{"command": "version"}\n')
        await asyncio.sleep(0.5)
        await upgraded(server)
        client._reader._transport.resume_reading()  # type: ignore[attr-defined]
        replies = [await client.line() for _ in range(count + 1)]
        assert all(reply == replies[0] for reply in replies[:-1])
        assert replies[-1] == {"return": "1.0.0"}


async def test_a_bmp_in_the_middle_of_a_power_on_is_left_to_finish_it(tmp_path: Path, clients: Clients) -> None:
    hall = Hall(tmp_path, frames=2)
    slow = SimulatedTimings(power_on=2.0, power_on_others=2.0)
    async with hall.simulator(slow) as simulator, running(hall) as server:
        client = await clients.connect(server)
        job_id = await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        await upgraded(server)
        assert (await client.until(job_id, READY))["power"] is True
        assert simulator.counters.overlaps == 0


async def test_a_cold_start_is_not_repeated_by_an_upgrade(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place, "--cold-start") as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        await upgraded(server)
        assert [job["job_id"] for job in await client.call("list_jobs")] == [job_id]


async def test_a_changed_config_is_applied_by_the_new_process(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        await client.call("notify_job", job_id)
        place.config.write_text(place.config.read_text().replace("'board-", "'elsewhere-"))
        await upgraded(server)
        assert await client.line() == {"jobs_changed": [job_id]}
        assert (await client.call("get_job_state", job_id))["reason"] == "Machine removed."


async def told_while_it_waits(place: Place, server: ServerProcess, fault: str) -> int:
    """Begin an upgrade to a process that waits; the number of the one that serves meanwhile."""
    (place.folder / "fault").write_text(fault)
    server.signal(signal.SIGUSR2)
    await until((place.folder / "waits").exists)
    return server.pid


async def test_a_reload_before_the_handover_is_not_undone_by_it(place: Place, clients: Clients) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        await told_while_it_waits(place, server, "waits before it is warm")
        place.configure(tags="new")
        server.signal(signal.SIGHUP)
        await until(lambda: any(event["event"] == "configuration reloaded" for event in events(place)))
        (place.folder / "go").touch()
        await server.serves()
        assert (await client.call("list_machines"))[0]["tags"] == ["new"]


async def test_a_reload_that_is_asked_of_the_old_process_during_the_handover_is_done_by_the_new_one(
    place: Place, clients: Clients
) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        await client.call("notify_machine")
        old = await told_while_it_waits(place, server, "waits before it is ready")
        place.configure(tags="new")
        os.kill(old, signal.SIGHUP)
        (place.folder / "go").touch()
        assert await server.serves() != old
        while (await client.call("list_machines"))[0]["tags"] != ["new"]:
            await client.line()


async def test_a_stop_that_is_asked_of_the_old_process_during_the_handover_stops_the_new_one(
    place: Place, clients: Clients
) -> None:
    async with place.simulator(), running(place) as server:
        client = await clients.connect(server)
        job_id = await client.create(3)
        old = await told_while_it_waits(place, server, "waits before it is ready")
        os.kill(old, signal.SIGTERM)
        (place.folder / "go").touch()
        assert await server.serves() != old
        await server.ended()
        assert [row.job_id for row in read_state(place.state, read_request).jobs] == [job_id]


async def test_a_second_upgrade_waits_until_the_bmps_are_free_of_the_first_process(
    tmp_path: Path, clients: Clients
) -> None:
    hall = Hall(tmp_path, frames=1)
    slow = SimulatedTimings(power_on=3.0, power_on_others=3.0)
    async with hall.simulator(slow) as simulator, running(hall) as server:
        client = await clients.connect(server)
        job_id = await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        await upgraded(server)
        await upgraded(server)
        assert (await client.until(job_id, READY))["power"] is True
        assert simulator.counters.overlaps == 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate, for which there is a key.pem beside it."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-out", "cert.pem", "-keyout", "key.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


@asynccontextmanager
async def busy_bmp(hall: Hall) -> AsyncIterator[tuple[Simulator, ServerProcess]]:
    """A server that is killed in the end, and a BMP that takes longer than any upgrade to switch boards on."""
    slow = SimulatedTimings(power_on=PATIENCE, power_on_others=PATIENCE)
    async with hall.simulator(slow) as simulator, running(hall, POWER_REPLY_SECONDS=str(2 * PATIENCE)) as server:
        yield simulator, server


async def test_a_client_whose_encrypted_connection_cannot_be_handed_over_is_disconnected_at_once(
    tmp_path: Path, certificate: Path
) -> None:
    hall = Hall(tmp_path, frames=1)
    access = "access=Access(tls_certificate='cert.pem', tls_key='key.pem'),"
    hall.config.write_text(hall.config.read_text().replace("ip=", f"{access} ip="))
    trusting = ssl.create_default_context(cafile=certificate)
    async with busy_bmp(hall) as (simulator, server):
        client = Client(*await asyncio.open_connection(*server.address, ssl=trusting))
        await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        await upgraded(server)
        with pytest.raises(EOFError):
            await client.line()
        assert "upgrade done: the new process serves" not in [event["event"] for event in events(hall)], "BMP was done"
        await client.close()


async def test_a_client_that_has_not_agreed_on_encryption_does_not_wait_for_the_old_process(
    tmp_path: Path, certificate: Path, clients: Clients
) -> None:
    hall = Hall(tmp_path, frames=1)
    access = f"access=Access(tls_certificate={certificate.name!r}, tls_key='key.pem'),"
    hall.config.write_text(hall.config.read_text().replace("ip=", f"{access} ip="))
    async with busy_bmp(hall) as (simulator, server):
        trusting = ssl.create_default_context(cafile=certificate)
        client = Client(*await asyncio.open_connection(*server.address, ssl=trusting))
        await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        arriving = await clients.connect(server)
        await upgraded(server)
        with pytest.raises((EOFError, ConnectionError)):
            await arriving.line()
        assert "upgrade done: the new process serves" not in [event["event"] for event in events(hall)], "BMP was done"
        await client.close()


async def failed_upgrade(server: Server) -> str:
    """Upgrade to a process that does not come; what the log says."""
    with structlog.testing.capture_logs() as log:
        server.upgrade()
        await until(lambda: any(entry["event"] == "upgrade failed: going on as before" for entry in log))
    return next(str(entry["error"]) for entry in log if "error" in entry)


async def test_whatever_goes_wrong_before_the_handover_the_server_goes_on(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
            assert "Too many open files" in await failed_upgrade(server)
        with monkeypatch.context() as patch:
            patch.setattr(upgrade, "Successor", Helpless)
            patch.setattr(server._service, "freeze", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
            assert "Too many open files" in await failed_upgrade(server)
        assert await client.create(3) == 1
        assert await (await clients.connect(server)).call("version") == "1.0.0"


class Helpless(upgrade.Successor):
    """A new process that ends as soon as it has everything; there is none."""

    def __init__(self) -> None:
        self.pid = 0
        self._serves = True
        self.takes_operators = True

    async def warm(self) -> None:
        pass

    def hand_over(self, *_: object) -> None:
        raise UpgradeError("the other process has ended")


async def test_the_old_process_serves_on_where_it_cannot_get_the_state_back(
    place: Place, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        client = await clients.connect(server)
        with monkeypatch.context() as patch:
            patch.setattr(upgrade, "Successor", Helpless)
            patch.setattr(server._journal, "reclaim", Mock(side_effect=StorageError("disk I/O error")))
            assert await failed_upgrade(server) == "disk I/O error"
        assert await client.create(3) == 1
        assert await (await clients.connect(server)).call("version") == "1.0.0"


# -------------------------------------------------------------------- operators


@pytest.fixture
async def operators(place: Place) -> AsyncIterator[Callable[[], Awaitable[Operator]]]:
    made: list[Operator] = []

    async def connect() -> Operator:
        made.append(await Operator.connect(place))
        return made[-1]

    yield connect
    for operator in made:
        operator.close()


Connect: TypeAlias = Callable[[], Awaitable[Operator]]
STOP = line_of({"command": "emergency-stop", "reason": "smoke"})
DONE = {"id": 1, "return": None}


@pytest.mark.parametrize("power_s", [0.0, 3.0], ids=["", "while the old process waits for a BMP"])
async def test_what_operators_send_over_connections_from_before_an_upgrade_is_done_by_the_new_process(
    tmp_path: Path, clients: Clients, operators: Connect, power_s: float
) -> None:
    hall = Hall(tmp_path, frames=1)
    timings = SimulatedTimings(power_on=power_s, power_on_others=power_s)
    async with hall.simulator(timings) as simulator, running(hall) as server:
        old = [await operators() for _ in range(20)]
        half = await operators()
        half.send(STOP[:20])
        assert len({(await operator.ask("status"))["pid"] for operator in old}) == 1
        client = await clients.connect(server)
        job_id = await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        await upgraded(server)
        for operator in old:
            async with asyncio.timeout(PATIENCE):
                assert (await operator.ask("status"))["pid"] == server.pid
        async with asyncio.timeout(PATIENCE):
            half.send(STOP[20:])
            assert await half.line() == DONE
        assert (await (await operators()).ask("status"))["stopped"]["reason"] == "smoke"
        assert (await client.call("get_job_state", job_id))["state"] in (POWER, DESTROYED)
        await until(lambda: not simulator.boards_on())
        assert simulator.counters.overlaps == 0


async def test_what_operators_send_during_a_handover_is_done_once(place: Place, operators: Connect) -> None:
    async with place.simulator(), running(place) as server:
        operator = await operators()
        assert (await operator.ask("status"))["pid"] == server.pid
        await told_while_it_waits(place, server, "waits before it is ready")
        operator.send(STOP)
        newcomer = await operators()
        newcomer.send(line_of({"command": "drain", "machine": "m", "reason": "fans"}))
        (place.folder / "go").touch()
        new = await server.serves()
        assert [await operator.line(), await newcomer.line()] == [DONE, DONE]
        status = await operator.ask("status")
        assert (status["pid"], status["stopped"]["reason"]) == (new, "smoke")
        assert status["machines"][0]["drained"]["reason"] == "fans"
        # The log is written in the background
        await until(lambda: sum(event["event"] == "command performed" for event in events(place)) == 2)


async def test_a_command_that_is_done_once_is_so_over_upgrades_restarts_and_kills(
    place: Place, operators: Connect
) -> None:
    create = {"command": "create job", "request": {"owner": "ann", "boards": 1}, "keepalive": None}
    once = {"once": "0123456789abcdef", "for": {"account": "ann"}}
    async with place.simulator():
        async with running(place) as server:
            await (await operators()).ask("create account", name="ann")
            front = await Operator.connect(place, HELLO.replace(b'"test"', b'"spalloc_web"'))
            epochs = [json.loads(await front.reader.readline())["hello"]["epoch"]]
            first = await front.say(create, **once)
            await upgraded(server)
            epochs.append(json.loads(await front.reader.readline())["hello"]["epoch"])
            assert await front.say(create, **once) == first == {"return": 1}
            assert epochs[0] != epochs[1]
            front.close()
            await server.kill()
        async with running(place) as server:
            assert await (await operators()).say(create, **once) == first
            await server.stop()
        async with running(place):
            operator = await operators()
            assert await operator.say(create, **once) == first
            assert [job["job_id"] for job in await operator.ask("jobs")] == [1]


async def test_what_is_subscribed_to_and_waited_for_goes_on_in_the_new_process(
    place: Place, operators: Connect
) -> None:
    async with place.simulator(), running(place) as server:
        watching, waiting = await operators(), await operators()
        await watching.ask("subscribe", keys=["machines", "server", "job/7"])
        revisions = await waiting.ask("subscribe", keys=["machines"])
        waiting.send(line_of({"command": "wait", "key": "machines", "since": revisions["machines"]}))
        await upgraded(server)
        assert (await waiting.reply(1))["return"] != revisions["machines"], "another process, another revision"
        assert (await watching.reply(0))["return"].keys() == {"machines", "server", "job/7"}
        await (await operators()).ask("emergency-stop", reason="smoke")
        while not {"machine/m", "server"} <= set(watching.changed):
            await watching.ask("status")


async def test_what_an_older_program_had_sent_before_an_upgrade_is_refused_with_a_word(
    place: Place, operators: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), running(place) as server:
        old = await Operator.connect(place, b'{"command": "sta')
        await (await operators()).ask("status")
        await upgraded(server)
        old.send(b'tus"}\n')
        assert "Use the spalloc-admin of spalloc-server" in (await old.line())["exception"]
        old.close()


@pytest.mark.parametrize("fault", ["exits instead of being ready", "exits at once"])
async def test_operators_go_on_with_the_old_process_where_the_new_one_fails(
    place: Place, operators: Connect, fault: str
) -> None:
    async with place.simulator(), running(place) as server:
        operator = await operators()
        assert (await operator.ask("status"))["pid"] == server.pid
        (place.folder / "fault").write_text(fault)
        server.signal(signal.SIGUSR2)
        await until(lambda: any(event["event"].startswith("upgrade failed") for event in events(place)))
        assert (await operator.ask("status"))["pid"] == server.pid
        assert (await (await operators()).ask("status"))["pid"] == server.pid


async def test_somebody_always_listens_to_operators(place: Place) -> None:
    async with place.simulator(), running(place) as server:
        pids = set()

        async def look_again_and_again() -> None:
            while True:
                async with Operator.of(place) as operator:
                    pids.add((await operator.ask("status"))["pid"])

        looking = asyncio.create_task(look_again_and_again())
        for _ in range(3):
            await upgraded(server)
            await until(lambda: server.pid in pids or looking.done())
        assert not looking.done(), looking
        looking.cancel()
        await asyncio.wait([looking])  # which closes its connection
        assert len(pids) == 4
        await server.stop()
        assert not socket_path(place.state).exists()


async def test_a_look_at_hardware_that_an_upgrade_interrupts_is_taken_by_the_new_process(
    tmp_path: Path, operators: Connect, clients: Clients
) -> None:
    hall = Hall(tmp_path, frames=1)
    async with (
        hall.simulator(SimulatedTimings(power_on=6.0, power_on_others=6.0)) as simulator,
        running(hall) as server,
    ):
        looking, cycling = await operators(), await operators()
        client = await clients.connect(server)
        await client.create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        looking.send(line_of({"command": "temperatures", "machine": "m"}))
        cycling.send(line_of({"command": "power-cycle", "machine": "m", "x": 3, "y": 1, "z": 2}))
        assert (await (await operators()).ask("status"))["pid"] == server.pid
        await upgraded(server)
        told = await cycling.line()
        text = "the server was upgraded while this was under way: look what has become of it"
        assert told == {"id": 1, "error": {"code": "outcome-unknown", "text": text, "again": False}}
        views = (await looking.line())["return"]
        assert [view["error"] for view in views] == [None] * 24
        assert simulator.counters.overlaps == 0


async def test_an_older_version_that_takes_no_operators_over_leaves_them_with_a_word(
    tmp_path: Path, operators: Connect, clients: Clients
) -> None:
    hall = Hall(tmp_path, frames=1)
    async with (
        hall.simulator(SimulatedTimings(power_on=6.0, power_on_others=6.0)) as simulator,
        running(hall) as server,
    ):
        idle = await operators()
        await idle.ask("status")
        await (await clients.connect(server)).create(1)
        await until(lambda: simulator.counters.commands["POWER"] == 1)
        (hall.folder / "fault").write_text("knows nothing of operators")
        await upgraded(server)
        assert await idle.line() == {"exception": "the server was upgraded: send it again", "again": True}
        assert (await (await operators()).ask("status"))["pid"] == server.pid
        await until(lambda: "upgrade done: the new process serves" in [event["event"] for event in events(hall)])
        assert (await (await operators()).ask("status"))["pid"] == server.pid


async def test_flash_that_is_being_written_puts_an_upgrade_off(
    place: Place, operators: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.simulator(), place.serving() as server:
        going = asyncio.Event()

        async def write(*_: object) -> list[str]:
            await going.wait()
            return ["chip 3 4 dead"]

        monkeypatch.setattr(upgrade, "Successor", Helpless)
        monkeypatch.setattr(server._hardware, "write_blacklist", write)
        operator = await operators()
        operator.send(line_of({"command": "set blacklist", "machine": "m", "x": 0, "y": 0, "z": 0, "lines": []}))
        await until(lambda: bool(server._application.at_hardware.writing))
        assert "writes to a board's flash" in await failed_upgrade(server)
        operator.close()  # which does not cut it off either
        going.set()
        await until(lambda: not server._application.at_hardware.writing)
        assert "has ended" in await failed_upgrade(server)


async def test_what_bmps_do_after_a_handover_is_none_of_the_old_processs_business(
    place: Place, clients: Clients
) -> None:
    async with place.simulator() as simulator, place.serving() as server:
        client = await clients.connect(server)
        simulator.frames[place.hosts[0]].silence()
        job_id = await client.create(1)
        await until(lambda: bool(server._hardware.in_flight()))
        server._hardware.retire()
        with structlog.testing.capture_logs() as log:
            await until(lambda: not server._hardware.in_flight())
            await asyncio.sleep(0)
        assert [entry["event"] for entry in log if "bmp" in entry] == []
        assert (await client.call("get_job_state", job_id))["state"] == POWER
        server._commits.stop()


async def test_history_is_left_alone_from_a_handover_on(place: Place) -> None:
    async with place.simulator(), place.serving() as server:
        server._journal.prune(0.0)
        server._journal.stop_pruning()
        assert server._journal._prune_before is None
