"""HTTP connections: uvicorn's protocol on httptools, with bounds and deadlines for all that a client sends.

Theory of operation. uvicorn turns requests into ASGI calls. `HttpProtocol` adds what it lacks. Raw bytes are counted
until a head is complete, since the parser keeps whatever comes; the same for what is no data of a chunked body. The
headers of a head, the bytes of a body, and requests that are sent ahead of their turn are counted, too. A connection is
in one of four phases, each of which has its deadline: it is idle, a head is coming, a body is coming, or it is busy
with an answer. One timer does for all: it is set anew for the rare head or body that does not come at once, and looks
else at what has happened since when it fires.

Who breaks a rule is answered and then heard out for a moment, as a connection that is closed with unread data loses the
answer. When a client leaves, its request is broken off if that is to change nothing (GET): so long polls of clients
that have gone cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.home import Home, Joining
from spalloc_server.frontends.http.websocket import WebSocketProtocol

__all__ = ["HttpProtocol"]

MAX_HEADERS = 100
"""Headers of a request. One more is answered with 431."""

MAX_AHEAD = 8
"""Requests of one connection that are sent before the answer to the first. Who sends one more is disconnected."""

UNREAD_SECONDS = 60.0
"""A connection that reads nothing of an answer for so long is closed."""

LINGER_SECONDS = 1.0
"""For so long a client that has broken a rule is heard out after it has been told, so that it can read that."""

CHUNK_BYTES = 32
"""Bytes, on average, with which a chunk of a body may say how long it is."""

TOO_LITTLE: Final = "the chunks of the body hold too little"

FREE_CHUNKS = 1024
"""Chunks of a body that may hold as little as they like."""

LEAST_CHUNK_BYTES = 16
"""Bytes of data that further chunks hold, on average. A body of smaller ones would keep this process busy."""

FRAMING: Final = {b"content-length", b"transfer-encoding"}
"""Headers that say where a body ends."""

IDLE: Final = "idle"
HEAD: Final = "head"
BODY: Final = "body"
BUSY: Final = "busy"


def _nothing() -> None:
    pass


class _OffenceError(Exception):
    """Breaks off the parser."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        home: what it is one of.
        app: serves its requests.
        lost: called when it has ended.
    """

    def __init__(self, home: Home, app: ASGIApp, lost: Callable[[], None]) -> None:
        super().__init__(home.config, home.state, {}, home.loop)
        self.app = cast("Any", app)
        self._home, self._served_by, self._told_lost = home, app, lost
        self._phase: str | None = None
        self._due = 0.0
        """When an idle connection is closed."""
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._begun = False
        """Whether a head has begun and is not complete."""
        self._in_body = False
        self._passed = 0
        """How many heads and bodies have been complete."""
        self._raw = 0
        """Bytes since the last of these, or a little fewer."""
        self._data = 0
        """Bytes of the body in them."""
        self._head_bytes = self._body_bytes = self._chunks = 0
        self._has_body = False
        self._replays = False
        """Whether a head is parsed again that is known already."""
        self._refusal: tuple[int, str] | None = None
        self._over = False
        """Whether a rule was broken: nothing more is heard."""
        self._active: RequestResponseCycle | None = None
        """The request that is being answered."""
        self._task: asyncio.Task[None] | None = None
        """What answers it."""

    # -- the transport calls these

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", Joining(transport, self.loop))
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        if self._over:
            return
        passed = self._passed
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            rest = data[exc.args[0] :]
            if self._should_upgrade():
                self._upgrade(rest)
            else:
                self._pass_over()
                self.data_received(rest)
            return
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "this is no HTTP/1.1 request")))
            return
        if self._passed == passed:
            self._raw += len(data)
        else:
            self._raw = self._data = 0
        web = self._home.web
        if self._in_body:
            if self._raw - self._data > web.header_bytes + CHUNK_BYTES * self._chunks:
                self._refuse(400, TOO_LITTLE)
        elif self._raw > web.header_bytes:
            self._refuse(431, self._long_head())
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let nothing of it stay."""
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._break_off()
        super().connection_lost(exc)
        self._told_lost()
        self.let_go()
        cast("Joining", self.transport).leave()

    def let_go(self) -> None:
        """Refer to nothing that refers to this, so that it goes at once: the garbage collector hardly ever runs."""
        kept = self.__dict__
        kept["parser"] = kept["cycle"] = kept["flow"] = kept["_active"] = kept["_task"] = None
        self._told_lost = _nothing

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._stall = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    # -- the parser calls these; what they raise ends it

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._replays:
            return
        super().on_message_begin()
        self._begun, self._has_body, self._head_bytes = True, False, 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        if self._replays:
            return
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; not one behind a body, which would be one of its head for the app."""
        if self._in_body or self._replays:
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"content-length":
            self._has_body = value != b"0"
            if int(value) > self._home.web.body_bytes:
                raise self._offence(413, self._too_long())
        elif name == b"transfer-encoding":
            self._has_body = True
        self.headers.append((name, value))
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) > MAX_HEADERS:
            raise self._offence(431, f"the request has more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Begin to serve the request."""
        if self._replays:
            return
        self._begun, self._in_body = False, True
        self._passed += 1
        self._body_bytes = self._chunks = 0
        if len(self.pipeline) >= MAX_AHEAD:
            raise self._offence(400, f"at most {MAX_AHEAD} requests of a connection may be sent ahead")
        if self._asks_for_websocket() and (self._has_body or self.parser.get_method() != b"GET" or self._active):
            raise self._offence(400, "a WebSocket is asked for by GET, without a body, and not ahead of an answer")
        super().on_headers_complete()
        if self._home.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """A chunk of the body begins."""
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self._body_bytes // LEAST_CHUNK_BYTES:
            raise self._offence(400, TOO_LITTLE)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._data += len(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._home.web.body_bytes:
            raise self._offence(413, self._too_long())
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has been read."""
        if self.parser.should_upgrade() and not self._should_upgrade():
            return  # its body has not, see `_pass_over`
        self._in_body = False
        self._passed += 1
        super().on_message_complete()

    # -- uvicorn calls these

    def on_response_complete(self) -> None:
        """Go on with a request that was sent ahead, or wait for one."""
        self._active = self._task = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._look()

    def shutdown(self) -> None:
        """Close, after the answer that is under way; a request that is not whole yet is lost."""
        if self._active is not None:
            self._active.keep_alive = False
        else:
            self.transport.close()

    def close_if_idle(self) -> None:
        """Close, if nothing has come of a request."""
        if self._phase is IDLE:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        task = self._task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() == b"websocket"

    # -- phases

    def _look(self) -> None:
        """Enter the phase in which the connection is now."""
        if self._over:
            return
        if self._in_body:
            phase, seconds = BODY, self._home.web.body_seconds
        elif self._begun or self._raw:
            phase, seconds = HEAD, self._home.web.header_seconds
        elif self._active is not None:
            self._phase = BUSY
            return
        else:
            phase, seconds = IDLE, self._home.web.idle_seconds
            self._due = self.loop.time() + seconds
        if phase is not self._phase and (phase is not IDLE or self._timer is None):
            self._time(seconds, self._expire)
        self._phase = phase

    def _expire(self) -> None:
        self._timer = None
        if self._phase is IDLE:
            left = self._due - self.loop.time()
            if left > 0:
                self._time(left, self._expire)
            else:
                self.transport.close()
        elif self._phase is not BUSY:
            self._refuse(408, f"the {self._phase} of the request did not come in time")

    def _time(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, what)

    # -- offences

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._home.web.header_bytes:
            raise self._offence(431, self._long_head())

    def _offence(self, status: int, text: str) -> Exception:
        self._refusal = (status, text)
        return _OffenceError()

    def _long_head(self) -> str:
        return f"the head of the request is longer than {self._home.web.header_bytes} bytes"

    def _too_long(self) -> str:
        return f"the body of the request is longer than {self._home.web.body_bytes} bytes"

    def _refuse(self, status: int, text: str) -> None:
        """Tell the client what it has done wrong, and close soon."""
        self._over = True
        cycle = self.cycle if self._in_body else self._active
        answered = cycle is not None and cycle.response_started
        self._break_off()
        if answered or self.transport.is_closing():
            self.transport.close()
            return
        body = text.encode()
        head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self._time(LINGER_SECONDS, self.transport.close)

    def _break_off(self) -> None:
        """Tell the app that nobody waits for its answer any more."""
        self.pipeline.clear()
        if self._active is not None:
            self._active.disconnected = True
            self._active.message_event.set()
            if self._task is not None and self._active.scope["method"] in {"GET", "HEAD"}:
                self._task.cancel()

    # -- WebSockets

    def _asks_for_websocket(self) -> bool:
        return self.parser.should_upgrade() and self._should_upgrade()

    def _pass_over(self) -> None:
        """Go on with HTTP where another protocol is asked for: by a parser that is not told of that.

        The parser takes what follows such a head for that protocol, body and all.
        """
        framing = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self._replays = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._replays = False
        self._raw = self._data = 0

    def _upgrade(self, early: bytes) -> None:
        """Become a WebSocket."""
        home = self._home
        try:
            self.url.decode("ascii")
        except UnicodeDecodeError:
            self._refuse(400, "this is no HTTP/1.1 request")
            return
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self.connections.discard(self)
        websocket = WebSocketProtocol(
            self._served_by,
            cast("dict[str, Any]", self.scope),
            self.url,
            queued_bytes=home.web.queued_bytes,
            defects=home.defects,
            turns=home.turns,
            lost=self._websocket_lost,
        )
        home.websockets.add(websocket)
        if (task := websocket.begin(cast("Joining", self.transport).direct, early)) is not None:
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def _websocket_lost(self, websocket: WebSocketProtocol) -> None:
        self._home.websockets.discard(websocket)
        self._told_lost()
