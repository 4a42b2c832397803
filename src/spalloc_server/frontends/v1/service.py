"""The v1 service: who may connect, who is connected, and what the server tells them.

Theory of operation. *Nothing leaves before its commit.* The answer to each command names the commit that it must wait
for, if any. The reply, and all replies behind it, wait in the connection until the server says `committed(commit)`,
which ends the wait for that commit and all before it. `Context.waiting` has who waits for which commit, so one costs as
much as it has replies.

Clients hear of changes (`Connection.hear`) after a commit, and are notified when it is their turn (`turns`); changes
that come meanwhile are merged. So a change that a thousand clients watch stalls nobody.

The `Acceptor` judges a client before any handshake, since one that never ends that costs as much as one that does: by
its address (`access.clients`), and by how many connections there are, in all and from its address. From then on it
counts, until its connection is lost or the handshake has failed. Then there may be a file descriptor for the next,
which the listener is told.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable

from spalloc_server.application.api import Application
from spalloc_server.config.hosts import network_of
from spalloc_server.config.options import Access, Limits
from spalloc_server.errors import ListenError
from spalloc_server.frontends.listener import Listener, is_loopback, listening_sockets
from spalloc_server.frontends.v1.connection import Connection, ConnectionState
from spalloc_server.frontends.v1.context import Backlog, Context
from spalloc_server.frontends.v1.door import Door
from spalloc_server.frontends.v1.replies import exception_reply
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import Complaints, get_logger

__all__ = ["HANDSHAKE_SECONDS", "Acceptor", "Service"]

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
        self._of_network: Counter[str] = Counter()
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

    def bind(self, address: tuple[str, int], present: tuple[str, int]) -> list[socket.socket]:
        """Return sockets that listen at `address`; raises `ListenError`, and this listens where it did.

        Args:
            address: (ip, port).
            present: the same, as it was given where this listens now.
        """
        try:
            return listening_sockets(*address)
        except ListenError:
            if not address[1] or address[1] != present[1]:
                raise
        self.stop_listening()  # it may be this very server that has the port, say of all addresses
        try:
            return listening_sockets(*address)
        except ListenError:
            self.listen(listening_sockets(*present))
            raise

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
            if not self._context.access.may_connect(connection.host):
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
        self._of_network[network_of(host)] += 1
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
        limits, here = self._context.limits, self._of_network[network_of(host)]
        if not self._context.access.may_connect(host):
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
            if not self._context.access.may_connect(connection.host):  # which has changed meanwhile
                connection.abort()

    def _lost(self, connection: Connection) -> None:
        self.connections.remove(connection)
        if not self.connections:
            self._gone.set()
        self._leave(connection.host)

    def _leave(self, host: str) -> None:
        """A client that was counted is gone."""
        self.counted -= 1
        network = network_of(host)
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]
        if self._listener is not None:
            self._listener.resume()


class Service:
    """Serves clients of the v1 protocol.

    Args:
        application: performs commands.
        limits: what clients may take.
        clock: seconds, monotonic.
        defects: told what of this service itself goes wrong.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        defects: DefectLog | None = None,
    ) -> None:
        defects, loop, complaints = defects or DefectLog(), asyncio.get_running_loop(), Complaints(clock)
        self.turns = Turns(loop, clock)
        self.context = Context(
            door=Door(application, limits.watches_per_connection, defects),
            limits=limits,
            loop=loop,
            turns=self.turns,
            backlog=Backlog(limits.unsent_bytes, complaints, clock),
            complaints=complaints,
            defects=defects,
        )
        self.acceptor = Acceptor(self.context)
        self.connections = self.acceptor.connections
        """Those that are open."""
        self.complain = complaints.complain

    def configure(self, limits: Limits, access: Access) -> None:
        """Heed new settings. Those who may not connect any more are disconnected."""
        self.context.limits, self.context.access = limits, access
        self.context.door.most_watched = limits.watches_per_connection
        self.context.backlog.bound = limits.unsent_bytes
        self.acceptor.judge_again()

    def freeze(self) -> list[socket.socket]:
        """Accept nobody and answer nobody until `thaw`; what was answered already is still sent.

        Returns:
            The listening sockets, for `Acceptor.listen` or for another process; the caller closes them.
        """
        self.context.frozen = True
        sockets = self.acceptor.listening_sockets()
        self.acceptor.stop_listening()
        return sockets

    def thaw(self) -> None:
        """Go on answering."""
        self.context.frozen = False
        for connection in self.connections:
            connection.take_turn()

    def committed(self, commit: int, error: str | None = None) -> None:
        """Send the replies that waited for `commit` and earlier ones.

        Args:
            commit: the one that is over.
            error: why it failed; the clients are told instead of what they were going to hear.
        """
        waiting = self.context.waiting
        line = None if error is None else exception_reply(f"The server could not store this: {error}")
        while waiting and waiting[0][0] <= commit:
            waiting.popleft()[1].release(commit, line)

    async def stop(self) -> None:
        """Disconnect all clients, once they have taken what was sent; takes at most `LINGER_SECONDS`.

        To be called after the last commit; replies that still wait for one are not sent.
        """
        self.acceptor.stop_listening()
        await self.acceptor.close_all()
