"""What answers requests: the parts of the HTTP door, put together.

Theory of operation. Each part is an ASGI app for all paths below a prefix, and one line of `_parts`. Around them stand,
from the outside: what contains defects and turns errors of the server into answers; the limits; the check of who asks,
which sets `scope["state"]["caller"]`; and the count of requests of each account. What tells only how this process is
(`/healthz`, `/readyz`, `/metrics`) and the certificate that clients are to trust are answered before all of these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from spalloc_server.frontends.http.answers import ASGIApp, Receive, Scope, Send, refusal, text
from spalloc_server.frontends.http.asking import Asking, RefusedError, ServerAwayError
from spalloc_server.frontends.http.authentication import Authentication
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.frontends.http.boards.proxy import make_proxy
from spalloc_server.frontends.http.grants import Grants
from spalloc_server.frontends.http.limits import Budgets, Limits, Rates
from spalloc_server.frontends.http.links import base_url
from spalloc_server.frontends.http.login import Login
from spalloc_server.frontends.http.rest import make_rest
from spalloc_server.log.defects import DefectLog

__all__ = ["make_app"]

NOT_FOUND = text(404, "not found")
DEFECT = text(500, "internal error of the server; its log tells more")


def make_app(asking: Asking, *, defects: DefectLog | None = None, own: Mapping[str, ASGIApp] | None = None) -> ASGIApp:
    """Return the app that serves everything.

    Args:
        asking: the server.
        defects: told what goes wrong that never should.
        own: further paths, exact ones, that are answered before anything is asked of the caller.
    """
    defects = defects or DefectLog()
    budgets, grants = Budgets(), Grants(asking)
    routed: ASGIApp = _Router(_parts(asking, grants))
    routed = Rates(routed, asking, budgets)
    routed = Authentication(routed, asking, grants)
    routed = Limits(routed, asking, budgets)
    return _Outermost(routed, dict(own or {}), defects)


def _parts(asking: Asking, grants: Grants) -> dict[str, ASGIApp]:
    """Return what serves the paths below each prefix."""
    return {
        "/spalloc": Login(asking, grants),
        "/spalloc/proxy": make_proxy(asking),
        "/spalloc/srv": make_rest(asking, BoardAccess(asking), base_url),
    }


class _Router:
    """Hands a request to the part whose prefix its path has."""

    def __init__(self, parts: dict[str, ASGIApp]) -> None:
        self._parts = sorted(parts.items(), key=lambda part: -len(part[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        for prefix, part in self._parts:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
                await part(scope, receive, send)
                return
        await NOT_FOUND(scope, receive, send)


class _Outermost:
    """Contains what goes wrong, and answers what needs no caller."""

    def __init__(self, app: ASGIApp, own: dict[str, ASGIApp], defects: DefectLog) -> None:
        self._app, self._own, self._defects = app, own, defects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own.get(scope["path"])
        begun = False

        async def sent(message: object) -> None:
            nonlocal begun
            begun = True
            await send(message)  # type: ignore[arg-type]

        try:
            await (self._app if own is None else own)(scope, receive, sent)
        except asyncio.CancelledError:  # its client has left, or this process ends
            return
        except (RefusedError, ServerAwayError) as exc:
            if not begun:
                await refusal(exc)(scope, receive, send)
        except Exception as exc:
            self._defects.note("a request failed", exc, path=scope["path"])
            if begun:
                raise
            await DEFECT(scope, receive, send)
