"""`spalloc-admin doctor`: each thing that a first day goes wrong on is found, and nothing is changed."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spalloc_server.cli import doctor as command, servers
from spalloc_server.cli.admin import main
from spalloc_server.cli.findings import computer, hardware, unit
from spalloc_server.cli.findings.finding import Finding
from spalloc_server.cli.servers import Found
from spalloc_server.config.load import load
from spalloc_server.config.options import Limits, Web
from spalloc_server.config.settings import Configuration
from spalloc_server.frontends.http.certificates import own_certificate
from spalloc_server.hardware import names
from spalloc_server.simulator.faults import BmpFault, Faults, Network
from spalloc_server.simulator.simulator import Simulator
from tests.hardware.addresses import loopback_hosts
from tests.house import Place

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def no_units(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    monkeypatch.setattr(unit, "FOLDERS", [folder])
    return folder


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which much is not answered."""
    monkeypatch.setattr(hardware, "REPLY_SECONDS", 0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def examine(config: Path, *options: object, port: int | None = None) -> tuple[int, dict[str, list[Finding]]]:
    """The exit status, and the findings by what they are about."""
    words = ["doctor", config, "--json", "--port", port or free_port(), *options]
    result: Result = await asyncio.to_thread(CliRunner().invoke, main, list(map(str, words)))
    assert result.stdout, result.output
    found: dict[str, list[Finding]] = {}
    for each in json.loads(result.stdout):
        found.setdefault(each["about"], []).append(Finding(**each))
    return result.exit_code, found


def told(findings: list[Finding], level: str = "bad") -> str:
    """The one finding of this level."""
    (finding,) = [finding for finding in findings if finding.level == level]
    assert finding.do or level in {"good", "note"}
    return finding.text


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


def look(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files in a folder, and how they look."""
    return {
        str(each): (each.stat().st_ino, each.stat().st_mtime_ns, each.read_bytes())
        for each in path.rglob("*")
        if each.is_file()
    }


# -------------------------------------------------------------------- hardware


async def test_where_all_is_well_nothing_is_bad_and_nothing_is_changed(config: Path, host: str) -> None:
    before = look(config.parent)
    async with Simulator.of_configuration(load(config)) as simulator:
        simulator.power_on()
        status, found = await examine(config)
        assert status == 0
        assert told(found["BMPs"], "good") == "1 of 1 frame answer, 24 boards"
        assert told(found["firmware"], "good") == "all have BMP firmware 2.1.2"
        assert told(found["FPGAs"], "good") == "those of 24 boards are right"
        assert len(simulator.boards_on()) == 24
        assert simulator.counters.overlaps == 0
        assert simulator.counters.commands.keys() == {"VERSION", "FPGA_READ"}
    assert look(config.parent) == before


async def test_boards_that_are_off_tell_nothing_of_their_fpgas(config: Path) -> None:
    async with Simulator.of_configuration(load(config)):
        _, found = await examine(config)
    assert told(found["FPGAs"], "note").startswith("24 boards not looked at")


async def test_wrong_fpgas_are_found(config: Path, host: str) -> None:
    async with Simulator.of_configuration(load(config)) as simulator:
        simulator.frames[host].boards[7].wrong_fpgas = 1
        simulator.power_on()
        status, found = await examine(config)
    assert status == 1
    assert "a wrong bit file, or none, in board 7, FPGA 0, 1, 2" in told(found["FPGAs"])


@pytest.mark.usefixtures("hasty")
async def test_dead_bmps_are_found_side_by_side(tmp_path: Path) -> None:
    hosts = loopback_hosts(20)
    config = tmp_path / "hall.toml"
    config.write_text("".join(single(host, f"m{number}") for number, host in enumerate(hosts)))
    begun = time.monotonic()
    async with Simulator({hosts[3]: [0]}):
        status, found = await examine(config)
    assert status == 1
    bad = [finding.text for finding in found["BMPs"] if finding.level == "bad"]
    assert len(bad) == 19
    assert all("does not answer" in text for text in bad)
    assert not any(hosts[3] in text for text in bad)
    assert (
        time.monotonic() - begun < 19 * hardware.TRIES * hardware.REPLY_SECONDS
    )  # one after another would take so long
    shown = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", str(config), "--port", "0"])
    assert shown.stdout.count("-> is the frame switched on") == 1


def single(host: str, name: str = "m", board: str | None = None) -> str:
    return (
        f'[[machine]]\nform = "single_board"\nname = "{name}"\nbmp_ip = "{host}"\n'
        f'spinnaker_ip = "{board or ip_address(host) + 1}"\n'
    )


@pytest.mark.usefixtures("hasty")
async def test_a_lossy_network_is_told_and_costs_no_findings(config: Path) -> None:
    faults = Faults(seed=1, network=Network(loss=0.15))
    async with Simulator.of_configuration(load(config), faults=faults):
        _, found = await examine(config)
    assert "datagrams were lost" in told(found["BMPs"], "warning")
    assert told(found["BMPs"], "good") == "1 of 1 frame answer, 24 boards"


async def test_a_bmp_that_sends_twice_or_late_is_heard_once(config: Path) -> None:
    faults = Faults(seed=1, network=Network(duplicate=0.3, delay=0.01, reorder=0.2, reorder_delay=0.02))
    async with Simulator.of_configuration(load(config), faults=faults):
        status, found = await examine(config)
    assert status == 0
    assert told(found["BMPs"], "good") == "1 of 1 frame answer, 24 boards"


@pytest.mark.parametrize(("version", "text"), [("1.3", "24 boards with BMP firmware 1.3"), ("2.0.9", "")])
async def test_firmware_that_is_too_old_is_told(config: Path, version: str, text: str) -> None:
    faults = Faults(bmp=(BmpFault(version=version),))
    async with Simulator.of_configuration(load(config), faults=faults):
        _, found = await examine(config)
    assert levels(found["firmware"]) == {"warning" if text else "good"}
    assert text in found["firmware"][0].text


async def test_boards_of_different_firmware_are_told(config: Path, host: str) -> None:
    async with Simulator.of_configuration(load(config)) as simulator:
        simulator.frames[host].boards[3].version = (2, 1, 5)
        _, found = await examine(config)
    assert told(found["firmware"], "warning") == "boards differ: 2.1.2 on 23 boards, 2.1.5 on 1 board"


async def test_a_board_that_is_not_there_is_told(config: Path, host: str) -> None:
    async with Simulator({host: set(range(24)) - {5}}):
        _, found = await examine(config)
    assert "board 5: BMP" in told(found["BMPs"])
    assert "ROUTE" in told(found["BMPs"])


async def test_the_address_of_a_board_is_no_bmp(tmp_path: Path) -> None:
    (host,) = loopback_hosts(1)
    config = tmp_path / "desk.toml"
    config.write_text(single(host))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Scamp(), local_addr=(host, 17893))
    _, found = await examine(config)
    transport.close()
    assert "SC&MP answers, which is no BMP" in told(found["firmware"])


class Scamp(asyncio.DatagramProtocol):
    """Answers as a board does that has booted."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        from spalloc_server.hardware.scp import Request, Response, Version

        request = Request.decode(data)
        answer = Response(0x80, request.sequence, Version(name="SC&MP", hardware="SpiNNaker").encode())
        self.transport.sendto(answer.encode(data), addr)


# -------------------------------------------------------------------- names


@pytest.mark.usefixtures("hasty")
async def test_names_that_do_not_resolve_are_told_with_their_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"bmp": "127.99.0.1", "twin": "127.99.0.1"}

    def ask(host: str, tell: Any) -> None:
        tell(known.get(host) or OSError("Name or service not known"))

    monkeypatch.setattr(names, "_ask", ask)
    config = tmp_path / "desk.toml"
    config.write_text(single("bmp", board="twin") + single("127.99.0.2", "n", "nobody"))
    _, found = await examine(config, "--probe")
    texts = [finding.text for finding in found["names"] if finding.level == "bad"]
    assert texts == [
        "these do not resolve: nobody (n: board 0,0,0): Name or service not known",
        "bmp, twin are all at 127.99.0.1",
    ]


@pytest.mark.usefixtures("hasty")
async def test_a_name_service_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_ask", lambda _host, _tell: None)
    monkeypatch.setattr(hardware, "NAMES_SECONDS", 0.2)
    monkeypatch.setattr(hardware, "NAMES_AT_ONCE", 3)
    config = tmp_path / "hall.toml"
    config.write_text("".join(single(f"bmp-{number}", f"m{number}", f"b-{number}") for number in range(100)))
    _, found = await examine(config)
    assert told(found["names"]).endswith("and 195 more")
    assert "the name service has not answered for bmp-0, b-0" in told(found["names"])


@pytest.mark.usefixtures("hasty")
async def test_a_slow_name_service_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_ask", lambda _host, tell: tell("127.99.0.1"))
    monkeypatch.setattr(hardware, "SLOW_SECONDS", -1.0)
    config = tmp_path / "desk.toml"
    config.write_text(single("bmp", board="127.99.0.2"))
    _, found = await examine(config)
    assert "the name service takes up to" in told(found["names"], "warning")


# -------------------------------------------------------------------- beside a server


async def test_a_running_server_is_asked_in_place_of_its_bmps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = itertools.count(int(ip_address("127.99.0.1")))
    monkeypatch.setattr(names, "_ask", lambda _host, tell: tell(str(ip_address(next(addresses)))))
    place = Place(tmp_path)
    place.configure()
    asked: list[Configuration] = []
    monkeypatch.setattr(command, "look_at_frames", asked.append)
    async with place.simulator(), place.serving() as server:
        status, found = await examine(place.config, port=server.address[1])
        assert status == 0
        assert asked == []
        assert told(found["BMPs"], "good").startswith("all frames answer the server")
        assert told(found["ports"], "good") == f"port {server.address[1]} is that of the server, which runs"
        assert told(found["server"], "good").endswith(f"runs, process {os.getpid()}")
        line = ["doctor", "--state", str(place.state)]
        shown = await asyncio.to_thread(CliRunner().invoke, main, line)
        assert shown.exit_code == 0
        assert f"good config: {place.config}: 1 machine, 12 boards\n" in shown.stdout


async def test_a_server_that_is_not_well_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    place.configure()
    async with place.simulator() as simulator, place.serving():
        simulator.frames[place.hosts[0]].silence(0.0, float("inf"))
        for line in (["emergency-stop", "--yes"], ["frame", "disable", "m", "0", "0", "--reason", "moved"]):
            await asyncio.to_thread(CliRunner().invoke, main, [*line, "--state", str(place.state)])
        async with asyncio.timeout(60):
            while True:
                status, found = await examine(place.config)
                if status == 1 and "bad" in levels(found["BMPs"]):
                    break
        assert "does not answer" in told(found["BMPs"])
        assert "an emergency stop holds: emergency" in told(found["server"], "warning")
        assert any("is disabled: moved" in finding.text for finding in found["BMPs"])


@pytest.mark.parametrize(("machines", "asked"), [(None, False), (["frame"], False), (["another"], True)])
async def test_bmps_that_another_server_may_command_are_left_alone(
    config: Path, monkeypatch: pytest.MonkeyPatch, machines: list[str] | None, asked: bool
) -> None:
    monkeypatch.setattr(servers, "running", lambda: [Found(pid=7, user="ann", machines=machines)])
    async with Simulator.of_configuration(load(config)) as simulator:
        _, found = await examine(config)
        assert (simulator.counters.datagrams > 0) == asked
        if not asked:
            assert "another server runs, process 7 of user ann" in told(found["BMPs"], "note")
        _, found = await examine(config, "--probe")
        assert told(found["BMPs"], "good") == "1 of 1 frame answer, 24 boards"


async def test_a_port_that_is_taken_is_told_with_who_has_it(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Simulator.of_configuration(load(config)) as simulator:
            status, found = await examine(config, port=port)
            assert simulator.counters.datagrams == 0
    assert status == 1
    assert f"port {port}, for the server, is taken by process {os.getpid()} of user" in told(found["ports"])
    assert f"port {port} is taken, perhaps by another server" in told(found["BMPs"], "note")


def test_without_a_config_file_and_a_server_it_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr.endswith(" with --state; or say which CONFIG to look at\n"), "it has no --config"


async def test_a_bad_config_file_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("prot = 5\n")
    status, found = await examine(tmp_path / "a.toml")
    assert status == 1
    assert "there is no such key" in told(found["config"])
    assert found.keys() == {"config", "state", "disk", "clock", "unit"}


@pytest.mark.usefixtures("hasty")
async def test_what_cannot_be_looked_at_hides_nothing_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **_named: object) -> list[Finding]:
        raise OSError("no")

    for name in ("look_at_folder", "look_at_port", "look_at_files"):
        monkeypatch.setattr(command, name, fails)
    _, found = await examine(config, "--probe")
    assert told(found["state"], "note") == "this could not be looked at: no"
    assert {"ports", "files", "clock", "unit"} <= found.keys()


# -------------------------------------------------------------------- this computer


def findings(found: Iterator[Finding], level: str = "bad") -> str:
    return told(list(found), level)


@pytest.mark.parametrize(("port", "user"), [(80, "root"), (443, "4711")])
def test_ports_are_found_in_the_kernels_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, user: str
) -> None:
    monkeypatch.setattr(computer, "PROC", tmp_path)
    (tmp_path / "net").mkdir()
    uid = 0 if user == "root" else 4711
    line = f"   0: 00000000000000000000000000000000:{port:04X} 0000:0000 0A 0:0 00:0 0 {uid} 0 99 1 0 100"
    (tmp_path / "net" / "tcp6").write_text(f"head\n{line}\n")
    assert computer.holder_of(port) == (None, f"a process of user {user}")
    assert computer.holder_of(port + 1) is None
    other = line.replace(" 0A ", " 01 ")  # a connection, and no listener
    (tmp_path / "net" / "tcp6").write_text(f"head\n{other}\n")
    assert computer.holder_of(port) is None


@pytest.mark.parametrize(("days", "level"), [(200, "bad"), (85, "warning")])
async def test_a_certificate_that_nobody_has_renewed_is_told(tmp_path: Path, days: int, level: str) -> None:
    made = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    file = own_certificate(tmp_path / "tls", frozenset({"localhost"}), made)
    config = tmp_path / "hall.toml"
    config.write_text(f'machine = []\n[web]\nstart = false\ntls_certificate = "tls/{file.name}"\n')
    assert str(file) in told((await examine(config))[1]["certificate"], level)


def test_a_port_below_1024_is_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "PROC", tmp_path)
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/ip_unprivileged_port_start").write_text("1024\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = computer.look_at_port("HTTP", 443, own=set(), option="[web] port")
    assert findings(found, "warning") == "port 443, for HTTP, is only for root"


def test_a_folder_that_is_not_there_or_closed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no folder" in findings(computer.look_at_folder(tmp_path / "no" / "hall.db"))
    closed = {tmp_path}
    monkeypatch.setattr(os, "access", lambda path, _: path not in closed)
    assert f"may not write to {tmp_path}, which belongs to" in findings(computer.look_at_folder(tmp_path / "hall.db"))
    closed.clear()
    for ending in ("", "-wal"):
        (tmp_path / f"hall.db{ending}").touch()
        closed.add(tmp_path / f"hall.db{ending}")
    assert "hall.db-wal, which belong to" in findings(computer.look_at_folder(tmp_path / "hall.db"))


def test_a_folder_of_everybodys_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "everybody may write" in findings(computer.look_at_folder(tmp_path / "hall.db"), "warning")
    tmp_path.chmod(0o1777)
    assert levels(list(computer.look_at_folder(tmp_path / "hall.db"))) == {"good"}


def test_a_state_over_the_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, state = tmp_path / "proc", tmp_path / "with space" / "hall.db"
    state.parent.mkdir()
    monkeypatch.setattr(computer, "PROC", proc)
    (proc / "self").mkdir(parents=True)
    mount = str(state.parent).replace(" ", "\\040")
    (proc / "self" / "mountinfo").write_text(
        f"1 0 0:1 / / rw - ext4 /dev/sda rw\n2 1 0:2 / {mount} rw shared:1 - nfs4 server:/x rw\n"
    )
    assert "is on a network file system (nfs4)" in findings(computer.look_at_folder(state))
    assert "good" in levels(list(computer.look_at_folder(tmp_path / "hall.db")))


def test_a_path_that_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    assert "is too long for a socket" in findings(computer.look_at_folder(long / "hall.db"))


@pytest.mark.parametrize(("free", "level"), [(50 * 2**20, "bad"), (500 * 2**20, "warning"), (2**40, "good")])
def test_a_disk_that_is_nearly_full_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    found = [finding for finding in computer.look_at_folder(tmp_path / "hall.db") if finding.about == "disk"]
    assert levels(found) == {level}


async def test_a_clock_that_is_behind_the_state_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "_synchronised", lambda: True)
    place = Place(tmp_path)
    place.configure()
    async with place.simulator(), place.serving():
        pass
    now, before = time.time(), look(tmp_path)
    assert levels(list(computer.look_at_clock(place.state))) == {"good"}
    assert "120 min ahead of the clock" in findings(computer.look_at_clock(place.state, now - 7200))
    assert "for 30 d" in findings(computer.look_at_clock(place.state, now + 30 * 86400), "note")
    assert "1970" in findings(computer.look_at_clock(tmp_path / "none.db", 86400.0))
    assert look(tmp_path) == before
    with closing(sqlite3.connect(place.state)) as connection:
        connection.execute("DROP TABLE facts")
    assert "is damaged" in findings(computer.look_at_clock(place.state))


def test_a_clock_that_nothing_keeps_right_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "_synchronised", lambda: False)
    assert "nothing keeps" in findings(computer.look_at_clock(tmp_path / "none.db"), "warning")


def test_the_kernel_says_whether_the_clock_is_kept() -> None:
    assert computer._synchronised() in {True, False, None}


@pytest.mark.parametrize(("most", "level"), [(1024, "warning"), (-1, "good"), (10**6, "good")])
def test_too_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch, most: int, level: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, most))
    assert levels(list(computer.look_at_files(Configuration()))) == {level}


def test_the_files_that_are_needed_are_those_of_the_hungrier_process() -> None:
    spare = computer.SPARE_FILES
    assert computer.files_needed(Configuration(limits=Limits(connections=50))) == 50 + spare
    assert computer.files_needed(Configuration(limits=Limits(connections=50), web=Web(connections=99))) == 99 + spare


# -------------------------------------------------------------------- units

GOOD = (
    "[Service]\nType=notify\nNotifyAccess=all\nUser=root\nExecStart={program} {config} --state {state}\n"
    "KillMode=mixed\nTimeoutStopSec=45\nLimitNOFILE=65536\n"
)


@pytest.fixture
def service(no_units: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A good unit, and what it is made of."""
    program, config = tmp_path / "spalloc_server", tmp_path / "hall.toml"
    program.touch(0o755)
    config.touch()
    parts = {"program": program, "config": config, "state": tmp_path / "hall.db"}
    path = no_units / "hall.service"
    path.write_text(GOOD.format(**parts))
    return path, parts


def of_units(parts: dict[str, Any], level: str) -> list[str]:
    found = unit.look_at_units(parts["config"], parts["state"], 20_000)
    return [finding.text for finding in found if finding.level == level]


def test_the_units_of_the_examples_are_right(
    no_units: Path, service: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, parts = service
    assert of_units(parts, "good") == [f"{path} is right"]
    monkeypatch.setattr(unit, "_version", lambda: 253)
    for name in ("spalloc_server.service", "spalloc_server-252.service"):
        text = (Path(__file__).parents[2] / "examples" / name).read_text()
        for old, new in (
            ("/opt/spalloc/bin/spalloc_server", str(parts["program"])),
            ("/etc/spalloc/hall.toml", str(parts["config"])),
            ("/var/lib/spalloc/hall.db", str(parts["state"])),
            ("User=spalloc", "User=root"),
        ):
            text = text.replace(old, new)
        path.write_text(text)
        assert of_units(parts, "good") == [f"{path} is right"], name


@pytest.mark.parametrize(
    ("old", "new", "level", "text"),
    [
        ("ExecStart=", "ExecStart=/nowhere", "bad", "which cannot be executed"),
        ("hall.toml", "none.toml", "bad", "which is not there"),
        ("--state", "--stat", "bad", "No such option"),
        ("User=root", "User=no-such-user", "bad", "who does not exist"),
        ("Type=notify", "Type=notify-reload", "bad", "which systemd 252 does not know"),
        ("Type=notify", "Type=simple", "warning", "takes an upgrade in place for the server's end"),
        ("NotifyAccess=all\n", "", "warning", "no NotifyAccess=all"),
        ("KillMode=mixed", "KillMode=control-group", "warning", "no KillMode=mixed"),
        ("LimitNOFILE=65536", "LimitNOFILE=1024", "warning", "does not allow 20000 open files"),
        ("LimitNOFILE=65536\n", "", "warning", "does not allow 20000 open files"),
        ("TimeoutStopSec=45", "TimeoutStopSec=10s", "warning", "letting its BMPs finish"),
        ("hall.db", "other.db", "note", "keeps the state in"),
    ],
)
def test_what_is_wrong_with_a_unit_is_told(
    service: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, old: str, new: str, level: str, text: str
) -> None:
    path, parts = service
    monkeypatch.setattr(unit, "_version", lambda: 252)
    path.write_text(path.read_text().replace(old, new))
    (found,) = of_units(parts, level)
    assert text in found


def test_a_unit_of_another_config_file_is_a_note(service: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, parts = service
    (tmp_path / "other.toml").touch()
    (found,) = of_units(parts | {"config": tmp_path / "other.toml"}, "note")
    assert "hall.toml, and not " in found


def test_drop_ins_and_units_that_hide_others_are_heeded(
    service: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, parts = service
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / path.name).write_text("[Service]\nExecStart=/nowhere/spalloc_server a.toml\n")
    (lower / "other.service").write_text("[Service]\nExecStart=/usr/sbin/sshd -D\n")
    monkeypatch.setattr(unit, "FOLDERS", [path.parent, lower])
    assert of_units(parts, "good") == [f"{path} is right"]
    (path.parent / "hall.service.d").mkdir()
    (path.parent / "hall.service.d" / "less.conf").write_text("[Service]\nLimitNOFILE=16\n")
    assert len(of_units(parts, "warning")) == 1


@pytest.mark.parametrize(("said", "version"), [("echo systemd 252 '(252.4)'", 252), ("exit 1", None), ("echo x", None)])
def test_systemd_is_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, version: int | None
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert unit._version() == version
