"""Listening sockets, and accepting clients at them.

Theory of operation. Clients are accepted a few at a time, so that a crowd of them leaves the others their turn. When
the process has no file descriptors left but a reserve for its own work, or the system has none left at all, accepting
pauses until a client's socket is closed (`resume`); every `RETRY_SECONDS` the listener looks for itself, in case
`resume` is not called. Meanwhile clients wait in the system's backlog: none is turned away. (Left to themselves,
asyncio fills the log and uvloop disconnects clients.)

A TLS handshake takes a third of a millisecond of the event loop at once, and 60 KiB. Thousands that come at the same
time would hold up everybody else for a second. Where `Handshakes` gives turns, a few of each address are under way, and
the others wait, unread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import IPv6Address, ip_address
from threading import Thread
from typing import Any

from spalloc_server.config.hosts import network_of
from spalloc_server.errors import ListenError
from spalloc_server.log.logger import get_logger

__all__ = ["Handshakes", "Listener", "is_loopback", "listening_sockets", "set_options"]

BACKLOG = 4096
"""Clients that may wait to be accepted (the system may allow fewer): all reconnect at once after a restart."""

ACCEPTED = 32
"""Clients that are accepted in a row, before others are served."""

RESERVED_FILES = 128
"""File descriptors that are kept for other things than clients; a quarter where the system allows fewer than 512."""

LOOKUP_SECONDS = 2.0
"""The longest wait for the address of a name that is given as `ip`; everything else waits meanwhile."""

RETRY_SECONDS = 1.0
"""Between looks whether there are file descriptors again."""

HANDSHAKES = 64
"""TLS handshakes of one address, reverse proxies apart, that are under way at the same time; more wait for these."""

RECEIVE_BYTES = 32768
"""Bytes of a client's requests that the system is asked to keep until they are read; Linux keeps twice as many."""

COMPLAIN_SECONDS = 60.0
"""Between lines of the log about a lack of file descriptors."""

_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A client whose machine has vanished is noticed after two minutes."""

OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = get_logger(__name__)


class Listener:
    """Accepts clients in the running event loop until it is closed.

    Args:
        sockets: listen already; they are closed with this.
        accepted: is given each new client's socket and address.
    """

    def __init__(self, sockets: Iterable[socket.socket], accepted: Callable[[socket.socket, Any], None]) -> None:
        self.sockets = tuple(sockets)
        self.address: tuple[str, int] = self.sockets[0].getsockname()[:2]
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._paused = True
        self._retry: asyncio.TimerHandle | None = None
        self._complained = float("-inf")
        for sock in self.sockets:
            sock.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Accept again, where that had paused; there may be room again."""
        if self._paused:
            self._paused = False
            for sock in self.sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Stop listening."""
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        for sock in self.sockets:
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTED):
            try:
                client, address = sock.accept()
            except OSError as exc:
                if exc.errno in OUT_OF_FILES:
                    self._wait()
                return  # nobody else waits, or one who did has gone
            client.setblocking(False)
            self._accepted(client, address)
            if _is_in_reserve(client.fileno()):  # which it is not where it was refused, and closed
                self._wait()
                return

    def _wait(self) -> None:
        """Pause until there are file descriptors again."""
        self._pause()
        self._look_later()
        now = self._loop.time()
        if now - self._complained >= COMPLAIN_SECONDS:
            self._complained = now
            log.warning(
                "out of file descriptors: clients wait to be accepted until others leave",
                allowed=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )

    def _look_later(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(RETRY_SECONDS, self._look)

    def _look(self) -> None:
        try:
            number = os.dup(self.sockets[0].fileno())
        except OSError:
            self._look_later()
            return
        os.close(number)
        if _is_in_reserve(number):
            self._look_later()
        else:
            self.resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            for sock in self.sockets:
                self._loop.remove_reader(sock)


class Handshakes:
    """Has clients begin TLS a few at a time."""

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Semaphore] = {}
        """By network."""
        self._wanting: Counter[str] = Counter()
        """How many want or have a turn, likewise."""

    @asynccontextmanager
    async def turn(self, host: str, seconds: float, most: int | None = None) -> AsyncIterator[None]:
        """Wait for the turn of a client at this address, and have it.

        Args:
            host: the address.
            seconds: the longest wait.
            most: of this address; by default `HANDSHAKES`.

        Raises:
            TimeoutError: its turn has not come.
        """
        network = network_of(host)
        turns = self._turns.setdefault(network, asyncio.Semaphore(HANDSHAKES if most is None else most))
        self._wanting[network] += 1
        try:
            try:
                async with asyncio.timeout(seconds):
                    await turns.acquire()
            except TimeoutError as exc:
                raise TimeoutError("too many TLS handshakes of its address are under way") from exc
            try:
                yield
            finally:
                turns.release()
        finally:
            self._wanting[network] -= 1
            if not self._wanting[network]:
                del self._wanting[network], self._turns[network]


def _is_in_reserve(number: int) -> bool:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return number >= allowed - min(RESERVED_FILES, allowed // 4)


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches an address."""
    return ip_address(host).is_loopback


def listening_sockets(
    ip: str, port: int, *, receive_bytes: int | None = RECEIVE_BYTES, setting: str = "--port"
) -> list[socket.socket]:
    """Sockets that listen at `port` of `ip`: one, or one each for IPv4 and IPv6.

    Args:
        ip: an address of this computer, or a name of one; "" for all, of which "::" is another spelling. Published
            clients know IPv4 only, so it is that which must work.
        port: TCP port; 0 for any free one, the same in both families.
        receive_bytes: what the system is to keep of each client until it is read; None to leave that to the system.
        setting: by which the port is chosen, for the error.

    Raises:
        ListenError: the port is in use, or the address is not this computer's.
    """
    sockets: list[socket.socket] = []
    where = f"port {port} of {ip}" if ip else f"port {port}"
    try:
        for family, _, _, _, address in sorted(_look_up(ip, port), key=lambda info: info[0] != socket.AF_INET):
            try:
                sockets.append(_listening(family, (address[0], port, *address[2:]), receive_bytes))
            except OSError as exc:
                if not sockets:
                    raise
                log.info("not listening on IPv6", reason=exc.strerror)
            port = sockets[0].getsockname()[1]
    except OSError as exc:
        remedy = {
            errno.EADDRINUSE: f"it is in use: stop the program that has it, or choose another with {setting}; after an"
            " upgrade (SIGUSR2) that may be the new process, if a supervisor did not follow it: end that one",
            errno.EACCES: f"only root may: choose one above 1023 with {setting}",
        }.get(exc.errno or 0, f'{exc.strerror}: `ip` must be an address of this computer, or "" for all of them')
        raise ListenError(f"cannot listen on {where}: {remedy}") from exc
    if all(sock.family != socket.AF_INET for sock in sockets):
        log.warning("listening on IPv6 only: published clients, which know IPv4 only, cannot connect", ip=ip)
    return sockets


def set_options(sock: Any) -> None:
    """Send at once, and notice when the other end has vanished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):  # macOS lacks some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _look_up(ip: str, port: int) -> list[tuple[Any, ...]]:
    """Return what `getaddrinfo` finds at an address, or a name, of this computer.

    A name is looked up in a thread of its own, because a name service that does not answer cannot be broken off.
    """
    with suppress(ValueError):
        ip = "" if ip_address(ip) == IPv6Address("::") else ip
    look_up = partial(socket.getaddrinfo, ip or None, port, type=socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # it is a name
        return look_up(flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    outcomes: list[list[tuple[Any, ...]] | OSError] = []

    def run() -> None:
        try:
            outcomes.append(look_up(flags=socket.AI_PASSIVE))
        except (OSError, UnicodeError) as exc:
            outcomes.append(exc if isinstance(exc, OSError) else OSError(0, str(exc)))

    thread = Thread(target=run, name=f"name service: {ip}", daemon=True)
    thread.start()
    thread.join(LOOKUP_SECONDS)
    outcome = outcomes[0] if outcomes else OSError(0, f"the name service does not answer within {LOOKUP_SECONDS:g} s")
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _listening(family: int, address: tuple[Any, ...], receive_bytes: int | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)  # which accepted ones inherit
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
