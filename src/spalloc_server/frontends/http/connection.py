"""The connection to the server: one Unix socket, on which any number of requests are under way.

Theory of operation. `Connection` keeps one connection to `<state>.sock`, and makes it anew whenever it is lost. Each
request is one line with a number of its own (`frontends.local_api`); the answer sets a future, and whoever waits for it
decodes it. A request has `hold_seconds` from the moment that it is asked, whether the server is away or only slow, and
then ends with `ServerAwayError`. Who asks one more than `held_requests` gets that at once.

When the server is back, requests without an answer are sent again, in their order. That is harmless for those that
change nothing, and for those with an id (`once`), under which the server does them once and answers each time alike. Of
others nobody knows whether they were done, and they end with that. A second hello says that another process of the
server goes on with the connection: it knows of requests and subscriptions, and everything may have changed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from spalloc_server import __version__
from spalloc_server.application.command_kinds import Command
from spalloc_server.config.options import Web
from spalloc_server.errors import RequestError
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebSettings
from spalloc_server.frontends.http.watching import Watching
from spalloc_server.frontends.local_api import FRONT_PROGRAM, MAX_LINE, PROTOCOL, Behalf, Hello, Subscribe
from spalloc_server.log.logger import get_logger

__all__ = ["Connection"]

RETRY_SECONDS = 0.02
"""From one attempt to reach a server that is away to the next; it doubles each time."""

RETRY_MOST_SECONDS = 1.0
"""The longest that it becomes."""

ANSWER_SECONDS = 8.0
"""The longest that a request waits for a server that is there, where `hold_seconds` is less."""

LAST_SECONDS = 1.0
"""The longest that a request waits for a server that is away when this process is about to end."""

HARDWARE_SECONDS = 150.0
"""The longest that a request waits for hardware, as a power cycle does."""

UNKNOWN = "outcome-unknown"
"""Code of the error of a request that may have been done."""

AWAY = "the server is away or busy: try again in some seconds"

T = TypeVar("T")

log = get_logger(__name__)


class _Line(msgspec.Struct, omit_defaults=True):
    id: int
    command: Any
    behalf: Behalf | None = msgspec.field(name="for", default=None)
    once: str | None = None


class _Error(msgspec.Struct):
    code: str
    text: str


class _Said(msgspec.Struct):
    """A line of the server."""

    id: int | None = None
    reply: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw())
    error: _Error | None = None
    changed: list[str] | None = None
    hello: Hello | None = None
    exception: str | None = None


_said_in = msgspec.json.Decoder(_Said).decode
_encode = msgspec.json.Encoder().encode


class _Asked:
    """A request that has no answer yet."""

    __slots__ = ("again", "answer", "deadline", "line", "sent")

    def __init__(self, line: bytes, answer: asyncio.Future[msgspec.Raw], deadline: float, again: bool) -> None:
        self.line, self.answer, self.deadline, self.again = line, answer, deadline, again
        self.sent = False

    def fail(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


class Connection:
    """Asks the server, in the running event loop, from `start` to `close`. It is an `Asking`.

    Args:
        path: of the server's socket.
        settings: the command that `WebSettings` answers.
        on_settings: called with the settings whenever they may have changed, and with None where there is no `[web]`
            any more.
        on_version: called with the version of the server whenever that is another than before.
    """

    def __init__(
        self,
        path: Path,
        settings: Any,
        *,
        on_settings: Callable[[WebSettings | None], None] = lambda _: None,
        on_version: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.there = False
        """Whether the server answers."""
        self._path = path
        self._settings_command = settings
        self._on_settings, self._on_version = on_settings, on_version
        self._settings: WebSettings | None = None
        self._limits = (Web().hold_seconds, Web().held_requests)
        self._version: str | None = None
        self._loop = asyncio.get_running_loop()
        self._decoders: dict[Any, Callable[[bytes], Any]] = {}
        self._asked: dict[int, _Asked] = {}
        """In the order in which they were asked."""
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watching = Watching(self._ask_itself, self._begin, lambda: len(self._asked))
        self.changed = self._watching.changed
        self._link: _Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # -- its life

    def start(self) -> None:
        """Begin to look for the server."""
        self._begin(self._live())
        self._begin(self._watching.forget())

    def stop_waiting(self) -> None:
        """Let nobody wait for changes any more: who does goes on at once; nor for long while the server is away."""
        self._watching.close()
        self._limits = (min(self._limits[0], LAST_SECONDS), self._limits[1])
        if not self.there:
            self._left()

    async def close(self) -> None:
        """Ask nothing more; who waits for an answer is told so."""
        self._closed = True
        self.stop_waiting()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            self._link.abort()
        if self._timer is not None:
            self._timer.cancel()
        for asked in self._asked.values():
            asked.fail(ServerAwayError(AWAY))

    # -- what it is for

    @property
    def settings(self) -> WebSettings:
        """As the server has told them last; `ServerAwayError` before that."""
        if self._settings is None:
            raise ServerAwayError(AWAY)
        return self._settings

    async def ask(self, command: Command, kind: type[T], *, behalf: Behalf | None = None, once: str | None = None) -> T:
        """Return what the server answers, see `Asking`."""
        if command.changes:
            once = once or secrets.token_hex(16)
            again = True
        else:
            again = command.repeatable
        seconds = HARDWARE_SECONDS if command.waits else None
        reply = await self._send(command, behalf, once, again=again, seconds=seconds)
        decode = self._decoders.get(kind)
        if decode is None:
            decode = self._decoders[kind] = msgspec.json.Decoder(kind).decode
        return cast("T", decode(reply))

    async def follow(self, key: str) -> AsyncIterator[int]:
        """Yield the revision of `key`, and again whenever it is another, until nobody may wait any more."""
        revision = -1
        while not self._watching.closed:
            now = await self.changed(key, revision, 3600.0)
            if now != revision and not self._watching.closed:
                revision = now
                yield now

    # -- requests

    async def _send(
        self, command: Any, behalf: Behalf | None, once: str | None, *, again: bool, seconds: float | None = None
    ) -> msgspec.Raw:
        """Return the answer to a request, undecoded."""
        hold, most = self._limits
        if len(self._asked) >= most or self._closed:
            raise ServerAwayError(AWAY)
        if seconds is None or not self.there:
            seconds = max(hold, ANSWER_SECONDS) if self.there else hold
        self._number = number = self._number + 1
        loop, line = self._loop, _encode(_Line(number, command, behalf, once)) + b"\n"
        if len(line) > MAX_LINE:  # it would end the connection, for all other clients, too
            raise RefusedError(RequestError.code, f"this asks for too much at once: {len(line)} of {MAX_LINE} bytes")
        deadline = loop.time() + seconds
        asked = self._asked[number] = _Asked(line, loop.create_future(), deadline, again)
        if self._timer is None or deadline < self._timer.when():
            self._look_at(deadline)
        if self.there and self._link is not None:
            asked.sent = True
            self._link.write(line)
        try:
            return await asked.answer
        finally:
            del self._asked[number]

    async def _ask_itself(self, command: Any) -> msgspec.Raw:
        """Ask something for this process, that may be asked twice."""
        return await self._send(command, None, None, again=True)

    def _judge_deadlines(self) -> None:
        """End requests that have waited for too long, and look again when the next one has."""
        now, due = self._loop.time(), float("inf")
        for asked in self._asked.values():
            if asked.deadline <= now:
                asked.fail(ServerAwayError(AWAY))
            else:
                due = min(due, asked.deadline)
        self._timer = None
        if due < float("inf"):
            self._look_at(due)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._judge_deadlines)

    def said(self, line: bytes) -> None:
        """Take a line of the server; `msgspec.MsgspecError` where it is none. For the link."""
        said = _said_in(line)
        if said.id is not None:
            asked, error = self._asked.get(said.id), said.error
            if asked is None or asked.answer.done():
                return
            if error is None:
                asked.answer.set_result(said.reply)
            elif error.code != UNKNOWN or not asked.again:  # else it is sent again with the next connection
                asked.fail(RefusedError(error.code, error.text))
        elif said.changed is not None:
            if "server" in said.changed:
                self._begin(self._fetch_settings())
            self._watching.hear(said.changed)
        elif said.hello is not None:
            self._greeted(said.hello)
        elif said.exception is not None:
            log.info("the server ends the connection", reason=said.exception)

    # -- the server comes and goes

    async def _live(self) -> None:
        """Connect, again and again."""
        pause, told = RETRY_SECONDS, False
        while True:
            link = _Link(self)
            try:
                await self._loop.create_unix_connection(lambda link=link: link, os.fspath(self._path))  # type: ignore[misc]
            except OSError as exc:
                if not told:
                    log.warning("the server is away", socket=str(self._path), error=exc.strerror or str(exc))
                    told = True
            else:
                self._link = link
                hello = Hello(protocol=PROTOCOL, version=__version__, program=FRONT_PROGRAM)
                link.write(_encode({"hello": hello}) + b"\n")
                await link.lost.wait()
                if self.there:
                    log.warning("the server is gone: requests wait for it", requests=len(self._asked))
                    pause, told = RETRY_SECONDS, True
                self._left()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MOST_SECONDS)

    def _greeted(self, hello: Hello) -> None:
        """The server is there, or another process goes on with the connection."""
        if not self.there:
            log.info("connected to the server", version=hello.version)
            self.there = True
            self._resend()
        if self._version not in {None, hello.version}:
            self._on_version(hello.version)
        self._version = hello.version
        self._begin(self._fetch_settings())
        self._watching.renew()

    def _resend(self) -> None:
        """Send what has no answer yet, in its order, and be done with what may not be sent twice."""
        lines = []
        for asked in self._asked.values():
            if asked.sent and not asked.again:
                asked.fail(RefusedError(UNKNOWN, "the server was away meanwhile: look what has become of this"))
            elif not asked.answer.done():
                asked.sent = True
                lines.append(asked.line)
        if lines and self._link is not None:
            self._link.write(b"".join(lines))

    def _left(self) -> None:
        """The connection is lost."""
        self.there, self._link = False, None
        latest = self._loop.time() + self._limits[0]
        for asked in self._asked.values():
            asked.deadline = min(asked.deadline, latest)
        if self._timer is not None:
            self._timer.cancel()
        self._judge_deadlines()

    async def _fetch_settings(self) -> None:
        """Learn the settings, and hear when they change."""
        try:
            await self._ask_itself(Subscribe(keys=["server"]))
            settings = msgspec.json.decode(await self._ask_itself(self._settings_command), type=WebSettings)
        except (ServerAwayError, RefusedError, msgspec.MsgspecError) as exc:
            if not self._watching.closed:  # else this process ends, and needs them no more
                log.warning("the server does not tell its settings", reason=str(exc))
            if isinstance(exc, RefusedError) and exc.kind == "no-such":
                self._on_settings(None)
            if isinstance(exc, ServerAwayError) and self.there:  # else they are fetched when it is back
                await asyncio.sleep(RETRY_MOST_SECONDS)
                self._begin(self._fetch_settings())
            return
        self._settings, self._limits = settings, (settings.web.hold_seconds, settings.web.held_requests)
        self._on_settings(settings)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Link(asyncio.Protocol):
    """One connection, from its beginning to its loss."""

    def __init__(self, home: Connection) -> None:
        self.lost = asyncio.Event()
        self._home = home
        self._parts: list[bytes] = []
        """Of a line whose end has not come yet."""
        self._lines: list[bytes] = []
        """What is sent together at the end of this cycle of the event loop."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        first, *more = data.split(b"\n")
        self._parts.append(first)
        if not more:
            return
        lines = [b"".join(self._parts), *more]
        self._parts = [lines.pop()]
        try:
            for line in lines:
                self._home.said(line)
        except msgspec.MsgspecError as exc:
            log.error("the server says what is not understood", error=str(exc))
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost.set()

    def write(self, line: bytes) -> None:
        if not self._lines:
            self._loop.call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(lines))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
