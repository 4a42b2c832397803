"""`spalloc-admin demo`, on a machine of one frame instead of fifty."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from spalloc_server.cli import demo_config, demo_parts
from spalloc_server.cli.client import Client, ClientError
from spalloc_server.cli.demo import _introduce, demo
from spalloc_server.cli.demo_config import HOST, MILLION_CORE, beside_other_demos, serving_http
from spalloc_server.config.load import load
from spalloc_server.config.settings import DEFAULT_PORT
from spalloc_server.controller import JobState
from spalloc_server.hardware.scp import SCP_PORT
from spalloc_server.simulator.boot import BOOT_PORT
from tests.cli.commands import BIN, STOP_SECONDS, one_line_of, running
from tests.simulator.machines import boot_datagrams


def test_the_million_core_machine_comes_with_the_package() -> None:
    (machine,) = load(MILLION_CORE).machines
    assert (machine.width, machine.height, len(machine.live_boards), len(machine.frames)) == (20, 20, 1200, 50)


def test_what_it_says_first_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for port in (DEFAULT_PORT, 65535):
        state = Path("/tmp/spalloc-demo-12345678/state.db")
        _introduce(load(MILLION_CORE), port, state, 2.5, "http://127.0.0.1:65535/spalloc/")
    lines = capsys.readouterr().out.splitlines()
    assert sum("# draw the machine" in line for line in lines) == 2
    assert [line for line in lines if len(line) > 80] == []


def test_once_takes_a_job_through(config: Path) -> None:
    with running("spalloc-admin", "demo", "--once", "--port", 0, "--config", config) as process:
        output, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, errors) == (0, "")
    told = iter(output.splitlines())
    for step in (
        "Serving frame",
        "version 1.0.0",
        "job 1",
        "ready: 24 boards",
        "24 boards are on",
        "all boards are off",
    ):
        assert any(step in line for line in told), f"{step!r} is not told in its turn:\n{output}"
    assert output.endswith("stopped\n")


def test_users_come_and_go_until_ctrl_c(config: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    with running("spalloc-admin", "demo", "--port", 0, "--config", config, "--state", state) as process:
        assert process.stdout is not None
        serving = process.stdout.readline()
        first = next(line for line in process.stdout if re.match(r"\d\d:\d\d:\d\d ", line))
        process.send_signal(signal.SIGINT)
        stopped = time.monotonic()
        output, errors = process.communicate(timeout=STOP_SECONDS)
        seconds = time.monotonic() - stopped
    assert re.match(r"Serving frame at 127\.0\.0\.1:\d+ after .* s: 24 boards in 1 frame", serving)
    assert re.search(r"job \d+ of [a-z-]+: ", first)
    assert output.endswith("stopped\n")
    assert (process.returncode, errors) == (0, "")
    assert seconds < 2 * demo_parts.STOP_SECONDS  # none had to be killed, one after the other
    assert state.exists()


def test_the_demos_own_machine_is_served_by_http_and_ends_with_it() -> None:
    with running("spalloc-admin", "demo", "--port", 0, "--quiet-users") as process:
        assert process.stdout is not None
        found = next(filter(None, (re.match(r" +spalloc_server = (http.*)/spalloc$", each) for each in process.stdout)))
        credentials, _, address = found[1].removeprefix("http://").partition("@")
        url, authorization = f"http://{address}", "Basic " + base64.b64encode(credentials.encode()).decode()
        root = urllib.request.Request(f"{url}/spalloc/srv/spalloc/", headers={"Authorization": authorization})
        with urllib.request.urlopen(root, timeout=STOP_SECONDS) as answer:
            assert b"jobs-ref" in answer.read()
        with urllib.request.urlopen(f"{url}/readyz", timeout=STOP_SECONDS) as answer:
            assert answer.read() == b"ok"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=STOP_SECONDS)
    assert output.endswith("stopped\n")
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/healthz", timeout=STOP_SECONDS)


def test_once_says_why_a_job_cannot_be_had(config: Path) -> None:
    config.write_text(config.read_text() + 'tags = ["for nobody"]\n')
    with running("spalloc-admin", "demo", "--once", "--port", 0, "--config", config) as process:
        _, errors = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 1
    assert re.fullmatch(r"spalloc-admin demo: job 1 did not become ready: Cancelled: .*\n", errors)


def test_a_port_in_use_is_reported_in_one_line(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = one_line_of(demo, "--config", config, "--port", port)
    assert line.startswith(f"spalloc-admin demo: cannot listen on port {port} of 127.0.0.1: it is in use")


def test_a_port_for_http_that_is_in_use_is_reported_in_one_line(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config.write_text(config.read_text() + f'[web]\nip = "127.0.0.1"\nport = {port}\nstart = false\n')
        with running("spalloc-admin", "demo", "--port", 0, "--config", config) as process:
            _, errors = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 1
    assert re.fullmatch(rf"spalloc-admin demo: cannot listen on port {port} of 127.0.0.1: it is in use.*\n", errors)


def test_an_address_that_is_taken_is_reported_in_one_line(config: Path, host: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((host, SCP_PORT))
        line = one_line_of(demo, "--config", config, "--port", 0)
    assert line.startswith(f"spalloc-admin demo: cannot listen on {host}:17893: Address already in use")


def test_hardware_elsewhere_is_never_driven(config: Path, host: str) -> None:
    config.write_text(config.read_text().replace(host, "10.11.192.0"))
    assert "only loopback addresses" in one_line_of(demo, "--config", config, "--port", 0)


def test_a_config_without_machines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text("machine = []")
    assert "has no machines to simulate" in one_line_of(demo, "--config", tmp_path / "none.toml")


def children(pid: int) -> dict[str, int]:
    """{module: number} of the processes that a process has started."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(number): Path(f"/proc/{number}/cmdline").read_text().split("\0") for number in numbers}
    return {command[2]: number for number, command in commands.items()}


async def test_hardware_and_jobs_outlive_a_server_that_is_killed(config: Path, tmp_path: Path) -> None:
    (machine,) = load(config).machines
    with running("spalloc-admin", "demo", "--port", 0, "--config", config, "--quiet-users") as process:
        assert process.stdout is not None
        found = re.search(r"at 127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found is not None
        port = int(found[1])
        async with Client.connect("127.0.0.1", port) as client:
            job = await client.call("create_job", owner="me", keepalive=None)
            await client.wait_for_job(job, JobState.ready)
            place = await client.call("get_job_machine_info", job)
        board = place["connections"][0][1]
        assert board in machine.spinnaker_ips.values()
        boot(board)
        before = children(process.pid)
        os.kill(before["spalloc_server"], signal.SIGKILL)
        assert any("killed by signal 9; it is started again" in line for line in process.stdout)
        async with asyncio.timeout(STOP_SECONDS):
            while await state_of(port, job) != JobState.ready:  # noqa: ASYNC110 - a server that is away tells nobody
                await asyncio.sleep(0.05)
        after = children(process.pid)
        assert after["spalloc_server.cli"] == before["spalloc_server.cli"]
        assert answers(board, seconds=STOP_SECONDS)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0
    assert not answers(board)


def test_a_server_that_was_upgraded_is_watched_and_ended_as_the_first(config: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    options = ("--port", 0, "--config", config, "--quiet-users", "--state", state)
    with running("spalloc-admin", "demo", *options) as process:
        assert process.stdout is not None
        found = re.search(r"at 127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found is not None
        assert any(f"spalloc-admin status --state {state}\n" in line for line in process.stdout)
        os.kill(upgraded(process, state), signal.SIGKILL)
        assert any("the server has ended; it is started again" in line for line in process.stdout)
        upgraded(process, state)
        socket.create_connection(("127.0.0.1", int(found[1]))).close()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=STOP_SECONDS)
    assert output.endswith("stopped\n")
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1])))


def test_a_server_whose_port_is_taken_while_it_is_down_is_started_when_the_port_is_free_again(config: Path) -> None:
    with running("spalloc-admin", "demo", "--port", 0, "--config", config, "--quiet-users") as process:
        assert process.stdout is not None
        found = re.search(r"at 127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found is not None
        here = "127.0.0.1", int(found[1])
        process.send_signal(signal.SIGSTOP)  # so that the port is taken before the server is started again
        os.kill(children(process.pid)["spalloc_server"], signal.SIGKILL)
        deadline = time.monotonic() + STOP_SECONDS
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while answers_at(here):
                assert time.monotonic() < deadline
            other.bind(here)
            other.listen()
            process.send_signal(signal.SIGCONT)
            assert any("did not start: cannot listen on port" in line for line in process.stdout)
        while not answers_at(here):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0


def answers_at(address: tuple[str, int]) -> bool:
    """Whether a program listens at this port."""
    with socket.socket() as one:
        return one.connect_ex(address) == 0


def upgraded(process: subprocess.Popen[str], state: Path) -> int:
    """Upgrade the server, and return the number of its new process."""
    before = server_at(process, state)
    os.kill(before, signal.SIGUSR2)
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{before}").exists():
        assert time.monotonic() < deadline
    return server_at(process, state)


def server_at(process: subprocess.Popen[str], state: Path) -> int:
    """The demo's server's process, as its operators are told; it is waited for, while the demo runs."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        told = subprocess.run([BIN / "spalloc-admin", "status", "--state", state], capture_output=True, text=True)
        if found := re.search(r", process (\d+),", told.stdout):
            return int(found[1])
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, told.stderr


async def state_of(port: int, job: int) -> int | None:
    """A job's state; None while the server is away."""
    try:
        async with Client.connect("127.0.0.1", port) as client:
            return int((await client.call("get_job_state", job))["state"])
    except ClientError:
        return None


def boot(board: str) -> None:
    """Boot a board, and see that it answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for datagram in boot_datagrams():
            client.sendto(datagram, (board, BOOT_PORT))
    deadline = time.monotonic() + STOP_SECONDS
    while not answers(board):
        assert time.monotonic() < deadline


def answers(board: str, *, seconds: float = 0.5) -> bool:
    """Whether a board says within `seconds` that it runs SCAMP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        client.connect((board, SCP_PORT))
        try:
            client.send(struct.pack("<2x8B2H3I", 0x87, 255, 0, 255, 255, 255, 255, 255, 0, 1, 0, 0, 0))
            return b"SC&MP" in client.recv(512)
        except OSError:
            return False


def test_the_demo_reports_what_keeps_boards_from_working(config: Path) -> None:
    script = f"ulimit -n 100; exec {BIN / 'spalloc-admin'} demo --once --port 0 --config {config}"
    with running("sh", "-c", script, folder=Path("/bin")) as process:
        output, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, errors) == (0, "")
    told = "spalloc-admin simulate-hardware: only 17 of 24 boards can be on at once: each needs two open files"
    assert any(line.startswith(told) for line in output.splitlines()), output


def test_another_demo_has_addresses_of_its_own(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        with suppress(OSError):  # it may be that there is a demo on this computer
            first.bind(("127.1.0.0", SCP_PORT))
        with ExitStack() as stack:
            other = beside_other_demos(MILLION_CORE, tmp_path, stack)
        (machine,), (own,) = load(other).machines, load(MILLION_CORE).machines
    assert not set(machine.bmp_ips.values()) & set(own.bmp_ips.values())
    assert all(re.match(r"127\.\d+\.", host) for host in machine.bmp_ips.values())
    assert machine.board_locations == own.board_locations


def test_two_demos_that_start_at_once_have_addresses_of_their_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        taken = [set[str](), set[str]()]
        for number, hosts in enumerate(taken):
            folder = tmp_path / str(number)
            folder.mkdir()
            (machine,) = load(beside_other_demos(MILLION_CORE, folder, stack)).machines
            hosts.update(machine.bmp_ips.values())
    assert not taken[0] & taken[1]


def test_two_demos_that_start_at_once_serve_http_at_ports_of_their_own(tmp_path: Path) -> None:
    copies = [tmp_path / name for name in "ab"]
    with ExitStack() as stack:
        ports = set()
        for folder in copies:
            folder.mkdir()
            web = load(serving_http(MILLION_CORE, folder, stack, once=False)).web
            assert web is not None
            ports.add(web.port)
    assert len(ports) == 2


def test_a_demo_serves_http_elsewhere_where_the_port_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as other, ExitStack() as stack:
        taken = other.getsockname()[1]
        monkeypatch.setattr(demo_config, "HTTP_PORT", taken)
        web = load(serving_http(MILLION_CORE, tmp_path, stack, once=False)).web
    assert web is not None
    assert web.port != taken
