"""Plain ASGI, without a framework: its types, and short answers such as errors, redirections and small pages.

Theory of operation. An `Answer` is an ASGI application that gives the same answer each time. To a WebSocket that is
being opened it is given as an HTTP response, so that the client hears the status; where a server cannot do that, the
WebSocket is refused without a text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import msgspec

from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError

__all__ = ["UNAUTHORIZED", "ASGIApp", "Answer", "Header", "Message", "Receive", "Scope", "Send", "refusal", "text"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

RETRY_SECONDS = 5
"""After so long a client may ask again, as `Retry-After` of answers with 429 and 503 tells it."""

_STATUS = {
    "bad-request": 400,
    "bad-credentials": 401,
    "forbidden": 403,
    "no-such": 404,
    "busy": 429,
    "read-only": 503,
    "not-stored": 503,
    "outcome-unknown": 503,
    "server-away": 503,
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, as an ASGI application."""

    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = ()
    """Without `content-length`."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Give the answer to this request."""
        kind = "http.response"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
                return
            kind = "websocket.http.response"
        length = (b"content-length", b"%d" % len(self.body))
        headers = [*self.headers] if self.status == 204 else [*self.headers, length]
        await send({"type": f"{kind}.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else self.body})


def text(status: int, body: str, *headers: Header) -> Answer:
    """Return an answer in plain text."""
    kind = (b"content-type", b"text/plain;charset=UTF-8")
    return Answer(
        status=status,
        body=body.encode(errors="replace"),
        headers=(*headers, kind, (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")),
    )


UNAUTHORIZED = text(
    401,
    "log in required, either with BASIC auth or HBP/EBRAINS bearer token (if they are enabled)\n",
    (b"www-authenticate", b'Bearer realm="SpallocService"'),
    (b"www-authenticate", b'Basic realm="SpallocService"'),
)
"""What a request is told that needs a caller and has none, or whose password, token or session is not right."""


def refusal(error: RefusedError | ServerAwayError) -> Answer:
    """Return the answer that tells of `error`."""
    kind = error.kind if isinstance(error, RefusedError) else error.code
    status = _STATUS.get(kind, 500)
    if status == 401:
        return UNAUTHORIZED
    again = ((b"retry-after", b"%d" % RETRY_SECONDS),) if status in {429, 503} else ()
    return text(status, str(error), *again)
