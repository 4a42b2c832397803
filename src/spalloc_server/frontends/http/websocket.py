"""One WebSocket: messages of binary data, by ASGI or, where it must be quick, by direct calls.

Theory of operation. `websockets` checks the handshake and takes frames apart; this module connects it with a transport.
To the app it is an ASGI WebSocket. An app that has accepted one may then ask for a pipe, by calling
`scope["extensions"]["spalloc.pipe"]`: that hands each message to a function as it comes, and sends without waiting.
What is sent in one cycle of the event loop goes to the transport together, which saves most of the cost of TLS.
What clients send is taken apart in slices, in turn with others (`turns`): tens of thousands of small frames come in one
piece, and would hold up everybody else.

Binary messages only, since the proxy to boards knows no others. No compression. No pings of ours: TCP finds clients
whose machines have vanished, and a client that is held in a debugger is none of these. Whoever sends sees to it that
not too much is `queued`; while it is more than `queued_bytes`, nothing more is read from the client, and after
`UNREAD_SECONDS` it is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from spalloc_server.frontends.http.answers import ASGIApp, Message
from spalloc_server.frontends.http.in_place import InPlace
from spalloc_server.frontends.http.turns import Turns
from spalloc_server.log.defects import DefectLog

__all__ = ["RESTART", "WebSocketProtocol"]

MAX_MESSAGE = 65536
"""Bytes of a WebSocket's message from a client, which carries one datagram. A longer one closes the WebSocket."""

MAX_WAITING = 32
"""Messages of a WebSocket that wait for an app which has not taken it; further ones are read when there is room."""

SLICE_BYTES = 2048
"""Bytes from a client that are taken apart in one piece."""

CLOSE_SECONDS = 5.0
"""The longest that a client may take to agree that a WebSocket is closed."""

UNREAD_SECONDS = 60.0
"""A WebSocket whose client leaves `queued_bytes` unread for so long is closed."""

RESTART = 1012
"""Code with which WebSockets are closed when this process ends."""

_quiet = logging.getLogger("spalloc_server.websockets")
_quiet.setLevel(logging.CRITICAL + 1)  # what clients do wrong, they are told


class WebSocketProtocol(asyncio.Protocol):
    """A connection that has asked to become a WebSocket.

    Args:
        app: serves it.
        scope: of the HTTP request.
        target: path and query, as they were sent.
        queued_bytes: see `[web]`.
        defects: told what the app raises.
        turns: shared by all.
        lost: called when the connection has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: dict[str, Any],
        target: bytes,
        *,
        queued_bytes: int,
        defects: DefectLog,
        turns: Turns,
        lost: Callable[[WebSocketProtocol], None],
    ) -> None:
        self._scope = _scope_of_websocket(scope, target, self._pipe)
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        self._request = Request(target.decode("ascii"), headers)
        self._app, self._queued_bytes, self._defects = app, queued_bytes, defects
        self._turns, self._told_lost = turns, lost
        # As if it was open already: the request has been read, and `accept` looks at it alone
        self._rules = ServerProtocol(state=State.OPEN, extensions=[], max_size=MAX_MESSAGE, logger=_quiet)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._response: Response | None = None
        """What is yet to be answered to the request for a WebSocket."""
        self._early = b""
        """What has come before that."""
        self._frames: list[bytes] = []
        """What goes to the transport at the end of this cycle of the event loop, in parts."""
        self._unsent = 0
        """Bytes of that."""
        self._rest, self._at = b"", 0
        """What has come from the client, and how much of it has been taken apart."""
        self._going_on = self._waited = False
        """Whether more is to be taken apart, and whether in a later cycle."""
        self._who = ""
        """Whose turn it is then."""
        self._parts, self._waiting = list[bytes](), deque[bytes]()
        """Parts of a message of which more is to come; and messages that the app has not looked at."""
        self._more = asyncio.Event()
        """Set when there is something to look at."""
        self._ended, self._writable = asyncio.Event(), asyncio.Event()
        self._on_message: Callable[[bytes], None] | None = None
        self.heard = 0.0
        """When its client was heard last, by the event loop's clock."""
        self._writable.set()
        self._full = False
        """Whether the app has too many messages to look at."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Whether the app knows that a WebSocket is asked for."""
        self._open = False
        """Whether messages may be sent."""

    def begin(self, transport: asyncio.Transport, early: bytes) -> asyncio.Task[None] | None:
        """Take over a transport with what has come since the request; the task of the app, if it is asked at all."""
        self._transport, self._early, self.heard = transport, early, self._loop.time()
        transport.set_protocol(InPlace(self))
        transport.set_write_buffer_limits(high=self._queued_bytes)
        response = self._rules.accept(self._request)
        if response.status_code != 101:
            transport.write(response.serialize())
            transport.close()
            return None
        transport.pause_reading()
        self._response = response
        return self._loop.create_task(self._run())

    # -- as a pipe

    @property
    def queued(self) -> int:
        """Bytes that wait for the client to read them."""
        return self._unsent + self._transport.get_write_buffer_size()

    def send(self, message: bytes) -> None:
        """Send a message after those before it; nothing happens where the WebSocket is closing. Never waits."""
        if not self._open:
            return
        size = len(message)
        if size < 126:  # a frame of binary data, whole and unmasked (RFC 6455, 5.2)
            head = bytes((0x82, size))
        elif size < 65536:
            head = b"\x82\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x82\x7f" + size.to_bytes(8, "big")
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames += (head, message)
        self._unsent += size + len(head)

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` with each message until the WebSocket has ended; what it raises closes the WebSocket."""
        self._on_message = on_message
        while self._waiting:
            self._take_message(self._waiting.popleft())
        self._full = False
        self._read()
        await self._ended.wait()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, once what was sent has left."""
        if self._open and self._rules.state is State.OPEN:
            self._rules.send_close(code, reason[:100])
            self._write_rules()
            self._time(CLOSE_SECONDS)
        elif self._response is not None:  # as when this process ends before the app has answered
            self._transport.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # -- the transport calls these

    def data_received(self, data: bytes) -> None:
        """Take frames apart, in turn with others."""
        self.heard = self._loop.time()
        self._rest = self._rest[self._at :] + data
        self._at = 0
        if not self._going_on:
            self._going_on = True
            self._turns.take(self._who, self._take_apart)
            if self._going_on:
                self._waited = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """The client says no more: the transport closes."""

    def pause_writing(self) -> None:
        """The client does not read."""
        self._writable.clear()
        self._transport.pause_reading()
        self._time(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        """The client has read."""
        self._writable.set()
        if self._open and self._timer is not None:
            self._timer.cancel()
        self._read()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection has ended."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        for event in (self._ended, self._more, self._writable):
            event.set()
        self._told_lost(self)

    # -- ASGI

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as exc:  # noqa: BLE001 - whatever it is, other connections go on
            self._defects.note("a WebSocket failed", exc)
            self.close(1011)
        finally:
            self.close()
            if self._response is not None:
                self._transport.abort()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        while not self._waiting and not self._ended.is_set():
            self._more.clear()
            await self._more.wait()
        if not self._waiting:
            received = self._rules.close_rcvd
            return {"type": "websocket.disconnect", "code": 1006 if received is None else received.code}
        message = self._waiting.popleft()
        if self._full and not self._waiting:
            self._full = False
            self._read()
        return {"type": "websocket.receive", "bytes": message}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            await self._writable.wait()
            self.send(message["bytes"])
        elif kind == "websocket.close" and self._response is None:
            self.close(message.get("code") or 1000, message.get("reason") or "")
        elif self._response is not None and not self._transport.is_closing():
            self._answer(self._response, message)

    def _answer(self, response: Response, message: Message) -> None:
        """Answer the request for a WebSocket."""
        if message["type"] == "websocket.accept":
            for name, value in message.get("headers", ()):
                response.headers[name.decode("latin-1")] = value.decode("latin-1")
            self._transport.write(response.serialize())
            self._response, self._open = None, True
            caller = self._scope["state"].get("caller")
            self._who = "" if caller is None else caller.name
            self._read()
            if self._early:
                self.data_received(self._early)
            return
        if message["type"] == "websocket.http.response.start":
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
            refusal = Response(message["status"], "", Headers([*pairs, ("connection", "close")]))
            self._transport.write(refusal.serialize())
            return
        if message["type"] == "websocket.http.response.body":
            self._transport.write(message.get("body", b""))
            if message.get("more_body"):
                return
        else:
            refusal = Response(403, "", Headers([("content-length", "0"), ("connection", "close")]))
            self._transport.write(refusal.serialize())
        self._response = None
        self._transport.close()

    # -- helpers

    def _take_apart(self) -> bool:
        """Take a slice of what has come apart; whether more is left."""
        rules, end = self._rules, self._at + SLICE_BYTES
        if not self._transport.is_closing():
            rules.receive_data(self._rest[self._at : end])
            for frame in rules.events_received():
                if isinstance(frame, Frame):
                    self._take_frame(frame)
            self._write_rules()
        if end < len(self._rest) and not self._transport.is_closing():
            self._at = end
            return True
        self._rest, self._at, self._going_on = b"", 0, False
        if self._waited:
            self._waited = False
            self._read()
        return False

    def _take_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.BINARY or opcode is Opcode.CONT:
            data = frame.data if type(frame.data) is bytes else bytes(frame.data)
            if not frame.fin:
                if data:  # else any number of empty ones could be kept, as they make no message too long
                    self._parts.append(data)
                return
            if self._parts:
                data = b"".join((*self._parts, data))
                self._parts.clear()
            self._take_message(data)
        elif opcode is Opcode.TEXT:
            self.close(1003, "only binary messages")

    def _take_message(self, data: bytes) -> None:
        if not self._open or self._rules.state is not State.OPEN:
            return
        if self._on_message is None:
            self._waiting.append(data)
            self._more.set()
            if len(self._waiting) >= MAX_WAITING and not self._full:
                self._full = True
                self._transport.pause_reading()
            return
        try:
            self._on_message(data)
        except Exception as exc:  # noqa: BLE001 - likewise
            self._defects.note("a message of a WebSocket failed", exc)
            self.close(1011)

    def _pipe(self) -> WebSocketProtocol:
        return self

    def _flush(self) -> None:
        """Hand what was sent to the transport."""
        if self._frames:
            frames, self._frames, self._unsent = self._frames, [], 0
            if not self._transport.is_closing():
                self._transport.write(b"".join(frames))

    def _write_rules(self) -> None:
        """Send what the protocol itself has to say: pongs, and that it closes."""
        if not (parts := self._rules.data_to_send()):
            return
        self._flush()
        self._transport.write(b"".join(parts))
        if self._rules.state is not State.OPEN:
            self._open = False
        if parts[-1] == b"":  # it has nothing more to say
            self._transport.close()

    def _read(self) -> None:
        held = self._full or self._going_on or not self._writable.is_set()
        if self._open and not held and not self._transport.is_closing():
            self._transport.resume_reading()

    def _time(self, seconds: float) -> None:
        """End the connection after so long."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._transport.abort)


def _scope_of_websocket(scope: dict[str, Any], target: bytes, pipe: Callable[[], object]) -> dict[str, Any]:
    path, _, query = target.partition(b"?")
    return {
        **scope,
        "type": "websocket",
        "scheme": "wss" if scope["scheme"] == "https" else "ws",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}, "spalloc.pipe": pipe},
    }
