"""The proxy: WebSockets at `/spalloc/proxy/{id}`, through which a job's owner speaks UDP to the job's boards.

Theory of operation. Whoever may see the job may open WebSockets to its boards, several at a time; all others get an
answer of HTTP in place of one. The boards are those of that moment, with their addresses: the WebSocket is closed as
soon as the job has others or none, however that comes. While the server is away nothing changes, and datagrams flow on.

Messages are handled where they come in, one after the other and without waiting, so that datagrams stay in order. A
client that reads more slowly than boards send loses datagrams, as in any queue of a network; nothing grows.

Traffic renews the job's lease: datagrams in either direction, and whatever the client sends of itself, pings included
(published clients send one each 30 s, while their process lives). A WebSocket that is merely open does not: whoever
has left it so is not there any more. Each `CHECK_SECONDS` the server is asked on behalf of who has opened it: whose
account, password, token or session holds no more, or who may not use the job any more, has it closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

from spalloc_server.application.commands import KeepAlive
from spalloc_server.application.own_job_commands import JobDetails, OwnJobDetails
from spalloc_server.config.options import MAX_PORT
from spalloc_server.frontends.http.answers import UNAUTHORIZED, ASGIApp, Receive, Scope, Send, refusal, text
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.boards.channels import Channel, connected, local_address, unconnected
from spalloc_server.frontends.http.boards.job_boards import FINAL, JobBoards, boards_of, until_lost
from spalloc_server.frontends.http.boards.messages import (
    BadMessage,
    Close,
    CloseCode,
    Message,
    MessageTo,
    Open,
    OpenUnconnected,
    closed,
    decode,
    error,
    opened,
    opened_unconnected,
)
from spalloc_server.frontends.http.boards.websocket import Pipe, accept
from spalloc_server.log.logger import get_logger

__all__ = ["PATH", "make_proxy"]

PATH: Final = "/spalloc/proxy/"

LONGEST_RENEWAL_SECONDS = 60.0
"""Between renewals of the lease of a job whose WebSocket has traffic, however long its keepalive is."""

CHECK_SECONDS = 5.0
"""Between looks whether who has opened a WebSocket may still use the job; else it is closed."""

SHORTEST_RENEWAL_SECONDS = 0.1
"""Between renewals of one lease."""

CLOSE_SECONDS = 5.0
"""For closing a WebSocket whose client does not read; then the connection is dropped."""

MAX_DIGITS: Final = 15
"""Of the number of a job."""

MAX_REASON: Final = 120
"""Bytes of the reason of a close, by RFC 6455 nearly."""

NO_WEBSOCKET: Final = text(426, "this is for WebSockets", (b"upgrade", b"websocket"), (b"connection", b"upgrade"))
FOREIGN: Final = text(403, "pages of other sites may not use the proxy")
NO_JOB: Final = text(404, "no such job")
TOO_MANY: Final = text(503, "too many WebSockets are open; close one, or try again later", (b"retry-after", b"5"))

log = get_logger(__name__)

_numbers = count(1)


def make_proxy(asking: Asking) -> ASGIApp:
    """Return the application for `/spalloc/proxy/{id}`; the caller is in `scope["state"]["caller"]`."""
    return _Proxies(asking).serve


class _Proxies:
    """All WebSockets of this process."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._open: Counter[int] = Counter()
        """WebSockets by job."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "websocket":
            await NO_WEBSOCKET(scope, receive, send)
            return
        await receive()  # that a WebSocket is asked for
        caller: WebCaller | None = scope.get("state", {}).get("caller")
        job_id = _job_in(scope["path"])
        web = self._asking.settings.web
        if caller is None:
            await UNAUTHORIZED(scope, receive, send)
        elif _is_foreign(scope, web.base_url):
            await FOREIGN(scope, receive, send)
        elif job_id is None:
            await NO_JOB(scope, receive, send)
        elif self._open.total() >= web.websockets or self._open[job_id] >= web.websockets_per_job:
            await TOO_MANY(scope, receive, send)
        else:
            self._open[job_id] += 1
            try:
                await self._serve_job(scope, receive, send, job_id, caller)
            finally:
                self._open[job_id] -= 1
                self._open += Counter()  # which forgets jobs without any

    async def _serve_job(self, scope: Scope, receive: Receive, send: Send, job_id: int, caller: WebCaller) -> None:
        asking = self._asking
        try:
            details = await asking.ask(OwnJobDetails(job_id=job_id), JobDetails, behalf=caller.behalf)
            boards = await boards_of(asking, job_id, caller.behalf)
        except (RefusedError, ServerAwayError) as error:
            await refusal(error)(scope, receive, send)
        else:
            if boards is None:
                await text(409, f"job {job_id} has no boards at present")(scope, receive, send)
                return
            pipe = await accept(scope, receive, send, 2 * asking.settings.web.queued_bytes)
            await _WebSocket(asking, boards, caller, pipe, details.keepalive).run()


class _WebSocket:
    """One WebSocket, and its channels."""

    def __init__(
        self, asking: Asking, boards: JobBoards, caller: WebCaller, pipe: Pipe, keepalive: float | None
    ) -> None:
        self._asking, self._boards, self._caller, self._pipe = asking, boards, caller, pipe
        self._renew_seconds = LONGEST_RENEWAL_SECONDS
        if keepalive is not None:
            self._renew_seconds = max(SHORTEST_RENEWAL_SECONDS, min(LONGEST_RENEWAL_SECONDS, keepalive / 3))
        self._queued_bytes, self._max_channels = asking.settings.web.queued_bytes, asking.settings.web.channels
        self._heard: frozenset[str] = frozenset(boards.addresses.values())
        self._channels: dict[int, Channel] = {}
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[tuple[CloseCode, str]] = self._loop.create_future()
        self._traffic = False
        """Whether a board has been heard since the lease was renewed."""
        self._drops = False
        """Whether it has been logged that datagrams are dropped."""

    async def run(self) -> None:
        """Forward until the WebSocket is closed; close it once it may be used no longer."""
        piping = self._loop.create_task(self._pipe.run(self._take))
        tasks = {piping, self._loop.create_task(self._watch()), self._loop.create_task(self._renew())}
        over: set[asyncio.Future[Any]] = {*tasks, self._over}
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            for ended in [task for task in tasks if task.done()]:
                ended.result()
            if self._over.done():
                code, reason = self._over.result()
                self._close_channels()
                self._pipe.close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
                await asyncio.wait({piping}, timeout=CLOSE_SECONDS)
        finally:
            self._close_channels()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # ---------------------------------------------------------------- for as long as it may be used

    def _end(self, code: CloseCode, reason: str) -> None:
        if not self._over.done():
            self._over.set_result((code, reason))

    async def _watch(self) -> None:
        self._end(CloseCode.OVER, await until_lost(self._asking, self._boards, self._caller.behalf))
        await asyncio.Event().wait()

    async def _renew(self) -> None:
        """Renew the job's lease, where there has been traffic, and look whether the caller may still use it."""
        job_id = self._boards.job_id
        heard, due = self._pipe.heard, self._loop.time() + self._renew_seconds
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, self._renew_seconds))
            now, now_heard = self._loop.time(), self._pipe.heard
            renews = now >= due and (self._traffic or now_heard != heard)
            command = KeepAlive(job_id=job_id) if renews else OwnJobDetails(job_id=job_id)
            try:
                await self._asking.ask(command, object, behalf=self._caller.behalf)
            except RefusedError as refused:
                if refused.kind in FINAL:
                    self._end(CloseCode.NOT_PERMITTED, str(refused))
            except ServerAwayError:
                pass  # the next time
            else:
                if renews:
                    self._traffic, heard, due = False, now_heard, now + self._renew_seconds

    # ---------------------------------------------------------------- messages

    def _take(self, frame: bytes) -> None:
        """Do what a client's message says."""
        if self._over.done():
            return
        try:
            message = decode(frame)
            match message:
                case Message():
                    channel = self._channels.get(message.channel)
                    if channel is not None and channel.is_connected:
                        channel.send(message.payload)
                case MessageTo():
                    self._send_to(message)
                case Open() | OpenUnconnected():
                    self._pipe.send(self._opened(message))
                case Close():
                    channel = self._channels.pop(message.channel, None)
                    if channel is not None:
                        channel.close()
                    self._pipe.send(closed(message.correlation, 0 if channel is None else channel.number))
        except BadMessage as bad:
            self._end(bad.status, str(bad))
        except OSError as failed:
            self._end(CloseCode.FAILED, f"a datagram cannot be sent: {failed.strerror}")

    def _opened(self, message: Open | OpenUnconnected) -> bytes:
        """Open a channel; what answers that."""
        if len(self._channels) >= self._max_channels:
            return error(message.correlation, f"{len(self._channels)} channels are open; close one first")
        number = (next(_numbers) - 1) % 0xFFFFFFFF + 1  # a word, and never 0
        hosts, addresses = self._boards.hosts, self._boards.addresses
        try:
            if isinstance(message, Open):
                if (chip := (message.x, message.y)) not in hosts:
                    return error(message.correlation, "unrecognised ethernet chip")
                if not 1 <= message.port <= MAX_PORT:
                    return error(message.correlation, "bad port number")
                made = connected(self._boards.address(chip), message.port)
                self._channels[number] = Channel(self._loop, number, made, self._from_board)
                return opened(message.correlation, number)
            made = unconnected(local_address(next(iter(addresses.values()))))
            self._channels[number] = Channel(self._loop, number, made, self._from_board, self._heard)
            address, port = made.getsockname()
            return opened_unconnected(message.correlation, number, socket.inet_aton(address), port)
        except (OSError, RefusedError, StopIteration) as failed:
            return error(message.correlation, f"no channel can be opened: {failed}")

    def _send_to(self, message: MessageTo) -> None:
        address = self._boards.addresses.get((message.x, message.y))
        if address is None:
            raise BadMessage("unrecognised ethernet chip")
        if not 1 <= message.port <= MAX_PORT:
            raise BadMessage("bad port number")
        channel = self._channels.get(message.channel)
        if channel is not None:
            if channel.is_connected:
                raise BadMessage(f"channel {channel.number} is connected: it takes no address")
            channel.send(message.payload, (address, message.port))

    def _from_board(self, message: bytes) -> None:
        """Hand a board's datagram on, unless the client does not read as fast as boards send."""
        pipe = self._pipe
        if pipe.queued + len(message) > self._queued_bytes:
            if not self._drops:
                self._drops = True
                log.warning(
                    "datagrams to a client are dropped: it does not read as fast as boards send",
                    job_id=self._boards.job_id,
                    client=self._caller.behalf.address,
                )
        else:
            self._traffic = True
            pipe.send(message)

    def _close_channels(self) -> None:
        while self._channels:
            self._channels.popitem()[1].close()


def _job_in(path: str) -> int | None:
    """The number of a job in a path; None where it has none."""
    text = path.removeprefix(PATH).rstrip("/")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def _is_foreign(scope: Scope, base_url: str) -> bool:
    """Whether a browser says that a page of another site asks: it would send its user's cookie along.

    Published clients send a bare host as their origin, which no browser does.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if "://" not in origin and origin != "null":
        return False
    host = headers.get(b"host", b"").decode("latin-1")
    try:
        ours = {urlsplit(f"//{host}").hostname, urlsplit(base_url).hostname} - {None}
        return urlsplit(origin).hostname not in ours
    except ValueError:
        return True
