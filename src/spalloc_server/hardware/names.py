"""Addresses of hosts by their names, from a name service that may never answer.

Theory of operation. `getaddrinfo` blocks, for minutes where no name server answers, and cannot be broken off. In a pool
of threads a few such names would hold up all others, and a pool is waited for when the process ends. So each lookup has
a daemon thread of its own, for which nobody waits: who asked goes on at a deadline, with a reason. Until the thread has
ended its name is not looked up again, and whoever asks for it waits for the same answer; so there are never more
threads than names, nor more than `MAX_LOOKUPS`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from threading import Thread

__all__ = ["Names", "NoNameService"]

MAX_LOOKUPS = 256
"""Names that may be looked up at the same time."""


_NO_IPV4 = {getattr(socket, name, None) for name in ("EAI_ADDRFAMILY", "EAI_NODATA")}


class NoNameService(OSError):
    """The name service does not answer, or only that it cannot say now; it says nothing about the name."""


class Names:
    """Looks names up. It belongs to the running event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[str]]] = {}
        """By name that is being looked up: who waits for it."""

    async def address(self, host: str, within_s: float) -> str:
        """Return the IPv4 address of a host, which is asked for as long as `within_s` seconds.

        Raises:
            OSError: there is none, or (`NoNameService`) it cannot be found out now.
        """
        with suppress(ValueError):
            return str(IPv4Address(host))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if host not in self._waiting:
            self._begin(host)
        self._waiting[host].append(answer)
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            raise NoNameService(f"the name service does not answer within {within_s:g} s") from None

    def _begin(self, host: str) -> None:
        if len(self._waiting) >= MAX_LOOKUPS:
            raise NoNameService(f"the name service has {len(self._waiting)} other names to answer for")
        loop = asyncio.get_running_loop()

        def tell(outcome: str | OSError) -> None:
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(self._end, host, outcome)

        try:
            Thread(target=_ask, args=(host, tell), name=f"name service: {host}", daemon=True).start()
        except RuntimeError as exc:
            raise NoNameService(f"no thread to ask the name service: {exc}") from exc
        self._waiting[host] = []

    def _end(self, host: str, outcome: str | OSError) -> None:
        for answer in self._waiting.pop(host):
            if answer.done():
                continue
            if isinstance(outcome, OSError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


def _ask(host: str, tell: Callable[[str | OSError], None]) -> None:
    """Tell a host's IPv4 address, or why there is none. Blocks for as long as the system likes."""
    outcome: str | OSError
    try:
        outcome = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0])
    except socket.gaierror as exc:
        reason = "it has no IPv4 address" if exc.errno in _NO_IPV4 else exc.strerror
        outcome = NoNameService(reason) if exc.errno == socket.EAI_AGAIN else OSError(reason)
    except (OSError, UnicodeError) as exc:
        outcome = OSError(str(exc))
    tell(outcome)
