"""A client of ASGI applications, without a server or a network between."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from spalloc_server.frontends.http.answers import ASGIApp, Message
from tests.house import PATIENCE

Headers = Iterable[tuple[str, str | bytes]]


@dataclass
class Reply:
    """What an application has answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    accepted: bool = False
    """That a WebSocket was opened."""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def session(self) -> str | None:
        """The value that `JSESSIONID` is set to; None where it is not set."""
        cookies = [re.match(r"JSESSIONID=([^;]*)", value) for value in self.all("set-cookie")]
        return next((match[1] for match in cookies if match), None)


def scope_of(method: str, target: str, headers: Headers = (), **more: Any) -> dict[str, Any]:
    """What a server makes of the head of a request."""
    path, _, query = target.partition("?")
    raw = [(name.lower().encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw if any(name == b"host" for name, _ in raw) else [(b"host", b"localhost:8080"), *raw],
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.9", 8080),
        "state": {},
        **more,
    }


async def call(
    app: ASGIApp, method: str, target: str, headers: Headers = (), *, body: bytes | list[bytes] = b"", **more: Any
) -> Reply:
    """Send a request.

    Args:
        body: whole, or in parts.
        more: what the scope has otherwise, such as `scheme` and `client`.
    """
    chunks = [body] if isinstance(body, bytes) else body
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": number < len(chunks)}
        for number, part in enumerate(chunks, 1)
    ]
    return await exchange(app, scope_of(method, target, headers, **more), messages)


async def send_form(app: ASGIApp, target: str, fields: dict[str, str], headers: Headers = (), **more: Any) -> Reply:
    """Send a form."""
    kind = ("content-type", "application/x-www-form-urlencoded")
    return await call(app, "POST", target, [*headers, kind], body=urlencode(fields).encode(), **more)


async def open_websocket(app: ASGIApp, target: str, headers: Headers = (), **more: Any) -> Reply:
    """Open a WebSocket; it is closed at once."""
    of_websockets = {
        "type": "websocket",
        "scheme": "wss",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    scope = scope_of("GET", target, headers, **(of_websockets | more))
    del scope["method"]
    return await exchange(app, scope, [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])


@dataclass
class _Exchange:
    messages: list[Message]
    sent: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        return await asyncio.Future()  # as long as the client is there

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def exchange(app: ASGIApp, scope: dict[str, Any], messages: list[Message]) -> Reply:
    """Have `app` serve one connection; what it has sent."""
    connection = _Exchange(messages)
    async with asyncio.timeout(PATIENCE):
        await app(scope, connection.receive, connection.send)
    first = connection.sent[0]
    if first["type"] == "websocket.accept":
        return Reply(101, [], accepted=True)
    if first["type"] == "websocket.close":
        return Reply(403, [])
    headers = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in first["headers"]]
    for _, value in headers:
        assert not re.search(r"[\r\n\0]", value), f"a header has an end of line: {value!r}"
    body = b"".join(message.get("body", b"") for message in connection.sent[1:])
    assert not connection.sent[-1].get("more_body")
    return Reply(first["status"], headers, body)
