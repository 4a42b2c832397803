"""One client's connection.

Theory of operation. Lines are answered as they arrive, in the event loop's own callbacks: no task, no future and no
thread is spent on a client. Three queues lie between a line and the wire, and each has a bound:

- *unanswered*: the `LineReader`. Lines stay in it while the connection is blocked, and then nothing more is received;
  TCP makes the client wait.
- *held*: replies that wait for a commit, and the replies behind them, since replies keep their order.
- *out*: bytes that wait for the transport. A write goes out only while the transport has nothing left of the last,
  so what the transport has not sent yet is always the tail of `_written`; that is what makes `export` possible.

A connection is blocked while the client does not read (the transport has bytes left), while too many replies are held,
while its address sends commands faster than it may, or when other clients have their turn: after `TURN_COMMANDS` lines,
or when the event loop has served clients for long enough (`turns`). While it stands in their line it receives once
more, and then no more either.

Notifications are not queued but merged: while the client does not read, the names of what changed gather in a set. None
is ever dropped, because published clients wait for ever for a lost one; where the set outgrows `write_buffer_bytes`,
the client is disconnected instead, which it does notice. So is one that reads nothing, for `UNREAD_SECONDS`, of a reply
that is longer than that. Thus a connection holds at most its longest reply and about `write_buffer_bytes` besides. What
all connections hold together the service bounds, to whom each tells how much it `_keeps`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import msgspec

from spalloc_server.protocol.commands import CHANGING, decode, exception_reply, notification
from spalloc_server.protocol.lines import GarbageError, LineReader
from spalloc_server.protocol.listener import set_options

if TYPE_CHECKING:
    from spalloc_server.protocol.service import Service

__all__ = ["Connection", "ConnectionState"]

TURN_COMMANDS = 32
"""Lines of one client that are answered before other clients have their turn."""

TURN_BYTES = 65536
"""Bytes of replies after which the same happens; also the most bytes of replies that are held for commits."""

PENDING_BYTES = 64
"""What the name of one changed job or machine costs in memory until the client reads it."""

UNREAD_SECONDS = 30.0
"""Time after which a client that has read nothing of a long reply is disconnected."""

LINGER_SECONDS = 10.0
"""Time for a disconnected client to take what was sent before."""


class ConnectionState(msgspec.Struct, kw_only=True):
    """All that another process needs, besides the socket, to go on with a connection."""

    unread: bytes = b""
    """Received and not answered yet."""
    unsent: bytes = b""
    """Answered and not sent yet."""
    jobs: list[int] | None = []
    """Jobs watched; None for all."""
    machines: list[str] | None = []
    """Machines watched; None for all."""
    changed_jobs: list[int] = []
    """Changes that the client has not been told of yet."""
    changed_machines: list[str] = []


class Connection(asyncio.Protocol):
    """Answers one client's lines, in order.

    Args:
        service: what it is part of.
        state: what another process has exported.
        at: (host, host and port) of a client that the service has counted already.
    """

    def __init__(
        self, service: Service, state: ConnectionState | None = None, at: tuple[str, str] | None = None
    ) -> None:
        self.host, self.peer = at or ("unknown", "unknown")
        self.changed_jobs: set[int] = set()
        """Jobs whose change the client is yet to be told."""
        self.changed_machines: set[str] = set()
        self.notifying = False
        """Whether the service will tell the client soon."""
        self._service = service
        self._adopted = state
        self._counted = at is not None
        self._lines = LineReader(service.limits.line_bytes)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._written = b""
        self._held: deque[tuple[int, bytes]] = deque()
        self._held_bytes = 0
        self._kept = 0
        """Bytes that the service knows to be kept for the client."""
        self._writable = True
        self._receiving = True
        self._encrypted = False
        self._ended = False
        self._closed = False
        self._flushing = False
        """Whether what is in `_out` will be sent at the end of the turn."""
        self._queued = False
        """Whether it is in the line of those who wait for their turn."""
        self._delay: asyncio.TimerHandle | None = None
        """Until its address may send another command."""
        self._linger: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    # -- the transport calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the client."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's derives from nothing
        if not self._counted and (address := transport.get_extra_info("peername")):
            self.host, self.peer = address[0], f"{address[0]}:{address[1]}"
        self._service.admit(self, counted=self._counted)
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        set_options(transport.get_extra_info("socket"))
        # So that writing pauses while any byte is unsent: TLS pauses at the limit, others above it
        transport.set_write_buffer_limits(high=1 if self._encrypted else 0)
        if self._adopted:
            self._adopt(self._adopted)

    def data_received(self, data: bytes) -> None:
        """Answer what has arrived."""
        if not self._ended:
            self._lines.receive(data)
            if self._queued:
                self._receive(False)  # before its turn comes, it need not send more than this
            else:
                self._go_on()

    def eof_received(self) -> bool:
        """Answer what is left of a client that sends no more, then close."""
        self._ended = True
        if self._encrypted:
            self._answer_lines()  # at once, because TLS has no half-closed connections
        else:
            self._take_turn()
        return not self._encrypted

    def pause_writing(self) -> None:
        """The client does not read, or not so fast."""
        self._writable = False
        self._await_progress(None)

    def resume_writing(self) -> None:
        """The client has read everything."""
        self._writable = True
        if self._stall is not None:
            self._stall.cancel()
        self._written = b""
        self.send_notifications()
        self._keep()
        self._go_on()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client."""
        self._closed = True
        for handle in (self._delay, self._linger, self._stall):
            if handle is not None:
                handle.cancel()
        self._held.clear()
        self._service.forget(self)

    # -- the service calls these

    def release(self, ticket: int, error: bytes | None) -> None:
        """Send the replies that waited for the commit of `ticket`, or of an earlier one.

        Args:
            ticket: the commit that has ended.
            error: the line that takes their place where it failed.
        """
        while self._held and self._held[0][0] <= ticket:
            waited_for, reply = self._held.popleft()
            self._held_bytes -= len(reply)
            self._send(error if error and waited_for else reply)
        self._flush_soon()
        self._keep()
        if self._ended or not self._receiving:
            self._take_turn()

    def send_notifications(self) -> None:
        """Tell the client what has changed, unless it still has to read what was sent before."""
        self.notifying = False
        if self._closed:
            return
        if self._writable:
            if self.changed_jobs:
                self._send(notification("jobs_changed", sorted(self.changed_jobs)))
                self.changed_jobs.clear()
            if self.changed_machines:
                self._send(notification("machines_changed", sorted(self.changed_machines)))
                self.changed_machines.clear()
            self._flush()
            return
        if self._out_bytes + self._untold_bytes > self._service.limits.write_buffer_bytes:
            self._give_up()
        else:
            self._keep()

    def close(self) -> None:
        """Disconnect the client once it has taken what was sent, or after `LINGER_SECONDS`."""
        if not self._closed:
            self.send_notifications()
            self._flush()
            self._closed = True
            self._transport.close()
            self._linger = self._linger or self._service.loop.call_later(LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Disconnect the client at once."""
        self._closed = True
        self._transport.abort()

    def thaw(self) -> None:
        """Go on answering after the service was frozen."""
        self._take_turn()

    def export(self) -> tuple[int, ConnectionState] | None:
        """(file descriptor of the socket, the rest) for another process to go on with.

        To be called while the service is frozen and all commits are done. Before the event loop gets another turn the
        caller must either `abort` this connection, since then it is the other's, or not have handed it over.

        Returns:
            None where the connection is coming to its end anyway, or is encrypted.
        """
        assert not self._held, "replies wait for a commit"
        if self._closed or self._linger is not None or self._encrypted:
            return None
        sent = len(self._written) - self._transport.get_write_buffer_size()
        jobs, machines = self._service.watched(self)
        return self._transport.get_extra_info("socket").fileno(), ConnectionState(
            unread=self._lines.unread,
            unsent=b"".join((self._written[sent:], *self._out)),
            jobs=jobs,
            machines=machines,
            changed_jobs=sorted(self.changed_jobs),
            changed_machines=sorted(self.changed_machines),
        )

    # -- the three queues

    def _go_on(self) -> None:
        """Answer lines now, or when it is this client's turn."""
        if self._service.turns.over():
            self._take_turn()
        elif not self._queued and self._delay is None:
            self._answer_lines()

    def _take_turn(self, *, again: bool = False) -> None:
        """Stand in line; where this client has just had a turn, in the line of those who want more."""
        if not self._queued and self._delay is None:
            self._queued = True
            turns = self._service.turns
            line = turns.leave if self._ended and not self._lines else turns.more if again else turns.put
            line(self._answer_lines)

    def _answer_lines(self) -> None:
        """Answer lines until none is left, or the connection is blocked; close it after the last line of all."""
        self._queued, self._delay = False, None
        all_answered = False
        try:
            for _ in range(TURN_COMMANDS):
                if self._blocked():
                    break
                line = self._lines.next_line()
                if line is None:
                    all_answered = True
                    break
                if line and not line.isspace():
                    self._answer(line)
            else:
                self._take_turn(again=True)
        except GarbageError as exc:
            self._reject(exc)
            all_answered = True
        self._flush_soon()
        self._keep()
        if self._ended and all_answered and self._writable and not self._held and not self._closed:
            self.close()
        self._receive(all_answered)

    def _blocked(self) -> bool:
        return (
            self._closed
            or self._service.frozen
            or not self._writable
            or self._queued
            or self._delay is not None
            or (
                bool(self._held)
                and (self._held_bytes > TURN_BYTES or len(self._held) >= self._service.limits.pending_replies)
            )
        )

    def _answer(self, line: bytearray) -> None:
        call = decode(line)
        changing, refusal = call.command in CHANGING, self._service.refusal
        reply = exception_reply(refusal) if changing and refusal else self._service.commands.execute(self, call)
        ticket = self._service.hold() if changing and not refusal else None
        if ticket is not None or self._held:
            self._held.append((ticket or 0, reply))
            self._held_bytes += len(reply)
            if ticket is not None:
                self._service.awaits(self, ticket)
        else:
            self._send(reply)
        if delay := self._service.charge(self.host, call.command):
            self._delay = self._service.loop.call_later(delay, self._answer_lines)
        elif self._out_bytes > TURN_BYTES or (self._service.turns.ended() and not (self._encrypted and self._ended)):
            self._take_turn(again=True)

    def _send(self, line: bytes) -> None:
        self._out.append(line)
        self._out_bytes += len(line)

    def _flush_soon(self) -> None:
        if self._out_bytes > TURN_BYTES:
            self._flush()
        elif self._out and not self._flushing:
            self._flushing = True
            self._service.turns.send(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._writable and not self._closed:
            self._written = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._transport.write(self._written)
            if self._writable:
                self._written = b""
            self._keep()

    def _keep(self) -> None:
        """Tell the service how much is kept for a client that does not read, or waits for a commit."""
        kept = 0
        if not self._writable or self._held:
            kept = len(self._written) + self._out_bytes + self._held_bytes + self._untold_bytes
        if kept != self._kept and not self._closed:
            self._kept = kept
            self._service.keeps(self, kept)

    @property
    def _untold_bytes(self) -> int:
        return PENDING_BYTES * (len(self.changed_jobs) + len(self.changed_machines))

    def _receive(self, on: bool) -> None:
        if on != self._receiving and not self._ended and not self._closed:
            self._receiving = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _reject(self, garbage: GarbageError) -> None:
        """Read no more; what was asked before is answered."""
        self._service.complain("client disconnected", peer=self.peer, reason=str(garbage), line=garbage.line)
        self._receive(False)
        self._ended = True
        self._lines = LineReader(0)
        self._linger = self._service.loop.call_later(LINGER_SECONDS, self._transport.abort)

    def _await_progress(self, before: int | None) -> None:
        # A long reply may be sent to a slow reader, but not kept for one that reads nothing of it.
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._service.limits.write_buffer_bytes:
            if before is not None and unsent >= before:
                self._give_up()
            else:
                self._stall = self._service.loop.call_later(UNREAD_SECONDS, self._await_progress, unsent)

    def _give_up(self) -> None:
        reason = "it does not read, and more waits for it than write_buffer_bytes allows"
        self._service.complain("client disconnected", peer=self.peer, reason=reason)
        self.abort()

    def _adopt(self, state: ConnectionState) -> None:
        self._lines.receive(state.unread)
        if state.unsent:
            self._send(state.unsent)
        self.changed_jobs.update(state.changed_jobs)
        self.changed_machines.update(state.changed_machines)
        self._service.watch(self, state.jobs, state.machines)
        self.send_notifications()
        self._answer_lines()
