"""The messages between an old process and a new one that takes over from it.

Theory of operation. A message is MessagePack behind its length and the number of file descriptors that come with it.
The system passes descriptors along with the first bytes; they are counted, since it drops those for which the process
that receives has no room. `FORMAT` is the version of all this: a process that is warm says which formats it
understands. Fields may be added without a new format, since unknown ones are passed over. Tags and names of fields are
what the other version reads: they stay, whatever a class is called here. `upgrade` tells the order.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from spalloc_server.errors import UpgradeError
from spalloc_server.frontends.v1.connection import ConnectionState
from spalloc_server.storage.commit_count import Count

__all__ = ["FORMAT", "Channel", "Clients", "Go", "Operators", "Ready", "Takeover", "Warm"]

FORMAT: Final = 1
"""Version of the messages between the two processes."""

MAX_BYTES = 2**30
"""Size of one message between the two processes of an upgrade; a longer one is nonsense."""

_ENDED = "the other process has ended"

_HEADER = struct.Struct("!II")


class _Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    pass


class Warm(_Message, frozen=True, tag="Warm"):
    """The new process has read the config, and could begin."""

    formats: list[int]
    version: str
    operators: bool = False
    """Whether it understands `Operators`."""


class Takeover(_Message, frozen=True, tag="Heritage"):
    """What the new process gets besides connections; comes with the state's lock and the listening sockets."""

    format: int
    listening: tuple[str, int]
    """(ip, port) that the sockets listen at, as the configuration or the command line had them."""
    clients: int
    """How many connections follow."""
    busy: list[str]
    """Hosts of the BMPs at which a command is in flight."""
    operators: bool = False
    """Whether `Operators` follows the connections."""
    left: Count | None = None
    """How far the state has come; None where the other version does not tell."""


class Clients(_Message, frozen=True, tag="Clients"):
    """Connections; comes with as many sockets."""

    states: list[ConnectionState]


class Operators(_Message, frozen=True, tag="Operators"):
    """Connections of operators; comes with the socket that listens to them, and as many sockets."""

    unread: list[bytes]
    """What each of them has sent and has had no answer to."""


class Ready(_Message, frozen=True, tag="Ready"):
    """The new process has everything, and waits for `Go`."""


class Go(_Message, frozen=True, tag="Go"):
    """The new process is the server from here on."""


M = TypeVar("M", bound=_Message)


class Channel:
    """Messages and file descriptors, both ways. Everything blocks, up to a deadline; raises `UpgradeError`.

    After an error the process that receives must end, or have killed the other one: what was sent is not taken back.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._deadline = 0.0

    def allow(self, seconds: float) -> None:
        """From now on, everything has to happen within so many seconds."""
        self._deadline = time.monotonic() + seconds

    def send(self, message: _Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and copies of these file descriptors."""
        data = msgspec.msgpack.encode(message)
        data = _HEADER.pack(len(data), len(descriptors)) + data
        try:
            self._wait_for_no_longer()
            sent = socket.send_fds(self.socket, [data], descriptors)
            while sent < len(data):
                self._wait_for_no_longer()
                sent += self.socket.send(memoryview(data)[sent:])
        except ConnectionError as exc:
            raise UpgradeError(_ENDED) from exc
        except OSError as exc:
            raise UpgradeError(f"the other process does not listen: {exc}") from exc

    def receive(self, kind: type[M]) -> tuple[M, list[int]]:
        """The next message, which must be of this kind, and the file descriptors that came with it."""
        descriptors: list[int] = []
        try:
            size, expected = _HEADER.unpack(self._read(_HEADER.size, descriptors))
            message = msgspec.msgpack.decode(self._read(min(size, MAX_BYTES), descriptors), type=kind)
        except ConnectionError as exc:
            raise UpgradeError(_ENDED) from exc
        except OSError as exc:
            raise UpgradeError(f"the other process says nothing: {exc}") from exc
        except msgspec.MsgspecError as exc:
            raise UpgradeError(f"the other process sends nonsense: {exc}") from exc
        if len(descriptors) != expected:
            raise UpgradeError(f"{len(descriptors)} of {expected} open files arrived; this process may have too few")
        return message, descriptors

    def _read(self, size: int, descriptors: list[int]) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._wait_for_no_longer()
            part, more, _, _ = socket.recv_fds(self.socket, min(size - len(parts), 2**20), 253)
            for descriptor in more:
                os.set_inheritable(descriptor, False)
            descriptors += more
            if not part:
                raise UpgradeError(_ENDED)
            parts += part
        return bytes(parts)

    def _wait_for_no_longer(self) -> None:
        self.socket.settimeout(max(0.001, self._deadline - time.monotonic()))
