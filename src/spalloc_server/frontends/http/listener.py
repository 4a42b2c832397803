"""Accepting clients: HTTP and TLS at one port, told apart by the first byte.

Theory of operation. Sockets are accepted as those of v1's clients are (`frontends.listener`). Each is counted from then
on, in all and by its address, and is not let in where there are too many. Its first byte is looked at, not taken, once
there is one: 0x16 begins TLS. Then it becomes a connection of uvicorn's (`protocols`), with TLS or without. Published
clients are given links that begin with `https`, and follow these; the first two requests they send as they were told.

HTTP without TLS is answered where it cannot be overheard, from this computer to itself, and elsewhere only where
`plain_http` says so. Otherwise the answer tells what to do. It is the connection that is judged, so a request costs
nothing more.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from spalloc_server.config.hosts import network_of
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.home import Home
from spalloc_server.frontends.http.in_place import InPlace
from spalloc_server.frontends.http.protocols import HttpProtocol
from spalloc_server.frontends.listener import Handshakes, Listener, is_loopback, set_options
from spalloc_server.log.logger import Complaints, get_logger

__all__ = ["Acceptor"]

TLS_BEGINS = b"\x16"

SHUTDOWN_SECONDS = 1.0
"""The longest that a client may take to agree that TLS has ended."""

log = get_logger(__name__)


class Acceptor:
    """Accepts clients.

    Args:
        home: what their connections share.
        plain: serves connections without TLS that may not be served.
    """

    def __init__(self, home: Home, plain: ASGIApp) -> None:
        self.tls: ssl.SSLContext | None = None
        """What new connections are encrypted with."""
        self.counted = 0
        """How many connections there are, those included that have not said anything yet."""
        self.empty = asyncio.Event()
        """Set while there are none."""
        self.empty.set()
        self._home, self._plain = home, plain
        self._of_network: Counter[str] = Counter()
        self._handshakes = Handshakes()
        self._listener: Listener | None = None
        self._connections: set[HttpProtocol] = set()
        self._silent: dict[socket.socket, tuple[asyncio.TimerHandle, str]] = {}
        self._arriving: set[asyncio.Task[None]] = set()
        self._complaints = Complaints()

    @property
    def address(self) -> tuple[str, int]:
        """(address, port) where it listens; ("", 0) where it does not."""
        return ("", 0) if self._listener is None else self._listener.address

    @property
    def connections(self) -> tuple[HttpProtocol, ...]:
        """Those that are no WebSockets."""
        return tuple(each for each in self._connections if each in self._home.state.connections)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return () if self._listener is None else self._listener.sockets

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients on `sockets` (`listening_sockets`), and no longer on earlier ones."""
        self.stop_listening()
        self._listener = Listener(sockets, self._accept)
        self.warn()

    def warn(self) -> None:
        """Tell the log where others can overhear what is served."""
        host, port = self.address
        if host and self._home.web.plain_http and not is_loopback(host):
            log.warning(
                "HTTP without TLS is served to other computers: passwords and what jobs send can be overheard",
                address=f"{host}:{port}",
                setting="[web] plain_http",
            )

    def stop_listening(self) -> None:
        """Accept no more clients; those that are connected stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Accept no more clients, and let go of those that have said nothing."""
        self.stop_listening()
        for sock in tuple(self._silent):
            self._drop(sock)
        for task in self._arriving:
            task.cancel()

    def _accept(self, sock: socket.socket, address: Any) -> None:
        host, web = address[0], self._home.web
        most = web.connections if web.is_proxy(host) else web.connections_per_address
        if self.counted >= web.connections or self._of_network[network_of(host)] >= most:
            self._complaints.complain("a client was not let in: there are too many connections", peer=host)
            sock.close()
            return
        self.counted += 1
        self.empty.clear()
        self._of_network[network_of(host)] += 1
        with suppress(OSError):  # it has gone again
            set_options(sock)
        self._silent[sock] = (self._home.loop.call_later(web.idle_seconds, self._drop, sock), host)
        self._home.loop.add_reader(sock, self._look, sock)

    def _look(self, sock: socket.socket) -> None:
        """Look at a client's first byte."""
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if not first:
            self._drop(sock)
            return
        self._home.loop.remove_reader(sock)
        timer, host = self._silent.pop(sock)
        timer.cancel()
        task = self._home.loop.create_task(self._connect(sock, host, encrypted=first == TLS_BEGINS))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(self, sock: socket.socket, host: str, *, encrypted: bool) -> None:
        home = self._home
        app = home.app if encrypted or home.web.plain_http or is_loopback(host) else self._plain
        protocol = HttpProtocol(home, app, lambda: self._lost(protocol, host))
        self._connections.add(protocol)
        try:
            if encrypted:
                await self._shake_hands(sock, host, protocol)
            else:
                await home.loop.connect_accepted_socket(lambda: protocol, sock)
        except BaseException as exc:
            sock.close()
            self._lost(protocol, host)
            protocol.let_go()
            if not isinstance(exc, OSError):
                raise

    async def _shake_hands(self, sock: socket.socket, host: str, protocol: HttpProtocol) -> None:
        """Begin TLS, when it is this client's turn."""
        web, loop = self._home.web, self._home.loop
        most = web.connections if web.is_proxy(host) else None
        try:
            async with self._handshakes.turn(host, web.header_seconds, most):
                await loop.connect_accepted_socket(
                    lambda: InPlace(protocol),
                    sock,
                    ssl=self.tls,
                    ssl_handshake_timeout=web.header_seconds,
                    ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                )
        except TimeoutError as exc:
            if str(exc):
                self._complaints.complain("a client was not let in", peer=host, reason=str(exc))
            raise

    def _lost(self, protocol: HttpProtocol, host: str) -> None:
        """A connection has ended, or was never one; of some it is told twice."""
        if protocol in self._connections:
            self._connections.remove(protocol)
            self._leave(host)

    def _drop(self, sock: socket.socket) -> None:
        """Close the connection of a client that has said nothing."""
        self._home.loop.remove_reader(sock)
        timer, host = self._silent.pop(sock)
        timer.cancel()
        sock.close()
        self._leave(host)

    def _leave(self, host: str) -> None:
        """A connection has ended: there may be room for another."""
        self.counted -= 1
        network = network_of(host)
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]
        if not self.counted:
            self.empty.set()
        if self._listener is not None:
            self._home.loop.call_soon(self._listener.resume)
