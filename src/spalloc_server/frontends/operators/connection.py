"""One operator's connection.

Theory of operation. It answers one request after the other, and reads no more while its replies are not read. One that
sends no whole request for long, or reads no reply, is closed, with a last word where it reads that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from spalloc_server.log.logger import get_logger

__all__ = ["Connection", "Home", "refusal"]

MAX_LINE = 2**20
"""Bytes of an operator's request."""

IDLE_SECONDS = 600.0
"""An operator's connection that sends no whole request for so long is closed."""

UNREAD_SECONDS = 30.0
"""An operator's connection that reads nothing of a reply for so long is closed."""

LINGER_SECONDS = 1.0
"""Time for an operator to take the last word before the connection is closed."""

log = get_logger(__name__)


def refusal(why: str, *, again: bool = False) -> bytes:
    """A reply that says what was wrong; with `again`, that nothing was done and the request may be sent again."""
    return msgspec.json.encode({"exception": why, **({"again": True} if again else {})})


class Home(Protocol):
    """What a connection is one of."""

    frozen: bool
    """Whether requests wait."""
    loop: asyncio.AbstractEventLoop

    def begin(self, connection: Connection, line: bytes) -> None:
        """Have a request answered, by `reply`."""

    def admits(self, connection: Connection) -> bool:
        """Whether a connection that has just been made is still wanted."""

    def forget(self, connection: Connection) -> None:
        """A connection has ended, or is about to."""

    def closed(self) -> None:
        """A connection's file descriptor is free."""


class Connection(asyncio.Protocol):
    """Answers one operator's requests, in order."""

    def __init__(self, home: Home, by: str, unread: bytes) -> None:
        self.by = by
        self.since = home.loop.time()
        """When it was accepted, sent its last request, or got its last reply."""
        self.request: bytes | None = None
        """What is under way."""
        self._home = home
        self._unread = bytearray(unread)
        self._transport: asyncio.Transport | None = None
        self._writable = self._reading = True
        self._ended = False
        self._idle = self._stall = home.loop.call_later(IDLE_SECONDS, self._look_whether_idle)

    @property
    def connected(self) -> bool:
        """Whether it can be closed."""
        return self._transport is not None

    # -- the transport calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the operator."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        if self._home.admits(self):
            self.go_on()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Answer what has arrived, now or when what came before is answered."""
        self._unread += data
        self.go_on()
        self._read(len(self._unread) <= MAX_LINE)

    def eof_received(self) -> bool:
        """Answer what is left, and close then."""
        self._ended = True
        self.go_on()
        return True

    def pause_writing(self) -> None:
        """The operator does not read."""
        self._writable = False
        self._stall = self._home.loop.call_later(UNREAD_SECONDS, self.abort)

    def resume_writing(self) -> None:
        """The operator has read everything."""
        self._writable = True
        self._stall.cancel()
        self.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the operator; a request that is under way goes on."""
        self._leave()
        self._home.loop.call_soon(self._home.closed)
        if exc is not None:
            log.info("an operator's connection is lost", error=str(exc))

    # -- its home calls these

    def go_on(self) -> None:
        """Begin the next request, unless one is under way, or replies wait to be read."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._home.frozen or self.request is not None:
            return
        if not self._writable:
            return
        line, newline, rest = self._unread.partition(b"\n")
        if len(line) > MAX_LINE:
            self.dismiss(refusal(f"a request is longer than {MAX_LINE} bytes"))
        elif newline:
            self._unread = rest
            self.request, self.since = bytes(line), self._home.loop.time()
            self._read(True)
            self._home.begin(self, self.request)
        elif self._ended:
            transport.close()

    def reply(self, reply: bytes) -> None:
        """Send the reply to the request that was under way, and go on."""
        self.request, self.since = None, self._home.loop.time()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply + b"\n")
            self.go_on()

    def dismiss(self, word: bytes | None = None) -> None:
        """Close the connection, with a last word if the operator reads it at once."""
        self._leave()
        transport = self._transport
        if transport is None or not self._writable:
            self.abort()
        else:
            if word is not None:
                transport.write(word + b"\n")
            transport.close()
            self._home.loop.call_later(LINGER_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close the connection at once; the other end does not notice where another process has it, too."""
        self._leave()
        if self._transport is not None:
            self._transport.abort()

    def can_leave(self, repeatable: Callable[[bytes], bool]) -> bool:
        """Whether another process can go on with it."""
        transport = self._transport
        whole = transport is not None and self._writable and not transport.is_closing()
        return whole and (self.request is None or repeatable(self.request))

    def fileno(self) -> int:
        """Of its socket."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("socket").fileno())

    def unanswered(self) -> bytes:
        """What was received and not answered, the request included that is under way."""
        return (b"" if self.request is None else self.request + b"\n") + bytes(self._unread)

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
        self._home.forget(self)

    def _look_whether_idle(self) -> None:
        now = self._home.loop.time()
        if self.request is None and now - self.since >= IDLE_SECONDS:
            why = f"this connection was closed: no whole request came for {IDLE_SECONDS:.0f} s; send it again"
            self.dismiss(refusal(why, again=True))
        else:
            due = IDLE_SECONDS if self.request is not None else self.since + IDLE_SECONDS - now
            self._idle = self._home.loop.call_later(due, self._look_whether_idle)
