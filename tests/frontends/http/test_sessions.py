from __future__ import annotations

import hashlib
import hmac
from http.cookies import SimpleCookie

import pytest
from hypothesis import example, given, strategies as st

from spalloc_server.application.account_commands import SigningKey
from spalloc_server.frontends.http.sessions import (
    Signer,
    anonymous_session,
    cookie,
    expired_cookie,
    values_of_cookie,
)

OLD, NEW, OTHER = (SigningKey(id=text, secret=text * 32) for text in ("0a", "0b", "0c"))
SESSION = "s" + "1f" * 16
SIGNER = Signer([NEW, OLD])
VALUE = SIGNER.value(SESSION).encode()


def test_what_is_signed_is_believed_also_by_another_process_with_the_same_keys() -> None:
    assert SIGNER.session([VALUE]) == SESSION
    assert Signer([NEW]).session([VALUE]) == SESSION


def test_the_signature_is_an_hmac_of_the_id_with_the_first_key() -> None:
    expected = hmac.new(bytes.fromhex(NEW.secret), SESSION.encode(), hashlib.sha256).hexdigest()
    assert VALUE.decode() == f"{SESSION}.{expected}"


def test_what_was_signed_before_the_keys_were_changed_holds_on_until_its_key_is_gone() -> None:
    before = Signer([OLD])
    value, csrf = before.value(SESSION).encode(), before.csrf(SESSION).encode()
    assert (SIGNER.session([value]), SIGNER.is_csrf(csrf, SESSION)) == (SESSION, True)
    assert (Signer([NEW]).session([value]), Signer([NEW]).is_csrf(csrf, SESSION)) == (None, False)


SIGNATURE = VALUE.partition(b".")[2]
LAST = b"0" if VALUE[-1:] != b"0" else b"1"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b".", id="only a point"),
        pytest.param(SESSION.encode(), id="no signature"),
        pytest.param(SESSION.encode() + b".", id="an empty signature"),
        pytest.param(VALUE[:-1] + LAST, id="another signature"),
        pytest.param(VALUE[:-1], id="too short a signature"),
        pytest.param(VALUE + b"0", id="too long a signature"),
        pytest.param(VALUE.replace(SIGNATURE, SIGNATURE.upper()), id="the signature in capitals"),
        pytest.param(VALUE.replace(b"s1f", b"s2f"), id="another id"),
        pytest.param(VALUE.replace(b"s1f", b"a1f"), id="another kind of session"),
        pytest.param(Signer([OTHER]).value(SESSION).encode(), id="another key"),
        pytest.param(f"{SESSION}.{SIGNER.csrf(SESSION)}".encode(), id="a CSRF token as signature"),
        pytest.param(SIGNER.value(f"csrf:{SESSION}").encode(), id="an id that would make a CSRF token a signature"),
        pytest.param(SIGNER.value("s1").encode(), id="too short an id"),
        pytest.param(SIGNER.value("s" + "1" * 200).encode(), id="too long an id"),
        pytest.param(SIGNER.value("x" + "1" * 32).encode(), id="an id of another kind"),
        pytest.param(SIGNER.value("s\r\n" + "1" * 32).encode(), id="an end of line in the id"),
        pytest.param(VALUE + b"\n", id="an end of line behind"),
        pytest.param(b"\xff" + VALUE, id="bytes that are no text"),
        pytest.param(b"3F2504E04F8911D39A0C0305E82C3301", id="a session of the Java server"),
    ],
)
def test_what_is_not_signed_is_nothing(value: bytes) -> None:
    assert SIGNER.session([value]) is None


def test_of_two_sessions_at_once_none_is_believed_since_one_may_be_planted() -> None:
    mine, planted = VALUE, SIGNER.value("s" + "2f" * 16).encode()
    assert SIGNER.session([mine, planted]) is None
    assert SIGNER.session([planted, mine]) is None


def test_what_is_not_signed_beside_a_session_is_passed_over() -> None:
    assert SIGNER.session([b"3F2504E0", VALUE, Signer([OTHER]).value(SESSION).encode()]) == SESSION


def test_many_cookies_are_not_even_checked() -> None:
    assert SIGNER.session([*(b"%d" % number for number in range(7)), VALUE]) == SESSION
    assert SIGNER.session([*(b"%d" % number for number in range(8)), VALUE]) is None


def test_a_csrf_token_is_of_one_session_and_account_and_is_as_clients_expect_it() -> None:
    token = SIGNER.csrf(SESSION)
    assert set(token) <= set("-abcdefghijklmnopqrstuvwxyz0123456789")
    assert SIGNER.is_csrf(token.encode(), SESSION)
    bound = SIGNER.csrf(SESSION, "alice")
    assert SIGNER.is_csrf(bound.encode(), SESSION, "alice")
    for given_token, session, account in [
        (token, "s" + "2f" * 16, ""),
        (token, SESSION, "alice"),
        (bound, SESSION, ""),
        (bound, SESSION, "bob"),
        (SIGNATURE.decode(), SESSION, ""),
        (token[:-1], SESSION, ""),
        ("", SESSION, ""),
        ("ß", SESSION, ""),
    ]:
        assert not SIGNER.is_csrf(given_token.encode(), session, account)


@pytest.mark.parametrize("keys", [[], [SigningKey(id="k", secret="")], [NEW, SigningKey(id="k", secret="ab" * 31)]])
def test_keys_that_protect_nothing_are_refused(keys: list[SigningKey]) -> None:
    with pytest.raises(ValueError, match="no key to sign with"):
        Signer(keys)


def test_anonymous_sessions_are_each_another_and_can_be_signed() -> None:
    ids = {anonymous_session() for _ in range(100)}
    assert len(ids) == 100
    assert all(SIGNER.session([SIGNER.value(each).encode()]) == each and each[0] == "a" for each in ids)


# -------------------------------------------------------------------- cookies


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        ([], []),
        ([b""], []),
        ([b"JSESSIONID=1"], [b"1"]),
        ([b"a=b; JSESSIONID=1; c=d"], [b"1"]),
        ([b"a=b;JSESSIONID=1;c=d"], [b"1"]),
        ([b" \tJSESSIONID\t = 1 "], [b"1"]),
        ([b'$Version="1"; JSESSIONID="1"; $Path="/spalloc"'], [b"1"]),
        ([b'JSESSIONID="'], [b'"']),
        ([b'JSESSIONID=""'], [b""]),
        ([b"JSESSIONID=1=2"], [b"1=2"]),
        ([b"JSESSIONID"], []),
        ([b"JSESSIONID="], [b""]),
        ([b"jsessionid=1"], []),
        ([b"XJSESSIONID=1; JSESSIONIDX=2"], []),
        ([b"JSESSIONID=1; JSESSIONID=2"], [b"1", b"2"]),
        ([b"JSESSIONID=1; JSESSIONID=1"], [b"1"]),
        ([b"JSESSIONID=1", b"JSESSIONID=2; x"], [b"1", b"2"]),
        ([b"\xff\x00=1; JSESSIONID=\xff\x00"], [b"\xff\x00"]),
        ([b'a="x; JSESSIONID=1"'], [b'1"']),  # as browsers see it: a quote holds nothing together
    ],
)
def test_cookies_are_found_in_whatever_is_sent(headers: list[bytes], values: list[bytes]) -> None:
    assert values_of_cookie(headers) == values


@given(
    st.lists(
        st.binary(max_size=200)
        | st.lists(st.sampled_from([b"JSESSIONID", b"=", b";", b'"', b" ", VALUE])).map(b"".join)
    )
)
@example([b"JSESSIONID=" + VALUE])
def test_of_whatever_cookies_only_signed_ones_are_believed(headers: list[bytes]) -> None:
    session = SIGNER.session(values_of_cookie(headers))
    assert session in {None, SESSION}
    if session is not None:
        assert any(VALUE in header for header in headers)


@given(st.lists(st.text("abc", min_size=1, max_size=3)), st.integers(0, 5))
def test_a_session_is_found_among_other_cookies(others: list[str], place: int) -> None:
    pairs = [f"{name}={name}" for name in others]
    pairs.insert(place, f"JSESSIONID={VALUE.decode()}")
    assert SIGNER.session(values_of_cookie(["; ".join(pairs).encode()])) == SESSION


def test_a_huge_header_costs_no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(Signer, "_is_mac", lambda self, given, text: checked.append(given))
    header = b"; ".join(b"JSESSIONID=s%032d.%064d" % (number, number) for number in range(5000))
    assert SIGNER.session(values_of_cookie([header])) is None
    assert checked == []


@pytest.mark.parametrize("secure", [True, False])
def test_the_cookie_is_for_this_service_and_no_script_sees_it(secure: bool) -> None:
    name, header = cookie(VALUE.decode(), path="/spalloc", secure=secure)
    assert name == b"set-cookie"
    morsel = SimpleCookie(header.decode())["JSESSIONID"]
    assert (morsel.value, morsel["path"], morsel["httponly"], morsel["samesite"]) == (
        VALUE.decode(),
        "/spalloc",
        True,
        "Lax",
    )
    assert bool(morsel["secure"]) is secure
    assert not morsel["max-age"]
    assert not morsel["domain"]


def test_a_cookie_is_removed_where_it_was_set() -> None:
    morsel = SimpleCookie(expired_cookie(path="/spalloc", secure=True)[1].decode())["JSESSIONID"]
    assert (morsel.value, morsel["path"], morsel["max-age"]) == ("", "/spalloc", "0")
