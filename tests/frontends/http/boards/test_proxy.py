"""The proxy: who may open a WebSocket, what its messages do, and when it ends."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from spalloc_server.application.commands import KeepAlive
from spalloc_server.application.own_job_commands import OwnJobDetails
from spalloc_server.frontends.http.asking import RefusedError, WebCaller
from spalloc_server.frontends.http.boards import proxy as proxy_module
from spalloc_server.frontends.http.boards.channels import Channel
from spalloc_server.frontends.http.boards.proxy import make_proxy
from tests.frontends.http.boards.stand_in import (
    FakeBoard,
    ProxyClient,
    Refused,
    StandIn,
    a_client,
    boards,
    open_files,
    sub_machine,
    until,
    who,
)

BOARD = sub_machine({(0, 0): "127.0.0.2"})


def asking_for(*made: FakeBoard, **options: Any) -> StandIn:
    """A server whose job 1 has these boards, and job 2 none."""
    chips = [(0, 0), (8, 4), (4, 8)]
    return StandIn({1: sub_machine(dict(zip(chips, (board.host for board in made), strict=False))), 2: None}, **options)


# -------------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("job_id", "caller", "status", "text"),
    [
        (1, None, 401, "log in required"),
        (9, who(), 404, "there is no job 9"),
        (1, who("bob"), 404, "there is no job 1"),
        (2, who(), 409, "job 2 has no boards at present"),
        (0, who(), 404, "there is no job 0"),
        ("", who(), 404, "no such job"),
        ("-1", who(), 404, "no such job"),
        ("1_0", who(), 404, "no such job"),
        ("\u0661", who(), 404, "no such job"),
        ("1/x", who(), 404, "no such job"),
        ("9" * 30, who(), 404, "no such job"),
    ],
)
async def test_who_may_not_gets_an_answer_of_http(
    job_id: object, caller: WebCaller | None, status: int, text: str
) -> None:
    with pytest.raises(Refused) as refused:
        await ProxyClient(make_proxy(StandIn({1: BOARD, 2: None})), job_id, caller=caller).accepted()
    assert (refused.value.status, refused.value.text[: len(text)]) == (status, text)
    assert (b"www-authenticate" in refused.value.headers) == (status == 401)


@pytest.mark.parametrize(
    ("kind", "status"), [("forbidden", 403), ("bad-credentials", 401), ("busy", 429), ("internal", 500)]
)
async def test_a_refusal_of_the_server_has_its_status(kind: str, status: int) -> None:
    asking = StandIn({1: BOARD})
    asking.refusal = RefusedError(kind, "no")
    with pytest.raises(Refused) as refused:
        await ProxyClient(make_proxy(asking), caller=who()).accepted()
    assert refused.value.status == status
    assert kind == "bad-credentials" or refused.value.text == "no"


async def test_while_the_server_is_away_a_client_is_told_to_come_back() -> None:
    asking = StandIn({1: BOARD})
    asking.away = True
    with pytest.raises(Refused) as refused:
        await ProxyClient(make_proxy(asking), caller=who()).accepted()
    assert (refused.value.status, refused.value.headers[b"retry-after"]) == (503, b"5")


async def test_a_request_for_something_else_than_a_websocket_is_told_so() -> None:
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        return {"type": "http.request"}

    await make_proxy(StandIn({1: BOARD}))({"type": "http", "path": "/spalloc/proxy/1", "headers": []}, receive, send)
    assert [event["type"] for event in events] == ["http.response.start", "http.response.body"]
    assert events[0]["status"] == 426


@pytest.mark.parametrize(
    ("origin", "host", "let_in"),
    [
        (None, b"hall.example:8080", True),
        (b"localhost", b"hall.example:8080", True),
        (b"https://hall.example", b"hall.example:8080", True),
        (b"https://spinn.example.org", b"10.0.0.3", True),
        (b"https://evil.example", b"hall.example:8080", False),
        (b"null", b"hall.example", False),
        (b"https://[", b"hall.example", False),
    ],
)
async def test_pages_of_other_sites_may_not_use_the_proxy(origin: bytes | None, host: bytes, let_in: bool) -> None:
    asking = StandIn({1: BOARD}, base_url="https://spinn.example.org/spalloc")
    headers = [(b"host", host)] + ([] if origin is None else [(b"origin", origin)])
    client = ProxyClient(make_proxy(asking), caller=who(), headers=headers)
    if let_in:
        await (await client.accepted()).leave()
    else:
        with pytest.raises(Refused, match="403"):
            await client.accepted()


async def test_websockets_are_limited_by_job_and_in_all_and_come_free_again() -> None:
    proxy = make_proxy(StandIn({1: BOARD, 3: BOARD, 4: BOARD}, websockets=3, websockets_per_job=2))
    clients = [await ProxyClient(proxy, job, caller=who()).accepted() for job in (1, 1)]
    with pytest.raises(Refused, match="503"):
        await ProxyClient(proxy, 1, caller=who()).accepted()
    clients.append(await ProxyClient(proxy, 3, caller=who()).accepted())
    with pytest.raises(Refused, match="503"):
        await ProxyClient(proxy, 4, caller=who()).accepted()
    with pytest.raises(Refused, match="401"):
        await ProxyClient(proxy, 4).accepted()
    await clients.pop().leave()
    clients.append(await ProxyClient(proxy, 4, caller=who()).accepted())
    for client in clients:
        await client.leave()


# -------------------------------------------------------------------- channels


async def test_datagrams_go_to_the_board_and_come_back_in_order_from_one_port() -> None:
    async with boards(3) as made, a_client(asking_for(*made)) as client:
        channels = [await client.open(x, y, made[0].port) for x, y in ((0, 0), (8, 4), (4, 8), (0, 0))]
        assert len({0, *channels}) == 5
        for number in range(50):
            for channel in channels:
                client.tell(channel, struct.pack("<I", number))
        heard: dict[int, list[int]] = {channel: [] for channel in channels}
        for _ in range(200):
            channel, payload = await client.heard()
            heard[channel].append(int.from_bytes(payload, "little"))
        assert all(numbers == list(range(50)) for numbers in heard.values())
        assert [len(set(board.sources)) for board in made] == [2, 1, 1]
        assert await client.close(channels[1]) == channels[1]
        client.tell(channels[1], b"late")
        client.tell(channels[2], b"last")
        assert await client.heard() == (channels[2], b"last")
        assert b"late" not in made[1].got


async def test_channels_of_two_websockets_have_different_numbers_and_ports() -> None:
    async with boards() as made:
        proxy = make_proxy(asking_for(*made))
        clients = [await ProxyClient(proxy, caller=who()).accepted() for _ in range(2)]
        channels = [await client.open(port=made[0].port) for client in clients]
        assert channels[0] != channels[1]
        clients[0].tell(channels[1], b"not mine")
        for client, channel in zip(clients, channels, strict=True):
            client.tell(channel, b"mine")
            assert await client.heard() == (channel, b"mine")
        assert made[0].got == [b"mine", b"mine"]
        assert len(set(made[0].sources)) == 2
        for client in clients:
            await client.leave()


async def test_an_unconnected_channel_has_a_real_address_and_hears_boards_of_its_job_only() -> None:
    async with boards(2) as made, boards(1) as (stranger,), a_client(asking_for(*made)) as client:
        channel, address, port = await client.open_unconnected()
        assert (address, port > 0) == ("127.0.0.1", True)
        stranger.socket.sendto(b"let me in", (address, port))
        client.tell(channel, b"a connected channel's message")
        for number, (x, y) in enumerate(((0, 0), (8, 4))):
            client.tell_to(channel, b"%d" % number, x, y, made[0].port)
            assert await client.heard() == (channel, b"%d" % number)
        assert [board.sources for board in made] == [[(address, port)]] * 2
        made[1].socket.sendto(b"of itself", (address, port))
        assert await client.heard() == (channel, b"of itself")
        assert await client.close(channel) == channel
        client.tell_to(channel, b"late", 0, 0, made[0].port)
        assert await client.close(channel) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, 0, 17893), b"unrecognised ethernet chip"),
        ((0xFFFFFFFF, 0, 17893), b"unrecognised ethernet chip"),
        ((0, 0, 0), b"bad port number"),
        ((0, 0, 65536), b"bad port number"),
        ((0, 0, 0xFFFFFFFF), b"bad port number"),
    ],
)
async def test_a_channel_that_cannot_be_is_an_error_and_no_more(words: tuple[int, ...], text: bytes) -> None:
    async with boards() as made, a_client(asking_for(*made)) as client:
        reply = await client.call(0, *words)
        assert (reply[:4], reply[8:]) == (b"\x05\0\0\0", text)
        assert await client.open(port=made[0].port) > 0


async def test_channels_are_limited() -> None:
    async with boards() as made, a_client(asking_for(*made, channels=2)) as client:
        first = await client.open()
        await client.open_unconnected()
        for operation in ((0, 0, 0, 17893), (3,)):
            assert b"2 channels are open" in await client.call(*operation)
        await client.close(first)
        await client.open()


async def test_a_board_without_an_address_is_told_of_and_others_can_be_reached() -> None:
    async with boards() as made:
        asking = StandIn({1: sub_machine({(0, 0): made[0].host, (8, 4): "no.such.host.invalid"})})
        async with a_client(asking) as client:
            assert b"no.such.host.invalid" in await client.call(0, 8, 4, 17893)
            client.tell(await client.open(port=made[0].port), b"there")
            await client.heard()


async def test_no_socket_to_be_had_is_an_error_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    async with boards() as made, a_client(asking_for(*made)) as client:
        with monkeypatch.context() as patched:
            patched.setattr(proxy_module, "connected", none_left)
            assert b"Too many open files" in await client.call(0, 0, 0, 17893)
        await client.open()


async def test_messages_for_channels_that_are_not_are_ignored() -> None:
    async with boards() as made, a_client(asking_for(*made)) as client:
        for channel in (0, 99, 0xFFFFFFFF):
            client.tell(channel, b"x")
            client.tell_to(channel, b"x")
            assert await client.close(channel) == 0
        assert made[0].got == []


async def test_a_board_that_refuses_datagrams_loses_them_and_the_channel_stays() -> None:
    async with boards() as made, a_client(asking_for(*made)) as client:
        port = made[0].port
        channel = await client.open(port=port)
        client.tell(channel, b"before")
        await client.heard()
        ours = made[0].sources[0]
        made[0].close()
        for number in range(20):
            client.tell(channel, b"lost %d" % number)
            assert await client.close(0) == 0
        made[0] = FakeBoard(made[0].host, port)
        client.tell(channel, b"after")
        assert await client.heard() == (channel, b"after")
        assert made[0].sources == [ours]


class Faulty:
    """A socket that fails to send, with these errors in turn."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.sent: list[bytes] = []

    def send(self, payload: bytes) -> None:
        if self.errors:
            raise OSError(self.errors.pop(0), "it failed")
        self.sent.append(payload)

    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("errors", "sent", "raised"),
    [
        ([], 1, False),
        ([errno.ECONNREFUSED], 1, False),
        ([errno.ECONNREFUSED, errno.ECONNREFUSED], 0, False),
        ([errno.EAGAIN], 0, False),
        ([errno.EHOSTUNREACH], 0, False),
        ([errno.EMSGSIZE], 0, True),
        ([errno.ECONNREFUSED, errno.EMSGSIZE], 0, True),
    ],
)
def test_what_the_network_reports_is_a_loss(errors: list[int], sent: int, raised: bool) -> None:
    made: Any = Faulty(*errors)
    loop: Any = SimpleNamespace(add_reader=lambda *_: None)
    channel = Channel(loop, 1, made, lambda _: None)
    with pytest.raises(OSError) if raised else nullcontext():
        channel.send(b"x")
    assert made.sent == [b"x"] * sent


# -------------------------------------------------------------------- what ends a WebSocket


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", 1007),
        (b"\x02\0\0\0\x01", 1007),
        (struct.pack("<6I", 0, 1, 0, 0, 17893, 0), 1007),
        (struct.pack("<2I", 5, 1), 1007),
        (struct.pack("<2I", 6, 1), 1011),
        (struct.pack("<5I", 4, 1, 7, 7, 17893), 1007),
        (struct.pack("<5I", 4, 1, 0, 0, 0), 1007),
    ],
)
async def test_what_is_no_message_closes_the_websocket(frame: bytes, code: int) -> None:
    async with a_client(StandIn({1: BOARD})) as client:
        client.send(frame)
        client.send(struct.pack("<3I", 1, 7, 7))
        assert (await client.closed())[0] == code
        assert client.from_proxy.empty(), "nothing is done after it"


async def test_text_closes_the_websocket() -> None:
    async with a_client(StandIn({1: BOARD})) as client:
        client.to_proxy.put_nowait({"type": "websocket.receive", "text": "hello", "bytes": None})
        assert (await client.closed())[0] == 1003


async def test_an_address_for_a_connected_channel_closes_the_websocket() -> None:
    async with boards() as made, a_client(asking_for(*made)) as client:
        client.tell_to(await client.open(port=made[0].port), b"x")
        assert (await client.closed())[0] == 1007


async def test_a_datagram_that_cannot_be_closes_the_websocket() -> None:
    async with boards() as made, a_client(asking_for(*made)) as client:
        client.tell(await client.open(port=made[0].port), bytes(65508))
        assert await client.closed() == (1011, "a datagram cannot be sent: Message too long")


async def test_the_end_of_the_job_or_other_boards_close_it_and_other_changes_do_not() -> None:
    async with boards() as made:
        asking = asking_for(*made)
        for change, text in (
            (None, "job 1 has no boards any more"),
            (sub_machine({(0, 0): "127.0.0.9"}), "job 1 has other boards now"),
            ("gone", "there is no job 1"),
        ):
            machine = asking.machines[1]
            async with a_client(asking) as client:
                channel = await client.open(port=made[0].port)
                for _ in range(3):
                    await asking.change()
                    client.tell(channel, b"still")
                    await client.heard()
                if change == "gone":
                    del asking.machines[1]
                else:
                    asking.machines[1] = change  # type: ignore[assignment]
                await asking.change()
                assert await client.closed() == (1000, text)
                client.tell(channel, b"late")
            asking.machines[1] = machine
        assert b"late" not in made[0].got
        assert asking.following == 0


async def test_the_server_being_away_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spalloc_server.frontends.http.boards.job_boards.RETRY_SECONDS", 0.001)
    async with boards() as made:
        asking = asking_for(*made, keepalive=0.003)
        monkeypatch.setattr(proxy_module, "SHORTEST_RENEWAL_SECONDS", 0.001)
        async with a_client(asking) as client:
            channel = await client.open(port=made[0].port)
            asking.away = True
            await asking.change()
            asked = len(asking.asked)
            await until(lambda: len(asking.asked) > asked + 5)
            client.tell(channel, b"x")
            assert await client.heard() == (channel, b"x")
            asking.machines[1] = None
            asking.away = False
            assert (await client.closed())[0] == 1000


# -------------------------------------------------------------------- the lease


async def test_traffic_renews_the_lease_and_an_open_websocket_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "SHORTEST_RENEWAL_SECONDS", 0.02)
    async with boards() as made:
        asking = asking_for(*made, keepalive=0.03)
        async with a_client(asking) as client:
            channel, _, port = await client.open_unconnected()
            await until(lambda: asking.kept_alive)
            await until(lambda: _settled(asking))
            client.tell_to(channel, b"x", port=made[0].port)
            kept = len(asking.kept_alive)
            await until(lambda: len(asking.kept_alive) > kept)
            await client.heard()
            await until(lambda: _settled(asking))
            kept = len(asking.kept_alive)
            made[0].socket.sendto(b"a board's own", ("127.0.0.1", port))
            await until(lambda: len(asking.kept_alive) > kept)


_seen: list[tuple[int, float]] = []


def _settled(asking: StandIn) -> bool:
    """Whether the lease has not been renewed for five times as long as it takes."""
    now, count = asyncio.get_running_loop().time(), len(asking.kept_alive)
    if not _seen or _seen[-1][0] != count:
        _seen.append((count, now))
    return now - _seen[-1][1] > 0.1


async def test_a_lease_is_renewed_a_third_of_its_length_apart() -> None:
    async with boards() as made:
        asking = asking_for(*made, keepalive=0.6)
        async with a_client(asking) as client:
            began = asyncio.get_running_loop().time()
            channel = await client.open(port=made[0].port)
            while len(asking.kept_alive) < 3:
                client.tell(channel, b"x")
                await client.heard()
            assert asyncio.get_running_loop().time() - began >= 0.6


@pytest.mark.parametrize("kind", ["bad-credentials", "forbidden", "no-such"])
async def test_who_may_not_use_the_job_any_more_loses_the_websocket(kind: str) -> None:
    asking = StandIn({1: BOARD}, keepalive=0.3)
    async with a_client(asking) as client:
        asking.refusal = RefusedError(kind, "your token has been revoked")
        await client.close(0)
        assert await client.closed() == (1008, "your token has been revoked")


async def test_so_does_who_sends_nothing_and_no_lease_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "CHECK_SECONDS", 0.01)
    asking = StandIn({1: BOARD}, keepalive=None)
    async with a_client(asking) as client:
        asking.refusal = RefusedError("busy", "not now")
        await until(lambda: sum(isinstance(each, OwnJobDetails) for each in asking.asked) > 3)
        asking.refusal = RefusedError("bad-credentials", "there is no such account, or not any more")
        assert await client.closed() == (1008, "there is no such account, or not any more")
    assert not any(isinstance(each, KeepAlive) for each in asking.asked)


# -------------------------------------------------------------------- clients that do not read, and much of everything


async def test_a_client_that_does_not_read_loses_datagrams_and_no_memory_grows() -> None:
    async with boards() as made:
        asking = asking_for(*made, queued_bytes=4000)
        with structlog.testing.capture_logs() as log:
            async with a_client(asking) as client:
                channel = await client.open(port=made[0].port)
                client.reads.clear()
                for number in range(500):
                    client.tell(channel, struct.pack("<I", number) + bytes(96))
                    if number % 20 == 0:
                        await until(lambda n=number: len(made[0].got) > n)  # type: ignore[misc]
                await until(lambda: log and len(made[0].got) == 500)
                for _ in range(100):  # the loop reads what has come back meanwhile
                    await asyncio.sleep(0)
                client.reads.set()
                client.tell(channel, b"after")
                numbers = []
                while (payload := (await client.heard())[1]) != b"after":
                    numbers.append(int.from_bytes(payload[:4], "little"))
        assert numbers[:30] == list(range(30))
        assert numbers == sorted(numbers)
        assert len(numbers) <= 4000 // 108 + 2
        (line,) = log
        assert line["event"] == "datagrams to a client are dropped: it does not read as fast as boards send"
        assert (line["job_id"], line["client"]) == (1, "10.0.0.7")


async def test_a_client_that_reads_no_answers_is_not_read_either() -> None:
    async with a_client(StandIn({1: BOARD}, queued_bytes=1200)) as client:
        client.reads.clear()
        for number in range(1000):
            client.send(struct.pack("<3I", 1, number, 0))
        await until(lambda: client.to_proxy.qsize() < 1000)
        unread = client.to_proxy.qsize()
        assert unread > 700
        client.reads.set()
        correlations = [int.from_bytes((await client.message())[4:8], "little") for _ in range(1000)]
        assert correlations == list(range(1000))


async def test_a_client_that_never_reads_is_dropped_at_the_end_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "CLOSE_SECONDS", 0.01)
    async with boards() as made:
        asking = asking_for(*made)
        async with a_client(asking) as client:
            channel = await client.open(port=made[0].port)
            client.reads.clear()
            client.tell(channel, b"x")
            await until(lambda: made[0].got)
            asking.machines[1] = None
            await asking.change()
            await until(client.task.done)


async def test_nothing_is_left_of_websockets_that_have_come_and_gone() -> None:
    async with boards() as made:
        asking = asking_for(*made)
        proxy = make_proxy(asking)

        async def once(number: int) -> None:
            client = await ProxyClient(proxy, caller=who()).accepted()
            for _ in range(3):
                channel = await client.open(port=made[0].port)
                client.tell(channel, b"x")
                await client.heard()
            await client.open_unconnected()
            if number % 3 == 0:
                client.send(b"")
                await client.closed()
            elif number % 3 == 1:
                client.task.cancel()
                await asyncio.wait({client.task})
            else:
                await client.leave()

        await once(0)
        before = (open_files(), len(asyncio.all_tasks()))
        for number in range(60):
            await once(number)
        await until(lambda: asking.following == 0)
        assert (open_files(), len(asyncio.all_tasks())) == before


# -------------------------------------------------------------------- a pipe of the server's own


async def test_a_pipe_that_the_server_offers_takes_the_place_of_events() -> None:
    class Offered:
        queued, heard = 0, 0.0

        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.end: tuple[int, str] | None = None
            self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()

        def send(self, message: bytes) -> None:
            self.sent.append(message)

        def close(self, code: int, reason: str) -> None:
            self.end = (code, reason)
            self.messages.put_nowait(None)

        async def run(self, on_message: Any) -> None:
            while (message := await self.messages.get()) is not None:
                on_message(message)

    async with boards() as made:
        pipe = Offered()
        asking = asking_for(*made)
        client = ProxyClient(make_proxy(asking), caller=who(), extensions={"spalloc.pipe": lambda: pipe})
        await client.accepted()
        pipe.messages.put_nowait(struct.pack("<5I", 0, 7, 0, 0, made[0].port))
        await until(lambda: pipe.sent)
        channel = pipe.sent[0][8:]
        pipe.messages.put_nowait(b"\x02\0\0\0" + channel + b"hello")
        await until(lambda: len(pipe.sent) == 2)
        assert pipe.sent[1] == b"\x02\0\0\0" + channel + b"hello"
        asking.machines[1] = None
        await asking.change()
        await until(client.task.done)
        assert pipe.end == (1000, "job 1 has no boards any more")
