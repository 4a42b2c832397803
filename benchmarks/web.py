"""The HTTP door: server and front process together, on simulated hardware without delay, and what each figure may be.

Processor time is that of both processes, from /proc. Beside what a request costs stands what an application costs that
only answers, behind the same listener and in the same run. Clients are `web_clients`: what they cost themselves is
told, as they share the processor. A client logs in once and then sends its session, as published ones do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import door, proxy
from benchmarks.awake import cores_awake
from benchmarks.generator import Generator
from benchmarks.subjects import COMMANDS, HOST, LIVE, Subject, hardware, ours, request as line, running, until
from benchmarks.web_clients import Answer, Clients, Script, request
from spalloc_server.frontends.http.answers import Answer as Text, text
from spalloc_server.frontends.http.certificates import CERTIFICATE_FILE
from spalloc_server.storage.state_file import state_path
from tests.conformance.servers import free_port

ROOT = "/spalloc/srv/spalloc"
NAME, PASSWORD = "ann", "a password of hers"
OWN = re.compile(rb'name="_csrf" value="([^"]*)"')
GIVEN = re.compile(r"(?i)\r\nset-cookie: *(JSESSIONID=[^;\r]+)")
LOOKS_A_SECOND = 200
"""Of others, while something is measured that may disturb them."""

BOARDS = 8
"""Of the job whose boards are spoken to through the proxy meanwhile, with a WebSocket each."""

PER_JOB = 100
"""Clients that wait for one job."""

RAW: Text = text(200, '{"state":"READY","owner":"ann"}')


class Load(msgspec.Struct):
    """What clients have measured; seconds."""

    count: int
    seconds: float
    errors: int
    cpu: float
    p50: float
    p99: float
    max: float


class Row(msgspec.Struct):
    """One figure, and what it may be."""

    what: str
    figure: float
    bar: float
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar


class Door:
    """Server and front process, and a client's session."""

    def __init__(self, server: Subject, front: Subject) -> None:
        self.server, self.front = server, front
        self.port = front.port
        self.cookie = self.csrf = ""
        self.rows: list[Row] = []

    def row(self, what: str, figure: float, bar: float, unit: str, *, at_least: bool = False) -> None:
        """Tell a figure."""
        row = Row(what, figure, bar, unit, at_least)
        self.rows.append(row)
        side = ">=" if at_least else "<="
        print(f"| {what} | {figure:,.2f} {unit} | {side} {bar:,g} | {'' if row.holds else 'MISSED'} |", flush=True)

    def cpu(self) -> tuple[float, float]:
        """Seconds of processor time of the front process and of the server."""
        return self.front.cpu(), self.server.cpu()

    def memory(self) -> int:
        """Bytes of both."""
        return self.front.memory() + self.server.memory()

    def delayed(self) -> float:
        """Seconds for which the front process was ready and had no processor, because of what else runs."""
        return int(Path(f"/proc/{self.front.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def settle(self) -> None:
        """Wait until both have nothing to do."""
        before = 0.0
        while (now := sum(self.cpu())) > before + 0.02:
            before = now
            time.sleep(0.5)

    # -- a client

    def ask(self, *requests: bytes) -> list[Answer]:
        """What these are answered, on a connection of their own."""
        answers: list[Answer] = []

        def script() -> Script:
            for each in requests:
                answer = yield each
                assert answer is not None
                answers.append(answer)

        clients = Clients(self.port, tls=True)
        clients.connect(script())
        clients.run()
        return answers

    def log_in(self) -> None:
        """As published clients do it."""
        (page,) = self.ask(request("GET", "/spalloc/system/login.html"))
        found = OWN.search(page[2])
        assert found is not None, page
        form = f"_csrf={found[1].decode()}&username={NAME}&password={PASSWORD.replace(' ', '+')}&submit=submit"
        head = request("POST", "/spalloc/system/perform_login", f"Cookie: {_given(page)}", body=form)
        (done,) = self.ask(head.replace(b"application/json", b"application/x-www-form-urlencoded"))
        assert done[0] == 302, done
        self.cookie = f"Cookie: {_given(done)}"
        (root,) = self.ask(self.get(f"{ROOT}/"))
        self.csrf = f"X-CSRF-TOKEN: {json.loads(root[2])['csrf-token']}"

    def get(self, path: str) -> bytes:
        """A request that looks."""
        return request("GET", path, self.cookie)

    def create(self, boards: int = 1, tag: str = "default") -> bytes:
        """A request for a job."""
        body = json.dumps({"num-boards": boards, "keepalive-interval": "PT300S", "tags": [tag]})
        return request("POST", f"{ROOT}/jobs", self.cookie, self.csrf, body=body)

    def destroy(self, path: str = "%s") -> bytes:
        """A request that ends a job."""
        return request("DELETE", path, self.cookie, self.csrf)

    def make_job(self, boards: int = 1) -> str:
        """Have a job on the machine of live jobs; its path."""
        (made,) = self.ask(self.create(boards, LIVE))
        assert made[0] == 201, made
        return f"{ROOT}/jobs/{json.loads(made[2])['job-id']}"


def _given(answer: Answer) -> str:
    found = GIVEN.search(answer[1].decode())
    assert found is not None, answer
    return found[1]


@contextlib.contextmanager
def clients(kind: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Clients that have begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.web_clients", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(
                json.dumps({key: v.decode() if isinstance(v, bytes) else v for key, v in options.items()}) + "\n"
            )
            process.stdin.close()
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> Load:
    """What clients have measured, once they have ended."""
    assert process.stdout is not None
    return msgspec.json.decode(process.stdout.read(), type=Load)


# -------------------------------------------------------------------- what is measured


def looks(it: Door, seconds: float, certificate: Path) -> None:
    """GET of a job's state, beside an application that only answers."""
    path = it.make_job()
    raw = _raw(seconds, certificate)
    for number in (1, 16):
        with clients("get", port=it.port, tls=True, what=it.get(path), clients=number, seconds=seconds, rate=0) as load:
            front, server = it.cpu()
            got = told(load)
        spent = [1e6 * (now - before) / got.count for now, before in zip(it.cpu(), (front, server), strict=True)]
        assert not got.errors
        print(
            f"GET of a job's state by TLS, {number} clients: {_shares(got, spent)}; an application that only answers: "
            f"{raw[number][0]:.0f} us, {raw[number][1]:,.0f}/s\n"
        )
        it.row(f"GET of a job's state, {number} clients: CPU", sum(spent) / 1e3, 0.30, "ms")
    it.row("GET of a job's state, 16 clients", got.count / got.seconds, 4000, "/s", at_least=True)
    it.ask(it.destroy(path))


def _shares(got: Load, spent: list[float]) -> str:
    own, rate = 1e6 * got.cpu / got.count, got.count / got.seconds
    return (
        f"front {spent[0]:.0f} us, server {spent[1]:.0f} us, clients {own:.0f} us; {rate:,.0f}/s, p50 "
        f"{1e3 * got.p50:.1f} ms, p99 {1e3 * got.p99:.1f} ms"
    )


def _raw(seconds: float, certificate: Path) -> dict[int, tuple[float, float]]:
    """(microseconds of processor time, requests a second) by clients, of an application that only answers."""
    found = {}
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.web", "raw", str(port), str(certificate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            subject = Subject("raw", port, process, certificate)  # type: ignore[arg-type]
            for number in (1, 16):
                what = request("GET", "/", f"Cookie: JSESSIONID={'x' * 98}")
                with clients("get", port=port, tls=True, what=what, clients=number, seconds=seconds, rate=0) as load:
                    before = subject.cpu()
                    got = told(load)
                found[number] = 1e6 * (subject.cpu() - before) / got.count, got.count / got.seconds
        finally:
            process.kill()
    return found


def life_cycles(it: Door, seconds: float) -> None:
    """Create and destroy jobs."""
    options: dict[str, Any] = {"create": it.create(), "destroy": it.destroy(), "clients": 8, "seconds": seconds}
    with clients("jobs", port=it.port, tls=True, **options) as load:
        front, server = it.cpu()
        got = told(load)
    spent = [1e6 * (now - before) / got.count for now, before in zip(it.cpu(), (front, server), strict=True)]
    assert not got.errors
    print(f"create + destroy: {_shares(got, spent)}\n")
    it.row("create + destroy, 8 clients", got.count / got.seconds, 300, "/s", at_least=True)
    for boards in (1, 24):
        options = {"create": it.create(boards), "look": it.get("%s"), "destroy": it.destroy(), "count": 20}
        with clients("ready", port=it.port, tls=True, **options) as load:
            got = told(load)
        it.row(f"create to READY, {boards} boards: median of {got.count}", 1e3 * got.p50, 50, "ms")


def polls(it: Door, number: int, seconds: float) -> None:
    """Long polls that wait, and then all wake."""
    it.row("others' p99, beside nothing", 1e3 * _others(it, seconds).p99, 5, "ms")
    for tls, bar in ((False, 25), (True, 60)):
        name = f"{number:,} long polls {'by TLS' if tls else 'plain'}"
        paths = [it.make_job() for _ in range(number // PER_JOB)]
        asked = [f"GET {path}?wait=true HTTP/1.1\r\nHost: {HOST}\r\n{it.cookie}\r\n\r\n" for path in paths]
        before = it.memory()
        with clients("polls", port=it.port, tls=tls, looks=asked, each=PER_JOB) as waiting:
            it.settle()
            it.row(f"{name}: memory each", (it.memory() - before) / number / 1024, bar, "KiB")
            it.row(f"{name}, idle: others' p99", 1e3 * _others(it, seconds).p99, 5, "ms")
            ended = time.monotonic()
            it.ask(it.destroy(paths[0]))
            time.sleep(1)
            delayed = it.delayed()
            with _looking(it, seconds) as others:
                time.sleep(0.3)
                it.ask(*(it.destroy(path) for path in paths[1:]))
                woken = told(others)
            assert not woken.errors
            delayed = it.delayed() - delayed
            assert waiting.stdout is not None
            heard = json.loads(waiting.stdout.readline())
        it.row(f"{name}, all wake: others' p99", 1e3 * woken.p99, 30, "ms")
        it.row(f"{name}: one job's {PER_JOB} hear within", 1e3 * (heard["heard"][0] - ended), 50, "ms")
        print(f"\nof {seconds:.1f} s, the front process had to wait {1e3 * delayed:.0f} ms for a processor\n")
        assert not heard["errors"]


@contextlib.contextmanager
def _looking(it: Door, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Somebody else who looks at a job of their own meanwhile."""
    path = it.make_job()
    options: dict[str, Any] = {"what": it.get(path), "clients": 4, "seconds": seconds, "rate": LOOKS_A_SECOND}
    with clients("get", port=it.port, tls=True, **options) as load:
        yield load
    it.ask(it.destroy(path))


def _others(it: Door, seconds: float) -> Load:
    with _looking(it, seconds) as load:
        found = told(load)
    assert not found.errors
    return found


# -------------------------------------------------------------------- what it is measured on


@contextlib.contextmanager
def doors(directory: Path) -> Iterator[Door]:
    """Server and front process on simulated hardware, with an account whose session is known."""
    web = free_port()
    options = f"web=Web(ip={HOST!r}, port={web}, start=False, requests_per_second=0, connections_per_address=12000)"
    with hardware(directory) as config, ours(config, directory, options) as server:
        given = directory / "unlimited.py"
        add = [str(COMMANDS / "spalloc-admin"), "user", "add", NAME, "--config", str(given)]
        until(lambda: _succeeds(add), server.process, server.log)
        state = state_path(given)
        command = [str(COMMANDS / "spalloc_web"), "--state", str(state)]
        with running(command, directory / "front.log") as process:
            front = Subject("front", web, process, directory / "front.log")
            until(front.listens, process, front.log)
            it = Door(server, front)
            it.settle()
            idle = it.memory()
            it.log_in()
            print("| | | may be | |\n|---|---|---|---|")
            it.row("memory of both, idle", idle / 1e6, 150, "MB")
            yield it
            assert process.poll() is None, front.log.read_text()[-4000:]


def beside_the_proxy(it: Door, seconds: float, generator: Generator) -> None:
    """What clients of REST and of v1 notice of WebSockets that send datagrams as fast as they come back."""
    path = it.make_job(BOARDS)
    deadline = time.monotonic() + 10
    while b'"READY"' not in (state := it.ask(it.get(path))[0][2]):
        assert time.monotonic() < deadline, state
    (machine,) = it.ask(it.get(f"{path}/machine"))
    boards = json.loads(machine[2])["connections"]
    chips = [f"{x},{y}" for (x, y), _ in boards]
    arguments = "load", str(it.port), path.removeprefix("/").replace("srv/spalloc/jobs", "proxy"), it.cookie, *chips
    with proxy.process("boards", *(host for _, host in boards)), proxy.process(*arguments) as load:
        look = line("get_job_state", int(path.rpartition("/")[2]))
        by_v1 = generator.begin(it.server.port, look, clients=4, rate=LOOKS_A_SECOND, seconds=seconds)
        by_rest = _others(it, seconds)
        told_v1 = generator.end(by_v1)
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdin.close()
        rate = float(load.stdout.readline())
    assert not told_v1.errors
    print(f"\n{len(boards)} WebSockets x {proxy.IN_FLIGHT} in flight meanwhile: {rate:,.0f} datagrams/s\n")
    it.row("beside the proxy: p99 of GET by TLS", 1e3 * by_rest.p99, 20, "ms")
    it.row("beside the proxy: p99 of v1", 1e3 * told_v1.lines[0].p99, 20, "ms")
    it.ask(it.destroy(path))


def _succeeds(command: list[str]) -> bool:
    done = subprocess.run(command, input=PASSWORD, capture_output=True, text=True, check=False)
    return done.returncode == 0


def main(*, quick: bool, number: int = 2000) -> str | None:
    """Print figures and what they may be; return what is missed."""
    seconds = 1.5 if quick else 4.0
    with tempfile.TemporaryDirectory() as folder, cores_awake(), doors(Path(folder)) as it:
        looks(it, seconds, Path(f"{state_path(Path(folder) / 'unlimited.py')}.web") / CERTIFICATE_FILE)
        life_cycles(it, seconds)
        beside_the_proxy(it, seconds, Generator(Path(folder)))
        polls(it, number, seconds)
        log = it.front.log.read_text()
        if "level=error" in log or "Traceback" in log:
            print(log[-3000:])
    missed = [row.what for row in it.rows if not row.holds]
    return f"web: missed: {'; '.join(missed)}" if missed else None


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["raw", port, certificate]:
            uvloop.run(door.serve(RAW, HOST, int(port), certificate))
        case [number]:
            sys.exit(main(quick=bool(os.environ.get("QUICK")), number=int(number)))
        case _:
            sys.exit(main(quick=bool(os.environ.get("QUICK"))))
