"""What stands around the parts: limits, who asks, errors of the server, and how links begin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from spalloc_server.config.options import Web
from spalloc_server.frontends.http import app as module, links
from spalloc_server.frontends.http.answers import ASGIApp, Message, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import RefusedError, ServerAwayError, WebCaller, WebSettings
from spalloc_server.frontends.http.limits import Budgets
from spalloc_server.frontends.http.links import base_url, websocket_url
from spalloc_server.frontends.http.names import addresses, own_names
from spalloc_server.frontends.local_api import Behalf
from spalloc_server.log.defects import DefectLog
from tests.frontends.http.asgi import call, send_form
from tests.frontends.http.fake_accounts import FakeServer
from tests.frontends.http.signing_in import LOGIN, PERFORM, ROOT, basic_of, cookie_of, csrf_in


class Asked:
    """A server that is not asked anything."""

    def __init__(self, **web: Any) -> None:
        self.settings = WebSettings(web=Web(**web), version="1", state="/s")

    async def ask(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def changed(self, _key: str, since: int, _seconds: float) -> int:
        return since

    async def follow(self, _key: str) -> AsyncIterator[int]:
        yield 1


def scope_of(
    path: str = "/spalloc/srv/x", method: str = "GET", query: str = "", client: str = "192.0.2.1", **headers: str
) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": "https",
        "headers": pairs,
        "client": (client, 1),
        "server": ("192.0.2.9", 8080),
        "state": {},
    }


def an_app(monkeypatch: pytest.MonkeyPatch, part: ASGIApp, caller: str | None = None, **web: Any) -> ASGIApp:
    """The whole app, with one part below /spalloc/srv, asked by an account of this name."""

    class Known:
        """Knows who asks without looking."""

        def __init__(self, app: ASGIApp, *_: object) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if name := caller or dict(scope["headers"]).get(b"account", b"").decode():
                scope["state"]["caller"] = WebCaller(name=name, role="user", behalf=Behalf(account=name))
            await self._app(scope, receive, send)

    monkeypatch.setattr(module, "Authentication", Known)
    monkeypatch.setattr(module, "_parts", lambda *_: {"/spalloc/srv": part})
    return module.make_app(Asked(**web), defects=DefectLog())


async def asked(app: ASGIApp, scope: Scope, *body: bytes) -> tuple[int, str]:
    """(status, text) of the answer."""
    pieces, said = list(body), list[Message]()

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    start, *rest = said
    return start["status"], b"".join(message["body"] for message in rest).decode()


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    length = 0
    while (message := await receive())["type"] == "http.request":
        length += len(message["body"])
        if not message["more_body"]:
            await text(200, f"{length}")(scope, receive, send)
            return
    await text(413, "too long")(scope, receive, send)


async def test_a_path_that_no_part_serves_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell)
    assert (await asked(app, scope_of("/spalloc/srv")))[0] == 200
    for path in ("/", "/spalloc/srvx", "/spalloc"):
        assert (await asked(app, scope_of(path)))[0] == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError("bad-request", "x"), 400),
        (RefusedError("bad-credentials", "x"), 401),
        (RefusedError("forbidden", "x"), 403),
        (RefusedError("no-such", "x"), 404),
        (RefusedError("busy", "x"), 429),
        (RefusedError("read-only", "x"), 503),
        (RefusedError("not-stored", "x"), 503),
        (RefusedError("hardware", "x"), 500),
        (RefusedError("of tomorrow", "x"), 500),
        (ServerAwayError("x"), 503),
        (ValueError("secret"), 500),
    ],
)
async def test_errors_become_answers(monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    async def fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    got, text = await asked(an_app(monkeypatch, fails), scope_of())
    assert got == status
    assert "secret" not in text


async def test_a_compressed_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell)
    assert (await asked(app, scope_of(method="POST", content_encoding="gzip")))[0] == 415
    assert (await asked(app, scope_of(method="POST", content_encoding="identity")))[0] == 200


async def test_bodies_of_json_are_shorter_than_those_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell, json_bytes=5)
    for headers in ({"content_length": "6"}, {}):
        scope = scope_of(method="POST", **headers)
        assert (await asked(app, scope, b"abc", b"def"))[0] == 413
        scope = scope_of("/spalloc/srv/spalloc/jobs/1/memory/", method="POST", **headers)
        assert await asked(app, scope, b"abc", b"def") == (200, "6")


async def test_an_account_may_not_ask_faster_than_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell, caller="anna", requests_per_second=3)
    statuses = [(await asked(app, scope_of(client=f"192.0.2.{number}")))[0] for number in range(10)]
    assert statuses[:3] == [200] * 3
    assert statuses[-1] == 429


async def test_requests_without_an_account_count_for_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell, requests_per_second=3)
    statuses = [(await asked(app, scope_of()))[0] for _ in range(10)]
    assert statuses[-1] == 429
    assert (await asked(app, scope_of(client="192.0.2.2")))[0] == 200


async def test_another_address_of_the_same_home_is_no_way_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell, requests_per_second=3)
    statuses = [(await asked(app, scope_of(client=f"2001:db8:1:2::{number}")))[0] for number in range(1, 11)]
    assert statuses[-1] == 429
    assert (await asked(app, scope_of(client="2001:db8:1:3::1")))[0] == 200


async def test_what_others_ask_from_an_address_keeps_no_account_out(monkeypatch: pytest.MonkeyPatch) -> None:
    app = an_app(monkeypatch, tell, requests_per_second=3)
    statuses = [(await asked(app, scope_of()))[0] for _ in range(20)]
    assert statuses[-1] == 429
    assert (await asked(app, scope_of(account="anna")))[0] == 200
    assert (await asked(app, scope_of("/spalloc/system/login.html")))[0] != 429
    assert (await asked(app, scope_of()))[0] == 429
    assert (await asked(app, scope_of(account="@192.0.2.1")))[0] == 200, "it is only called so"


async def test_who_shows_what_is_right_gets_in_where_others_show_what_is_wrong() -> None:
    server = FakeServer(requests_per_second=3)
    app = module.make_app(server, defects=DefectLog())
    for header in [basic_of("alice", "guess"), ("authorization", "Bearer guess")] * 10:
        assert (await call(app, "GET", ROOT, [header])).status == 401
    assert (await call(app, "GET", ROOT)).status == 429
    for header in (basic_of("alice", "wonder land"), ("authorization", "Bearer sesame-token")):
        assert (await call(app, "GET", ROOT, [header])).status == 200
    page = await call(app, "GET", LOGIN)
    fields = {"_csrf": csrf_in(page), "username": "bob", "password": "b", "submit": "submit"}
    reply = await send_form(app, PERFORM, fields, [cookie_of(page.session)])
    assert reply.session is not None
    assert (await call(app, "GET", ROOT, [cookie_of(reply.session)])).status == 200


def test_a_budget_is_paid_off_as_time_passes() -> None:
    now = 0.0
    budgets = Budgets(lambda: now)
    for _ in range(5):
        budgets.charge("x", 2.0)
    assert budgets.wait("x", 2.0) == 1.5
    now = 1.5
    assert budgets.wait("x", 2.0) == 0.0
    assert budgets.wait("x", 0.0) == 0.0


# -------------------------------------------------------------------- links


def settings(**web: Any) -> WebSettings:
    return WebSettings(web=Web(**web), version="1", state="/s")


def test_links_begin_as_the_settings_say() -> None:
    with_base = settings(base_url="https://spin.example.org/spalloc/", proxies=["192.0.2.0/24"])
    assert base_url(scope_of(host="evil", x_forwarded_host="evil"), with_base) == "https://spin.example.org/spalloc"


def test_links_have_the_path_of_the_service_where_the_settings_give_none() -> None:
    for given in ("https://spin.example.org:8443", "https://spin.example.org:8443/"):
        assert base_url(scope_of(), settings(base_url=given)) == "https://spin.example.org:8443/spalloc"


def test_links_name_a_host_only_if_it_is_this_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "own_names", lambda: {"here", "127.0.0.1", "::1"})
    monkeypatch.setattr(links, "full_name", lambda: "here.example.org")
    for host in ("here", "HERE:80", "127.0.0.1:8080", "[::1]:8080"):
        assert base_url(scope_of(host=host), settings()) == f"https://{host}/spalloc"
    for host in ("evil", "evil@here", "here:80:90", "here/x", "", "here\r\nx"):
        assert base_url(scope_of(host=host), settings()) == "https://here.example.org:8080/spalloc"
    assert base_url(scope_of(), settings()) == "https://here.example.org:8080/spalloc"


def test_a_reverse_proxy_says_how_links_begin_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "own_names", lambda: {"here"})
    monkeypatch.setattr(links, "full_name", lambda: "here")
    said = {"x_forwarded_host": "spin.example.org", "x_forwarded_proto": "http", "host": "here"}
    behind = settings(proxies=["192.0.2.1/32"])
    assert base_url(scope_of(**said), behind) == "http://spin.example.org/spalloc"
    by_tls = {**scope_of(**{**said, "x_forwarded_proto": " HTTPS"}), "scheme": "http"}
    assert base_url(by_tls, behind) == "https://spin.example.org/spalloc"
    assert base_url(scope_of(client="192.0.2.7", **said), behind) == "https://here/spalloc"
    assert base_url(scope_of(**{**said, "x_forwarded_host": "a b"}), behind) == "http://here/spalloc"


def test_links_of_websockets() -> None:
    assert websocket_url("https://h/spalloc") == "wss://h/spalloc"
    assert websocket_url("http://h/spalloc") == "ws://h/spalloc"


def test_this_computer_knows_its_names() -> None:
    assert {"localhost", "127.0.0.1", "::1"} <= own_names()
    assert {"127.0.0.1", "::1"} <= addresses()
