"""Damaged input of every kind is refused in an orderly way, never by a surprise.

Inputs are good ones with random damage. A few are tried with each run of the suite; in continuous integration each
kind is tried for 10 s, and `make fuzz` tries more, for `FUZZ_SECONDS`. What was found once is an `@example`.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, given, settings, strategies as st
from websockets.frames import Frame, Opcode

from spalloc_server.config.definitions import names_in, read_definitions, to_toml
from spalloc_server.config.options import Limits, Web
from spalloc_server.config.settings import Configuration, board_locations_from_spinner
from spalloc_server.config.toml import read_toml
from spalloc_server.controller import Controller
from spalloc_server.errors import ConfigurationError
from spalloc_server.frontends.http.answers import ASGIApp, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.boards import scamp
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.frontends.http.boards.proxy import make_proxy
from spalloc_server.frontends.http.certificates import context
from spalloc_server.frontends.http.home import Home
from spalloc_server.frontends.http.protocols import HttpProtocol
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.frontends.operators.service import Operators
from spalloc_server.frontends.v1.commands import decode
from spalloc_server.frontends.v1.door import Request as V1Request
from spalloc_server.frontends.v1.lines import GarbageError, LineReader
from spalloc_server.hardware.scp import SCP_PORT, BadPacket, Request, Response, Version
from spalloc_server.log.defects import DefectLog
from spalloc_server.simulator import datagrams
from spalloc_server.simulator.boot import BootReceiver, MalformedBoot
from tests.application.house import House
from tests.core.machines import a_machine
from tests.frontends.http.boards.stand_in import FakeBoard, ProxyClient, StandIn, open_files, sub_machine, who
from tests.frontends.http.serving import Client as HttpClient, Door, door
from tests.frontends.v1.test_commands import Client as V1Client, a_door
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE
from tests.simulator.machines import CLIENT, Client as BoardClient, boot_datagrams, machine
from tests.simulator.test_applications import give_data, load, signal

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
"""For each kind of input; 0 for one round."""

ROUND = 150
"""Inputs that are tried in one round."""

EXAMPLES = Path(__file__).parent.parent / "examples"

T = TypeVar("T")

LINES = [
    b'{"command": "create_job", "args": [3, 4], "kwargs": {"owner": "me", "keepalive": 60.0, "tags": ["default"]}}',
    b'{"command":"create_job","args":[],"kwargs":{"owner":"\xc3\xa9","machine":null,"min_ratio":0.333,"max_dead_links":0}}',
    b'{"command": "where_is", "kwargs": {"machine": "m", "chip_x": 1, "chip_y": 2}, "args": []}',
    b'{"command": "get_board_at_position", "args": ["m", 0, 0, 1]}',
    b'{"command": "destroy_job", "args": [1, "why"]}',
    b'{"command": "notify_job", "args": [1]}\r',
    b'{"command": "list_jobs"}',
]
CSV = b"cabinet,frame,board,x,y\n0,0,0,0,0\n0,0,1,8,4\n0,0,2,4,8\n"
TOML = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.toml")) if path.name != "faults.toml"]
DEFINITIONS = [path.read_bytes() for path in sorted((Path(__file__).parent / "data" / "definitions").glob("*.json"))]
PACKETS = [Request(3, 0, 7, 1, 2, 3, b"xyz").encode(), Response(0x80, 7, Version().encode()).encode(bytes(26))]

DAMAGE = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\n", b'"', b"\\", b"[" * 3000, b"{", b"-1", b"1e999", b"9" * 400, b"\xff", b"\0", b",", b"=", b"null"]
    ),
)


@st.composite
def damaged(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """One of `good`, with up to four pieces of it replaced by others."""
    text = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(len(text), begin + 40)))
        text = text[:begin] + draw(DAMAGE) + text[end:]
    return text


def fuzz(inputs: st.SearchStrategy[T], check: Callable[[T], None]) -> None:
    """Try `check` with rounds of inputs, for `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    once = settings(max_examples=ROUND, suppress_health_check=list(HealthCheck))(given(inputs)(check))
    once()
    while time.monotonic() < deadline:
        once()


def test_lines_are_the_same_however_their_bytes_arrive() -> None:
    def check(chunks: list[bytes]) -> None:
        reader, lines = LineReader(limit=50), []
        with suppress(GarbageError):
            for chunk in chunks:
                reader.receive(chunk)
                while (line := reader.next_line()) is not None:
                    lines.append(bytes(line))
        expected = b"".join(chunks).split(b"\n")
        assert lines == expected[: len(lines)]
        assert all(len(line) <= 50 for line in lines)
        if all(len(line) <= 50 for line in expected):
            assert lines == expected[:-1]
            assert reader.unread == expected[-1]

    fuzz(st.lists(damaged([line[:40] + b"\n" for line in LINES]), max_size=6), check)


def test_every_line_is_garbage_or_gets_one_line_of_an_answer() -> None:
    controller = Controller()
    controller.configure(Configuration([a_machine("m", 2, 2)], limits=Limits(queued_jobs=20)))
    door, client = a_door(controller), V1Client()

    def check(line: bytes) -> None:
        garbage, reply = "", b""
        try:
            reply, _ = door.answer(client, V1Request(decode(line)))
        except GarbageError as error:
            garbage = error.line
        assert len(garbage) < 1000
        assert garbage.isprintable()
        if reply:
            assert reply.index(b"\n") == len(reply) - 1
            (kind,) = msgspec.json.decode(reply)
            assert kind in {"return", "exception"}
            assert b"internal error" not in reply
        controller.check()
        changes = controller.take_changes()
        msgspec.json.encode(changes)

    fuzz(damaged(LINES), check)


REQUESTS = [
    b'{"hello": {"protocol": 1, "version": "1.4", "program": "spalloc-admin"}}\n',
    b'{"id": 1, "command": {"command": "kill", "job_id": 7, "reason": "night"}}\n',
    b'{"id":2,"command":{"command":"subscribe","keys":["job/8","machines"]},"for":{"name":"ann","roles":["user"]}}\n',
    b'{"id": 3, "command": {"command": "create job", "request": {"owner": "me", "triads": [1, 1]}, "keepalive": 9}}\n',
    b'{"id": 4, "command": {"command": "wait", "key": "jobs", "since": 0, "seconds": 0}}\n',
    b'{"id": 5, "command": {"command": "where is", "place": {"machine": "m", "chip_x": 1, "chip_y": 2}}}\n',
    (
        b'{"id":6,"command":{"command":"create job","request":{"owner":"bob","triads":[1,1],"root":[0,1]},'
        b'"original":{"a":3}},"once":"0123456789abcdef","for":{"account":"bob"}}\n'
    ),
    b'{"id": 7, "command": {"command": "board of job", "job_id": 1, "chip": [1, 2]}, "once": "0123456789abcdef"}\n',
    b'{"id": 8, "command": {"command": "find board", "machine": "m", "place": [0, 0, 11], "address": null}}\n',
    b'{"id": 9, "command": {"command": "report issue", "job_id": 1, "boards": ["spinn-m-0-0-0"], "issue": "hot"}}\n',
    b'{"id": 10, "command": {"command": "job numbers", "ended": true, "start": 1, "limit": 5}}\n',
]


async def _said_to_the_socket(house: House, folder: str, requests: bytes) -> list[dict[str, object]]:
    """What the local API socket answers to this, the end of the connection behind it."""
    state = Path(folder) / "state"
    async with Operators(house.application, state=state, complain=lambda *_, **__: None):
        reader, writer = await asyncio.open_unix_connection(socket_path(state), limit=2**24)
        writer.write(requests)
        writer.write_eof()
        said = await reader.read()
        writer.close()
    return [msgspec.json.decode(line) for line in said.splitlines()]


def test_whatever_comes_to_the_local_socket_is_answered_or_ends_the_connection_with_a_word() -> None:
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        house = runner.run(House.built())

        def check(lines: list[bytes]) -> None:
            requests = b"".join(lines)
            with structlog.testing.capture_logs() as log:
                said = runner.run(_said_to_the_socket(house, folder, requests))
            assert all(line.keys() & {"hello", "return", "error", "exception", "changed"} for line in said)
            assert not [line for line in log if line["event"] == "an operator's request failed"]
            answered = sum("id" in line for line in said)
            assert answered <= requests.count(b"\n")
            if answered < requests.count(b"\n") - 1:
                assert "exception" in said[-1]
            house.core.check()

        fuzz(st.lists(damaged(REQUESTS), max_size=5).map(lambda lines: [*REQUESTS[:1], *lines]), check)
        fuzz(st.lists(damaged(REQUESTS), max_size=3), check)


@pytest.mark.parametrize(
    "parse", [Request.decode, Response.decode, lambda data: Version.decode(Response.decode(data).payload)]
)
def test_datagrams_are_parsed_or_refused(parse: Callable[[bytes], object]) -> None:
    def check(datagram: bytes) -> None:
        with suppress(BadPacket):
            parse(datagram)

    fuzz(damaged(PACKETS) | st.binary(max_size=600), check)


FRAMES = [
    struct.pack("<5I", 0, 1, 0, 0, SCP_PORT),
    struct.pack("<3I", 1, 2, 1),
    struct.pack("<2I", 2, 1) + b"datagram",
    struct.pack("<2I", 3, 3),
    struct.pack("<5I", 4, 2, 0, 0, SCP_PORT) + b"datagram",
]


async def _forwarded(asking: StandIn, frames: list[bytes]) -> tuple[list[bytes], int]:
    """What a client of the proxy is sent after these frames, and the status that its WebSocket is closed with."""
    client = await ProxyClient(make_proxy(asking), caller=who()).accepted()
    for frame in frames:
        client.send(frame)
    client.send(b"")  # the end
    sent = []
    while (event := await client.event())["type"] == "websocket.send":
        sent.append(bytes(event["bytes"]))
    await client.task
    return sent, event["code"]


def test_whatever_a_client_of_the_proxy_sends_is_done_or_closes_its_websocket() -> None:
    with asyncio.Runner() as runner:
        (host,) = loopback_hosts(1)
        board = runner.run(_a_board(host))
        asking = StandIn({1: sub_machine({(0, 0): host})})
        runner.run(_forwarded(asking, FRAMES))
        before = open_files()

        def check(frames: list[bytes]) -> None:
            sent, code = runner.run(_forwarded(asking, frames))
            assert code in {1007, 1011}
            assert len(sent) <= 2 * len(frames)
            assert {message[0] for message in sent} <= {0, 1, 2, 3, 5}
            assert all(8 <= len(message) <= 1008 for message in sent)
            assert open_files() == before

        fuzz(st.lists(st.sampled_from(FRAMES) | damaged(FRAMES), max_size=8), check)
        runner.run(_closed(board))


async def _a_board(host: str) -> FakeBoard:
    return FakeBoard(host, SCP_PORT)


async def _closed(board: FakeBoard) -> None:
    board.close()


def test_whatever_boards_answer_memory_is_read_or_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scamp, "RESEND_SECONDS", 0.002)
    monkeypatch.setattr(scamp, "_TICK", 0.001)
    with asyncio.Runner() as runner:
        (host,) = loopback_hosts(1)
        board = runner.run(_a_board(host))
        asking = StandIn({1: sub_machine({(0, 0): host})})

        async def said(answers: list[bytes]) -> None:
            board.answer = lambda datagram: [answer[:12] + datagram[12:14] + answer[14:] for answer in answers]
            access = BoardAccess(asking)
            with suppress(RefusedError):
                assert len(await access.read(who(), 1, 0, 0, 0x60000000, 8)) == 8
            access.close()

        good = bytes(10) + b"\x80\0\0\0" + bytes(8)
        fuzz(st.lists(damaged([good]), max_size=3), lambda answers: runner.run(said(answers)))
        runner.run(_closed(board))


FRAMES_OF_CLIENT = b"\x82\x83\0\0\0\0abc\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8"
HEADS = [
    b"GET /a%20b?wait=true HTTP/1.1\r\nHost: h:80\r\nCookie: JSESSIONID=s1.2\r\nAccept: */*\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
    b"PUT /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HEAD http://h/x HTTP/1.0\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + FRAMES_OF_CLIENT,
]


class Pipe:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written, self.closed = b"", False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """Give the protocol what has come, as an event loop does."""
        if isinstance(self.protocol, asyncio.Protocol):
            self.protocol.data_received(data)
            return
        assert isinstance(self.protocol, asyncio.BufferedProtocol)
        while data:
            buffer = memoryview(self.protocol.get_buffer(-1))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.protocol.buffer_updated(count)
            data = data[count:]

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None

    def nothing(self, **_: object) -> None:
        pass

    pause_reading = resume_reading = set_write_buffer_limits = nothing


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve HTTP, and send messages of WebSockets back."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                await send({"type": "websocket.send", "bytes": message["bytes"]})
        return
    while (await receive()).get("more_body"):
        pass
    await text(200, "served")(scope, receive, send)


async def _quick_echo(scope: Scope, _receive: Receive, send: Send) -> None:
    """Send messages of WebSockets back, as the proxy does."""
    await send({"type": "websocket.accept"})
    pipe = scope["extensions"]["spalloc.pipe"]()
    await pipe.run(pipe.send)


async def _served(pieces: list[bytes], app: ASGIApp = _echo) -> tuple[bytes, int]:
    """What a client that sends this is answered, and how many defects there were."""
    defects = DefectLog()
    home = Home(app, Web(header_bytes=2000), defects)
    pipe = Pipe()
    protocol = HttpProtocol(home, app, lambda: None)
    pipe.protocol = protocol
    protocol.connection_made(pipe)  # type: ignore[arg-type]
    for piece in pieces:
        if not pipe.closed:
            pipe.feed(piece)
        for _ in range(5):
            await asyncio.sleep(0)
    for _ in range(50 if home.websockets else 0):
        await asyncio.sleep(0)
    pipe.protocol.connection_lost(ConnectionResetError())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not home.state.tasks
    return pipe.written, defects.count


def test_whatever_http_clients_send_is_served_or_refused_with_a_status() -> None:
    def check(pieces: list[bytes]) -> None:
        written, defects = runner.run(_served(pieces))
        assert not written or written.startswith(b"HTTP/1.1 "), written
        assert defects == 0

    with asyncio.Runner() as runner:
        fuzz(st.lists(st.sampled_from(HEADS) | damaged(HEADS), max_size=4), check)
        fuzz(damaged(HEADS).map(lambda head: [head[begin : begin + 7] for begin in range(0, len(head), 7)]), check)


async def _said_at_the_port(it: Door, pieces: list[bytes], tls: ssl.SSLContext | None) -> bytes:
    """What is answered to a client that connects, sends this and ends; nothing of it is left."""
    client = await HttpClient.connect(it, ssl=tls)
    said = b""
    with suppress(OSError):  # the other end has closed before
        for piece in pieces:
            client.send(piece)
            await client.writer.drain()
        client.writer.close() if tls else client.writer.write_eof()
        said = await asyncio.wait_for(client.reader.read(), PATIENCE)
    client.reset()
    await asyncio.wait_for(it.acceptor.empty.wait(), PATIENCE)
    while it.home.state.tasks:
        await asyncio.wait_for(asyncio.wait(it.home.state.tasks), PATIENCE)
    it.clients.clear()
    assert it.defects.count == 0
    return said


def _begins_tls(theirs: ssl.SSLContext) -> bytes:
    """How a client begins."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        theirs.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def test_whatever_comes_to_the_port_of_http_and_tls_is_served_or_closed_and_leaves_nothing() -> None:
    theirs = ssl.create_default_context()
    theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        serving = door(_echo, tls=context(Web(), Path(folder)), header_bytes=2000)
        it = runner.run(serving.__aenter__())
        hello = _begins_tls(theirs)

        def check(pieces: list[bytes], tls: ssl.SSLContext | None) -> None:
            said = runner.run(_said_at_the_port(it, pieces, tls))
            assert said[:9] in {b"", b"HTTP/1.1 "} or (not tls and said[:2] in {b"\x15\x03", b"\x16\x03"}), said

        bare, encrypted = st.sampled_from([*HEADS, hello]) | damaged([*HEADS, hello, hello]), damaged(HEADS)
        fuzz(st.lists(bare, max_size=3), lambda pieces: check(pieces, None))
        fuzz(st.lists(encrypted, max_size=3), lambda pieces: check(pieces, theirs))
        runner.run(serving.__aexit__(None, None, None))


FRAMES_OF_WEBSOCKET = [
    Frame(Opcode.BINARY, b"datagram").serialize(mask=True),
    Frame(Opcode.BINARY, bytes(300)).serialize(mask=True),
    Frame(Opcode.BINARY, b"").serialize(mask=True),
    Frame(Opcode.BINARY, b"in ", fin=False).serialize(mask=True) + Frame(Opcode.CONT, b"two").serialize(mask=True),
    Frame(Opcode.BINARY, b"around ", fin=False).serialize(mask=True)
    + Frame(Opcode.PING, b"?").serialize(mask=True)
    + Frame(Opcode.CONT, b"a ping").serialize(mask=True),
    Frame(Opcode.PING, b"there?").serialize(mask=True),
    Frame(Opcode.PONG, b"").serialize(mask=True),
]
MEANT = [b"datagram", bytes(300), b"", b"in two", b"around a ping"]
"""What the first of them say."""

WRONG_FRAMES = [
    Frame(Opcode.CLOSE, b"\x03\xe8bye").serialize(mask=True),
    Frame(Opcode.TEXT, b"text").serialize(mask=True),
    Frame(Opcode.BINARY, b"bare").serialize(mask=False),
    b"\xc2\x80\0\0\0\0",  # with a reserved bit
    Frame(Opcode.CONT, b"of nothing").serialize(mask=True),
    b"\x82\xff\0\0\0\1\0\0\0\0",  # of four gigabytes
    b"\x89\xfe\1\0",  # a ping of 256 bytes
]
CLOSES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
"""What a WebSocket may be closed with (RFC 6455, 7.4): the server sends back what its client says."""


def frames_in(written: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of the frames that a server has sent, each of them whole."""
    frames = []
    while written:
        first, length, at = written[0], written[1], 2
        assert first & 0xF0 == 0x80, "not final, or with reserved bits"
        if length == 126:
            length, at = int.from_bytes(written[2:4], "big"), 4
        elif length == 127:
            length, at = int.from_bytes(written[2:10], "big"), 10
        assert len(written) >= at + length, "half a frame"
        frames.append((first & 0xF, written[at : at + length]))
        written = written[at + length :]
    return frames


@pytest.mark.parametrize("app", [_echo, _quick_echo], ids=["by ASGI", "by a pipe"])
def test_frames_of_websockets_are_answered_in_order_or_close_it_with_a_code(app: ASGIApp) -> None:
    def answered(pieces: list[bytes]) -> list[tuple[int, bytes]]:
        written, defects = runner.run(_served([HEADS[-1].removesuffix(FRAMES_OF_CLIENT), *pieces], app))
        head, _, frames = written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert defects == 0
        return frames_in(frames)

    def good(numbers: list[int], size: int) -> None:
        sent = b"".join(FRAMES_OF_WEBSOCKET[number] for number in numbers)
        frames = answered([sent[begin : begin + size] for begin in range(0, len(sent), size)])
        assert [said for code, said in frames if code == 2] == [MEANT[n] for n in numbers if n < len(MEANT)]
        assert [said for code, said in frames if code == 10] == [
            b"?" if n == 4 else b"there?" for n in numbers if n in {4, 5}
        ]

    def damaged_ones(pieces: list[bytes]) -> None:
        frames = answered(pieces)
        codes = [code for code, _ in frames]
        assert {*codes} <= {2, 8, 10}
        assert 2 not in codes[codes.index(8) if 8 in codes else len(codes) :]
        assert [int.from_bytes(said[:2], "big") in CLOSES for code, said in frames if code == 8 and said] in [
            [],
            [True],
        ]

    with asyncio.Runner() as runner:
        numbers = st.lists(st.integers(0, len(FRAMES_OF_WEBSOCKET) - 1), max_size=8)
        fuzz(st.tuples(numbers, st.integers(1, 400)), lambda given: good(*given))
        every = [*FRAMES_OF_WEBSOCKET, *WRONG_FRAMES]
        fuzz(st.lists(st.sampled_from(every) | damaged(every), max_size=6), damaged_ones)


def test_boards_take_whatever_comes_for_a_boot() -> None:
    receiver = BootReceiver()
    start, first, *_, end = boot_datagrams()

    def check(datagram: bytes) -> None:
        with suppress(MalformedBoot):
            receiver.receive(datagram)

    fuzz(damaged([start, first[:60], end]) | st.binary(max_size=1100), check)


EDGES = [0, 1, 2, 3, 7, 16, 17, 100, 200, 255, 256, 1000, 2000, 2001, 0x60000000, 0x675BFFF8, 0x67800000, 0x67E00000]
WORDS = st.sampled_from([*EDGES, 0x7FFFFFFF, 0x80000000, 0xE1010000, 0xE5007000, 0xF5007F4C, 0xFFFFFFFF]) | st.integers(
    0, 2**32 - 1
)
FILL = 5


@st.composite
def commands_to_boards(draw: st.DrawFn) -> bytes:
    """Anything that could be a command, to anything that could be a core."""
    chip = draw(st.sampled_from([(0, 0), (2, 1), (8, 4), (255, 255), (7, 0), (200, 200)]))
    command = draw(st.integers(0, 34) | st.sampled_from([100, 200, 1000, 1001, 2000, 2001]))
    args = [draw(WORDS), draw(WORDS), draw(WORDS)]
    if command == FILL:
        args[2] &= 0xFFFF
    to = draw(st.integers(0, 7)) << 5 | draw(st.integers(0, 18))
    flags = draw(st.sampled_from([0x87, 0x07]))
    head = struct.pack(
        "<2x8B2H3I", flags, 255, to, 255, chip[1], chip[0], 0, 0, command, draw(st.integers(0, 9)), *args
    )
    return head[: draw(st.sampled_from([26, 26, 26, 22, 14, 10]))] + draw(st.binary(max_size=256))


def test_booted_boards_answer_or_drop_whatever_comes() -> None:
    client = BoardClient(machine([(0, 0, 0), (0, 0, 1), (0, 0, 2)]))
    give_data(client, 1, (0xFFFFFFF8, 0, 0, 0, 0, 1), app=16, chip=(0, 0))
    give_data(client, 2, (9, 9, 9), app=16, chip=(2, 1))
    give_data(client, 3, (9, 1000, 3), app=17, chip=(0, 0))
    for core, app, chip in ((1, 16, (0, 0)), (2, 16, (2, 1)), (3, 17, (0, 0))):
        load(client, core, app=app, chip=chip)
        signal(client, 3, app)
    client.done(26, 1 << 16 | 1 << 30 | 1)

    def check(datagram: bytes) -> None:
        try:
            reply, outgoing = datagrams.handle(client.system, 0, datagram, CLIENT)
        except datagrams.Malformed:
            return
        assert reply is None or 14 <= len(reply) <= datagrams.MAX_DATAGRAM
        for stream in outgoing:
            assert all(8 <= len(packet) <= 272 for packet in islice(stream.packets, 5))

    fuzz(commands_to_boards() | st.binary(max_size=300), check)


def test_config_files_are_a_configuration_or_an_error_that_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.toml"
        for wiring in EXAMPLES.glob("*24.csv"):
            (Path(folder) / wiring.name).write_bytes(wiring.read_bytes())

        def check(text: bytes) -> None:
            path.write_bytes(text)
            problem = str(path)
            try:
                assert isinstance(read_toml(path), Configuration)
            except ConfigurationError as error:
                problem = str(error)
            except UnicodeDecodeError:  # which `load` tells
                pass
            assert str(path) in problem

        fuzz(damaged(TOML), check)


VALUES: st.SearchStrategy[object] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 25),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["[x:0,y:0,z:0]", "[c:0,f:0]", "[c:0,f:0,b:0]", "north", "1.2.3.4", "m"]),
    ),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "y", "z", "c", "f", "b", "[x:0,y:0,z:0]", "[c:0,f:0]"]), some, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def misused(draw: st.DrawFn) -> bytes:
    """Good definitions with other values in places where there are values."""
    file = json.loads(draw(st.sampled_from(DEFINITIONS)))
    for _ in range(draw(st.integers(1, 3))):
        place = file
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        place[key] = draw(VALUES)
    return json.dumps(file).encode()


def test_machine_definitions_are_a_configuration_that_toml_can_hold_or_an_error_of_a_few_words() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hall.toml"

        def check(content: bytes) -> None:
            text = content.decode(errors="surrogateescape")
            assert all(len(name) <= 100 for name in names_in(text))
            problem = "?"
            try:
                configuration = read_definitions(text)
                path.write_text(to_toml(configuration), encoding="utf-8")
                assert read_toml(path) == configuration
            except ConfigurationError as error:
                problem = str(error)
            msgspec.json.encode(problem)
            assert 0 < len(problem) < 10_000

        fuzz(damaged(DEFINITIONS), check)
        fuzz(misused(), check)


def test_wiring_files_are_locations_or_an_error_that_names_the_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.csv"

        def check(text: bytes) -> None:
            path.write_bytes(text)
            problem = str(path)
            try:
                locations = board_locations_from_spinner(path)
                assert all(len(board) == len(place) == 3 for board, place in locations.items())
            except ConfigurationError as error:
                problem = str(error)
            except UnicodeDecodeError:  # which `load` tells
                pass
            assert str(path) in problem

        fuzz(damaged([CSV]), check)
