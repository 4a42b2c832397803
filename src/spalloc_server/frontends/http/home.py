"""What all connections of a front process share, and how what is written to one goes out together."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from spalloc_server.config.options import Web
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.turns import Turns
from spalloc_server.frontends.http.websocket import WebSocketProtocol
from spalloc_server.log.defects import DefectLog

__all__ = ["Home", "Joining"]


class Home:
    """What all connections share.

    Args:
        app: serves requests.
        web: the settings; may be assigned anew.
        defects: told what goes wrong that never should.
    """

    def __init__(self, app: ASGIApp, web: Web, defects: DefectLog) -> None:
        self.app, self.web, self.defects = app, web, defects
        self.loop = asyncio.get_running_loop()
        self.state = ServerState()
        """What uvicorn's connections share: they themselves, their tasks, and headers of all answers."""
        self.websockets: set[WebSocketProtocol] = set()
        self.turns = Turns()
        """Of WebSockets."""
        self.draining = False
        """Whether connections are closed after the answers that are under way."""
        options: dict[str, Any] = {"ws": "none", "lifespan": "off", "interface": "asgi3", "proxy_headers": False}
        self.config = Config(cast("Any", app), log_config=None, access_log=False, server_header=False, **options)
        self.config.load()
        logging.getLogger("uvicorn.error").setLevel(
            logging.CRITICAL + 1
        )  # `defects` and who answers tell what is wrong

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self.state.connections) + len(self.websockets)


class Joining:
    """A transport that sends what is written in one cycle of the event loop together: an answer's head and its body."""

    __slots__ = ("_loop", "_parts", "direct")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.direct, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.direct, name)

    def write(self, data: bytes) -> None:
        """Send this at the end of the cycle."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Send it now."""
        if self._parts:
            self.direct.write(b"".join(self._parts))
            self._parts.clear()

    def is_closing(self) -> bool:
        """Return whether the transport closes."""
        return self.direct.is_closing()

    def close(self) -> None:
        """Close the transport, once everything is sent."""
        self.flush()
        self.direct.close()

    def leave(self) -> None:
        """Forget the transport, which is closed."""
        self.direct = cast("asyncio.Transport", _CLOSED)
        self._parts.clear()


class _Closed(asyncio.Transport):
    """Stands in for a transport that is closed."""

    def write(self, _data: object) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        """Say so."""
        return True

    def close(self) -> None:
        """Stay so."""

    def abort(self) -> None:
        """Stay so."""

    def resume_reading(self) -> None:
        """There is nothing."""


_CLOSED = _Closed()
