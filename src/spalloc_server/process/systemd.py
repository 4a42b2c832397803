"""Tell systemd how the service is doing (sd_notify); without systemd nothing happens.

Theory of operation. systemd gives its services the name of a datagram socket in the environment; each datagram holds
lines of `NAME=value`. A unit of `Type=notify-reload` waits for READY after a start, and for RELOADING and READY around
a reload; with `WatchdogSec` it restarts a service whose event loop no longer turns. See sd_notify(3), and
`examples/spalloc_server.service`.

The socket takes few datagrams before systemd reads them. A message that it does not take at once is sent in the
background (see `background`), and so are all that come after it, in their order: the event loop never waits, and a
READY is not lost to a moment in which systemd is busy. Only messages of the watchdog are dropped while others wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

from spalloc_server.log.background import Background

__all__ = ["WATCHDOG_PID", "feed_watchdog", "flush", "notify", "reloading"]

SEND_SECONDS = 1.0
"""An attempt to send a message that systemd did not take at once, in the background."""

FLUSH_SECONDS = 0.5
"""The longest that the end of the server waits for systemd to take the last messages."""

MAINPID_SECONDS = 10.0
"""The same, for the old process of an upgrade: if it ends before systemd knows the new one, the service has ended."""

WATCHDOG_PID = "WATCHDOG_PID"
"""Environment variable that says which process the watchdog watches; without it, any."""

WATCHDOG = "WATCHDOG=1"


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`, now or soon. Never waits, never raises."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    message = "\n".join(lines).encode(errors="replace")
    if not _waiting.idle():
        if lines != (WATCHDOG,):
            _waiting.put(message)
        return
    try:
        _send(message, 0.0)
    except BlockingIOError:
        _waiting.put(message)
    except Exception:  # noqa: BLE001 - nobody is there, or there are no descriptors
        return


def _send(message: bytes, seconds: float) -> None:
    """Send a message; raises `BlockingIOError` or `TimeoutError` where it is not taken in time."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(message)


def _send_later(message: bytes) -> int:
    try:
        _send(message, SEND_SECONDS)
    except (BlockingIOError, TimeoutError):
        raise
    except OSError:  # nobody is there any more
        pass
    return len(message)


_waiting = Background(_send_later, tell_lost=lambda _: b"", name="systemd", together=False)


async def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Wait until systemd has taken all messages, at most so long."""
    if not _waiting.idle():
        await asyncio.to_thread(_waiting.flush, seconds)


def reloading() -> None:
    """A reload begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def feed_watchdog() -> None:
    """Tell twice in the watchdog's time that the event loop turns; ends at once where there is no watchdog."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    if microseconds and os.environ.get(WATCHDOG_PID, str(os.getpid())) == str(os.getpid()):
        while True:
            notify(WATCHDOG)
            await asyncio.sleep(microseconds / 2_000_000)
