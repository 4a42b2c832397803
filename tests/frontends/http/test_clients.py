from __future__ import annotations

import pytest

from spalloc_server.frontends.http.clients import address_of, is_secure
from tests.frontends.http.asgi import scope_of

PROXIES = ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.5"], "192.0.2.1"),  # no proxy: it may say what it likes
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("10.0.0.1", [], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["10.9.9.9, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.5 , 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.5", "10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.5, unknown"], None),
        ("10.0.0.1", ["203.0.113.5, \xff"], None),
        ("10.0.0.1", ["203.0.113.5:80"], None),
        ("/run/x", [], None),
    ],
)
def test_the_address_is_what_the_last_proxy_that_is_known_says(
    peer: str, forwarded: list[str], address: str | None
) -> None:
    headers = [("x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    assert address_of(scope_of("GET", "/", headers, client=(peer, 1)), PROXIES) == address


def test_where_no_proxy_is_known_nothing_is_believed() -> None:
    headers = [("x-forwarded-for", "203.0.113.5"), ("x-forwarded-proto", "https")]
    scope = scope_of("GET", "/", headers, scheme="http", client=("127.0.0.1", 1))
    assert (address_of(scope, ()), is_secure(scope, ())) == ("127.0.0.1", False)
    assert address_of(scope | {"client": None}, PROXIES) is None


@pytest.mark.parametrize(
    ("scheme", "peer", "said", "secure"),
    [
        ("https", "192.0.2.1", [], True),
        ("wss", "192.0.2.1", [], True),
        ("http", "192.0.2.1", [], False),
        ("http", "192.0.2.1", ["https"], False),
        ("http", "10.0.0.1", ["https"], True),
        ("http", "10.0.0.1", [" HTTPS "], True),
        ("https", "10.0.0.1", ["http"], False),
        ("https", "10.0.0.1", ["gopher"], True),
        ("http", "10.0.0.1", ["http"], False),
        ("http", "10.0.0.1", ["https", "http"], False),
        ("http", "10.0.0.1", [], False),
        ("ws", "/run/x", ["https"], False),
    ],
)
def test_tls_is_what_the_connection_has_or_a_known_proxy_says(
    scheme: str, peer: str, said: list[str], secure: bool
) -> None:
    headers = [("x-forwarded-proto", value) for value in said]
    assert is_secure(scope_of("GET", "/", headers, scheme=scheme, client=(peer, 1)), PROXIES) is secure
