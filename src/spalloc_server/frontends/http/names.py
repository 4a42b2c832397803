"""The names and addresses of this computer: what its certificate is for, and what links may name.

Theory of operation. They are looked up once in `KEPT_SECONDS`, since interfaces come and go. Looking up the full name
may take a name service that does not answer, so that is done once, in a thread that nobody waits for longer than
`LOOKUP_SECONDS`.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

__all__ = ["addresses", "full_name", "own_names"]

KEPT_SECONDS = 60
"""For so long the addresses of this computer are remembered."""

LOOKUP_SECONDS = 2.0
"""The longest wait for a name service that is to tell this computer's full name; after that, its short name does."""

_SIOCGIFADDR = 0x8915
"""Linux: asks for the IPv4 address of an interface."""


@lru_cache(maxsize=1)
def full_name() -> str:
    """Return this computer's full name."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(socket.getfqdn()), name="full name", daemon=True)
    thread.start()
    thread.join(LOOKUP_SECONDS)
    name = found[0] if found else socket.gethostname()
    return (socket.gethostname() if name.startswith("localhost") else name).lower()


def own_names() -> frozenset[str]:
    """Return all names and addresses of this computer, in lower case."""
    return _own_names(int(time.monotonic() / KEPT_SECONDS))


@lru_cache(maxsize=1)
def _own_names(_when: int) -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, name.partition(".")[0], full_name(), "localhost", *addresses()})


def addresses() -> set[str]:
    """Return the addresses of this computer's interfaces, loopback included, as far as the system tells."""
    found = {"127.0.0.1", "::1"}
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        import fcntl

        for _, interface in socket.if_nameindex():
            with suppress(OSError):  # it has none
                reply = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
                found.add(socket.inet_ntoa(reply[20:24]))
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            number = bytes.fromhex(line.split()[0])
            if number[:2] != b"\xfe\x80":  # link-local ones need a zone, and name nothing elsewhere
                found.add(socket.inet_ntop(socket.AF_INET6, number))
    return found
