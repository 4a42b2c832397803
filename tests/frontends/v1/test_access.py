"""Who may connect and who may change whose jobs; encryption; and what happens when file descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from spalloc_server.config.options import Access, Limits
from spalloc_server.config.tls import tls_context
from spalloc_server.errors import ConfigurationError, ConfigurationValueError
from spalloc_server.frontends import listener
from spalloc_server.frontends.listener import Listener, listening_sockets
from tests.frontends.v1.stand_in import Line, request, running
from tests.house import PATIENCE

ELSEWHERE = "192.0.2.0/24"
"""A network that no test is in."""


def warnings(lines: list[EventDict]) -> list[str]:
    return [line["event"].split(":")[0] for line in lines if line["log_level"] == "warning"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *extension], cwd=folder, check=True, capture_output=True)
    return folder


async def test_only_listed_networks_may_connect() -> None:
    async with running() as run:
        run.allow(Access(clients=(ELSEWHERE,)))
        with capture_logs() as lines:
            refused = await run.connect()
            assert await refused.receive() is None
        assert warnings(lines) == ["connection refused"]
        run.allow(Access(clients=(ELSEWHERE, "127.0.0.0/8")))
        assert await (await run.connect()).ask("version") == {"return": "1.0.0"}


async def test_who_may_not_connect_any_more_is_disconnected() -> None:
    async with running() as run:
        line = await run.connect()
        await line.ask("version")
        run.allow(Access(clients=(ELSEWHERE,)))
        assert await line.receive() is None
        await run.until(lambda: not run.service.connections)


@pytest.mark.parametrize("command", ["destroy_job", "power_on_job_boards", "power_off_job_boards"])
async def test_jobs_of_other_addresses_are_changed_only_by_managers(command: str) -> None:
    async with running() as run:
        run.core.creators = {1: "192.0.2.7", 2: "127.0.0.1"}
        line = await run.connect()
        assert await line.ask(command, 1) == {"return": None}, "it is not restricted by default"
        run.allow(Access(managers=(ELSEWHERE,)))
        assert "created from 192.0.2.7" in (await line.ask(command, 1))["exception"]
        assert await line.ask(command, 2) == {"return": None}
        assert await line.ask(command, 3) == {"return": None}
        run.allow(Access(managers=("127.0.0.0/8",)))
        assert await line.ask(command, 1) == {"return": None}
        assert len(run.core.calls) == 4


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"clients": ["10.0.0.0/33"]}, "10.0.0.0/33"),
        ({"managers": ["institute"]}, "institute"),
        ({"tls_key": "key.pem"}, "tls_certificate"),
        ({"clients": [1]}, "clients"),
    ],
)
def test_what_is_no_network_is_refused(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(ConfigurationValueError, match=wrong):
        Access(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ip", "clients", "warns"), [("", (), True), ("", ("10.0.0.0/8",), False), ("127.0.0.1", (), False)]
)
async def test_listening_to_everybody_is_told_in_one_line(ip: str, clients: tuple[str, ...], warns: bool) -> None:
    async with running() as run:
        run.allow(Access(clients=clients))
        with capture_logs() as lines:
            run.service.acceptor.listen(listening_sockets(ip, 0))
        assert ["clients" in line["event"] for line in lines] == [True] * warns


async def test_connections_are_encrypted_where_there_is_a_certificate(certificate: Path) -> None:
    async with running() as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
        line = Line(*await asyncio.open_connection("127.0.0.1", run.port, ssl=trusting))
        run.lines.append(line)
        assert await line.ask("version") == {"return": "1.0.0"}
        await line.send(*[request("list_jobs")] * 100)
        assert [await line.receive() for _ in range(100)] == [{"return": []}] * 100
        assert [connection.export() for connection in run.service.connections] == [None]


async def test_a_client_with_tls_hears_of_changes_while_it_says_nothing(certificate: Path) -> None:
    async with running() as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
        line = Line(*await asyncio.open_connection("127.0.0.1", run.port, ssl=trusting))
        run.lines.append(line)
        await line.ask("notify_job")
        for job_id in range(5):
            run.publish({job_id})
            assert await line.receive() == {"jobs_changed": [job_id]}


async def test_a_client_that_does_not_speak_tls_is_disconnected_and_the_log_says_so(certificate: Path) -> None:
    async with running() as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        line = await run.connect()
        with capture_logs() as lines:
            await line.send(request("version"))
            assert (await line.reader.read())[:1] != b"{"
            await run.until(lambda: bool(lines))
        assert [entry["event"] for entry in lines] == ["no TLS with a client"]


@pytest.mark.parametrize("access", [Access(tls_certificate="missing.pem"), Access(tls_certificate="cert.pem")])
def test_certificates_that_cannot_be_used_are_one_clear_error(access: Access, certificate: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no TLS with certificate .*\.pem"):
        tls_context(access, certificate)


def test_a_key_with_a_pass_phrase_is_an_error_and_nobody_is_asked(certificate: Path) -> None:
    command = "openssl pkcs8 -topk8 -in key.pem -out locked.pem -passout pass:x -v2 aes-256-cbc"
    subprocess.run(command.split(), cwd=certificate, check=True, capture_output=True)
    locked = Access(tls_certificate="cert.pem", tls_key="locked.pem")
    with pytest.raises(ConfigurationError, match=r"locked\.pem has a pass phrase.*openssl pkey"):
        tls_context(locked, certificate)


async def test_accepting_pauses_at_the_reserve_of_file_descriptors_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as run:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
        with capture_logs() as lines:
            first, second = await run.connect(), await run.connect()
            await first.ask("version")
            waiting = asyncio.create_task(second.ask("version"))
            await asyncio.wait({waiting}, timeout=0.1)
            assert not waiting.done()
            assert len(run.service.connections) == 1
            await first.close()
            assert await waiting == {"return": "1.0.0"}
        assert warnings(lines) == ["out of file descriptors"]


async def test_where_few_file_descriptors_are_allowed_several_clients_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as run:
        with (await run.connect()).writer.get_extra_info("socket").dup() as last:
            allowed = last.fileno() + 20
        monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed * 4 // 3, 0))
        for line in [await run.connect() for _ in range(3)]:
            assert await line.ask("version") == {"return": "1.0.0"}


@pytest.fixture
def no_files_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each client took the last file descriptor; nobody looks but when a client's socket is closed."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    monkeypatch.setattr(listener, "RETRY_SECONDS", 1e6)


@pytest.mark.usefixtures("no_files_but_one")
async def test_accepting_resumes_when_a_client_that_was_refused_is_gone() -> None:
    async with running(Limits(connections_per_address=1)) as run:
        first, refused = await run.connect(), await run.connect()
        await first.ask("version")
        run.allow(Access(clients=(ELSEWHERE,)))
        assert await refused.receive() is None
        run.allow(Access())
        assert await (await run.connect()).ask("version") == {"return": "1.0.0"}


@pytest.mark.usefixtures("no_files_but_one")
async def test_accepting_resumes_when_a_handshake_has_failed(certificate: Path) -> None:
    async with running() as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        bad = await run.connect()
        await bad.send(request("version"))
        await bad.reader.read()
        trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
        async with asyncio.timeout(PATIENCE):
            line = Line(*await asyncio.open_connection("127.0.0.1", run.port, ssl=trusting))
        run.lines.append(line)
        assert await line.ask("version") == {"return": "1.0.0"}


async def test_the_listener_looks_for_file_descriptors_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.01)
    limits = [0]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits[0], 0))
    async with running() as run:
        first, second = await run.connect(), await run.connect()
        await first.ask("version")
        waiting = asyncio.create_task(second.ask("version"))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
        limits[0] = 2**20
        assert await waiting == {"return": "1.0.0"}


async def test_clients_in_a_handshake_count_and_those_over_a_limit_are_refused_before_it(certificate: Path) -> None:
    async with running(Limits(connections_per_address=2)) as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        silent = [await run.connect() for _ in range(2)]
        with capture_logs() as lines:
            refused = await run.connect()
            assert await refused.receive() is None
        assert ["limit connections_per_address" in line["reason"] for line in lines] == [True]
        await silent[0].close()
        await run.until(lambda: run.service.acceptor.counted == 1)
        trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
        line = Line(*await asyncio.open_connection("127.0.0.1", run.port, ssl=trusting))
        run.lines.append(line)
        assert await line.ask("version") == {"return": "1.0.0"}


async def test_who_may_not_connect_any_more_is_not_served_after_a_handshake(certificate: Path) -> None:
    async with running() as run:
        run.service.acceptor.tls = tls_context(Access(tls_certificate="cert.pem", tls_key="key.pem"), certificate)
        line = await run.connect()
        await run.until(lambda: run.service.acceptor.counted == 1)
        run.allow(Access(clients=(ELSEWHERE,)))
        trusting = ssl.create_default_context(cafile=certificate / "cert.pem")
        with suppress(ConnectionError):
            await line.writer.start_tls(trusting, server_hostname="127.0.0.1")
            await line.send(request("version"))
            assert await line.receive() is None
        await run.until(lambda: run.service.acceptor.counted == 0)


class NoFiles(socket.socket):
    """A listening socket in a system that has no file descriptors left."""

    tried = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tried += 1
        if self.tried == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_where_the_system_has_no_file_descriptors_accepting_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.01)
    sock = NoFiles()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    accepted: list[socket.socket] = []
    with capture_logs() as lines:
        listening = Listener([sock], lambda client, _: accepted.append(client))
        with socket.create_connection(listening.address):
            async with asyncio.timeout(PATIENCE):
                while not accepted:  # noqa: ASYNC110 - there is no event for this
                    await asyncio.sleep(0)
    listening.close()
    accepted[0].close()
    assert sock.tried > 1
    assert len(lines) == 1
