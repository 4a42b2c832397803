"""Who is let in: HTTP or TLS by the first byte, and how many."""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
import weakref
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from spalloc_server.frontends import listener as shared
from spalloc_server.frontends.http import listener
from spalloc_server.frontends.http.in_place import READ_BYTES
from spalloc_server.frontends.http.protocols import HttpProtocol
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client, door


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(of the server, of clients)."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *extension], cwd=folder, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, ssl.create_default_context(cafile=str(folder / "cert.pem"))


async def test_http_and_tls_are_served_at_one_port(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    ours, theirs = tls
    async with door(tls=ours) as it:
        plain, encrypted = await Client.connect(it), await Client.connect(it, ssl=theirs)
        assert await plain.get("/a") == (200, b"http GET /a ")
        assert await encrypted.get("/a") == (200, b"https GET /a ")


async def test_of_tls_no_more_is_read_at_a_time_than_one_buffer_has(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    ours, theirs = tls
    async with door(tls=ours) as it:
        (client, other) = [await Client.connect(it, ssl=theirs) for _ in range(2)]
        body = b"x" * (3 * READ_BYTES + 17)
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await other.get("/b") == (200, b"https GET /b ")
        assert await client.answer() == (200, b"https POST /a " + body)


async def test_plain_http_is_for_this_computer_only(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "is_loopback", lambda _: False)
    ours, theirs = tls
    async with door(tls=ours) as it:
        assert await (await Client.connect(it)).get() == (403, b"not without TLS")
        assert (await (await Client.connect(it, ssl=theirs)).get())[0] == 200
    with capture_logs() as lines:
        async with door(tls=ours, plain_http=True) as it:
            assert (await (await Client.connect(it)).get())[0] == 200
    assert [line["log_level"] for line in lines if "without TLS" in line["event"]] == ["warning"]


async def test_no_more_clients_are_let_in_than_may_be_and_more_when_one_has_left() -> None:
    async with door(connections_per_address=2) as it:
        first, second = await Client.connect(it), await Client.connect(it)
        await first.get()
        await until(lambda: it.acceptor.counted == 2)
        assert await (await Client.connect(it)).ended()
        second.close()
        await until(lambda: it.acceptor.counted == 1)
        assert (await (await Client.connect(it)).get())[0] == 200


async def test_a_reverse_proxy_may_have_more_connections_than_others() -> None:
    async with door(connections_per_address=1, proxies=["127.0.0.1/32"]) as it:
        clients = [await Client.connect(it) for _ in range(3)]
        assert [(await client.get())[0] for client in clients] == [200] * 3


async def test_a_handshake_that_does_not_end_or_is_none_is_closed(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with door(tls=tls[0], header_seconds=0.2) as it:
        slow, wrong = await Client.connect(it), await Client.connect(it)
        slow.send(b"\x16\x03\x01")
        wrong.send(b"\x16" + b"nonsense" * 20)
        assert await slow.ended()
        assert await wrong.ended()
        await until(lambda: it.acceptor.counted == 0)


async def test_of_one_address_a_few_handshakes_are_under_way_and_others_wait_for_them(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "HANDSHAKES", 2)
    ours, theirs = tls
    begun = 0

    def begin(*args: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        return ssl.SSLContext.wrap_bio(ours, *args, **options)

    monkeypatch.setattr(ours, "wrap_bio", begin)
    async with door(tls=ours) as it:
        slow = [await Client.connect(it) for _ in range(5)]
        for client in slow:
            client.send(b"\x16\x03\x01")
        waits = asyncio.ensure_future(Client.connect(it, ssl=theirs))
        await until(lambda: it.acceptor.counted == 6)
        assert (await (await Client.connect(it)).get())[0] == 200  # whoever does without TLS need not wait
        assert begun == 2
        for client in slow:
            client.close()
        assert (await (await waits).get())[0] == 200


async def test_who_waits_for_others_handshakes_for_too_long_is_let_go_and_the_log_tells(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "HANDSHAKES", 0)
    with capture_logs() as lines:
        async with door(tls=tls[0], header_seconds=0.1) as it:
            client = await Client.connect(it)
            client.send(b"\x16\x03\x01")
            assert await client.ended()
            await until(lambda: it.acceptor.counted == 0)
    assert [line["reason"] for line in lines] == ["too many TLS handshakes of its address are under way"]


async def test_a_certificate_can_be_swapped_while_clients_are_connected(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    ours, theirs = tls
    async with door(tls=ours) as it:
        client = await Client.connect(it, ssl=theirs)
        await client.get()
        it.acceptor.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        assert (await client.get())[0] == 200


def test_a_handshake_that_fails_leaves_nothing_to_the_garbage_collector(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[HttpProtocol]] = []

    class Noted(HttpProtocol):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    async def fail() -> None:
        async with door(tls=tls[0]) as it:
            client = await Client.connect(it)
            client.send(b"\x16" + b"nonsense" * 20)
            assert await client.ended()
            await until(lambda: made[0]() is None)

    monkeypatch.setattr(listener, "HttpProtocol", Noted)
    gc.disable()
    try:
        # asyncio's own event loop leaves something itself
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fail())
    finally:
        gc.enable()


async def test_silent_clients_go_when_the_door_is_closed() -> None:
    async with door() as it:
        client = await Client.connect(it)
        await until(lambda: it.acceptor.counted == 1)
        it.acceptor.close()
        assert await client.ended()
        assert it.acceptor.counted == 0
    assert asyncio.get_running_loop().is_running()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], encrypted: bool
) -> None:
    async with door(tls=tls[0]) as it:
        gc.disable()
        try:
            client = await Client.connect(it, **({"ssl": tls[1], "server_hostname": "localhost"} if encrypted else {}))
            await client.get()
            (connection,) = (weakref.ref(each) for each in it.home.state.connections)
            client.close()
            await until(lambda: connection() is None)
        finally:
            gc.enable()
