"""Connections to the local API socket: there is always room for one more, and none is lost at an upgrade.

Theory of operation. Every client that may connect may stop everything in an emergency, so no other connection can keep
it out: one that comes when `MAX_CONNECTIONS` are open takes the place of the one that has been idle for longest, or,
where all wait for a reply or a change, of the one that has waited for longest. Few are accepted in one cycle of the
event loop, so that what they have sent is read before others come. Clients never get the process's last file
descriptors (`frontends.listener`); where there are none all the same, a connection gives up its own, or else a spare
one is used. A connection that is closed for another is told so first. Its requests, if it has any, go on.

At an upgrade the listening socket and the connections go to the new process, with what was received and not answered.
Requests that may be repeated go along; of others that are under way, the operator is told that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from spalloc_server.application.api import Subscriptions
from spalloc_server.frontends.local_api import greeting
from spalloc_server.frontends.operators.connection import Connection
from spalloc_server.log.logger import get_logger

__all__ = ["Connections"]

MAX_CONNECTIONS = 32
"""Operators' connections; one more takes the place of the one that has been idle for longest."""

BACKLOG = 128
"""Operators that may wait to be accepted."""

ACCEPTED = 4
"""Operators that are accepted in a row, before others are served."""

RETRY_SECONDS = 0.1
"""Between attempts to accept an operator while there is no file descriptor."""

_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = get_logger(__name__)


class Connections:
    """Accepts operators in the running event loop, and answers them.

    Args:
        answer: answers a line, or returns what does so in a task of its own; neither raises.
        subscriptions: tell of changes.
        repeatable: whether the request in a line may be done twice.
        complain: logs a warning, unless there are too many.
    """

    def __init__(
        self,
        answer: Callable[[Connection, bytes], Awaitable[None] | None],
        subscriptions: Subscriptions,
        *,
        repeatable: Callable[[bytes], bool],
        complain: Callable[..., None],
    ) -> None:
        self.frozen = False
        """Whether requests wait, so that connections can be handed over."""
        self.loop = asyncio.get_running_loop()
        self.complain = complain
        self.subscriptions = subscriptions
        self.greeting = greeting(secrets.token_hex(8))
        self._answer = answer
        self._repeatable = repeatable
        self._open: dict[Connection, None] = {}
        self._leaving: list[Connection] = []
        self._requests: set[asyncio.Future[None]] = set()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        self._spare: int | None = None
        self._retry: asyncio.TimerHandle | None = None

    # -- the service calls these

    def listen(self, sock: socket.socket) -> None:
        """Accept operators at a socket that is bound; it is closed with this."""
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._listening = sock
        self.closed()
        self._watch()

    def adopt(self, sock: socket.socket, unread: bytes) -> None:
        """Go on with a connection of which another process has read so much without answering it."""
        sock.setblocking(False)
        self._admit(sock, unread)

    def freeze(self) -> None:
        """Accept nobody, and begin no request, until `thaw`; what is under way goes on."""
        self.frozen = True
        self._unwatch()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.frozen = False
        self._leaving.clear()
        self._watch()
        for connection in tuple(self._open):
            connection.thaw()

    def export(self) -> tuple[list[int], list[bytes]] | None:
        """Descriptors of the listening socket and the connections, and what each of these has sent; while frozen.

        None where nobody listens.
        """
        if self._listening is None:
            return None
        self._leaving = [each for each in self._open if each.can_leave(self._repeatable)]
        return [self._listening.fileno(), *(each.fileno() for each in self._leaving)], [
            each.unanswered() for each in self._leaving
        ]

    def retire(self) -> None:
        """Another process goes on with what was exported: tell the others, and do no more."""
        for connection in self._leaving:
            connection.abort()
        for connection in tuple(self._open):
            connection.part("the server was upgraded")
        self.close()

    def close(self) -> None:
        """Stop listening, and disconnect everybody once they have taken what was sent."""
        self._unwatch()
        for task in self._requests:
            task.cancel()
        for connection in tuple(self._open):
            connection.dismiss()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    # -- connections call these

    def begin(self, connection: Connection, line: bytes) -> None:
        """Have a request answered."""
        if (answering := self._answer(connection, line)) is not None:
            task = asyncio.ensure_future(answering)
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    def admits(self, connection: Connection) -> bool:
        """Whether a connection that has just been made is still wanted."""
        return connection in self._open

    def forget(self, connection: Connection) -> None:
        """A connection has ended, or is about to."""
        self._open.pop(connection, None)

    def closed(self) -> None:
        """A connection's file descriptor is free."""
        if self._spare is None and self._listening is not None:
            with suppress(OSError):
                self._spare = os.dup(self._listening.fileno())

    # -- accepting

    def _watch(self) -> None:
        if self._listening is not None:
            self.loop.add_reader(self._listening, self._accept, self._listening)

    def _unwatch(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._listening is not None:
            self.loop.remove_reader(self._listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED):
            try:
                sock = self._accept_one(listening)
            except OSError as exc:
                if exc.errno in _OUT_OF_FILES and not self._make_room():
                    self._unwatch()
                    self._retry = self.loop.call_later(RETRY_SECONDS, self._watch)
                return  # nobody else waits, or one who did has gone
            sock.setblocking(False)
            self._admit(sock)

    def _accept_one(self, listening: socket.socket) -> socket.socket:
        """Accept an operator; with the spare file descriptor, where there is no other. Raises OSError."""
        try:
            return listening.accept()[0]
        except OSError as exc:
            if exc.errno not in _OUT_OF_FILES or self._spare is None:
                raise
        os.close(self._spare)
        self._spare = None
        return listening.accept()[0]  # now: later, the descriptor could have gone to a BMP's socket

    def _admit(self, sock: socket.socket, unread: bytes = b"") -> None:
        uid = _uid(sock)
        connection = Connection(self, _name(uid), uid in {0, os.getuid()}, unread)
        self._open[connection] = None
        if len(self._open) > MAX_CONNECTIONS:
            self._make_room()
        task = self.loop.create_task(self._connect(connection, sock))
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    def _make_room(self) -> bool:
        """Close the connection that can be spared best; whether there was one."""
        connected = [each for each in self._open if each.connected]
        if not connected:
            return False
        spared = min(connected, key=lambda each: (each.waits, each.since))
        self.complain("an operator's connection is closed to make room for another", by=spared.user)
        spared.part(f"this connection was closed to make room for another, as {MAX_CONNECTIONS} were open")
        return True

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as exc:
            log.info("an operator's connection is lost", error=str(exc))
            self.forget(connection)
            sock.close()


def _uid(sock: socket.socket) -> int:
    """Return the number of the user at the other end; of the server's own, where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    credentials = struct.Struct("3i")
    _, uid, _ = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(uid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
