"""What a client is yet to be sent: replies that wait for a commit, bytes that wait for the transport, and changes.

Theory of operation. Two queues lie between a reply and the wire, and each has a bound:

- *held*: replies that wait for a commit, and the replies behind them, since replies keep their order.
- *out*: bytes that wait for the transport. A write goes out only while the transport has nothing left of the last,
  so what the transport has not sent yet is always the tail of `_written`; that is what makes handing over possible.

Notifications are not queued but merged: while the client does not read, the names of what changed gather in a set. None
is ever dropped, because published clients wait for ever for a lost one; where the set outgrows `write_buffer_bytes`,
the client is disconnected instead, which it does notice. So is one that reads nothing, for `UNREAD_SECONDS`, of a reply
that is longer than that. Thus a connection holds at most its longest reply and about `write_buffer_bytes` besides. What
all connections hold together the service bounds, to whom each tells how much it `_keeps`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from spalloc_server.frontends.v1.commands import notification

if TYPE_CHECKING:
    from spalloc_server.frontends.v1.service import Service

__all__ = ["PENDING_BYTES", "TURN_BYTES", "Outgoing"]

TURN_BYTES = 65536
"""Bytes of replies after which other clients have their turn; also the most that are held for commits."""

PENDING_BYTES = 64
"""Memory that one changed job or machine counts for, until the client has read of it."""

UNREAD_SECONDS = 30.0
"""A client that reads nothing of a long reply for so long is disconnected."""


class Outgoing:
    """The half of a connection that sends."""

    _transport: asyncio.Transport
    peer: str

    def __init__(self, service: Service) -> None:
        self.changed_jobs: set[int] = set()
        """Jobs whose change the client is yet to be told."""
        self.changed_machines: set[str] = set()
        self.notifying = False
        """Whether the service will tell the client soon."""
        self._service = service
        self._held: deque[tuple[int, bytes]] = deque()
        self._held_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False
        """Whether what is in `_out` will be sent at the end of the turn."""
        self._written = b""
        self._writable = True
        self._kept = 0
        """Bytes that the service knows to be kept for the client."""
        self._closed = False
        self._stall: asyncio.TimerHandle | None = None

    def _release(self, ticket: int, error: bytes | None) -> None:
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

    def abort(self) -> None:
        """Disconnect the client at once."""
        self._closed = True
        self._transport.abort()

    def _holds_enough(self) -> bool:
        return self._held_bytes > TURN_BYTES or len(self._held) >= self._service.limits.pending_replies

    def _hold(self, ticket: int, reply: bytes) -> None:
        self._held.append((ticket, reply))
        self._held_bytes += len(reply)

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
            if self._held or self._kept or not self._writable:
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
