"""What a caller may take: requests a second, and bytes of a body.

Theory of operation. `Limits` stands before everything else, and `Rates` behind the check of who asks. Each account has
a budget of requests, and so has each address for requests without an account; among these are those that are refused
because of a wrong password. Everybody behind a router or a proxy has the same address, so what others take of its
budget hinders nobody who shows a password, token or session that is right, and nobody who logs in. How many passwords
are looked at from there is another budget (`accounts.attempts`), and how many are checked at a time is in `grants`.

Bytes and time of heads and bodies as such are bounded by the connection (`protocols`); here it is bodies of JSON and
forms, which may be shorter only. A body that is compressed is refused, as nobody knows how long it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from spalloc_server.config.hosts import network_of
from spalloc_server.config.options import Web
from spalloc_server.frontends.http.answers import Answer, ASGIApp, Message, Receive, Scope, Send, text
from spalloc_server.frontends.http.asking import Asking, WebCaller
from spalloc_server.frontends.http.authentication import SYSTEM
from spalloc_server.frontends.http.clients import address_of

__all__ = ["Budgets", "Limits", "Rates"]

MAX_CALLERS = 10_000
"""Accounts and addresses whose requests are counted. With one more, the one that asked longest ago is forgotten."""

LONG_BODIES = ("/admin/import", "/memory", "/fast-data-write")
"""Ends of paths whose bodies may have `body_bytes`."""

COMPRESSED = text(
    415, "a body must not be compressed: send it without Content-Encoding", (b"accept-encoding", b"identity")
)
NO_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Budgets:
    """Counts what each caller has asked lately.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._debts: dict[str, tuple[float, float]] = {}
        """Requests that are not paid off yet, and when that was worked out."""

    def wait(self, who: str, rate: float) -> float:
        """Return for how many seconds `who` must ask nothing; 0 where one more request is within the budget."""
        if not rate or who not in self._debts:
            return 0.0
        debt, since = self._debts[who]
        return max(0.0, (debt - (self._clock() - since) * rate - rate) / rate)

    def charge(self, who: str, rate: float) -> None:
        """Count a request."""
        if not rate:
            return
        now = self._clock()
        debt, since = self._debts.pop(who, (0.0, now))
        self._debts[who] = (max(0.0, debt - (now - since) * rate) + 1.0, now)
        if len(self._debts) > MAX_CALLERS:  # whoever asked longest ago
            del self._debts[next(iter(self._debts))]


class Limits:
    """Refuses what is too much, before anything else is done about a request.

    Args:
        app: what stands behind this.
        asking: has the settings.
        budgets: shared with `Rates`.
    """

    def __init__(self, app: ASGIApp, asking: Asking, budgets: Budgets) -> None:
        self._app, self._asking, self._budgets = app, asking, budgets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, if its body is within the limits."""
        if scope["type"] == "http" and scope["method"] not in NO_BODY:
            await self._with_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)
        if "charged" not in scope["state"]:  # what it showed was wrong
            web = self._asking.settings.web
            self._budgets.charge(_who(scope, web), web.requests_per_second)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            await COMPRESSED(scope, receive, send)
            return
        most, length = self._asking.settings.web.json_bytes, headers.get(b"content-length")
        if scope["path"].rstrip("/").endswith(LONG_BODIES):
            await self._app(scope, receive, send)
        elif length is None:
            await self._app(scope, _bounded(receive, most), send)
        elif int(length) > most:
            too_long = text(413, f"the body of this request must not be longer than {most} bytes")
            await too_long(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Rates:
    """Counts requests of each account, and of each address without one, and refuses those that are too many.

    Args:
        app: what stands behind this.
        asking: has the settings.
        budgets: shared with `Limits`.
    """

    def __init__(self, app: ASGIApp, asking: Asking, budgets: Budgets) -> None:
        self._app, self._asking, self._budgets = app, asking, budgets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, if its account, or else its address, may ask one more."""
        web = self._asking.settings.web
        who, rate = _who(scope, web), web.requests_per_second
        scope["state"]["charged"] = True
        if (seconds := self._budgets.wait(who, rate)) > 0 and not (who[0] == "@" and _is_to_log_in(scope)):
            await _too_fast(seconds)(scope, receive, send)
            return
        self._budgets.charge(who, rate)
        await self._app(scope, receive, send)


def _who(scope: Scope, web: Web) -> str:
    """Return whose budget a request is of: an account's, or an address's."""
    caller: WebCaller | None = scope["state"].get("caller")
    return f"@{network_of(address_of(scope, web.proxies))}" if caller is None else f":{caller.name}"


def _is_to_log_in(scope: Scope) -> bool:
    """Return whether a request is to the pages by which people and published clients log in; these cost little."""
    return bool(scope["path"].startswith(SYSTEM))


def _bounded(receive: Receive, most: int) -> Receive:
    """Return `receive`, for which a body that is too long ends as if its client had left."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message: Any = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > most else message

    return bounded


def _too_fast(seconds: float) -> Answer:
    wait = (b"retry-after", b"%d" % (1 + int(seconds)))
    return text(429, "these are too many requests at once: wait a little between them", wait)
