"""The part of the front process that is about who asks, and a client that logs in there as published ones do."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import msgspec

from spalloc_server.frontends.http.answers import UNAUTHORIZED, Answer, ASGIApp, Receive, Scope, Send
from spalloc_server.frontends.http.authentication import Authentication
from spalloc_server.frontends.http.grants import Grants
from spalloc_server.frontends.http.login import Login
from tests.frontends.http.asgi import Reply, call, send_form
from tests.frontends.http.fake_accounts import FakeServer

LOGIN = "/spalloc/system/login.html"
PERFORM = "/spalloc/system/perform_login"
LOGOUT = "/spalloc/system/perform_logout"
ROOT = "/spalloc/srv/spalloc/"


def front(server: FakeServer, clock: Callable[[], float] = lambda: 0.0) -> ASGIApp:
    """All of the front process that is about who asks. Elsewhere than at the pages it tells who that is."""
    grants = Grants(server, clock=clock)
    login = Login(server, grants)

    async def router(scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope["state"].get("caller")
        if f"{scope['path']}/".startswith("/spalloc/system/") or scope["path"].rstrip("/") == "/spalloc":
            await login(scope, receive, send)
        elif caller is None and scope["path"].startswith("/spalloc/"):
            await UNAUTHORIZED(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await Answer(status=200, body=msgspec.json.encode(caller))(scope, receive, send)

    return Authentication(router, server, grants)


def basic_of(name: str, password: str) -> tuple[str, str]:
    """The header of HTTP Basic."""
    return "authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def cookie_of(value: str | None) -> tuple[str, str]:
    """The header with this session."""
    return "cookie", f"JSESSIONID={value}"


def csrf_in(page: Reply) -> str:
    """The token in a form, found as SpiNNMan finds it."""
    match = re.search(r"""<input type="hidden" name="_csrf" value="(.*)" />""", page.text)
    assert match is not None
    return match[1]


async def log_in(app: ASGIApp, name: str = "alice", password: str = "wonder land") -> tuple[str, str]:
    """Log in; (value of the cookie, CSRF token)."""
    page = await call(app, "GET", LOGIN)
    fields = {"_csrf": csrf_in(page), "username": name, "password": password, "submit": "submit"}
    reply = await send_form(app, PERFORM, fields, [cookie_of(page.session)])
    assert (reply.status, reply.one("location")) == (302, "/spalloc/system/")
    assert reply.session is not None
    root = await call(app, "GET", ROOT, [cookie_of(reply.session)])
    return reply.session, root.json["csrf"]
