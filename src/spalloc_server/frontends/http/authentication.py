"""Who sends a request: by session, by name and password (HTTP Basic), or by token; and whether it may change something.

Theory of operation. `Authentication` is an ASGI middleware. It sets `scope["state"]["caller"]` to a `WebCaller`, or to
None where nobody is known; whatever needs a caller then answers `UNAUTHORIZED`. An `Authorization` header goes before a
cookie, because a client that sends one means it, and a wrong one is refused at once. A cookie that is forged, of a
session that is over, or doubled is as none.

Browsers send cookies, and passwords that they remember, with whatever a page of any site has them send. So a request
that changes something must repeat the CSRF token, which such a page cannot know: in the header `X-CSRF-TOKEN` or, of a
form, in its field `_csrf`. Only bearer tokens need none, since no browser sends one by itself. A client with HTTP Basic
that has no cookie is given an anonymous one, whose CSRF token is good for this account only.

A WebSocket changes things without a token, but a browser says in `Origin` whose page opens it: that of another site is
refused. Published clients send their server's bare host name there, which is no origin and says nothing.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from spalloc_server.application.account_commands import CheckPassword, CheckSession, CheckToken, Grant
from spalloc_server.frontends.http.answers import (
    UNAUTHORIZED,
    Answer,
    ASGIApp,
    Header,
    Message,
    Receive,
    Scope,
    Send,
    refusal,
    text,
)
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.clients import address_of, is_secure
from spalloc_server.frontends.http.grants import Check, Grants
from spalloc_server.frontends.http.sessions import Signer, anonymous_session, cookie, values_of_cookie
from spalloc_server.frontends.local_api import Behalf

__all__ = ["SYSTEM", "Authentication", "authorization", "basic", "bearer", "form_in", "service_path"]

SERVICE: Final = "/spalloc"
SYSTEM: Final = f"{SERVICE}/system/"
"""Beneath it are the pages, and the forms that they send."""

MAX_NAME = 256
"""Characters of a name, or of a token, that the server is asked about."""

MAX_PASSWORD = 1024
"""Characters of a password that the server is asked about."""

MAX_FIELDS = 32
"""Fields of a form."""

_SAFE = {"GET", "HEAD", "OPTIONS"}
_HEADERS = {b"content-type", b"cookie", b"host", b"origin", b"x-csrf-token"}
_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[-A-Za-z0-9._~+/]{1,256}=*")


# -------------------------------------------------------------------- what a client says of itself


def basic(credentials: bytes) -> tuple[str, str] | None:
    """Return name and password of what stands behind `Basic`; None where that is not good, or of nobody for sure.

    Browsers encode them as UTF-8; older clients, `requests` among them, as Latin-1. Latin-1 is hardly ever good UTF-8.
    """
    try:
        sent = base64.b64decode(credentials, validate=True)
    except ValueError:
        return None
    try:
        pair = sent.decode()
    except UnicodeDecodeError:
        pair = sent.decode("latin-1")
    name, _, password = pair.partition(":")
    return (name, password) if 0 < len(name) <= MAX_NAME and 0 < len(password) <= MAX_PASSWORD else None


def bearer(credentials: bytes) -> str | None:
    """Return the token of what stands behind `Bearer`; None where it can be none of this server's."""
    token = credentials.decode("latin-1")
    return token if len(token) <= MAX_NAME and _TOKEN.fullmatch(token) else None


def authorization(scope: Scope) -> tuple[bytes, bytes] | None:
    """Return the scheme, in small letters, and the credentials of `Authorization`; None where it is there twice."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"] or [b""]
    scheme, _, credentials = sent[0].strip().partition(b" ")
    return (scheme.lower(), credentials.strip()) if len(sent) == 1 else None


def form_in(body: bytes) -> dict[str, str] | None:
    """Return the fields of a form; None where it is not good, or one is there twice."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS, separator="&"
        )
    except ValueError:
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None


def service_path(base_url: str) -> str:
    """Return the path that clients know the service by, without a slash at its end."""
    return urlsplit(base_url).path.rstrip("/") or SERVICE


class _Request:
    """What of a request tells who sends it."""

    __slots__ = ("_found", "csrf", "scope", "values")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _HEADERS:
                found.setdefault(name, []).append(value)
        self._found = found
        self.values = values_of_cookie(found.get(b"cookie", ()))
        self.csrf = self.one(b"x-csrf-token")

    def one(self, name: bytes) -> bytes:
        """Return the value of a header; nothing where it is not there, or twice."""
        values = self._found.get(name, ())
        return values[0] if len(values) == 1 else b""

    def all(self, name: bytes) -> list[bytes]:
        """Return all values of a header."""
        return self._found.get(name, [])

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.scope["type"] == "http" and self.scope["method"] not in _SAFE

    @property
    def is_to_pages(self) -> bool:
        """Whether it is to the pages, of which some may be asked for by nobody, and which have forms."""
        return bool(self.scope["path"].startswith(SYSTEM))

    @property
    def has_form(self) -> bool:
        """Whether its body is a form."""
        return self.one(b"content-type").partition(b";")[0].strip().lower() == b"application/x-www-form-urlencoded"

    def is_from_another_site(self, base_url: str) -> bool:
        """Return whether a browser says that a page of another site has sent it."""
        for value in self.all(b"origin"):
            origin = value.decode("latin-1")
            scheme, is_real, _ = origin.partition("://")
            own = {_host(f"{scheme}://{host.decode('latin-1')}") for host in self.all(b"host")} | {_host(base_url)}
            if origin == "null" or (is_real and _host(origin) not in own - {None}):
                return True
        return False


def _host(url: str) -> tuple[str, int] | None:
    """Return host and port."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or _PORTS[parts.scheme]) if parts.hostname else None
    except (ValueError, KeyError):
        return None


# -------------------------------------------------------------------- who that is


class _Found(msgspec.Struct):
    """What is known of who sends a request."""

    caller: WebCaller | None = None
    session: str | None = None
    """Id of the session, of whomever, that the cookie is of."""
    account: str = ""
    """That CSRF tokens are bound to."""
    token: str | None = None
    """Id of the token that the session began with."""
    needs_csrf: bool = True
    checked: tuple[Check, ...] = ()
    """What the server has granted that."""


class Authentication:
    """The middleware.

    Args:
        app: what is behind it.
        asking: the server.
        grants: what the server has said.
    """

    def __init__(self, app: ASGIApp, asking: Asking, grants: Grants) -> None:
        self._app = app
        self._asking = asking
        self._grants = grants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Find out who sends the request, and pass it on or refuse it."""
        scope.setdefault("state", {})["caller"] = None
        if scope["type"] == "lifespan" or not f"{scope['path']}/".startswith(f"{SERVICE}/"):
            await self._app(scope, receive, send)
            return
        try:
            answer, new_cookie = await self._admit(_Request(scope), receive)
        except (RefusedError, ServerAwayError) as error:
            answer, new_cookie = refusal(error), None
        if answer is not None:
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, self._sending(send, scope["state"].pop("checked"), new_cookie))

    def _sending(self, send: Send, checked: tuple[Check, ...], new_cookie: Header | None) -> Send:
        """Return `send`, which adds a cookie, and forgets what was checked where the server says it holds no more."""
        if not checked and new_cookie is None:
            return send

        async def sending(message: Message) -> None:
            if "status" in message:
                if message["status"] == UNAUTHORIZED.status:
                    for each in checked:
                        self._grants.forget(each)
                if new_cookie is not None:
                    message["headers"] = [*message.get("headers", ()), new_cookie]
            await send(message)

        return sending

    async def _admit(self, request: _Request, receive: Receive) -> tuple[Answer | None, Header | None]:
        """Note in the request who sends it; return why it is refused, or a cookie that goes with its answer."""
        scope, web = request.scope, self._asking.settings.web
        state = scope["state"]
        signer = await self._grants.signer()
        session = signer.session(request.values)
        if request.values and session is None:  # unless another front process has a newer key
            signer = await self._grants.signer(newest=True)
            session = signer.session(request.values)
        found = await self._identify(scope, session, signer)
        if found is None:
            return UNAUTHORIZED, None
        state["caller"], state["checked"] = found.caller, found.checked
        if scope["type"] == "websocket":
            foreign = found.needs_csrf and request.is_from_another_site(web.base_url)
            return text(403, "a page of another site may not open this WebSocket") if foreign else None, None
        if not request.changes:
            # the pages give a cookie themselves
            return None, None if request.is_to_pages else self._cookie_for_basic(scope, found, signer)
        if request.is_to_pages and request.has_form:
            form = await _form(receive, web.json_bytes)
            if isinstance(form, Answer):
                return form, None
            state["form"] = form
            request.csrf = request.csrf or form.get("_csrf", "").encode()
        return _refusal_to_change(request, found, signer), None

    async def _identify(self, scope: Scope, session: str | None, signer: Signer) -> _Found | None:
        """Return who that is; None where `Authorization` says somebody who it is not."""
        address = address_of(scope, self._asking.settings.web.proxies)
        if (sent := authorization(scope)) is None:
            return None
        scheme, credentials = sent
        if scheme not in {b"basic", b"bearer"}:
            return await self._by_session(session, signer, address)
        if scheme == b"bearer":
            if (token := bearer(credentials)) is None:
                return None
            check_token = CheckToken(secret=token, address=address)
            grant = await self._grants.check(check_token)
            found = await self._by_session(session, signer, address)
            if found.token is not None and found.token == grant.token:  # so its jobs keep the session
                found.needs_csrf, found.checked = False, (*found.checked, check_token)
                return found
            behalf = Behalf(token=grant.token, address=address)
            caller = WebCaller(name=grant.account, role=grant.role, behalf=behalf)
            return _Found(caller, session, needs_csrf=False, checked=(check_token,))
        if (pair := basic(credentials)) is None:
            return None
        check = CheckPassword(name=pair[0], password=pair[1], address=address)
        grant = await self._grants.check(check)
        caller = WebCaller(
            name=grant.account,
            role=grant.role,
            behalf=Behalf(account=grant.account, stamp=grant.stamp, address=address),
            csrf=signer.csrf(session, grant.account) if session else None,
        )
        return _Found(caller, session, grant.account, checked=(check,))

    async def _by_session(self, session: str | None, signer: Signer, address: str | None) -> _Found:
        if session is None or not session.startswith("s"):
            return _Found(None, session)
        check = CheckSession(session=session)
        try:
            grant: Grant = await self._grants.check(check)
        except RefusedError as error:
            if error.kind != "bad-credentials":
                raise
            return _Found(None, session)
        behalf = Behalf(session=session, address=address)
        caller = WebCaller(name=grant.account, role=grant.role, behalf=behalf, csrf=signer.csrf(session))
        return _Found(caller, session, token=grant.token, checked=(check,))

    def _cookie_for_basic(self, scope: Scope, found: _Found, signer: Signer) -> Header | None:
        """Give a client that has none an anonymous session, in which it may change something."""
        if found.caller is None or not found.account or found.session is not None:
            return None
        session, web = anonymous_session(), self._asking.settings.web
        csrf = signer.csrf(session, found.account)
        scope["state"]["caller"] = msgspec.structs.replace(found.caller, csrf=csrf)
        secure = is_secure(scope, web.proxies)
        return cookie(signer.value(session), path=service_path(web.base_url), secure=secure)


def _refusal_to_change(request: _Request, found: _Found, signer: Signer) -> Answer | None:
    if not found.needs_csrf:
        return None
    if found.session is None or (found.caller is None and not request.is_to_pages):
        return UNAUTHORIZED
    if signer.is_csrf(request.csrf, found.session, found.account):
        return None
    path = request.scope["path"].encode(errors="replace").decode()
    body = {"timestamp": datetime.now(UTC), "status": 403, "error": "Forbidden", "path": path}
    return Answer(status=403, body=msgspec.json.encode(body), headers=((b"content-type", b"application/json"),))


async def _form(receive: Receive, limit: int) -> dict[str, str] | Answer:
    """Return the form that the body of a request is."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return text(400, "the request has ended before its body has")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            return text(413, f"a form may have {limit} bytes")
    form = form_in(bytes(body))
    return text(400, "the form cannot be read, or has a field twice") if form is None else form
