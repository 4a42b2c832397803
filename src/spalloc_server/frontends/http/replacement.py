"""A front process is replaced by a new one, and no client notices.

Theory of operation. The old process starts the new one with the same arguments, and gives it its listening sockets, its
lock, and one end of a pair of sockets:

    old, still serving                       new
                                             imports everything, asks the server for the settings
                                             accepts at the same sockets
                                        <--- READY
    closes its listening sockets and its lock
    answers what is under way, tells clients to come anew, serves WebSockets until they end
                                        ---> its end of the pair is closed: it has ended
    (or ends what it still does)        <--- STOP, where too many old ones serve, or all are to end

Where the new process ends, or is not ready in time, it is killed, and the old one goes on. Its end of the pair is all
that the new one has of the old: it never sends a signal to a number that may be another process's by then. A process
that is replaced hands on the ends of those that it has replaced itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, Self

from spalloc_server.errors import UpgradeError

__all__ = ["Drained", "Predecessor", "replace"]

VARIABLE: Final = "SPALLOC_WEB_REPLACEMENT"
"""Environment variable that tells a new process what it inherits."""

READY: Final = b"R"
STOP: Final = b"S"

WARM_SECONDS = 30.0
"""The longest that a new front process may take to be ready; the old one serves meanwhile."""


class Predecessor:
    """What this process has inherited from the one that it replaces."""

    def __init__(self, inherited: dict[str, list[int]], listening: tuple[str, int]) -> None:
        self.listening = listening
        """(ip, port) as the settings have it, where the sockets listen."""
        for number in chain(*inherited.values()):
            os.set_inheritable(number, False)
        self.lock = inherited["lock"][0]
        """The open file of the lock."""
        self.sockets = [socket.socket(fileno=number) for number in inherited["sockets"]]
        self.channels = [socket.socket(fileno=number) for number in inherited["channels"]]
        """To those that were replaced, the oldest first; this process's own predecessor is the last."""

    @classmethod
    def find(cls) -> Self | None:
        """Return what is inherited; None where this process replaces none."""
        told = os.environ.pop(VARIABLE, None)
        if told is None:
            return None
        inherited = json.loads(told)
        return cls(inherited["numbers"], tuple(inherited["listening"]))

    def ready(self) -> None:
        """Say that this process accepts clients."""
        with suppress(OSError):  # it has ended meanwhile
            self.channels[-1].send(READY)


class Drained:
    """The processes that have been replaced and still serve, the oldest first; in the running event loop."""

    def __init__(self, channels: Sequence[socket.socket] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self.channels: list[socket.socket] = []
        for channel in channels:
            channel.setblocking(False)
            self.channels.append(channel)
            self._loop.add_reader(channel, self._ended, channel)

    def stop_all_but(self, most: int) -> None:
        """Have the oldest end, until there are so many; those end soon."""
        for channel in self.channels[: max(0, len(self.channels) - most)]:
            with suppress(OSError):
                channel.send(STOP)

    def close(self) -> None:
        """Have no more to do with them; they go on."""
        for channel in tuple(self.channels):
            self._forget(channel)

    def _ended(self, channel: socket.socket) -> None:
        with suppress(BlockingIOError):
            with suppress(ConnectionError):
                if channel.recv(1):
                    return
            self._forget(channel)

    def _forget(self, channel: socket.socket) -> None:
        self._loop.remove_reader(channel)
        self.channels.remove(channel)
        channel.close()


async def replace(
    *,
    lock: int,
    sockets: Sequence[socket.socket],
    drained: Sequence[socket.socket],
    listening: tuple[str, int],
    stop: Callable[[], None],
) -> int:
    """Start this program anew, and wait until it accepts clients; the number of the new process.

    Args:
        lock: the open file of the lock.
        sockets: that listen.
        drained: channels to processes that were replaced earlier.
        listening: (ip, port) as the settings have it.
        stop: called when the new process, or another one later, says that this one is to end.

    Raises:
        UpgradeError: it does not; it has been killed.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channels = [*drained, theirs]
    numbers = {
        "lock": [lock],
        "sockets": [sock.fileno() for sock in sockets],
        "channels": [channel.fileno() for channel in channels],
    }
    try:
        pid = _start(json.dumps({"numbers": numbers, "listening": listening}), list(chain(*numbers.values())))
    except OSError as exc:
        ours.close()
        raise UpgradeError(f"{sys.executable} cannot be started: {exc}") from exc
    finally:
        theirs.close()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(WARM_SECONDS):
            said = await loop.sock_recv(ours, 1)
    except (TimeoutError, OSError):
        said = b""
    except BaseException:  # this one is to end now; the new one would be left with its sockets, and nobody to stop it
        ours.close()
        _end(pid)
        raise
    if said != READY:
        ours.close()
        _end(pid)
        raise UpgradeError("the new process did not become ready; its log tells why")
    loop.add_reader(ours, _hear, ours, stop)
    return pid


def _start(told: str, inherited: Sequence[int]) -> int:
    """Start this program anew, with these files."""
    environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
    environment[VARIABLE] = told
    try:
        for number in inherited:
            os.set_inheritable(number, True)
        # Not `subprocess`: a child of that is waited for, or complained about, when this process ends.
        return os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    finally:
        for number in inherited:
            os.set_inheritable(number, False)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _hear(channel: socket.socket, stop: Callable[[], None]) -> None:
    """The newer process says that this one is to end, or has ended itself, which changes nothing."""
    said = b""
    with suppress(BlockingIOError, ConnectionError):
        said = channel.recv(1)
    if said == STOP:
        stop()
    elif not said:
        asyncio.get_running_loop().remove_reader(channel)
        channel.close()
