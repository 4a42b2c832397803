"""Logging in and out, and the page that people see first.

Theory of operation. Published clients do as a browser does: they fetch `/spalloc/system/login.html`, which sets an
anonymous session, take the CSRF token from its form, and send the form. **They take it for success if, and only if, the
answer to that sets `JSESSIONID`**, whatever its status. So a log-in that fails never sets it, and one that succeeds
always does, to a session that is new: one that was planted in a browser beforehand is worth nothing afterwards. A
client with a token sends it to the same page, and is in a session of that token with the answer.

Whether a form was sent by the page that it belongs to, `authentication` has checked before. GET logs out, too, as with
the Java server; where a browser says that a page of another site has led there, a button is shown instead.

Redirections name a path only: so they lead to where the client already is, whatever `Host` says.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from typing import TypeAlias

import msgspec

from spalloc_server.application.account_commands import CheckSession, LogIn, LogInWithToken, LogOut
from spalloc_server.frontends.http.answers import UNAUTHORIZED, Answer, Header, Receive, Scope, Send, refusal, text
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError, WebCaller
from spalloc_server.frontends.http.authentication import (
    MAX_NAME,
    MAX_PASSWORD,
    SYSTEM,
    authorization,
    bearer,
    service_path,
)
from spalloc_server.frontends.http.clients import address_of, is_secure
from spalloc_server.frontends.http.grants import Grants
from spalloc_server.frontends.http.sessions import anonymous_session, cookie, expired_cookie

__all__ = ["Login"]

_Handler: TypeAlias = Callable[[Scope], Awaitable[Answer]]

_STYLE = (
    "body{font:1rem/1.5 sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}"
    "label{display:block;margin:.8rem 0}input[type=text],input[type=password]{display:block;font:inherit;width:100%;"
    "max-width:20rem;padding:.3rem}button{font:inherit;padding:.3rem 1rem}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/html;charset=UTF-8"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'".encode(),
    ),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_NO = "computer says no"


class Login:
    """The pages of logging in and out, as an ASGI application behind `Authentication`.

    Args:
        asking: the server.
        grants: those of `Authentication`.
    """

    def __init__(self, asking: Asking, grants: Grants) -> None:
        self._asking = asking
        self._grants = grants
        self._handlers: dict[str, dict[str, _Handler]] = {
            SYSTEM: {"GET": self._home},
            f"{SYSTEM}login.html": {"GET": self._login_page},
            f"{SYSTEM}perform_login": {"POST": self._log_in},
            f"{SYSTEM}perform_logout": {"GET": self._log_out, "POST": self._log_out},
            f"{SYSTEM}error": {"GET": self._error_page},
            "/spalloc": {"GET": self._top},
            "/spalloc/": {"GET": self._top},
            SYSTEM.rstrip("/"): {"GET": self._top},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            answer = await self._answer(scope)
        except (RefusedError, ServerAwayError) as error:
            answer = refusal(error)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> Answer:
        handlers = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handlers is None:
            return text(404, "there is no such page")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method in handlers:
            return await handlers[method](scope)
        allowed = ", ".join([*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"]).encode()
        if method == "OPTIONS":
            return Answer(status=204, headers=((b"allow", allowed),))
        return text(405, f"{method[:20]} is not among what this takes: {allowed.decode()}", (b"allow", allowed))

    # ---------------------------------------------------------------- pages

    async def _top(self, scope: Scope) -> Answer:
        return self._to(SYSTEM) if _caller(scope) else self._to_log_in(scope)

    async def _home(self, scope: Scope) -> Answer:
        caller, settings = _caller(scope), self._asking.settings
        if caller is None:
            return self._to_log_in(scope)
        service = service_path(settings.web.base_url)
        kind = "simulated SpiNNaker boards" if settings.simulated else "the boards of SpiNNaker machines"
        button = _form(f"{service}/system/perform_logout", caller.csrf, "Log out") if caller.behalf.session else ""
        own_ca = (
            f'<p>Clients have to trust <a href="{escape(service)}/ca.pem">its certificate authority</a>: let '
            "<code>REQUESTS_CA_BUNDLE</code> and <code>WEBSOCKET_CLIENT_CA_BUNDLE</code> name that file.</p>"
        )
        return _page(
            "SpiNNaker machines",
            f"<p>This is spalloc_server {escape(settings.version)}. It shares out {kind}.</p>"
            f"<p>You are <strong>{escape(caller.name)}</strong>, with the role {escape(caller.role)}.</p>{button}"
            "<p>Scripts use it by its address: <code>spalloc_server = https://HOST:PORT/spalloc</code> in their "
            f"configuration.</p>{'' if settings.web.tls_certificate else own_ca}"
            f'<p>Programs find <a href="{escape(service)}/srv/openapi.json">the description of its interface</a>.</p>',
        )

    async def _error_page(self, _scope: Scope) -> Answer:
        return _page("This did not work", '<p>Begin again at <a href="./">the first page</a>.</p>')

    async def _login_page(self, scope: Scope) -> Answer:
        """Show the form, and set a session, as each published client needs it.

        Whoever is in a session stays in it: else a link to this page would log people out.
        """
        caller = _caller(scope)
        if caller is not None and caller.behalf.token is not None:
            session = await self._begin_by_token(scope)
        else:
            session = (caller.behalf.session if caller is not None else None) or anonymous_session()
        signer = await self._grants.signer()
        fields = (
            '<label>Name <input type="text" name="username" autocomplete="username" required autofocus></label>'
            '<label>Password <input type="password" name="password" autocomplete="current-password" required></label>'
        )
        action = f"{service_path(self._asking.settings.web.base_url)}/system/perform_login"
        known = f"<p>You are logged in as {escape(caller.name)}.</p>" if caller is not None else ""
        account = (caller.behalf.account if caller is not None else None) or ""  # of HTTP Basic
        form = _form(action, signer.csrf(session, account), "Log in", fields)
        return _page("Log in to SpiNNaker machines", known + form, self._cookie(scope, signer.value(session)))

    async def _begin_by_token(self, scope: Scope) -> str:
        """Begin a session by the token that came with the request; its id."""
        token = bearer((authorization(scope) or (b"", b""))[1]) or ""
        address = address_of(scope, self._asking.settings.web.proxies)
        return await self._grants.begin(LogInWithToken(secret=token, address=address))

    # ---------------------------------------------------------------- what forms do

    async def _log_in(self, scope: Scope) -> Answer:
        form = scope["state"].get("form", {})
        name, password = form.get("username", ""), form.get("password", "")
        if not (0 < len(name) <= MAX_NAME and 0 < len(password) <= MAX_PASSWORD):
            return self._no_log_in(scope, refusal(RefusedError("bad-credentials", _NO)), _NO)
        address = address_of(scope, self._asking.settings.web.proxies)
        try:
            session = await self._grants.begin(LogIn(name=name, password=password, address=address))
        except (RefusedError, ServerAwayError) as error:
            wrong = isinstance(error, RefusedError) and error.kind in {"bad-credentials", "forbidden"}
            return self._no_log_in(scope, refusal(error), _NO if wrong else str(error))
        before = _caller(scope)
        if before is not None and before.behalf.session is not None:
            with suppress(RefusedError, ServerAwayError):  # then it ends by itself
                await self._end(before.behalf.session)
        signer = await self._grants.signer()
        return self._to(SYSTEM, self._cookie(scope, signer.value(session)))

    def _no_log_in(self, scope: Scope, answer: Answer, why: str) -> Answer:
        """Return the answer to a log-in that has failed: with a text that published clients show, and no cookie."""
        kept = tuple(header for header in answer.headers if header[0] == b"retry-after")
        if _is_for_people(scope):
            service = service_path(self._asking.settings.web.base_url)
            again = f'<p>{escape(why)}</p><p><a href="{escape(service)}/system/login.html">Try again</a></p>'
            return msgspec.structs.replace(_page("You are not logged in", again, *kept), status=answer.status)
        body = msgspec.json.encode({"message": why, "timestamp": datetime.now(UTC)})
        kind = (b"content-type", b"application/json")
        return Answer(status=answer.status, body=body, headers=(kind, (b"cache-control", b"no-store"), *kept))

    async def _log_out(self, scope: Scope) -> Answer:
        caller = _caller(scope)
        session = caller.behalf.session if caller is not None else None
        if session is not None and caller is not None:
            if scope["method"] != "POST" and _is_from_elsewhere(scope):
                action = f"{service_path(self._asking.settings.web.base_url)}/system/perform_logout"
                return _page("Log out?", _form(action, caller.csrf, "Log out"))
            await self._end(session)
        return self._to(f"{SYSTEM}login.html", self._cookie(scope, None))

    async def _end(self, session: str) -> None:
        check = CheckSession(session=session)
        self._grants.forget(check)
        await self._asking.ask(LogOut(session=session), type(None))
        self._grants.forget(check)  # it may have been checked again meanwhile

    # ---------------------------------------------------------------- answers

    def _to_log_in(self, scope: Scope) -> Answer:
        return self._to(f"{SYSTEM}login.html") if _is_for_people(scope) else UNAUTHORIZED

    def _to(self, path: str, *headers: Header) -> Answer:
        """Return a redirection to a page of this service."""
        service = service_path(self._asking.settings.web.base_url)
        location = service.encode() + path.removeprefix("/spalloc").encode()
        return Answer(status=302, headers=((b"location", location), (b"cache-control", b"no-store"), *headers))

    def _cookie(self, scope: Scope, value: str | None) -> Header:
        web = self._asking.settings.web
        path, secure = service_path(web.base_url), is_secure(scope, web.proxies)
        return expired_cookie(path=path, secure=secure) if value is None else cookie(value, path=path, secure=secure)


def _caller(scope: Scope) -> WebCaller | None:
    caller: WebCaller | None = scope["state"]["caller"]
    return caller


def _is_for_people(scope: Scope) -> bool:
    """Return whether a browser shows the answer to somebody."""
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _is_from_elsewhere(scope: Scope) -> bool:
    """Return whether a browser says that a page of another site has led here."""
    return any(name == b"sec-fetch-site" and value not in {b"same-origin", b"none"} for name, value in scope["headers"])


def _page(title: str, body: str, *headers: Header) -> Answer:
    """Return a page; `body` is HTML."""
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    return Answer(status=200, body=page.encode(errors="replace"), headers=(*_PAGE_HEADERS, *headers))


def _form(action: str, csrf: str | None, button: str, fields: str = "") -> str:
    # published clients look for exactly this spelling of the hidden field, on a line of its own
    return (
        f'<form method="post" action="{escape(action)}">\n<input type="hidden" name="_csrf" value="{csrf or ""}" />\n'
        f'{fields}<button name="submit" value="submit">{escape(button)}</button>\n</form>'
    )
