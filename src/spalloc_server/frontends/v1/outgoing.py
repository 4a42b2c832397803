"""What a client is yet to be sent: replies that wait for a commit, bytes that wait for the transport, and changes.

Theory of operation. Two queues lie between a reply and the wire, and each has a bound:

- *held*: replies that wait for a commit, and the replies behind them, since replies keep their order.
- *out*: bytes that wait for the transport. A write goes out only while the transport has nothing left of the last,
  so what the transport has not sent yet is always the tail of `_written`; that is what makes handing over possible.

Notifications are not queued but merged: until it is the client's turn, and while it does not read, the names of what
changed gather in a set. None is ever dropped, because published clients wait for ever for a lost one; where the set
outgrows `write_buffer_bytes`, the client is disconnected instead, which it does notice. So is one that reads nothing,
for `UNREAD_SECONDS`, of a reply that is longer than that. Thus a connection holds at most its longest reply and about
`write_buffer_bytes` besides. What all connections hold together is bounded by `frontends.v1.context`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Any

from spalloc_server.application.commands import Kind
from spalloc_server.frontends.v1.context import Context
from spalloc_server.frontends.v1.replies import notification

__all__ = ["PENDING_BYTES", "TURN_BYTES", "Outgoing"]

TURN_BYTES = 65536
"""Bytes of replies after which other clients are served; also the most that are held for commits."""

PENDING_BYTES = 64
"""Memory that one changed job or machine counts for, until the client has read of it."""

UNREAD_SECONDS = 30.0
"""A client that reads nothing of a long reply for so long is disconnected."""


class Outgoing:
    """The half of a connection that sends.

    Args:
        context: what all connections share.
        transport: writes to the client. It pauses writing while any byte is unsent.
        peer: host and port, for the log.
    """

    __slots__ = (
        *("_context", "_flushing", "_held_bytes", "_kept", "_notifying", "_out", "_stall", "_transport", "_written"),
        *("changed_jobs", "changed_machines", "closed", "held", "peer", "size", "writable"),
    )

    def __init__(self, context: Context, transport: asyncio.Transport, peer: str) -> None:
        self.peer = peer
        self.closed = False
        """Whether nothing more is to be sent."""
        self.writable = True
        """Whether the client has read all that was written."""
        self.held: deque[tuple[int, bytes]] = deque()
        """(commit, reply) of replies that wait for a commit, or behind one that does (0)."""
        self.size = 0
        """Bytes that wait for the transport."""
        self.changed_jobs: set[int] = set()
        """Jobs of whose change the client is yet to be notified."""
        self.changed_machines: set[str] = set()
        self._context = context
        self._transport = transport
        self._notifying = False
        """Whether the client will be notified when it is its turn."""
        self._held_bytes = 0
        self._out: list[bytes] = []
        self._flushing = False
        """Whether what is in `_out` will be sent at the end of the turn."""
        self._written = b""
        self._kept = 0
        """Bytes that the backlog counts for the client."""
        self._stall: asyncio.TimerHandle | None = None

    @property
    def unsent(self) -> bytes:
        """What has been answered and not been sent."""
        sent = len(self._written) - self._transport.get_write_buffer_size()
        return b"".join((self._written[sent:], *self._out))

    @property
    def full(self) -> bool:
        """Whether so many replies wait for commits that no more lines are to be answered."""
        return bool(self.held) and (
            self._held_bytes > TURN_BYTES or len(self.held) >= self._context.limits.pending_replies
        )

    def reply(self, line: bytes) -> None:
        """Send `line`, behind the replies that are held, if there are any."""
        if self.held:
            self.hold(0, line)
        else:
            self._out.append(line)
            self.size += len(line)

    def hold(self, commit: int, line: bytes) -> None:
        """Send `line` once `commit` is over."""
        self.held.append((commit, line))
        self._held_bytes += len(line)

    def release(self, commit: int, error: bytes | None) -> None:
        """Send the replies that waited for `commit`, for an earlier one, or behind them.

        Args:
            commit: the one that is over.
            error: the line that takes their place where it failed.
        """
        while self.held and self.held[0][0] <= commit:
            waited_for, line = self.held.popleft()
            self._held_bytes -= len(line)
            self._send(error if error and waited_for else line)
        self._flush_soon()
        self._keep()

    def end_turn(self) -> None:
        """Send the replies of this turn before the event loop waits again."""
        if self._out:
            self._flush_soon()
        if self.held or self._kept or not self.writable:
            self._keep()

    def hear(self, kind: Kind, names: Collection[Any]) -> None:
        """Notify the client, when it is its turn, that these have changed."""
        (self.changed_jobs if kind is Kind.JOB else self.changed_machines).update(names)
        if not self._notifying:
            self._notifying = True
            self._context.turns.more(self._notify)

    def notify(self) -> None:
        """Notify the client of what has changed, unless it still has to read what was sent before."""
        self._notifying = False
        if self.closed:
            return
        if self.writable:
            if self.changed_jobs:
                self._send(notification("jobs_changed", sorted(self.changed_jobs)))
                self.changed_jobs.clear()
            if self.changed_machines:
                self._send(notification("machines_changed", sorted(self.changed_machines)))
                self.changed_machines.clear()
            self._flush()
            return
        if self.size + self._pending_bytes > self._context.limits.write_buffer_bytes:
            self._give_up()
        else:
            self._keep()

    def pause(self) -> None:
        """The client does not read, or not so fast."""
        self.writable = False
        self._await_progress(None)

    def resume(self) -> None:
        """The client has read everything."""
        self.writable = True
        if self._stall is not None:
            self._stall.cancel()
        self._written = b""
        self.notify()
        self._keep()

    def close(self) -> None:
        """Close the connection once the client has taken what was sent; replies that are held are not."""
        self.notify()
        self._flush()
        self.closed = True
        self._transport.close()

    def abort(self) -> None:
        """Disconnect the client at once."""
        self.closed = True
        self._transport.abort()

    def lose(self) -> None:
        """The connection is lost."""
        self.closed = True
        if self._stall is not None:
            self._stall.cancel()
        self.held.clear()
        self._context.backlog.keeps(self, 0)

    def _notify(self) -> None:
        try:
            self.notify()
        except Exception as exc:  # noqa: BLE001 - other clients are to be told; this one would wait for ever
            self._context.defects.note("client disconnected: it could not be told of changes", exc, peer=self.peer)
            self.abort()

    def _send(self, line: bytes) -> None:
        self._out.append(line)
        self.size += len(line)

    def _flush_soon(self) -> None:
        if self.size > TURN_BYTES:
            self._flush()
        elif self._out and not self._flushing:
            self._flushing = True
            self._context.turns.send(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self.writable and not self.closed:
            self._written = b"".join(self._out)
            self._out.clear()
            self.size = 0
            self._transport.write(self._written)
            if self.writable:
                self._written = b""
            if self.held or self._kept or not self.writable:
                self._keep()

    def _keep(self) -> None:
        """Have the backlog count what is kept for a client that does not read, or waits for a commit."""
        kept = 0
        if not self.writable or self.held:
            kept = len(self._written) + self.size + self._held_bytes + self._pending_bytes
        if kept != self._kept and not self.closed:
            self._kept = kept
            self._context.backlog.keeps(self, kept)

    @property
    def _pending_bytes(self) -> int:
        return PENDING_BYTES * (len(self.changed_jobs) + len(self.changed_machines))

    def _await_progress(self, before: int | None) -> None:
        # A long reply may be sent to a slow reader, but not kept for one that reads nothing of it.
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._context.limits.write_buffer_bytes:
            if before is not None and unsent >= before:
                self._give_up()
            else:
                self._stall = self._context.loop.call_later(UNREAD_SECONDS, self._await_progress, unsent)

    def _give_up(self) -> None:
        reason = "it does not read, and more waits for it than write_buffer_bytes allows"
        self._context.complaints.complain("client disconnected", peer=self.peer, reason=reason)
        self.abort()
