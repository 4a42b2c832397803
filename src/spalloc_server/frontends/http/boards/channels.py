"""Channels of the proxy: each is a UDP socket, with the same local port for its life.

Theory of operation. Boards answer to the port that a command came from, and send to it what goes through tags that
were set to "whoever sent this"; so a channel never changes its socket. A connected one hears its board only: the kernel
drops the rest. An unconnected one drops what does not come from a board of its job.

What the network reports (nobody listens, no way there, no room in the socket) is a loss like any other: UDP may lose
datagrams, and its users send again. A board that is off refuses datagrams until it is on.

Datagrams are taken in batches, straight behind the header that they are forwarded with, so that they are copied once.
"""

from __future__ import annotations

import errno
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Set as AbstractSet
from typing import Final

from spalloc_server.frontends.http.boards.messages import HEADER, Operation

__all__ = ["LOSSES", "Channel", "connected", "local_address", "unconnected"]

BATCH = 32
"""Datagrams that are taken from one channel before others are served."""

RECEIVE_BUFFER = 1024 * 1024
"""Bytes that a channel's socket is asked to hold, while others are served; the system allows less, often."""

LOSSES: Final = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.EPERM,
    }
)
"""Errors of a socket that mean that a datagram is lost."""

THROUGHPUT: Final = 0x08
"""Type of service, in the IP header."""

_MAX_DATAGRAM: Final = 65507
_taken = bytearray(HEADER.size + _MAX_DATAGRAM)
_whole = memoryview(_taken)
_room = _whole[HEADER.size :]


class Channel:
    """A UDP socket whose datagrams are delivered as messages of the proxy.

    Args:
        loop: reads from the socket.
        number: of the channel.
        of: the socket, which is the channel's from now on.
        deliver: takes a whole message for the client; it never raises.
        heard: addresses that datagrams are taken from; None where the socket is connected.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        number: int,
        of: socket.socket,
        deliver: Callable[[bytes], None],
        heard: AbstractSet[str] | None = None,
    ) -> None:
        self.number = number
        self.is_connected = heard is None
        self.socket = of
        self._loop, self._deliver, self._heard = loop, deliver, heard
        loop.add_reader(of, self._readable)

    def send(self, payload: bytes, target: tuple[str, int] | None = None) -> None:
        """Send a datagram: to `target`, where the channel is not connected. It may be lost.

        Raises:
            OSError: it cannot be a datagram.
        """
        for _ in range(2):
            try:
                if target is None:
                    self.socket.send(payload)
                else:
                    self.socket.sendto(payload, target)
            except ConnectionRefusedError:  # an earlier datagram was; this one has not been sent
                continue
            except OSError as error:
                if error.errno not in LOSSES:
                    raise
            return

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self.socket)
        self.socket.close()

    def _readable(self) -> None:
        HEADER.pack_into(_taken, 0, Operation.MESSAGE, self.number)
        header, deliver, heard = HEADER.size, self._deliver, self._heard
        try:
            if heard is None:
                receive = self.socket.recv_into
                for _ in range(BATCH):
                    deliver(bytes(_whole[: header + receive(_room)]))
            else:
                for _ in range(BATCH):
                    size, (host, _port) = self.socket.recvfrom_into(_room)
                    if host in heard:
                        deliver(bytes(_whole[: header + size]))
        except OSError as error:  # there are no more, or one was refused; what is left is taken the next time
            if error.errno not in LOSSES:
                self._loop.remove_reader(self.socket)


def connected(address: str, port: int) -> socket.socket:
    """Return a UDP socket for a port of a board; `OSError` where none can be had."""
    return _made(lambda made: made.connect((address, port)))


def unconnected(address: str) -> socket.socket:
    """Return a UDP socket at this address of the computer, and any port; `OSError` where none can be had."""
    return _made(lambda made: made.bind((address, 0)))


def local_address(board: str) -> str:
    """Return the address of this computer that the board of this address reaches it by; `OSError` where none does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((board, 9))  # which sends nothing
        found: str = probe.getsockname()[0]
        return found


def _made(place: Callable[[socket.socket], None]) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, THROUGHPUT)
        place(made)
    except OSError:
        made.close()
        raise
    return made
