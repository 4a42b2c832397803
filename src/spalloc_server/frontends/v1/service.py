"""The network service: all connections, what they share, and what the server tells them.

Theory of operation. *Nothing leaves before its commit.* After each command that may have changed something the
connection asks `hold()` for the number of the commit that will make it durable, its *ticket* (None: nothing to wait
for). Tickets rise. Its reply, and all replies behind it, wait in the connection until the server says
`committed(ticket)`, which ends the wait for that ticket and all before it. The service remembers who waits for which
ticket, so a commit costs as much as it has replies. After a commit the server also tells what has changed (`notify`).

Clients are told of changes when it is their turn (`turns`); changes that come meanwhile are merged into what is still
to be told. So a change that a thousand clients watch stalls nobody.

What clients do not read is bounded for each of them, and for all together (`keeps`): over `unsent_bytes`, those who
keep much of it waiting for long are disconnected, until it is enough.

An address that sends more than `commands_per_second` is not refused anything: its connections are read more slowly.
Keepalives are counted apart, so that a busy script does not lose its jobs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial

from spalloc_server.config.options import Access, Limits
from spalloc_server.controller import Controller
from spalloc_server.frontends.v1.commands import Commands, exception_reply
from spalloc_server.frontends.v1.connection import Connection
from spalloc_server.frontends.v1.connection_state import ConnectionState
from spalloc_server.frontends.v1.listener import Listener, is_loopback
from spalloc_server.frontends.v1.outgoing import Outgoing
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Service"]

HANDSHAKE_SECONDS = 10.0
"""The longest that a client's TLS handshake may take."""

COMPLAINTS = 20
"""Lines of the log about clients that do wrong, each second."""

NOT_ALLOWED = "its address is in none of the networks that may connect (access.clients)"

BURST_SECONDS = 2.0
"""An address may be ahead of `commands_per_second` by the commands of so much time."""

log = get_logger(__name__)


class _Address:
    """What is known of one address: its connections, and when it will have earned the commands that it sent."""

    __slots__ = ("connections", "due")

    def __init__(self) -> None:
        self.connections = 0
        self.due = [0.0, 0.0]
        """Of keepalives, and of all others."""


class Service:
    """Serves clients of the v1 protocol.

    Args:
        core: executes the commands.
        limits: what clients may take; may be assigned anew.
        hold: gives the ticket of the commit that the last command's changes belong to, or None if it made none.
        clock: seconds, monotonic.
        defects: told what of this service itself goes wrong.
    """

    def __init__(
        self,
        core: Controller,
        limits: Limits,
        hold: Callable[[], int | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        defects: DefectLog | None = None,
    ) -> None:
        self.defects = defects or DefectLog()
        self.commands: Commands[Connection] = Commands(core, limits, self.defects)
        self.frozen = False
        """Whether connections wait, so that they can be handed over."""
        self.hold = hold
        self.loop = asyncio.get_running_loop()
        self.turns = Turns(self.loop, clock)
        self.connections: set[Connection] = set()
        self.refusal: str | None = None
        """While set, the answer to every command that would change something."""
        self.tls: ssl.SSLContext | None = None
        """What new connections are encrypted with; None where they are not."""
        self._limits = limits
        self.rated = bool(limits.commands_per_second)
        """Whether there is a limit to how often an address may ask."""
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._counted = 0
        """Connections, those included that have not agreed on encryption yet."""
        self._kept: dict[Outgoing, tuple[int, float]] = {}
        """How many bytes are kept for a client until it reads them, and since when there are any."""
        self._kept_bytes = 0
        self._relieving = False
        self._waiting: deque[tuple[int, Connection]] = deque()
        self._listener: Listener | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._complaints = self._complaints_in = 0

    @property
    def limits(self) -> Limits:
        """What clients may take."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = self.commands.limits = limits
        self.rated = bool(limits.commands_per_second)

    @property
    def access(self) -> Access:
        """Who may do what. Those who may not connect any more are disconnected when it is assigned."""
        return self.commands.access

    @access.setter
    def access(self, access: Access) -> None:
        self.commands.access = access
        for connection in tuple(self.connections):
            if not access.may_connect(connection.host):
                self.complain("client disconnected", peer=connection.peer, reason=NOT_ALLOWED)
                connection.abort()

    @property
    def address(self) -> tuple[str, int]:
        """(address, port) where it listens; ("", 0) where it does not."""
        return ("", 0) if self._listener is None else self._listener.address

    # -- the server calls these

    async def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients on `sockets` (`listening_sockets`), and no longer on earlier ones.

        Where the same port shall be bound anew, `stop_listening` first.
        """
        self.stop_listening()
        self._listener = Listener(sockets, self._accept)
        host, port = self._listener.address
        if not is_loopback(host) and not self.access.clients:
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

    def freeze(self) -> list[socket.socket]:
        """Accept nobody and answer nobody until `thaw`; what was answered already is still sent.

        Returns:
            The listening sockets, for `listen` or for another process; the caller closes them.
        """
        self.frozen = True
        sockets = [] if self._listener is None else [sock.dup() for sock in self._listener.sockets]
        self.stop_listening()
        return sockets

    def stop_greeting(self) -> None:
        """Disconnect those who have not agreed on encryption yet."""
        for arrival in self._arriving:
            arrival.cancel()

    def thaw(self) -> None:
        """Go on answering."""
        self.frozen = False
        for connection in self.connections:
            connection.thaw()

    async def adopt(self, sock: socket.socket, state: ConnectionState) -> None:
        """Go on with a connection that another process has exported."""
        await self.loop.connect_accepted_socket(lambda: Connection(self, state), sock)

    def committed(self, ticket: int, error: str | None = None) -> None:
        """Send the replies that waited for `ticket` and earlier ones.

        To be called after `hold` has returned the ticket, never from inside it.

        Args:
            ticket: the commit that has ended.
            error: why it failed; the clients are told instead of what they were going to hear.
        """
        line = None if error is None else exception_reply(f"The server could not store this: {error}")
        while self._waiting and self._waiting[0][0] <= ticket:
            self._waiting.popleft()[1].release(ticket, line)

    def notify(self, jobs: Collection[int], machines: Collection[str], ended: Iterable[int] = ()) -> None:
        """Tell everybody who watches `jobs` and `machines` that they changed.

        Args:
            jobs: numbers of the jobs.
            machines: names of the machines.
            ended: those of the jobs that will not change again, so that nobody need watch them any longer.
        """
        for client, job_ids in self.commands.watched_jobs.affected(jobs):
            client.changed_jobs.update(job_ids)
            self._tell(client)
        self.commands.watched_jobs.drop(ended)
        for client, names in self.commands.watched_machines.affected(machines):
            client.changed_machines.update(names)
            self._tell(client)

    async def stop(self) -> None:
        """Disconnect all clients, once they have taken what was sent; takes at most `LINGER_SECONDS`.

        To be called after the last commit; replies that still wait for one are not sent.
        """
        self.stop_listening()
        for connection in tuple(self.connections):
            connection.close()
        if self.connections:
            await self._gone.wait()

    # -- connections call these

    def admit(self, connection: Connection, *, counted: bool) -> None:
        """Serve a new connection; `_accept` has counted it already, unless another process handed it over."""
        if not counted:
            self._count(connection.host)
        self.connections.add(connection)
        self._gone.clear()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.commands.forget(connection)
            self.keeps(connection, 0)
            if not self.connections:
                self._gone.set()
            self._leave(connection.host)

    def complain(self, event: str, **facts: object) -> None:
        """Log what a client did wrong; at most `COMPLAINTS` lines a second, so that no client can flood the log."""
        second = int(self._clock())
        if second != self._complaints_in:
            self._complaints_in, self._complaints, untold = second, 0, self._complaints - COMPLAINTS
            if untold > 0:
                log.warning("more clients did wrong than were logged", more=untold)
        self._complaints += 1
        if self._complaints <= COMPLAINTS:
            log.warning(event, **facts)

    def awaits(self, connection: Connection, ticket: int) -> None:
        """Replies of `connection` wait for the commit of `ticket`."""
        self._waiting.append((ticket, connection))

    def keeps(self, connection: Outgoing, size: int) -> None:
        """`connection` keeps so many bytes until its client has read them, or they are stored."""
        before, since = self._kept.pop(connection, (0, self._clock()))
        self._kept_bytes += size - before
        if size:
            self._kept[connection] = (size, since)
        if self._kept_bytes > self._limits.unsent_bytes and not self._relieving:
            self._relieving = True
            self.loop.call_soon(self._relieve)

    def charge(self, host: str, command: str) -> float:
        """Count a command against its address; seconds to wait before the next one is read."""
        if not (rate := self._limits.commands_per_second):
            return 0.0
        due, kind, now = self._addresses[host].due, command != "job_keepalive", self._clock()
        due[kind] = max(due[kind], now) + 1 / rate
        return max(0.0, due[kind] - now - BURST_SECONDS)

    def watched(self, connection: Connection) -> tuple[list[int] | None, list[str] | None]:
        """(jobs, machines) that `connection` watches; None for all."""
        jobs = self.commands.watched_jobs.watched(connection)
        machines = self.commands.watched_machines.watched(connection)
        return None if jobs is None else sorted(jobs), None if machines is None else sorted(machines)

    def watch(self, connection: Connection, jobs: list[int] | None, machines: list[str] | None) -> None:
        """Let `connection` watch `jobs` and `machines`; None for all."""
        for job_id in (None,) if jobs is None else jobs:
            self.commands.watched_jobs.watch(connection, job_id)
        for name in (None,) if machines is None else machines:
            self.commands.watched_machines.watch(connection, name)

    def _accept(self, sock: socket.socket, address: tuple[str, int]) -> None:
        # Judged before any handshake, since a client that never ends that costs as much as one that does.
        host, peer = address[0], f"{address[0]}:{address[1]}"
        if refusal := self._refusal(host):
            self.complain("connection refused", peer=peer, reason=refusal)
            sock.close()
            return
        self._count(host)
        arrival = self.loop.create_task(self._greet(sock, host, peer))
        self._arriving.add(arrival)
        arrival.add_done_callback(self._arriving.discard)

    def _refusal(self, host: str) -> str | None:
        """Why no client at this address may connect now."""
        limits, address = self._limits, self._addresses.get(host)
        if not self.access.may_connect(host):
            return NOT_ALLOWED
        if self._counted >= limits.connections:
            return f"there are {self._counted} connections (limit connections)"
        if address is not None and address.connections >= limits.connections_per_address:
            return f"its address has {address.connections} connections (limit connections_per_address)"
        return None

    async def _greet(self, sock: socket.socket, host: str, peer: str) -> None:
        patience = None if self.tls is None else HANDSHAKE_SECONDS
        connection = Connection(self, at=(host, peer))
        try:
            await self.loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self.tls, ssl_handshake_timeout=patience
            )
        except (OSError, ssl.SSLError) as exc:
            self.complain("no TLS with a client", peer=peer, reason=str(exc))
            sock.close()
            if connection not in self.connections:
                self._leave(host)
        else:
            if not self.access.may_connect(host):  # which has changed meanwhile
                connection.abort()

    def _count(self, host: str) -> None:
        self._addresses.setdefault(host, _Address()).connections += 1
        self._counted += 1

    def _leave(self, host: str) -> None:
        """A client that was counted is gone."""
        self._addresses[host].connections -= 1
        self._counted -= 1
        self._forget_address(host)
        if self._listener is not None:
            self._listener.resume()

    def _relieve(self) -> None:
        """Disconnect clients until little enough is kept: first who keeps the most waiting for longest."""
        self._relieving = False
        now = self._clock()
        while self._kept_bytes > self._limits.unsent_bytes:
            connection = max(self._kept, key=lambda each: self._kept[each][0] * (now - self._kept[each][1]))
            size, _ = self._kept[connection]
            reason = f"it has not read {size} bytes, and all clients together more than unsent_bytes allows"
            self.complain("client disconnected", peer=connection.peer, reason=reason)
            self.keeps(connection, 0)
            connection.abort()

    def _forget_address(self, host: str) -> None:
        # Not before it has earned its commands: else reconnecting would be a way around the limit.
        address = self._addresses.get(host)
        if address is not None and not address.connections:
            ahead = max(address.due) - self._clock()
            if ahead > 0:
                self.loop.call_later(ahead, self._forget_address, host)
            else:
                del self._addresses[host]

    def _tell(self, connection: Connection) -> None:
        if not connection.notifying:
            connection.notifying = True
            self.turns.more(partial(self._send_notifications, connection))

    def _send_notifications(self, connection: Connection) -> None:
        try:
            connection.send_notifications()
        except Exception as exc:  # noqa: BLE001 - other clients are to be told; this one would wait for ever
            self.defects.note("client disconnected: it could not be told of changes", exc, peer=connection.peer)
            connection.abort()
