"""What systemd is told, and that the example of a unit goes with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from spalloc_server.process import systemd
from tests.house import PATIENCE, Place
from tests.processes import events, running
from tests.test_server import until

UNIT = Path(__file__).parents[2] / "examples" / "spalloc_server.service"


class Manager:
    """As much of systemd as its services see."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE)

    def told(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    async def until(self, line: str) -> list[str]:
        """Everything up to this line, but for the watchdog's; everything is read as it comes."""
        lines: list[str] = []
        while line not in lines:
            async with asyncio.timeout(PATIENCE):
                lines += [told for told in await self._queue.get() if told != "WATCHDOG=1"]
        return lines

    def listen(self) -> None:
        """Read for `until`, in the event loop: few datagrams may wait in a socket."""
        self._queue: asyncio.Queue[list[str]] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self.socket, lambda: self._queue.put_nowait(self.told()))


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    manager = Manager(address)
    with manager.socket:
        yield manager


def test_lines_are_sent_in_one_datagram(manager: Manager) -> None:
    systemd.notify("READY=1", "STATUS=serving")
    assert manager.told() == ["READY=1", "STATUS=serving"]


def test_an_address_may_be_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"spalloc_server-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    manager = Manager("\0" + name)
    with manager.socket:
        systemd.notify("READY=1")
        assert manager.told() == ["READY=1"]


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")
    assert list(tmp_path.iterdir()) == []


def fill(manager: Manager) -> int:
    """Send until the socket takes no more; how many messages that are."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        for sent in range(100_000):
            try:
                sock.sendto(b"FILL=1", manager.socket.getsockname())
            except BlockingIOError:
                return sent
    raise AssertionError("it takes everything")


def test_a_socket_that_is_full_costs_no_time_and_no_message_but_the_watchdogs(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "SEND_SECONDS", PATIENCE)
    full = fill(manager)
    begun = time.monotonic()
    systemd.notify("WATCHDOG=1")
    for number in range(5):
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={number}")
        systemd.notify("WATCHDOG=1")
        systemd.notify("READY=1")
    assert time.monotonic() - begun < systemd.SEND_SECONDS / 2
    assert [manager.told() for _ in range(full)] == [["FILL=1"]] * full
    told = [line for _ in range(11) for line in manager.told() if not line.startswith("MONOTONIC")]
    assert told == ["WATCHDOG=1", *["RELOADING=1", "READY=1"] * 5]


async def test_the_end_waits_for_systemd_but_not_for_long(manager: Manager) -> None:
    fill(manager)
    systemd.notify("STOPPING=1")
    begun = time.monotonic()
    await systemd.flush(0.05)
    assert 0.05 <= time.monotonic() - begun < PATIENCE / 2
    reading = asyncio.create_task(asyncio.to_thread(until_told, manager, "STOPPING=1"))
    await systemd.flush(PATIENCE)
    assert systemd._waiting.idle()
    await reading


def until_told(manager: Manager, line: str) -> None:
    while line not in manager.told():
        pass


def test_a_manager_that_goes_while_messages_wait_is_forgotten(manager: Manager) -> None:
    fill(manager)
    systemd.notify("READY=1")
    manager.socket.close()
    assert systemd._waiting.flush(PATIENCE)


async def test_an_upgrade_waits_until_systemd_knows_the_new_process(tmp_path: Path, manager: Manager) -> None:
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), running(place) as server:
        await asyncio.to_thread(until_told, manager, "READY=1")
        fill(manager)
        server.signal(signal.SIGUSR2)
        pid = await server.serves()
        await asyncio.to_thread(until_told, manager, f"MAINPID={pid}")
        await server.stop()
        await asyncio.to_thread(until_told, manager, "STOPPING=1")


def test_a_reload_begins_with_its_time(manager: Manager) -> None:
    systemd.reloading()
    first, second = manager.told()
    name, _, microseconds = second.partition("=")
    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(microseconds) > 0


async def test_the_watchdog_is_fed_twice_in_its_time(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    feeding = asyncio.create_task(systemd.feed_watchdog())
    assert await asyncio.to_thread(manager.told) == await asyncio.to_thread(manager.told) == ["WATCHDOG=1"]
    feeding.cancel()


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
async def test_without_a_watchdog_no_messages_are_sent_to_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with asyncio.timeout(PATIENCE):
        await systemd.feed_watchdog()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_tells_of_its_start_reloads_upgrades_and_its_stop(tmp_path: Path, manager: Manager) -> None:
    place = Place(tmp_path)
    place.configure()
    manager.listen()
    async with place.simulator(), running(place, WATCHDOG_USEC="100000") as server:
        assert (await manager.until("READY=1"))[-1] == f"STATUS=serving at port {server.address[1]}"
        server.signal(signal.SIGHUP)
        assert (await manager.until("READY=1"))[0] == "RELOADING=1"
        good = place.config.read_text()
        place.config.write_text("")
        server.signal(signal.SIGHUP)
        assert (await manager.until("READY=1"))[0] == "RELOADING=1", "a reload that fails is over, too"
        place.config.write_text(good)
        server.signal(signal.SIGUSR2)
        pid = await server.serves()
        told = await manager.until(f"MAINPID={pid}")
        if "READY=1" not in told:
            await manager.until("READY=1")
        await server.stop()
        assert await manager.until("STOPPING=1") == ["STOPPING=1"]
    asyncio.get_running_loop().remove_reader(manager.socket)


async def test_systemd_is_not_told_of_a_process_that_does_not_take_over(tmp_path: Path, manager: Manager) -> None:
    place = Place(tmp_path)
    place.configure()
    manager.listen()
    async with place.simulator(), running(place) as server:
        await manager.until("READY=1")
        (place.folder / "fault").write_text("exits instead of being ready")
        server.signal(signal.SIGUSR2)
        await until(lambda: any(event["event"].startswith("upgrade failed") for event in events(place)))
        await server.stop()
        assert await manager.until("STOPPING=1") == ["STOPPING=1"]
    asyncio.get_running_loop().remove_reader(manager.socket)


def units() -> dict[str, RawConfigParser]:
    """The examples of units, by name."""
    found = {}
    for path in UNIT.parent.glob("*.service"):
        found[path.name] = RawConfigParser(strict=False)
        found[path.name].optionxform = str  # type: ignore[assignment]
        found[path.name].read_string(path.read_text())
    return found


def test_the_examples_of_units_go_with_what_the_server_tells() -> None:
    assert {name: unit["Service"]["Type"] for name, unit in units().items()} == {
        "spalloc_server.service": "notify-reload",
        "spalloc_server-252.service": "notify",
    }
    for unit in units().values():
        service = unit["Service"]
        assert int(service["WatchdogSec"]) > 0
        assert service["NotifyAccess"] == "all", "the new process of an upgrade may say READY before it is the main one"
        assert service["KillMode"] == "mixed", "the old process of an upgrade passes SIGTERM on: that would make two"
        assert "spalloc_server" in service["ExecStart"]
        assert unit["Unit"]["StartLimitIntervalSec"] == "0", "systemd ignores it in [Service]"
    assert units()["spalloc_server-252.service"]["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_units_differ_in_how_a_reload_is_told_and_in_nothing_else() -> None:
    sections = [{name: dict(unit[name]) for name in unit.sections()} for unit in units().values()]
    for section in sections:
        for key in ("Type", "ExecReload"):
            section["Service"].pop(key, None)
    assert sections[0] == sections[1]


def test_systemd_takes_the_units_that_it_knows(tmp_path: Path) -> None:
    """Where there is no systemd, it knows none."""
    version = 0
    if shutil.which("systemd-analyze") is not None:
        told = subprocess.run(["systemd-analyze", "--version"], check=True, capture_output=True, text=True)
        version = int(told.stdout.split()[1])
    for name, since in (("spalloc_server-252.service", 1), ("spalloc_server.service", 253)):
        unit = tmp_path / name
        unit.write_text((UNIT.parent / name).read_text().replace("/opt/spalloc/bin/spalloc_server", "/bin/true"))
        if since <= version:
            result = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
            assert [line for line in result.stderr.splitlines() if name in line] == []
