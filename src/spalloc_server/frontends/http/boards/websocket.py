"""A WebSocket as the proxy sees it.

Theory of operation. A `Pipe` carries whole binary messages and knows how many bytes wait to be sent. What serves HTTP
may offer one of its own that is quicker than the events of ASGI, as `scope["extensions"]["spalloc.pipe"]`: a function
without arguments, which is called once the WebSocket is accepted; messages that have come until `Pipe.run` wait there.
Else `AsgiPipe` does with the events.

A client that sends commands and does not read their answers is read no further once `unread` bytes of them wait; what
boards send is dropped long before, by who calls `send`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from spalloc_server.frontends.http.answers import Receive, Scope, Send
from spalloc_server.frontends.http.boards.messages import CloseCode

__all__ = ["PIPE", "AsgiPipe", "Pipe", "accept"]

PIPE: Final = "spalloc.pipe"
"""Name of the extension of ASGI."""


class Pipe(Protocol):
    """An accepted WebSocket that carries binary messages."""

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        ...

    @property
    def heard(self) -> float:
        """When its client was heard last, pings included where they are seen; seconds of the event loop's clock."""
        ...

    def send(self, message: bytes) -> None:
        """Send a message after those before it; none once it is closed. Never waits, whatever is queued."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close the WebSocket, with a reason of at most 123 bytes. What waits to be sent may be lost."""
        ...

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` with each message until the WebSocket is closed, by whomever."""
        ...


class AsgiPipe:
    """A `Pipe` over the events of ASGI.

    Args:
        receive: of ASGI, once the WebSocket is accepted.
        send: likewise.
        unread: bytes that wait to be sent over which nothing more is read.
    """

    def __init__(self, receive: Receive, send: Send, unread: int) -> None:
        self.queued = 0
        self.heard = asyncio.get_running_loop().time()
        self._receive, self._send, self._unread = receive, send, unread
        self._waiting: deque[bytes] = deque()
        self._ending: tuple[int, str] | None = None
        self._more = asyncio.Event()
        self._room = asyncio.Event()

    def send(self, message: bytes) -> None:
        """Send a message after those before it."""
        if self._ending is None:
            self._waiting.append(message)
            self.queued += len(message)
            self._more.set()

    def close(self, code: int, reason: str) -> None:
        """Close the WebSocket; what waits to be sent is lost."""
        if self._ending is None:
            self._ending = (code, reason)
            self._waiting.clear()
            self.queued = 0
            self._more.set()
            self._room.set()

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` with each message until the WebSocket is closed, by whomever."""
        loop = asyncio.get_running_loop()
        sending = loop.create_task(self._send_all())
        try:
            while (event := await self._receive())["type"] == "websocket.receive":
                self.heard = loop.time()
                if (message := event.get("bytes")) is None:
                    self.close(CloseCode.NOT_BINARY, "only binary messages are understood")
                elif self._ending is None:
                    on_message(message)
                while self.queued > self._unread:
                    self._room.clear()
                    await self._room.wait()
            if self._ending is not None:  # it may be that the end was heard of before it was sent
                await sending
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    async def _send_all(self) -> None:
        waiting, send = self._waiting, self._send
        try:
            while self._ending is None:
                while waiting:
                    message = waiting.popleft()
                    self.queued -= len(message)
                    await send({"type": "websocket.send", "bytes": message})
                self._room.set()
                await self._more.wait()
                self._more.clear()
            code, reason = self._ending
            await send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:  # whoever read it is gone, which `receive` tells, too
            self.close(CloseCode.FAILED, "nobody reads")


async def accept(scope: Scope, receive: Receive, send: Send, unread: int) -> Pipe:
    """Accept a WebSocket, whose first event was received; `unread` as for `AsgiPipe`."""
    await send({"type": "websocket.accept"})
    offered: Callable[[], Pipe] | None = scope.get("extensions", {}).get(PIPE)
    return AsgiPipe(receive, send, unread) if offered is None else offered()
