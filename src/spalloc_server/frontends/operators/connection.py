"""One connection to the local API socket.

Theory of operation. After the hellos, requests are begun in the order in which they come, up to `MAX_UNDER_WAY` at the
same time, and answered as soon as each is ready. A front process, which speaks for thousands of clients, sends many at
a time: so those that have come are begun in one go, as many as one turn of the event loop has, and what is answered at
once leaves in one write. While replies are not read, no further request is begun. Changes that the client has
subscribed to are merged into a set until it reads them; where that grows too long, the names in it give way to
"anything of this kind". A client that neither sends a whole request nor waits for anything, or that reads nothing, is
closed after a while, with a last word where it reads that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol, cast

from spalloc_server.application.api import Subscriptions
from spalloc_server.application.commands import Key, Kind, Name
from spalloc_server.frontends.local_api import (
    MAX_LINE,
    change,
    error,
    is_front,
    last_word,
    stranger,
    subscribing,
    text_of,
)
from spalloc_server.log.logger import get_logger

__all__ = ["Connection", "Home"]

MAX_UNDER_WAY = 32
"""Requests of one connection that are under way at the same time; the next one waits."""

MAX_UNDER_WAY_OF_FRONT = 1024
"""The same for a front process."""

BEGUN_IN_A_TURN = 32
"""Requests of one connection that are begun in a row, before others are served."""

MAX_CHANGED = 10_000
"""Names of what has changed that are kept for a client that does not read."""

IDLE_SECONDS = 600.0
"""A connection that sends no whole request for so long is closed, unless it waits for something."""

UNREAD_SECONDS = 30.0
"""A connection that reads nothing of a reply for so long is closed."""

LINGER_SECONDS = 1.0
"""Time to take the last word before a connection is closed."""

log = get_logger(__name__)


class Home(Protocol):
    """What a connection is one of."""

    frozen: bool
    """Whether requests wait."""
    loop: asyncio.AbstractEventLoop
    subscriptions: Subscriptions
    greeting: bytes
    """What is said first."""

    def begin(self, connection: Connection, line: bytes) -> None:
        """Have a request answered: now, by `send`; or by `answer`, if it is `under_way` until then."""

    def admits(self, connection: Connection) -> bool:
        """Whether a connection that has just been made is still wanted."""

    def forget(self, connection: Connection) -> None:
        """A connection has ended, or is about to."""

    def closed(self) -> None:
        """A connection's file descriptor is free."""


class Connection(asyncio.Protocol):
    """Answers one client's requests.

    Args:
        home: what it is one of.
        user: the name of the user at the other end, as the operating system knows it.
        trusted: whether this user may ask for others.
        unread: what another process has received of it and not answered.
    """

    def __init__(self, home: Home, user: str, trusted: bool, unread: bytes) -> None:
        self.user, self.trusted = user, trusted
        self.is_front = False
        """Whether it is that of a front process, as its hello says: one that has no other rights."""
        self.since = home.loop.time()
        """When it was accepted, sent its last request, or got its last reply."""
        self.under_way: dict[int, bytes] = {}
        """The lines of requests that have no reply yet."""
        self.can_take = asyncio.Event()
        """Set while the client has read everything, or is gone."""
        self.can_take.set()
        self._hello: bytes | None = None
        self._changed: set[Key] = set()
        self._telling = False
        self._going_on = False
        """Whether requests are being begun, or are in the next turn."""
        self._replies: list[bytes] = []
        """What leaves in one write at the end of this turn, or at once (`_flush`)."""
        self._home = home
        self._unread = bytearray(unread)
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._ended = False
        self._idle = self._stall = home.loop.call_later(IDLE_SECONDS, self._look_whether_idle)

    @property
    def connected(self) -> bool:
        """Whether it can be closed."""
        return self._transport is not None

    @property
    def keys(self) -> list[Key]:
        """What it has subscribed to."""
        names = {kind: self._home.subscriptions.subscribed(self, kind) for kind in Kind}
        return [
            Key(kind, name) for kind, of_kind in names.items() for name in ((None,) if of_kind is None else of_kind)
        ]

    @property
    def waits(self) -> bool:
        """Whether it waits for replies or changes."""
        return bool(self.under_way) or self._home.subscriptions.count(self) > 0

    # -- the transport calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the client."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        if self._home.admits(self):
            self.go_on()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Answer what has arrived, now or when there is room for more requests."""
        self._unread += data
        self.go_on()
        self._read(len(self._unread) <= MAX_LINE)

    def eof_received(self) -> bool:
        """Answer what is left, and close then."""
        self._ended = True
        self.go_on()
        return True

    def pause_writing(self) -> None:
        """The client does not read."""
        self.can_take.clear()
        self._stall = self._home.loop.call_later(UNREAD_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """The client has read everything."""
        self.can_take.set()
        self._stall.cancel()
        self._tell()
        self.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; requests that are under way go on."""
        self._leave()
        self.can_take.set()
        self._home.loop.call_soon(self._home.closed)
        if exc is not None:
            log.info("an operator's connection is lost", error=str(exc))

    # -- its home and its requests call these

    def go_on(self) -> None:
        """Begin requests, and more in later turns: as many as may be under way, as long as replies are read."""
        if not self._going_on:
            self._begin_requests()

    def thaw(self) -> None:
        """Go on after requests had to wait."""
        self._tell()
        self.go_on()

    def answer(self, number: int, reply: bytes) -> None:
        """Send the reply to a request that was under way, and go on."""
        if self.under_way.pop(number, None) is not None:
            self.since = self._home.loop.time()
            self.send(reply)
            self.go_on()

    def send(self, line: bytes) -> None:
        """Send a line, together with others of this turn."""
        if not (self._replies or self._going_on):
            self._home.loop.call_soon(self._flush)
        self._replies.append(line)

    def hear(self, kind: Kind, names: Collection[Name]) -> None:
        """Tell the client soon that these have changed, if it reads; else when it does."""
        if (everything := Key(kind)) in self._changed:
            return
        self._changed.update(Key(kind, name) for name in names)
        if len(self._changed) > MAX_CHANGED:
            self._changed = {each for each in self._changed if each.kind is not kind} | {everything}
        if not self._telling:
            self._telling = True
            self._home.loop.call_soon(self._tell)

    def dismiss(self, word: bytes | None = None) -> None:
        """Close the connection, with a last word if the client reads it at once."""
        self._flush()
        self._leave()
        transport = self._transport
        if transport is None or not self.can_take.is_set():
            self.abort()
        else:
            if word is not None:
                transport.write(word)
            transport.close()
            self._home.loop.call_later(LINGER_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close the connection at once; the other end does not notice where another process has it, too."""
        self._leave()
        if self._transport is not None:
            self._transport.abort()

    # -- handing over

    def can_leave(self, repeatable: Callable[[bytes], bool]) -> bool:
        """Whether another process can go on with it."""
        self._flush()
        transport = self._transport
        whole = transport is not None and self.can_take.is_set() and not transport.is_closing()
        return whole and all(map(repeatable, self.under_way.values()))

    def fileno(self) -> int:
        """Of its socket."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("socket").fileno())

    def unanswered(self) -> bytes:
        """All that the next process must read to go on: what was received and not answered, behind what was said first.

        That is the hello, what is subscribed to, and requests that are under way.
        """
        first = [] if self._hello is None else [self._hello, *subscribing(self.keys)]
        return b"".join(line + b"\n" for line in (*first, *self.under_way.values())) + bytes(self._unread)

    def part(self, why: str) -> None:
        """Close the connection, and say why; of requests that are under way, that they may be done."""
        told = f"{why} while this was under way: look what has become of it"
        words = [error(number, told, code="outcome-unknown") for number in self.under_way]
        self.dismiss(b"".join(words) + last_word(f"{why}: send it again", again=True))

    # -- helpers

    def _begin_requests(self) -> None:
        """Begin what one turn of the event loop has; the rest follows in the next one, when others have had theirs."""
        self._going_on = True
        unread, begun, end, at = self._unread, 0, 0, 0
        while self._serves() and len(self.under_way) < self._most and begun < BEGUN_IN_A_TURN:
            end = unread.find(b"\n", at)
            if (end if end >= 0 else len(unread)) - at > MAX_LINE:
                self.dismiss(last_word(f"a request is longer than {MAX_LINE} bytes"))
            if end < 0:
                break
            line, at = bytes(unread[at:end]), end + 1
            if self._hello is None:
                self._greet(line)
            else:
                begun += 1
                self._home.begin(self, line)
        del unread[:at]
        self._flush()
        if at:
            self.since = self._home.loop.time()
            self._read(len(unread) <= MAX_LINE)
        self._going_on = begun == BEGUN_IN_A_TURN
        if self._going_on:
            self._home.loop.call_soon(self._begin_requests)
        elif end < 0 and self._ended and not self.under_way and self._transport is not None:
            self._transport.close()

    @property
    def _most(self) -> int:
        return MAX_UNDER_WAY_OF_FRONT if self.is_front else MAX_UNDER_WAY

    def _greet(self, line: bytes) -> None:
        if (wrong := stranger(line)) is not None:
            self.dismiss(last_word(wrong, code="protocol"))
        else:
            self._hello, self.is_front = line, is_front(line)
            self.send(self._home.greeting)

    def _serves(self) -> bool:
        transport = self._transport
        live = transport is not None and not transport.is_closing()
        return live and not self._home.frozen and self.can_take.is_set()

    def _tell(self) -> None:
        self._telling = False
        if self._changed and self.can_take.is_set() and not self._home.frozen:
            keys, self._changed = self._changed, set()
            self.send(change(sorted(map(text_of, keys))))

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        if replies and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(replies))

    def _read(self, on: bool) -> None:
        if self._transport is not None and not self._transport.is_closing() and on != self._reading:
            self._reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _leave(self) -> None:
        self._idle.cancel()
        self._stall.cancel()
        self._home.subscriptions.forget(self)
        self._home.forget(self)

    def _look_whether_idle(self) -> None:
        now = self._home.loop.time()
        if not self.waits and now - self.since >= IDLE_SECONDS:
            why = f"this connection was closed: no whole request came for {IDLE_SECONDS:.0f} s; send it again"
            self.dismiss(last_word(why, again=True))
        else:
            due = IDLE_SECONDS if self.waits else self.since + IDLE_SECONDS - now
            self._idle = self._home.loop.call_later(due, self._look_whether_idle)
