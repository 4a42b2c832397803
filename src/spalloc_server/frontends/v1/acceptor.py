"""Who may connect, and who is connected.

Theory of operation. A client is judged before any handshake, since one that never ends that costs as much as one that
does: by its address (`access.clients`), and by how many connections there are, in all and from its address. From then
on it counts, until its connection is lost or the handshake has failed. Then there may be a file descriptor for the
next, which the listener is told.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Iterable

from spalloc_server.frontends.v1.connection import Connection
from spalloc_server.frontends.v1.connection_state import ConnectionState
from spalloc_server.frontends.v1.context import Context
from spalloc_server.frontends.v1.listener import Listener, is_loopback
from spalloc_server.log.logger import get_logger

__all__ = ["HANDSHAKE_SECONDS", "Acceptor"]

HANDSHAKE_SECONDS = 10.0
"""The longest that a client's TLS handshake may take."""

NOT_ALLOWED = "its address is in none of the networks that may connect (access.clients)"

log = get_logger(__name__)


class Acceptor:
    """Accepts clients.

    Args:
        context: what their connections share.
    """

    def __init__(self, context: Context) -> None:
        self.connections: set[Connection] = set()
        """Those that are open."""
        self.counted = 0
        """How many there are, those included that have not agreed on encryption yet."""
        self.tls: ssl.SSLContext | None = None
        """What new connections are encrypted with; None where they are not."""
        self._context = context
        self._of_address: Counter[str] = Counter()
        """How many of those that are counted each address has."""
        self._listener: Listener | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """(address, port) where it listens; ("", 0) where it does not."""
        return ("", 0) if self._listener is None else self._listener.address

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients on `sockets` (`listening_sockets`), and no longer on earlier ones."""
        self.stop_listening()
        self._listener = Listener(sockets, self._accept)
        host, port = self._listener.address
        if not is_loopback(host) and not self._context.access.clients:
            log.warning(
                "every computer that can reach this one may use the machines: list the networks that may as "
                "`clients` of `[access]`, or listen at 127.0.0.1 only",
                address=f"{host}:{port}",
            )

    def stop_listening(self) -> None:
        """Accept no more clients; those that are connected stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def listening_sockets(self) -> list[socket.socket]:
        """Copies of the listening sockets."""
        return [] if self._listener is None else [sock.dup() for sock in self._listener.sockets]

    def stop_greeting(self) -> None:
        """Disconnect those who have not agreed on encryption yet."""
        for arrival in self._arriving:
            arrival.cancel()

    def judge_again(self) -> None:
        """Disconnect those who may not connect any more."""
        for connection in tuple(self.connections):
            if not self._may_connect(connection.host):
                self._context.complaints.complain("client disconnected", peer=connection.peer, reason=NOT_ALLOWED)
                connection.abort()

    async def adopt(self, sock: socket.socket, state: ConnectionState) -> None:
        """Go on with a connection that another process has exported."""
        try:
            host, port = sock.getpeername()[:2]
        except OSError:  # it has ended meanwhile
            host = port = "unknown"
        connection = self.connection(host, f"{host}:{port}", state)
        try:
            await self._context.loop.connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            self._leave(host)
            raise

    def connection(self, host: str, peer: str, state: ConnectionState | None = None) -> Connection:
        """Return a new connection, which counts already, for a transport."""
        self.counted += 1
        self._of_address[host] += 1
        return Connection(self._context, host, peer, opened=self.connections.add, lost=self._lost, state=state)

    async def close_all(self) -> None:
        """Disconnect all clients, once they have taken what was sent, and wait for it."""
        for connection in tuple(self.connections):
            connection.close()
        if self.connections:
            self._gone.clear()
            await self._gone.wait()

    def _accept(self, sock: socket.socket, address: tuple[str, int]) -> None:
        host, peer = address[0], f"{address[0]}:{address[1]}"
        if refusal := self._refusal(host):
            self._context.complaints.complain("connection refused", peer=peer, reason=refusal)
            sock.close()
            return
        arrival = self._context.loop.create_task(self._greet(sock, self.connection(host, peer)))
        self._arriving.add(arrival)
        arrival.add_done_callback(self._arriving.discard)

    def _refusal(self, host: str) -> str | None:
        """Why no client at this address may connect now."""
        limits, here = self._context.limits, self._of_address[host]
        if not self._may_connect(host):
            return NOT_ALLOWED
        if self.counted >= limits.connections:
            return f"there are {self.counted} connections (limit connections)"
        if here >= limits.connections_per_address:
            return f"its address has {here} connections (limit connections_per_address)"
        return None

    async def _greet(self, sock: socket.socket, connection: Connection) -> None:
        patience = None if self.tls is None else HANDSHAKE_SECONDS
        try:
            await self._context.loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self.tls, ssl_handshake_timeout=patience
            )
        except (OSError, ssl.SSLError) as exc:
            self._context.complaints.complain("no TLS with a client", peer=connection.peer, reason=str(exc))
            sock.close()
            if connection not in self.connections:
                self._leave(connection.host)
        else:
            if not self._may_connect(connection.host):  # which has changed meanwhile
                connection.abort()

    def _lost(self, connection: Connection) -> None:
        self.connections.remove(connection)
        if not self.connections:
            self._gone.set()
        self._leave(connection.host)

    def _leave(self, host: str) -> None:
        """A client that was counted is gone."""
        self.counted -= 1
        self._of_address[host] -= 1
        if not self._of_address[host]:
            del self._of_address[host]
        if self._listener is not None:
            self._listener.resume()

    def _may_connect(self, host: str) -> bool:
        return self._context.access.may_connect(host)
