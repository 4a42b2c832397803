"""What clients may send, and for how long: heads, bodies, requests ahead, and nothing at all."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from spalloc_server.frontends.http import protocols
from spalloc_server.frontends.http.answers import Receive, Scope, Send, text
from tests.frontends.http.fake_socket import until
from tests.frontends.http.serving import Client, door, tell


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "LINGER_SECONDS", 0.05)


POST = b"POST /p HTTP/1.1\r\nHost: h\r\n"


async def test_requests_are_answered_one_after_the_other_on_one_connection() -> None:
    async with door() as it:
        client = await Client.connect(it)
        assert await client.get("/a%20b") == (200, b"http GET /a b ")
        client.send(POST + b"Content-Length: 4\r\n\r\nbo")
        client.send(b"dy")
        assert await client.answer() == (200, b"http POST /p body")
        assert await client.get("/c") == (200, b"http GET /c ")


async def test_a_chunked_body_is_read() -> None:
    async with door() as it:
        client = await Client.connect(it)
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        client.send(b"2\r\nde\r\n0\r\n\r\n")
        assert await client.answer() == (200, b"http POST /p abcde")


async def test_a_few_requests_may_be_sent_ahead() -> None:
    async with door() as it:
        client = await Client.connect(it)
        client.send(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(5)))
        answers = [await client.answer() for _ in range(5)]
        assert answers == [(200, b"http GET /%d " % number) for number in range(5)]


async def test_who_sends_too_many_requests_ahead_is_disconnected() -> None:
    async with door() as it:
        client = await Client.connect(it)
        client.send(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        assert (await client.answer())[0] == 400
        assert await client.ended()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000, 431),
        (b"GET /" + b"x" * 20000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 431),
        (b"\r\n" * 10000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (POST + b"Content-Length: 2000\r\n\r\n", 413),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"100\r\n" + b"x" * 256 + b"\r\n" + b"300\r\n" + b"x" * 768,
            413,
        ),
        (POST + b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\n", 400),
        (b"CONNECT h:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 400),
    ],
)
async def test_what_breaks_a_rule_is_told_so_and_disconnected(sent: bytes, status: int) -> None:
    async with door(body_bytes=1000) as it:
        client = await Client.connect(it)
        client.send(sent)
        assert (await client.answer())[0] == status
        assert await client.ended()


async def test_a_client_that_goes_on_sending_reads_why_it_was_refused() -> None:
    async with door(body_bytes=1000) as it:
        client = await Client.connect(it)
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert (await client.answer())[0] == 413


async def test_many_tiny_chunks_are_refused_and_a_few_or_larger_ones_are_not() -> None:
    async with door() as it:
        client = await Client.connect(it)
        head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        client.send(head + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
        assert (await client.answer())[0] == 200
        client.send(head + b"10\r\nxxxxxxxxxxxxxxxx\r\n" * 5000 + b"0\r\n\r\n")
        assert (await client.answer())[0] == 200
        client.send(head + b"1\r\nx\r\n" * 2000)
        assert (await client.answer())[0] == 400


async def test_chunks_that_hold_too_little_are_refused() -> None:
    async with door(header_bytes=1000) as it:
        client = await Client.connect(it)
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await until(lambda: any(getattr(each, "_in_body", False) for each in it.home.state.connections))
        client.send(b"1;" + b"x" * 2000 + b"\r\na\r\n")
        assert (await client.answer())[0] == 400


async def test_a_header_behind_the_body_is_none_of_the_request() -> None:
    async def headers(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await text(200, b" ".join(name for name, _ in scope["headers"]).decode())(scope, receive, send)

    async with door(headers) as it:
        client = await Client.connect(it)
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nCookie: stolen\r\n\r\n")
        assert await client.answer() == (200, b"host transfer-encoding")


async def test_a_head_must_come_in_time() -> None:
    async with door(header_seconds=0.1) as it:
        client = await Client.connect(it)
        client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.answer())[0] == 408
        assert await client.ended()


async def test_a_head_that_comes_drop_by_drop_is_not_given_more_time() -> None:
    async with door(header_seconds=0.3) as it:
        client = await Client.connect(it)
        begun = asyncio.get_running_loop().time()
        answered = asyncio.create_task(client.answer())
        while not answered.done():
            client.send(b"X: y\r\n" if asyncio.get_running_loop().time() > begun + 0.01 else b"GET / HTTP/1.1\r\n")
            await asyncio.wait([answered], timeout=0.02)
        assert (await answered)[0] == 408


async def test_a_second_head_has_a_deadline_of_its_own() -> None:
    async with door(header_seconds=0.1) as it:
        client = await Client.connect(it)
        await client.get()
        client.send(b"GET")
        assert (await client.answer())[0] == 408


async def test_a_body_must_come_in_time_whether_or_not_the_app_reads_it() -> None:
    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        await text(200, "done")(scope, receive, send)

    async with door(body_seconds=0.1) as it:
        client = await Client.connect(it)
        client.send(POST + b"Content-Length: 4\r\n\r\nbo")
        assert (await client.answer())[0] == 408
        assert await client.ended()
    async with door(hasty, body_seconds=0.1) as it:
        client = await Client.connect(it)
        client.send(POST + b"Content-Length: 4\r\n\r\nbo")
        assert await client.answer() == (200, b"done")
        assert await client.ended()


async def test_a_connection_without_a_request_is_closed_after_a_while() -> None:
    async with door(idle_seconds=0.1) as it:
        silent, used = await Client.connect(it), await Client.connect(it)
        await used.get()
        assert await silent.ended()
        assert await used.ended()


async def test_a_request_that_takes_long_is_no_idle_connection() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        await text(200, "done")(scope, receive, send)

    async with door(slow, idle_seconds=0.1, header_seconds=0.1, body_seconds=0.1) as it:
        client = await Client.connect(it)
        assert await client.get() == (200, b"done")


async def test_a_get_whose_client_has_left_is_broken_off_and_a_post_is_not() -> None:
    begun, outcomes = asyncio.Event(), dict[str, str]()
    go = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await go.wait()
            outcomes[scope["method"]] = "went on"
        except asyncio.CancelledError:
            outcomes[scope["method"]] = "broken off"

    async with door(waits) as it:
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"):
            begun.clear()
            client = await Client.connect(it)
            client.send(sent)
            await begun.wait()
            client.reset()
            await until(lambda: not it.home.state.connections)
        go.set()
        await until(lambda: len(outcomes) == 2)
        assert outcomes == {"GET": "broken off", "POST": "went on"}


async def test_nothing_of_a_connection_stays_after_a_reset() -> None:
    async with door() as it:
        client = await Client.connect(it)
        await client.get()
        (connection,) = (weakref.ref(each) for each in it.home.state.connections)
        client.reset()
        await until(lambda: not it.home.state.connections)
        gc.collect()
        assert connection() is None


async def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "UNREAD_SECONDS", 0.1)

    async def endless(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
            await asyncio.sleep(0)

    async with door(endless) as it:
        client = await Client.connect(it, limit=1024)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: it.acceptor.counted == 1)
        await until(lambda: it.acceptor.counted == 0)
        client.close()


H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
"""As Java's client sends it."""
BODIES = [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n1\r\nb\r\n3\r\nody\r\n0\r\n\r\n"]


@pytest.mark.parametrize("body", BODIES, ids=["of known length", "chunked"])
async def test_another_protocol_that_is_asked_for_is_passed_over_and_the_body_is_read(body: bytes) -> None:
    async with door() as it:
        for end in range(len(body) + 1):
            client = await Client.connect(it)
            client.send(POST + H2C + body[:end])
            if end < len(body):
                await asyncio.sleep(0)
                client.send(body[end:])
            assert await client.answer() == (200, b"http POST /p body")
            assert await client.get("/next") == (200, b"http GET /next ")
        client.send(b"".join([POST, H2C, body, b"GET /a HTTP/1.1\r\n", H2C, b"\r\n", POST, b"\r\n"]))
        answers = [await client.answer() for _ in range(3)]
        assert [told.split()[1:] for _, told in answers] == [
            [b"POST", b"/p", b"body"],
            [b"GET", b"/a"],
            [b"POST", b"/p"],
        ]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"Content-Length: 2000\r\n\r\n", 413),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024, 413),
        (b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (b"Content-Length: 4\r\n\r\nbo", 408),
    ],
)
async def test_limits_are_the_same_where_another_protocol_is_asked_for(sent: bytes, status: int) -> None:
    async with door(body_bytes=1000, body_seconds=0.2) as it:
        client = await Client.connect(it)
        client.send(POST + H2C + sent)
        assert (await client.answer())[0] == status
        assert await client.ended()


async def test_while_connections_are_drained_each_ends_after_its_answer() -> None:
    async with door() as it:
        client = await Client.connect(it)
        await client.get()
        it.home.draining = True
        assert (await client.get())[0] == 200
        assert b"connection: close" in client.head
        assert await client.ended()
    assert tell is not None
