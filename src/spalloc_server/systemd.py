"""Tell systemd how the service is doing (sd_notify); without systemd nothing happens.

Theory of operation. systemd gives its services the name of a datagram socket in the environment; each datagram holds
lines of `NAME=value`. A unit of `Type=notify-reload` waits for READY after a start, and for RELOADING and READY around
a reload; with `WatchdogSec` it restarts a service whose event loop no longer turns. See sd_notify(3), and
`examples/spalloc_server.service`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress

__all__ = ["WATCHDOG_PID", "feed_watchdog", "notify", "reloading"]

SEND_SECONDS = 0.1
"""At most so long the server stands still where systemd is busy."""

WATCHDOG_PID = "WATCHDOG_PID"
"""Environment variable that says which process the watchdog watches; without it, any."""


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`; what systemd does not take at once is lost."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.settimeout(SEND_SECONDS)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send("\n".join(lines).encode())


def reloading() -> None:
    """A reload begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


async def feed_watchdog() -> None:
    """Tell twice in the watchdog's time that the event loop turns; ends at once where there is no watchdog."""
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    if microseconds and os.environ.get(WATCHDOG_PID, str(os.getpid())) == str(os.getpid()):
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(microseconds / 2_000_000)
