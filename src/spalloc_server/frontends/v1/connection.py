"""One client's connection.

Theory of operation. Lines are answered as they arrive, in the event loop's own callbacks: no task, no future and no
thread is spent on a client. Lines that are not answered yet stay in the `LineReader` while the connection is blocked,
and then nothing more is received; TCP makes the client wait. Replies go the way that `outgoing` tells.

A connection is blocked while the client does not read (the transport has bytes left), while too many replies are held,
while its address sends commands, or creates jobs, faster than it may, or while other clients are served: after
`TURN_COMMANDS` lines, or when the event loop has served clients for long enough (`turns`). While it is queued with
them it receives once more, and then no more either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, cast

import msgspec

from spalloc_server.application.commands import Kind
from spalloc_server.frontends.listener import set_options
from spalloc_server.frontends.v1.commands import Call, decode
from spalloc_server.frontends.v1.context import Context
from spalloc_server.frontends.v1.door import Request, caller_at
from spalloc_server.frontends.v1.lines import GarbageError, LineReader
from spalloc_server.frontends.v1.outgoing import TURN_BYTES, Outgoing

__all__ = ["Connection", "ConnectionState"]


class ConnectionState(msgspec.Struct, kw_only=True):
    """All that another process needs, besides the socket, to go on with a connection.

    Its fields' names are on the wire between two versions (`process.handover.FORMAT`): they stay.
    """

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


TURN_COMMANDS = 32
"""Lines of one client that are answered before other clients are served."""

CHEAP_BYTES = 1024
"""Bytes of a reply up to which the clock is not read, where its command changed nothing."""

CREATE_SECONDS = 1.0
"""The least wait of a client whose address creates jobs too fast: thousands may wait, and look again each time."""

LINGER_SECONDS = 10.0
"""Time for a client that is disconnected to take its last replies."""


class Connection(asyncio.Protocol):
    """Answers one client's lines, in order.

    Args:
        context: what all connections share.
        host: the client's address.
        peer: the same, and its port.
        opened: told of this when there is a connection.
        lost: told when it has ended.
        state: what another process has exported.
    """

    outgoing: Outgoing
    """What the client is yet to be sent; there is one from `connection_made` on."""
    _transport: asyncio.Transport

    def __init__(
        self,
        context: Context,
        host: str,
        peer: str,
        *,
        opened: Callable[[Connection], None],
        lost: Callable[[Connection], None],
        state: ConnectionState | None = None,
    ) -> None:
        self.host, self.peer, self.caller = host, peer, caller_at(host)
        self._context = context
        self._opened, self._lost = opened, lost
        self._adopted = state
        self._lines = LineReader(context.limits.line_bytes)
        self._asked: bytes | None = None
        self._request = Request(Call(""))
        """The last line, unless it changed something, and what it asks for: programs ask the same again and again."""
        self._receiving = True
        self._encrypted = False
        self._ended = False
        self._queued = False
        """Whether it is queued with those that wait for their turn."""
        self._delay: asyncio.TimerHandle | None = None
        """Until its address may send another command."""
        self._linger: asyncio.TimerHandle | None = None

    # -- the transport calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the client."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's derives from nothing
        self.outgoing = Outgoing(self._context, transport, self.peer)
        self._opened(self)
        self._encrypted = transport.get_extra_info("sslcontext") is not None
        set_options(transport.get_extra_info("socket"))
        # So that writing pauses while any byte is unsent: TLS pauses at the limit, others above it
        transport.set_write_buffer_limits(high=1 if self._encrypted else 0)
        if self._adopted:
            self._adopt(self._adopted)

    def data_received(self, data: bytes) -> None:
        """Answer what has arrived, now or when it is this client's turn."""
        if self._ended:
            return
        self._lines.receive(data)
        if self._queued:
            self._receive(False)  # before its turn comes, it need not send more than this
        elif self._delay is None:
            if self._context.turns.over():
                self.take_turn()
            else:
                self._answer_lines()

    def eof_received(self) -> bool:
        """Answer what is left of a client that sends no more, then close."""
        self._ended = True
        if self._encrypted:
            self._answer_lines()  # at once, because TLS has no half-closed connections
        else:
            self.take_turn()
        return not self._encrypted

    def pause_writing(self) -> None:
        """The client does not read, or not so fast."""
        self.outgoing.pause()

    def resume_writing(self) -> None:
        """The client has read everything."""
        self.outgoing.resume()
        self.take_turn()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client."""
        for handle in (self._delay, self._linger):
            if handle is not None:
                handle.cancel()
        self.outgoing.lose()
        self._context.door.subscriptions.forget(self)
        self._lost(self)

    # -- the service calls these

    def hear(self, kind: Kind, names: Collection[Any]) -> None:
        """Notify the client, when it is its turn, that these have changed."""
        self.outgoing.hear(kind, names)

    def release(self, commit: int, error: bytes | None) -> None:
        """Send the replies that waited for `commit`, or for an earlier one, and go on answering.

        Args:
            commit: the one that is over.
            error: the line that takes their place where it failed.
        """
        self.outgoing.release(commit, error)
        if self._ended or not self._receiving:
            self.take_turn()

    def close(self) -> None:
        """Disconnect the client once it has taken what was sent, or after `LINGER_SECONDS`."""
        if not self.outgoing.closed:
            self.outgoing.close()
            self._linger = self._linger or self._context.loop.call_later(LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Disconnect the client at once."""
        self.outgoing.abort()

    def export(self) -> tuple[int, ConnectionState] | None:
        """(file descriptor of the socket, the rest) for another process to go on with.

        To be called while the service is frozen and all commits are done. Before the event loop gets another turn the
        caller must either `abort` this connection, since then it is the other's, or not have handed it over.

        Returns:
            None where the connection is coming to its end anyway, or is encrypted.
        """
        outgoing = self.outgoing
        if outgoing.held:
            raise RuntimeError("replies wait for a commit")
        if outgoing.closed or self._linger is not None or self._encrypted:
            return None
        jobs, machines = self._context.door.watched(self)
        return self._transport.get_extra_info("socket").fileno(), ConnectionState(
            unread=self._lines.unread,
            unsent=outgoing.unsent,
            jobs=jobs,
            machines=machines,
            changed_jobs=sorted(outgoing.changed_jobs),
            changed_machines=sorted(outgoing.changed_machines),
        )

    # -- from lines to replies

    def take_turn(self, *, again: bool = False) -> None:
        """Queue for a turn; where this client has just had one, with those that want more."""
        if not self._queued and self._delay is None:
            self._queued = True
            turns = self._context.turns
            line = turns.leave if self._ended and not self._lines else turns.more if again else turns.put
            line(self._answer_lines)

    def _answer_lines(self) -> None:
        """Answer lines until none is left, or the connection is blocked; close it after the last line of all."""
        self._queued, self._delay = False, None
        outgoing, all_answered = self.outgoing, False
        try:
            blocked = outgoing.closed or self._context.frozen or (outgoing.held and outgoing.full)
            if outgoing.writable and not blocked:
                next_line = self._lines.next_line
                for _ in range(TURN_COMMANDS):
                    line = next_line()
                    if line is None:
                        all_answered = True
                        break
                    if not self._answer(line):
                        break
                else:
                    all_answered = not self._lines
                    if not all_answered:
                        self.take_turn(again=True)
        except GarbageError as exc:
            self._reject(exc)
            all_answered = True
        except Exception as exc:  # noqa: BLE001 - a client that is not answered would wait for ever
            self._context.defects.note("client disconnected: it could not be answered", exc, peer=self.peer)
            self.abort()
            return
        outgoing.end_turn()
        if self._ended and all_answered and outgoing.writable and not outgoing.held:
            self.close()
        self._receive(all_answered)

    def _answer(self, line: bytes) -> bool:
        """Answer a line; whether the next one may be answered in this turn."""
        context, outgoing, request = self._context, self.outgoing, self._request
        if line != self._asked:
            if not line or line.isspace():
                return True
            self._request = request = Request(decode(line))
            self._asked = line
        if request.creates and (delay := context.door.delay(self)):
            self._lines.put_back(line)
            self._delay = context.loop.call_later(max(delay, CREATE_SECONDS), self._answer_lines)
            return False
        reply, commit = context.door.answer(self, request)
        if commit is None:
            outgoing.reply(reply)
        else:
            outgoing.hold(commit, reply)
            context.waiting.append((commit, self))
        if request.changes:
            self._asked = None
        if context.limits.commands_per_second and (delay := context.door.charge(self, request)):
            self._delay = context.loop.call_later(delay, self._answer_lines)
            return False
        took_long = (request.changes or len(reply) > CHEAP_BYTES) and context.turns.ended()
        if outgoing.size > TURN_BYTES or (took_long and not (self._encrypted and self._ended)):
            self.take_turn(again=True)
            return False
        return not (outgoing.held and outgoing.full)

    def _receive(self, on: bool) -> None:
        if on != self._receiving and not self._ended and not self.outgoing.closed:
            self._receiving = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _reject(self, garbage: GarbageError) -> None:
        """Read no more; what was asked before is answered."""
        self._context.complaints.complain("client disconnected", peer=self.peer, reason=str(garbage), line=garbage.line)
        self._receive(False)
        self._ended = True
        self._lines = LineReader(0)
        self._linger = self._context.loop.call_later(LINGER_SECONDS, self._transport.abort)

    def _adopt(self, state: ConnectionState) -> None:
        self._lines.receive(state.unread)
        if state.unsent:
            self.outgoing.reply(state.unsent)
        self._context.door.watch(self, Kind.JOB, state.jobs)
        self._context.door.watch(self, Kind.MACHINE, state.machines)
        self.outgoing.changed_jobs.update(state.changed_jobs)
        self.outgoing.changed_machines.update(state.changed_machines)
        self.outgoing.notify()
        self._answer_lines()
