from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from http.cookies import SimpleCookie

import pytest

from spalloc_server.application.account_commands import LogIn, SigningKey
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.sessions import Signer, anonymous_session
from tests.frontends.http.asgi import Headers, Reply, call, send_form
from tests.frontends.http.fake_accounts import KEYS, FakeServer
from tests.frontends.http.signing_in import (
    LOGIN,
    LOGOUT,
    PERFORM,
    ROOT,
    basic_of,
    cookie_of,
    csrf_in,
    front,
    log_in,
)

HOME = "/spalloc/system/"
SIGNER = Signer(KEYS)
SESAME = ("authorization", "Bearer sesame-token")
BROWSER = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8")


@pytest.fixture
async def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def app(server: FakeServer) -> ASGIApp:
    return front(server)


async def try_to_log_in(app: ASGIApp, name: str, password: str, headers: Headers = ()) -> Reply:
    page = await call(app, "GET", LOGIN)
    fields = {"_csrf": csrf_in(page), "username": name, "password": password}
    return await send_form(app, PERFORM, fields, [cookie_of(page.session), *headers])


# -------------------------------------------------------------------- the page


async def test_each_look_at_the_page_brings_another_anonymous_session_of_which_nothing_is_stored(
    app: ASGIApp, server: FakeServer
) -> None:
    first = await call(app, "GET", LOGIN)
    second = await call(app, "GET", LOGIN, [cookie_of(first.session)])
    assert first.session is not None
    assert second.session is not None
    assert first.session[0] == second.session[0] == "a"
    assert first.session != second.session
    assert csrf_in(first) != csrf_in(second)
    assert re.fullmatch("[-a-z0-9]+", csrf_in(first))  # the Java client takes no other
    assert server.asked == {"SigningKeys": 1}


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False)])
async def test_the_cookie_is_only_sent_by_tls_where_it_came_by_tls(app: ASGIApp, scheme: str, secure: bool) -> None:
    page = await call(app, "GET", LOGIN, scheme=scheme)
    morsel = SimpleCookie(page.one("set-cookie"))["JSESSIONID"]
    assert (morsel["path"], morsel["httponly"], morsel["samesite"]) == ("/spalloc", True, "Lax")
    assert bool(morsel["secure"]) is secure


async def test_behind_a_proxy_paths_and_security_are_as_the_client_sees_them() -> None:
    app = front(FakeServer(base_url="https://example.org/sites/hall/spalloc/", proxies=("192.0.2.1/32",)))
    page = await call(app, "GET", LOGIN, [("x-forwarded-proto", "https")], scheme="http")
    morsel = SimpleCookie(page.one("set-cookie"))["JSESSIONID"]
    assert (morsel["path"], morsel["secure"]) == ("/sites/hall/spalloc", True)
    assert 'action="/sites/hall/spalloc/system/perform_login"' in page.text
    fields = {"_csrf": csrf_in(page), "username": "alice", "password": "wonder land"}
    reply = await send_form(app, PERFORM, fields, [cookie_of(page.session)])
    assert reply.one("location") == "/sites/hall/spalloc/system/"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


async def test_pages_run_no_scripts_and_are_in_no_frame_and_no_cache(app: ASGIApp) -> None:
    value, _ = await log_in(app)
    elsewhere = ("sec-fetch-site", "cross-site")
    for path, headers in [
        (LOGIN, []),
        (HOME, [cookie_of(value)]),
        (f"{HOME}error", []),
        (LOGOUT, [cookie_of(value), elsewhere]),
    ]:
        page = await call(app, "GET", path, headers)
        assert (page.status, page.one("content-type")) == (200, "text/html;charset=UTF-8")
        policy = dict(part.strip().split(" ", 1) for part in page.one("content-security-policy").split(";"))
        assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'",) * 3
        assert policy["form-action"] == "'self'"
        assert "unsafe" not in page.one("content-security-policy")
        assert page.one("x-content-type-options") == "nosniff"
        assert page.one("cache-control") == "no-store"
        parsed = Page(page.text)
        assert "script" not in parsed.tags
        assert not [name for name, _ in parsed.attributes if name.startswith("on") or name == "style"]


async def test_the_style_of_a_page_is_the_one_that_its_policy_permits(app: ASGIApp) -> None:
    page = await call(app, "GET", LOGIN)
    style = re.search(r"<style>(.*)</style>", page.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.one("content-security-policy")


async def test_names_come_out_as_text(app: ASGIApp, server: FakeServer) -> None:
    name = "<script>alert('1')</script>&\""
    server.passwords[name], server.roles[name] = "x", "<b>user</b>"
    value, _ = await log_in(app, name, "x")
    for path in (HOME, LOGIN):
        page = await call(app, "GET", path, [cookie_of(value)])
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text
        assert "<b>" not in page.text


async def test_who_is_logged_in_stays_so_at_a_look_at_the_page_and_may_log_in_as_somebody_else(
    app: ASGIApp, server: FakeServer
) -> None:
    value, _ = await log_in(app)
    page = await call(app, "GET", LOGIN, [cookie_of(value)])
    assert page.session == value
    fields = {"_csrf": csrf_in(page), "username": "bob", "password": "b"}
    reply = await send_form(app, PERFORM, fields, [cookie_of(value)])
    assert reply.session not in {None, value}
    assert (await call(app, "GET", ROOT, [cookie_of(reply.session)])).json["name"] == "bob"
    assert (await call(app, "GET", ROOT, [cookie_of(value)])).status == 401  # the session before is over
    assert list(server.sessions.values()) == ["bob"]


async def test_who_sends_a_token_is_in_a_session_of_it(app: ASGIApp, server: FakeServer) -> None:
    page = await call(app, "GET", LOGIN, [SESAME])
    assert page.status == 200
    assert page.session is not None
    root = await call(app, "GET", ROOT, [cookie_of(page.session)])
    assert (root.json["name"], root.json["behalf"]["session"]) == ("alice", page.session.partition(".")[0])
    change = [cookie_of(page.session), ("x-csrf-token", root.json["csrf"])]
    assert (await call(app, "POST", ROOT, change)).status == 200
    # published clients send both, and what they create is the session's, whose life it lengthens
    both = [cookie_of(page.session), SESAME]
    assert (await call(app, "POST", ROOT, both)).json["behalf"] == root.json["behalf"]
    server.tokens["another"] = "alice"
    other = [cookie_of(page.session), ("authorization", "Bearer another")]
    assert (await call(app, "POST", ROOT, other)).json["behalf"]["token"] == "t7"
    assert (await call(app, "GET", LOGIN, [("authorization", "Bearer wrong")])).status == 401


async def test_a_password_does_not_log_in_at_the_page(app: ASGIApp) -> None:
    page = await call(app, "GET", LOGIN, [basic_of("alice", "wonder land")])
    assert page.session is not None
    assert page.session.startswith("a")
    assert len(page.all("set-cookie")) == 1


async def test_a_browser_that_remembers_a_password_can_log_in_by_the_form(app: ASGIApp) -> None:
    remembered = basic_of("alice", "wonder land")
    page = await call(app, "GET", LOGIN, [remembered])
    fields = {"_csrf": csrf_in(page), "username": "bob", "password": "b"}
    reply = await send_form(app, PERFORM, fields, [remembered, cookie_of(page.session)])
    assert reply.status == 302
    assert (await call(app, "GET", ROOT, [cookie_of(reply.session)])).json["name"] == "bob"


# -------------------------------------------------------------------- logging in


async def test_a_log_in_brings_a_new_session_whatever_was_planted_before(app: ASGIApp, server: FakeServer) -> None:
    first, _ = await log_in(app)
    second, _ = await log_in(app)
    assert first != second
    anonymous = anonymous_session()
    fields = {"_csrf": SIGNER.csrf(anonymous), "username": "alice", "password": "wonder land"}
    third = await send_form(app, PERFORM, fields, [cookie_of(SIGNER.value(anonymous))])
    assert third.session is not None
    assert third.session.partition(".")[0] in server.sessions
    assert (await call(app, "GET", ROOT, [cookie_of(SIGNER.value(anonymous))])).status == 401
    assert "no-store" in third.one("cache-control")


@pytest.mark.parametrize(
    ("name", "password", "asked"),
    [
        ("alice", "wrong", True),
        ("nobody", "wonder land", True),
        ("alice", "wonder land ", True),
        ("alice\r\nSet-Cookie: JSESSIONID=1", "x", True),
        ("alice\0", "wonder land", True),
        ("", "x", False),
        ("alice", "", False),
        ("a" * 257, "x", False),
        ("alice", "x" * 1025, False),
    ],
)
async def test_a_log_in_that_fails_sets_no_cookie_and_does_not_tell_what_was_wrong(
    app: ASGIApp, server: FakeServer, name: str, password: str, asked: bool
) -> None:
    reply = await try_to_log_in(app, name, password)
    assert (reply.status, reply.one("content-type")) == (401, "application/json")
    assert (list(reply.json), reply.json["message"]) == (["message", "timestamp"], "computer says no")
    assert not reply.all("set-cookie")
    assert not reply.all("www-authenticate")  # else a browser would ask by itself
    assert server.asked["LogIn"] == asked
    assert not server.sessions


async def test_somebody_at_a_browser_is_told_on_a_page_that_a_log_in_has_failed(app: ASGIApp) -> None:
    reply = await try_to_log_in(app, "alice", "wrong", [BROWSER])
    assert (reply.status, reply.one("content-type")) == (401, "text/html;charset=UTF-8")
    assert "computer says no" in reply.text
    assert not reply.all("set-cookie")


@pytest.mark.parametrize(
    ("kind", "status", "message", "again"),
    [
        ("bad-credentials", 401, "computer says no", []),
        ("forbidden", 403, "computer says no", []),
        ("busy", 429, "try again <later>", ["5"]),
        ("read-only", 503, "try again <later>", ["5"]),
        ("not-stored", 503, "try again <later>", ["5"]),
        ("internal", 500, "try again <later>", []),
    ],
)
async def test_why_a_log_in_is_not_possible_is_told_where_clients_look_for_it(
    app: ASGIApp, server: FakeServer, kind: str, status: int, message: str, again: list[str]
) -> None:
    server.failing = RefusedError(kind, "try again <later>")
    reply = await try_to_log_in(app, "alice", "wonder land")
    assert (reply.status, reply.json["message"], reply.all("retry-after")) == (status, message, again)
    assert not reply.all("set-cookie")
    page = await try_to_log_in(app, "alice", "wonder land", [BROWSER])
    assert (page.status, page.all("retry-after"), "<later>" in page.text) == (status, again, False)


async def test_while_the_server_is_away_nobody_is_logged_in_or_out(app: ASGIApp, server: FakeServer) -> None:
    value, csrf = await log_in(app)
    server.is_away()
    reply = await try_to_log_in(app, "alice", "wonder land")
    assert (reply.status, reply.json["message"], reply.session) == (503, "the server is away", None)
    out = await send_form(app, LOGOUT, {"_csrf": csrf}, [cookie_of(value)])
    assert (out.status, out.all("set-cookie")) == (503, [])


@pytest.mark.parametrize(
    ("cookie", "token", "status"),
    [
        (None, SIGNER.csrf("a" * 33), 401),
        (SIGNER.value("a" * 33), "", 403),
        (SIGNER.value("a" * 33), "wrong", 403),
        (SIGNER.value("a" * 33), SIGNER.csrf("b" * 33), 403),
        (SIGNER.value("a" * 33), SIGNER.csrf("a" * 33, "alice"), 403),
        (Signer([SigningKey(id="x", secret="22" * 32)]).value("a" * 33), SIGNER.csrf("a" * 33), 401),
        ("planted", SIGNER.csrf("a" * 33), 401),
    ],
)
async def test_nobody_is_logged_in_by_a_page_of_another_site(
    app: ASGIApp, server: FakeServer, cookie: str | None, token: str, status: int
) -> None:
    fields = {"_csrf": token, "username": "alice", "password": "wonder land"}
    reply = await send_form(app, PERFORM, fields, [] if cookie is None else [cookie_of(cookie)])
    assert (reply.status, reply.session) == (status, None)
    assert server.asked["LogIn"] == 0


async def test_only_a_form_logs_in(app: ASGIApp, server: FakeServer) -> None:
    session = anonymous_session()
    headers = [cookie_of(SIGNER.value(session)), ("x-csrf-token", SIGNER.csrf(session))]
    body = b"username=alice&password=wonder+land"
    for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
        assert (await call(app, "POST", PERFORM, [*headers, ("content-type", kind)], body=body)).session is None
    assert (await call(app, "POST", f"{PERFORM}?{body.decode()}", headers)).session is None
    assert server.asked["LogIn"] == 0
    form = ("content-type", "application/x-www-form-urlencoded")
    assert (await call(app, "POST", PERFORM, [*headers, form], body=body)).session is not None


async def test_the_server_hears_who_tries_from_where(app: ASGIApp, server: FakeServer) -> None:
    await log_in(app)
    assert server.commands[-1] == LogIn(name="alice", password="wonder land", address="192.0.2.1")


async def test_a_session_that_cannot_be_ended_does_not_keep_anybody_from_the_next(
    app: ASGIApp, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, csrf = await log_in(app)
    answer = server._answer

    def without_log_out(command: object) -> object:
        no = RefusedError("read-only", "nothing can be stored")
        return no if type(command).__name__ == "LogOut" else answer(command)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "_answer", without_log_out)
    fields = {"_csrf": csrf, "username": "bob", "password": "b"}
    assert (await send_form(app, PERFORM, fields, [cookie_of(value)])).status == 302


async def test_a_server_that_begins_a_session_without_an_id_logs_nobody_in(
    app: ASGIApp, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_begin", server._grant)
    reply = await try_to_log_in(app, "alice", "wonder land")
    assert (reply.status, reply.session) == (500, None)


# -------------------------------------------------------------------- logging out


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_to_log_out_ends_the_session_and_removes_the_cookie(
    app: ASGIApp, server: FakeServer, method: str
) -> None:
    value, csrf = await log_in(app)
    token = [("x-csrf-token", csrf)] if method == "POST" else []
    reply = await call(app, method, LOGOUT, [cookie_of(value), *token])
    assert (reply.status, reply.one("location")) == (302, LOGIN)
    assert (reply.session, "Max-Age=0" in reply.one("set-cookie")) == ("", True)
    assert not server.sessions
    assert (await call(app, "GET", ROOT, [cookie_of(value)])).status == 401  # however well it is signed


@pytest.mark.parametrize(
    ("site", "ends"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False), ("whatever", False)],
)
async def test_a_link_on_another_site_logs_nobody_out_but_shows_a_button(
    app: ASGIApp, server: FakeServer, site: str, ends: bool
) -> None:
    value, _ = await log_in(app)
    reply = await call(app, "GET", LOGOUT, [cookie_of(value), ("sec-fetch-site", site)])
    assert (reply.status, bool(server.sessions)) == ((302, False) if ends else (200, True))
    if not ends:
        assert (await send_form(app, LOGOUT, {"_csrf": csrf_in(reply)}, [cookie_of(value)])).status == 302
        assert not server.sessions


async def test_to_log_out_without_a_session_is_harmless(app: ASGIApp, server: FakeServer) -> None:
    for headers in ([], [cookie_of("x")], [cookie_of(SIGNER.value("s" + "1f" * 16))], [SESAME]):
        reply = await call(app, "GET", LOGOUT, headers)
        assert (reply.status, reply.one("location"), reply.session) == (302, LOGIN, "")
    assert server.asked["LogOut"] == 0


# -------------------------------------------------------------------- other pages


@pytest.mark.parametrize("path", ["/spalloc", "/spalloc/", "/spalloc/system", HOME])
async def test_nobody_is_sent_to_the_form_at_a_browser_and_else_told_to_log_in(app: ASGIApp, path: str) -> None:
    reply = await call(app, "GET", path)
    assert (reply.status, reply.text[:15]) == (401, "log in required")
    assert reply.session is None
    at_browser = await call(app, "GET", path, [BROWSER])
    assert (at_browser.status, at_browser.one("location")) == (302, LOGIN)


@pytest.mark.parametrize("path", ["/spalloc", "/spalloc/", "/spalloc/system"])
async def test_the_top_leads_to_the_first_page(app: ASGIApp, path: str) -> None:
    value, _ = await log_in(app)
    reply = await call(app, "GET", path, [cookie_of(value), ("host", "evil.example.org")])
    assert (reply.status, reply.one("location")) == (302, HOME)  # a path only, so no other site's


async def test_no_redirection_leads_where_a_client_says(app: ASGIApp) -> None:
    value, csrf = await log_in(app)
    evil = "https://evil.example.org/"
    headers = [
        cookie_of(value), ("host", "evil.example.org"), ("x-forwarded-host", "evil.example.org"),
        ("referer", evil), ("x-csrf-token", csrf),
    ]  # fmt: skip
    query = f"?next={evil}&continue={evil}&redirect={evil}&url={evil}"
    for method, path in [("GET", "/spalloc/"), ("POST", PERFORM), ("POST", LOGOUT)]:
        fields = {"username": "bob", "password": "b", "next": evil, "_csrf": csrf}
        send = call(app, method, path + query, headers) if method == "GET" else send_form(app, path, fields, headers)
        reply = await send
        assert reply.status == 302
        assert reply.one("location").startswith("/spalloc/system/")
        value, csrf = await log_in(app)
        headers[0], headers[-1] = cookie_of(value), ("x-csrf-token", csrf)


async def test_the_first_page_tells_what_this_is_and_who_one_is(app: ASGIApp) -> None:
    value, csrf = await log_in(app)
    page = await call(app, "GET", HOME, [cookie_of(value)])
    assert "<strong>alice</strong>" in page.text
    assert "spalloc_server 1.2.3" in page.text
    assert csrf_in(page) == csrf  # of the button to log out
    assert 'href="/spalloc/srv/openapi.json"' in page.text
    by_token = await call(app, "GET", HOME, [SESAME])
    assert "_csrf" not in by_token.text  # there is no session to end


@pytest.mark.parametrize(("certificate", "own"), [("", True), ("/etc/ssl/hall.pem", False)])
async def test_the_first_page_tells_which_certificate_authority_to_trust(certificate: str, own: bool) -> None:
    app = front(FakeServer(tls_certificate=certificate))
    page = await call(app, "GET", HOME, [SESAME])
    assert ('href="/spalloc/ca.pem"' in page.text) is own


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (LOGIN, "GET, HEAD, OPTIONS"),
        (HOME, "GET, HEAD, OPTIONS"),
        (PERFORM, "POST, OPTIONS"),
        (LOGOUT, "GET, POST, HEAD, OPTIONS"),
    ],
)
async def test_each_page_says_which_methods_it_takes(app: ASGIApp, path: str, allowed: str) -> None:
    value, csrf = await log_in(app)
    headers = [cookie_of(value), ("x-csrf-token", csrf)]
    options = await call(app, "OPTIONS", path, headers)
    assert (options.status, options.one("allow"), options.body) == (204, allowed, b"")
    for method in {"GET", "POST", "PUT", "DELETE", "<b>"} - set(allowed.split(", ")):
        reply = await call(app, method, path, headers)
        assert (reply.status, reply.one("allow")) == (405, allowed)
        assert reply.one("content-type") == "text/plain;charset=UTF-8"


async def test_head_has_the_headers_of_get_and_no_body(app: ASGIApp) -> None:
    get, head = await call(app, "GET", LOGIN), await call(app, "HEAD", LOGIN)
    assert (head.status, head.body) == (200, b"")
    assert head.one("content-length") == get.one("content-length") == str(len(get.body))
    assert head.session is not None


async def test_a_page_that_is_not_there_is_not_found(app: ASGIApp) -> None:
    for path in ("/spalloc/system/x", "/spalloc/system/login.html/", "/spalloc/system//", "/spalloc/system/../x"):
        assert (await call(app, "GET", path)).status == 404
