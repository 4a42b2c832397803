from __future__ import annotations

import base64
from urllib.parse import urlencode

import pytest
from hypothesis import given, strategies as st

from spalloc_server.application.account_commands import CheckPassword, SigningKey
from spalloc_server.frontends.http.answers import ASGIApp
from spalloc_server.frontends.http.asking import RefusedError
from spalloc_server.frontends.http.authentication import MAX_FIELDS, basic, bearer, form_in
from spalloc_server.frontends.http.sessions import Signer, anonymous_session
from tests.frontends.http.asgi import Reply, call, exchange, open_websocket, scope_of, send_form
from tests.frontends.http.fake_accounts import KEYS, FakeServer
from tests.frontends.http.signing_in import LOGOUT, ROOT, basic_of, cookie_of, csrf_in, front, log_in

JOBS = "/spalloc/srv/spalloc/jobs"
PROXY = "/spalloc/proxy/7"
ALICE = basic_of("alice", "wonder land")
SESAME = ("authorization", "Bearer sesame-token")
LOG_IN_REQUIRED = "log in required, either with BASIC auth or HBP/EBRAINS bearer token (if they are enabled)\n"
SIGNER = Signer(KEYS)


@pytest.fixture
async def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def app(server: FakeServer) -> ASGIApp:
    return front(server)


def is_unauthorized(reply: Reply) -> bool:
    return (reply.status, reply.text) == (401, LOG_IN_REQUIRED)


# -------------------------------------------------------------------- who that is


async def test_nobody_is_told_to_log_in_as_the_java_server_tells_it(app: ASGIApp) -> None:
    reply = await call(app, "GET", ROOT)
    assert is_unauthorized(reply)
    assert reply.all("www-authenticate") == ['Bearer realm="SpallocService"', 'Basic realm="SpallocService"']
    assert reply.one("content-type") == "text/plain;charset=UTF-8"
    assert reply.session is None


async def test_each_way_to_say_who_one_is_leads_to_the_account(app: ASGIApp, server: FakeServer) -> None:
    value, csrf = await log_in(app)
    session = value.partition(".")[0]
    by_session = await call(app, "GET", ROOT, [cookie_of(value)])
    by_password = await call(app, "GET", ROOT, [ALICE])
    by_token = await call(app, "GET", ROOT, [SESAME])
    here = {"address": "192.0.2.1"}
    alice = {"name": "alice", "role": "user"}
    assert by_session.json == {**alice, "behalf": {"session": session, **here}, "csrf": csrf}
    assert by_token.json == {**alice, "behalf": {"token": "t12", **here}, "csrf": None}
    assert {**by_password.json, "csrf": ""} == {**alice, "behalf": {"account": "alice", **here}, "csrf": ""}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([cookie_of("3F2504E04F8911D39A0C0305E82C3301")], id="a planted id"),
        pytest.param([cookie_of("s" + "1f" * 16 + "." + "0" * 64)], id="a forged signature"),
        pytest.param(
            [cookie_of(Signer([SigningKey(id="x", secret="22" * 32)]).value("s" + "1f" * 16))], id="another key"
        ),
        pytest.param([cookie_of(SIGNER.value("s" + "1f" * 16))], id="a session that is over"),
        pytest.param([cookie_of(SIGNER.value(anonymous_session()))], id="an anonymous session"),
        pytest.param([cookie_of("x" * 15000)], id="a huge cookie"),
        pytest.param([("cookie", b"\xff\x00;=;;;JSESSIONID=\xfe")], id="a cookie of bytes"),
        pytest.param([basic_of("alice", "wonder")], id="a wrong password"),
        pytest.param([basic_of("nobody", "wonder land")], id="an unknown name"),
        pytest.param([("authorization", "Basic")], id="no credentials"),
        pytest.param([("authorization", "Basic !!!!")], id="no base64"),
        pytest.param([("authorization", ALICE[1][:-1])], id="base64 without its end"),
        pytest.param([("authorization", "Basic " + base64.b64encode(b"alice").decode())], id="no colon"),
        pytest.param([("authorization", "Basic " + base64.b64encode(b"al\xffce:x").decode())], id="no UTF-8"),
        pytest.param([("authorization", b"Basic \xff\xfe")], id="bytes for base64"),
        pytest.param([basic_of("", "wonder land")], id="no name"),
        pytest.param([basic_of("alice", "")], id="no password"),
        pytest.param([basic_of("a" * 257, "x")], id="too long a name"),
        pytest.param([basic_of("alice", "x" * 1025)], id="too long a password"),
        pytest.param([ALICE, ALICE], id="two passwords"),
        pytest.param([SESAME, ALICE], id="a token and a password"),
        pytest.param([("authorization", "Digest x"), ALICE], id="something and a password"),
        pytest.param([("authorization", "Bearer")], id="no token"),
        pytest.param([("authorization", "Bearer wrong")], id="a wrong token"),
        pytest.param([("authorization", "Bearer sesame token")], id="a token with a space"),
        pytest.param([("authorization", "Bearer sesame-token, x")], id="two tokens"),
        pytest.param([("authorization", "Bearer " + "x" * 2000)], id="a token of somebody else"),
        pytest.param([("authorization", "Digest username=alice")], id="another scheme"),
        pytest.param([("authorization", "")], id="an empty header"),
    ],
)
async def test_what_is_not_right_is_nobody(app: ASGIApp, headers: list[tuple[str, str | bytes]]) -> None:
    reply = await call(app, "GET", ROOT, headers)
    assert is_unauthorized(reply)
    assert reply.session is None


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (("authorization", "basic " + ALICE[1][6:]), "alice"),
        (("authorization", "BASIC   " + ALICE[1][6:] + " "), "alice"),
        (basic_of("zoë", "pä:ß"), "zoë"),
        (("authorization", "bearer sesame-token"), "alice"),
    ],
)
async def test_schemes_are_heeded_in_any_spelling_and_colons_may_be_in_passwords(
    app: ASGIApp, header: tuple[str, str], name: str
) -> None:
    assert (await call(app, "GET", ROOT, [header])).json["name"] == name


async def test_a_header_goes_before_a_cookie_and_is_not_saved_by_it(app: ASGIApp) -> None:
    value, _ = await log_in(app, "bob", "b")
    assert (await call(app, "GET", ROOT, [cookie_of(value), ALICE])).json["name"] == "alice"
    assert is_unauthorized(await call(app, "GET", ROOT, [cookie_of(value), basic_of("alice", "wrong")]))
    assert is_unauthorized(await call(app, "GET", ROOT, [cookie_of(value), ("authorization", "Bearer wrong")]))


async def test_of_two_sessions_in_one_request_none_counts(app: ASGIApp) -> None:
    mine, _ = await log_in(app)
    planted, _ = await log_in(app, "bob", "b")
    assert is_unauthorized(await call(app, "GET", ROOT, [("cookie", f"JSESSIONID={planted}; JSESSIONID={mine}")]))
    assert is_unauthorized(await call(app, "GET", ROOT, [cookie_of(mine), cookie_of(planted)]))


async def test_what_is_no_ones_business_asks_nobody(app: ASGIApp, server: FakeServer) -> None:
    server.is_away()
    for path in ("/healthz", "/metrics", "/spallocx"):
        assert (await call(app, "POST", path, [ALICE])).status == 200
    assert not server.asked


async def test_a_session_costs_the_server_one_question_a_minute(server: FakeServer) -> None:
    now = [0.0]
    app = front(server, lambda: now[0])
    value, csrf = await log_in(app)
    server.asked.clear()
    for _ in range(3):
        await call(app, "GET", ROOT, [cookie_of(value)])
        await call(app, "POST", JOBS, [cookie_of(value), ("x-csrf-token", csrf)])
    assert not server.asked  # it was told with the log-in
    now[0] = 59.9
    await call(app, "GET", ROOT, [cookie_of(value)])
    assert not server.asked
    now[0] = 60.1
    await call(app, "GET", ROOT, [cookie_of(value)])
    await call(app, "GET", ROOT, [cookie_of(value)])
    assert server.asked == {"CheckSession": 1, "SigningKeys": 1}


async def test_a_session_that_the_server_has_ended_is_over_within_a_minute(server: FakeServer) -> None:
    now = [0.0]
    app = front(server, lambda: now[0])
    value, _ = await log_in(app)
    server.sessions.clear()
    now[0] = 61.0
    assert is_unauthorized(await call(app, "GET", ROOT, [cookie_of(value)]))


async def test_a_cookie_that_another_front_process_has_signed_with_a_newer_key_is_believed(server: FakeServer) -> None:
    now = [0.0]
    app = front(server, lambda: now[0])
    value, _ = await log_in(app)
    server.keys.insert(0, SigningKey(id="k2", secret="33" * 32))
    newer = Signer(server.keys).value(value.partition(".")[0])
    now[0] = 6.0
    assert (await call(app, "GET", ROOT, [cookie_of(newer)])).status == 200
    assert (await call(app, "GET", ROOT, [cookie_of(value)])).status == 200


async def test_forged_cookies_have_the_server_asked_for_keys_only_now_and_then(server: FakeServer) -> None:
    now = [0.0]
    app = front(server, lambda: now[0])
    for second in range(60):
        now[0] = second
        assert is_unauthorized(await call(app, "GET", ROOT, [cookie_of("s" + "1f" * 16 + "." + "0" * 64)]))
    assert server.asked["SigningKeys"] <= 13


async def test_the_address_is_the_clients_also_behind_a_proxy() -> None:
    server = FakeServer(proxies=("192.0.2.0/24",))
    reply = await call(front(server), "GET", ROOT, [ALICE, ("x-forwarded-for", "10.9.9.9, 203.0.113.5")])
    assert reply.json["behalf"]["address"] == "203.0.113.5"
    (check,) = [command for command in server.commands if isinstance(command, CheckPassword)]
    assert check.address == "203.0.113.5"


@pytest.mark.parametrize(
    ("kind", "status", "text", "again"),
    [
        ("bad-credentials", 401, LOG_IN_REQUIRED, []),
        ("busy", 429, "too many wrong passwords", ["5"]),
        ("forbidden", 403, "too many wrong passwords", []),
        ("read-only", 503, "too many wrong passwords", ["5"]),
        ("internal", 500, "too many wrong passwords", []),
        ("something-new", 500, "too many wrong passwords", []),
    ],
)
@pytest.mark.parametrize("header", [ALICE, SESAME])
async def test_what_the_server_says_of_a_password_or_token_is_told_on(
    app: ASGIApp, server: FakeServer, header: tuple[str, str], kind: str, status: int, text: str, again: list[str]
) -> None:
    server.failing = RefusedError(kind, "too many wrong passwords")
    reply = await call(app, "GET", ROOT, [header])
    assert (reply.status, reply.text, reply.all("retry-after")) == (status, text, again)
    assert reply.session is None


@pytest.mark.parametrize("header", [ALICE, SESAME, cookie_of(SIGNER.value("s" + "1f" * 16))])
async def test_where_the_server_is_away_clients_are_told_to_come_again(
    app: ASGIApp, server: FakeServer, header: tuple[str, str]
) -> None:
    server.is_away()
    reply = await call(app, "GET", ROOT, [header])
    assert (reply.status, reply.one("retry-after")) == (503, "5")


async def test_without_keys_that_are_good_for_something_nobody_is_in_a_session(
    app: ASGIApp, server: FakeServer
) -> None:
    server.keys = [SigningKey(id="k", secret="secret")]
    reply = await call(app, "GET", ROOT, [ALICE])
    assert (reply.status, reply.session) == (500, None)


# -------------------------------------------------------------------- who may change something


METHODS = ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"]


def is_csrf_refusal(reply: Reply, path: str = JOBS) -> bool:
    body = reply.json
    return (
        reply.status == 403
        and reply.one("content-type") == "application/json"
        and list(body) == ["timestamp", "status", "error", "path"]
        and body["timestamp"].endswith("Z")
        and body | {"timestamp": ""} == {"timestamp": "", "status": 403, "error": "Forbidden", "path": path}
    )


@pytest.mark.parametrize("method", METHODS)
async def test_in_a_session_a_change_needs_its_csrf_token(app: ASGIApp, method: str) -> None:
    value, csrf = await log_in(app)
    _, others = await log_in(app, "bob", "b")
    session = cookie_of(value)
    good = await call(app, method, JOBS, [session, ("X-CSRF-TOKEN", csrf)])
    assert (good.status, good.json["name"]) == (200, "alice")
    signature = value.partition(".")[2]
    for token in ["", "wrong", csrf[:-1], csrf.upper(), f" {csrf}", others, signature, "\xff"]:
        assert is_csrf_refusal(await call(app, method, JOBS, [session, ("x-csrf-token", token)])), token
    assert is_csrf_refusal(await call(app, method, JOBS, [session]))
    assert is_csrf_refusal(await call(app, method, JOBS, [session, ("x-csrf-token", csrf), ("x-csrf-token", csrf)]))
    assert is_csrf_refusal(await call(app, method, f"{JOBS}?_csrf={csrf}", [session]))
    assert is_csrf_refusal(await send_form(app, JOBS, {"_csrf": csrf}, [session]))  # no form is sent to REST


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_look_needs_no_csrf_token(app: ASGIApp, method: str) -> None:
    value, _ = await log_in(app)
    reply = await call(app, method, JOBS, [cookie_of(value)])
    assert reply.status == 200
    assert reply.one("content-length") != "0"
    assert bool(reply.body) is (method != "HEAD")


@pytest.mark.parametrize("method", METHODS)
async def test_a_token_needs_no_csrf_token_with_a_session_or_without(app: ASGIApp, method: str) -> None:
    value, csrf = await log_in(app)
    for headers in ([SESAME], [SESAME, cookie_of(value)], [SESAME, cookie_of(value), ("x-csrf-token", csrf)]):
        assert (await call(app, method, JOBS, headers)).json["behalf"]["token"] == "t12"


@pytest.mark.parametrize("method", METHODS)
async def test_a_password_without_a_session_changes_nothing(app: ASGIApp, method: str) -> None:
    """As with the Java server: a browser sends a password that it remembers whatever page makes it do so."""
    assert is_unauthorized(await call(app, method, JOBS, [ALICE]))
    assert is_unauthorized(await call(app, method, JOBS, [ALICE, ("x-csrf-token", SIGNER.csrf("", "alice"))]))


async def test_a_password_changes_something_with_the_cookie_and_token_that_a_look_has_brought(app: ASGIApp) -> None:
    look = await call(app, "GET", ROOT, [ALICE])
    assert look.session is not None
    assert look.session.startswith("a")
    with_cookie = [ALICE, cookie_of(look.session)]
    again = await call(app, "GET", ROOT, with_cookie)
    assert (again.session, again.json["csrf"]) == (None, look.json["csrf"])  # it goes on
    assert (await call(app, "POST", JOBS, [*with_cookie, ("x-csrf-token", look.json["csrf"])])).status == 200
    assert is_csrf_refusal(await call(app, "POST", JOBS, with_cookie))


async def test_who_plants_an_anonymous_session_does_not_know_the_csrf_token_of_a_password(app: ASGIApp) -> None:
    page = await call(app, "GET", "/spalloc/system/login.html")
    planted = cookie_of(page.session)
    assert is_csrf_refusal(await call(app, "POST", JOBS, [ALICE, planted, ("x-csrf-token", csrf_in(page))]))
    own = await call(app, "GET", ROOT, [basic_of("bob", "b"), planted])
    assert is_csrf_refusal(await call(app, "POST", JOBS, [ALICE, planted, ("x-csrf-token", own.json["csrf"])]))


async def test_a_session_that_is_over_is_told_to_log_in_whether_or_not_it_has_its_csrf_token(app: ASGIApp) -> None:
    session = "s" + "1f" * 16
    over = cookie_of(SIGNER.value(session))
    assert is_unauthorized(await call(app, "POST", JOBS, [over]))
    assert is_unauthorized(await call(app, "POST", JOBS, [over, ("x-csrf-token", SIGNER.csrf(session))]))


async def test_nobody_changes_anything(app: ASGIApp) -> None:
    anonymous = anonymous_session()
    headers = [cookie_of(SIGNER.value(anonymous)), ("x-csrf-token", SIGNER.csrf(anonymous))]
    assert is_unauthorized(await call(app, "POST", JOBS, headers))
    assert is_unauthorized(await call(app, "POST", JOBS))


async def test_a_path_that_is_no_text_is_told_as_far_as_it_goes(app: ASGIApp) -> None:
    value, _ = await log_in(app)
    path = '/spalloc/srv/"\r\n<\udcff>'
    reply = await call(app, "POST", "/", [cookie_of(value)], path=path)
    assert is_csrf_refusal(reply, path.replace("\udcff", "?"))


# -------------------------------------------------------------------- forms


async def test_a_form_has_its_csrf_token_in_a_field(app: ASGIApp) -> None:
    value, csrf = await log_in(app)
    assert is_csrf_refusal(await send_form(app, LOGOUT, {"_csrf": "wrong"}, [cookie_of(value)]), LOGOUT)
    assert is_csrf_refusal(await send_form(app, LOGOUT, {}, [cookie_of(value)]), LOGOUT)
    assert (await send_form(app, LOGOUT, {"_csrf": csrf}, [cookie_of(value)])).status == 302


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([b"_csrf=", b"CSRF", b"", b"&a=b"], 302),
        ([b"_csrf=CSRF&_csrf=CSRF"], 400),
        ([b"_csrf=CSRF&a=%ff"], 400),
        ([b"_csrf=CSRF&a=\xff"], 400),
        ([b"_csrf=CSRF", *[b"&a%d=" % number for number in range(MAX_FIELDS)]], 400),
        ([b"_csrf=CSRF&a=", b"x" * 600, b"x" * 600], 413),
    ],
)
async def test_a_form_is_read_as_far_as_it_is_one(body: list[bytes], status: int) -> None:
    app = front(FakeServer(json_bytes=1024))
    value, csrf = await log_in(app)
    headers = [cookie_of(value), ("content-type", "Application/X-WWW-Form-urlencoded; charset=UTF-8")]
    filled = [part.replace(b"CSRF", csrf.encode()) for part in body]
    assert (await call(app, "POST", LOGOUT, headers, body=filled)).status == status


async def test_a_client_that_goes_away_in_the_middle_of_its_form_changes_nothing(
    app: ASGIApp, server: FakeServer
) -> None:
    value, csrf = await log_in(app)
    form = ("content-type", "application/x-www-form-urlencoded")
    begun = {"type": "http.request", "body": f"_csrf={csrf}".encode(), "more_body": True}
    await exchange(app, scope_of("POST", LOGOUT, [cookie_of(value), form]), [begun, {"type": "http.disconnect"}])
    assert server.asked["LogOut"] == 0


@given(st.binary(max_size=300))
def test_whatever_bytes_are_a_form_or_none(body: bytes) -> None:
    form = form_in(body)
    assert form is None or all(isinstance(text, str) for pair in form.items() for text in pair)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=MAX_FIELDS))
def test_a_form_that_a_browser_sends_is_read_as_it_was_filled_in(fields: dict[str, str]) -> None:
    try:
        body = urlencode(fields).encode()
    except UnicodeEncodeError:  # a lone surrogate, which no browser sends
        return
    assert form_in(body) == fields


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=1100))
def test_name_and_password_come_out_of_the_header_as_they_went_in(name: str, password: str) -> None:
    try:
        header = base64.b64encode(f"{name}:{password}".encode())
    except UnicodeEncodeError:
        return
    is_good = ":" not in name and len(name) <= 256 and len(password) <= 1024
    if is_good:
        assert basic(header) == (name, password)
    else:
        assert basic(header) != (name, password)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_name_and_password_may_have_letters_that_are_not_english(encoding: str) -> None:
    assert basic(base64.b64encode("jürgen:pässwört".encode(encoding))) == ("jürgen", "pässwört")


@given(st.binary(max_size=300))
def test_whatever_bytes_are_credentials_or_none(credentials: bytes) -> None:
    for pair in (basic(credentials), basic(base64.b64encode(credentials))):
        assert pair is None or all(pair)
    token = bearer(credentials)
    assert token is None or (token.isascii() and token.isprintable())


# -------------------------------------------------------------------- WebSockets


@pytest.mark.parametrize(
    ("origins", "opened"),
    [
        ([], True),
        (["localhost"], True),  # what SpiNNMan sends: no origin, and it says nothing
        (["somewhere.else"], True),
        (["https://localhost:8080"], True),
        (["http://LOCALHOST:8080"], True),
        (["https://hall.example.org"], True),
        (["https://localhost"], False),
        (["https://localhost:8081"], False),
        (["https://evil.example.org"], False),
        (["https://localhost:8080.evil.example.org"], False),
        (["https://localhost:8080@evil.example.org"], False),
        (["https://hall.example.org.evil.net"], False),
        (["file://"], False),
        (["chrome-extension://abc"], False),
        (["https://[::1"], False),
        (["https://localhost:99999"], False),
        (["null"], False),
        (["localhost", "https://evil.example.org"], False),
    ],
)
async def test_a_page_of_another_site_opens_no_websocket_in_a_users_session(origins: list[str], opened: bool) -> None:
    app = front(FakeServer(base_url="https://hall.example.org/spalloc"))
    value, _ = await log_in(app)
    headers = [("origin", origin) for origin in origins]
    for who in (cookie_of(value), ALICE):
        reply = await open_websocket(app, PROXY, [who, *headers])
        assert (reply.status, reply.accepted) == ((101, True) if opened else (403, False))
    assert (await open_websocket(app, PROXY, [SESAME, *headers])).accepted  # no browser sends a token by itself


@pytest.mark.parametrize(
    ("host", "origin", "opened"),
    [
        ("hall.example.org", "https://hall.example.org", True),
        ("hall.example.org:443", "https://hall.example.org", True),
        ("hall.example.org", "https://hall.example.org:443", True),
        ("hall.example.org", "http://hall.example.org", True),
        ("hall.example.org", "https://hall.example.org:8443", False),
        ("", "https://", False),
        ("\xff", "https://hall.example.org", False),
    ],
)
async def test_ports_that_go_without_saying_are_understood(app: ASGIApp, host: str, origin: str, opened: bool) -> None:
    value, _ = await log_in(app)
    reply = await open_websocket(app, PROXY, [cookie_of(value), ("host", host.encode("latin-1")), ("origin", origin)])
    assert reply.accepted is opened


async def test_a_websocket_of_nobody_is_refused_with_a_status(app: ASGIApp, server: FakeServer) -> None:
    for headers in ([], [cookie_of("x")], [basic_of("alice", "wrong")]):
        assert is_unauthorized(await open_websocket(app, PROXY, headers))
    assert (await open_websocket(app, PROXY, extensions={})).status == 403  # by a server that cannot do more
    server.is_away()
    assert (await open_websocket(app, PROXY, [ALICE])).status == 503
