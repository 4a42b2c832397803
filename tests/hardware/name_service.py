"""A name service that never answers for some names, in place of the system's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["HANGS", "NameService", "hanging_names"]

HANGS = ".hangs"
"""The end of names that are never answered for."""


class NameService:
    """Answers for all names but those that hang, until `recover`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Names that were asked for, addresses included, in order."""
        self.addresses: dict[str, str] = {}
        self._recovered = threading.Event()
        self._really = socket.getaddrinfo

    def recover(self) -> None:
        """Answer for all names, also to those who wait; those that hung are not there."""
        self._recovered.set()

    def getaddrinfo(self, host: Any, *arguments: Any, **options: Any) -> Any:
        self.asked.append(str(host))
        flags = options.get("flags", 0)
        if str(host).endswith(HANGS) and not flags & socket.AI_NUMERICHOST:
            self._recovered.wait()
        if host in self.addresses:
            host = self.addresses[host]
        elif str(host).endswith(HANGS):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._really(host, *arguments, **options)


@contextmanager
def hanging_names() -> Iterator[NameService]:
    """Have names that end in `HANGS` hang within; at the end, nobody is left waiting."""
    service = NameService()
    with mock.patch.object(socket, "getaddrinfo", service.getaddrinfo):
        try:
            yield service
        finally:
            service.recover()
