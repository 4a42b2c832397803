"""Sessions as cookies: signed ids, CSRF tokens, and the cookie that holds them.

Theory of operation. The cookie `JSESSIONID` is an id, a point, and an HMAC of the id as its signature. So no other id
than one that was given out here is ever believed: a planted one, a guessed one and one of another server are nothing.
An id that begins with `s` is a session that the server knows; one that begins with `a` is anonymous, for the form of
the login page, and is stored nowhere. A CSRF token is another HMAC of the id. So a front process stores nothing, and
after a restart, or in another front process, cookies and tokens hold on.

The keys come from the server. Anything signed with any of them holds, and the first signs: so a key can be replaced
without anybody being logged out.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache

from spalloc_server.application.account_commands import SigningKey
from spalloc_server.frontends.http.answers import Header

__all__ = ["Signer", "anonymous_session", "cookie", "expired_cookie", "values_of_cookie"]

NAME = b"JSESSIONID"
_VALUE = re.compile(rb"([as][-0-9A-Za-z_]{16,128})\.([0-9a-f]{64})")

MAX_COOKIES = 8
"""Cookies `JSESSIONID` in one request. With more, none of them is believed."""

MAX_MACS = 2048
"""Signatures and tokens that are not worked out again: each request of a session needs two."""


class Signer:
    """Signs ids of sessions, and checks them.

    Args:
        keys: the one to sign with first.

    Raises:
        ValueError: there is none, or one is not hexadecimal or too short.
    """

    __slots__ = ("_secrets",)

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._secrets = [bytes.fromhex(key.secret) for key in keys]
        if not self._secrets or min(map(len, self._secrets)) < 32:
            raise ValueError("there is no key to sign with, or one of fewer than 32 bytes")

    def value(self, session: str) -> str:
        """Return the value of the cookie of this session."""
        return f"{session}.{_mac(self._secrets[0], session)}"

    def session(self, values: Sequence[bytes]) -> str | None:
        """Return the id of the session that these values of cookies are of.

        None where none of them is signed with any of the keys; and where they are of different sessions, since then
        somebody has planted one beside the user's own.
        """
        if len(values) > MAX_COOKIES:
            return None
        found = {session for value in values if (session := self._checked(value)) is not None}
        return found.pop() if len(found) == 1 else None

    def _checked(self, value: bytes) -> str | None:
        match = _VALUE.fullmatch(value)
        if match is None:
            return None
        session = match[1].decode()
        return session if self._is_mac(match[2], session) else None

    def csrf(self, session: str, account: str = "") -> str:
        """Return the CSRF token of a session.

        Args:
            session: its id.
            account: of the caller, where it is known by another way than the session: the token is not that of
                everybody who has seen the cookie.
        """
        return _mac(self._secrets[0], f"csrf:{session}:{account}" if account else f"csrf:{session}")

    def is_csrf(self, token: bytes, session: str, account: str = "") -> bool:
        """Return whether `token` is one that `csrf` has given for this session and account."""
        return self._is_mac(token, f"csrf:{session}:{account}" if account else f"csrf:{session}")

    def _is_mac(self, given: bytes, text: str) -> bool:
        return any(hmac.compare_digest(given, _mac(secret, text).encode()) for secret in self._secrets)


@lru_cache(MAX_MACS)
def _mac(secret: bytes, text: str) -> str:
    return hmac.digest(secret, text.encode(), "sha256").hex()


def anonymous_session() -> str:
    """Return the id of a new session of nobody."""
    return "a" + secrets.token_hex(16)


def values_of_cookie(headers: Iterable[bytes]) -> list[bytes]:
    """Return the values of `JSESSIONID` that `Cookie` headers have, each once, in their order."""
    values: dict[bytes, None] = {}
    for header in headers:
        for pair in header.split(b";"):
            name, separator, value = pair.partition(b"=")
            if separator and name.strip(b" \t") == NAME:
                value = value.strip(b" \t")
                quoted = len(value) > 1 and value[:1] == value[-1:] == b'"'  # Java's clients of old do that
                values[value[1:-1] if quoted else value] = None
    return list(values)


def cookie(value: str, *, path: str, secure: bool) -> Header:
    """Return the header that sets the cookie.

    Args:
        value: from `Signer.value`.
        path: of the service, such as `/spalloc`.
        secure: whether the client came by TLS: then it never sends the cookie without.
    """
    return b"set-cookie", f"JSESSIONID={value}; Path={path}; HttpOnly; SameSite=Lax{_secure(secure)}".encode()


def expired_cookie(*, path: str, secure: bool) -> Header:
    """Return the header that removes the cookie."""
    return b"set-cookie", f"JSESSIONID=; Path={path}; Max-Age=0; HttpOnly; SameSite=Lax{_secure(secure)}".encode()


def _secure(secure: bool) -> str:
    return "; Secure" if secure else ""
