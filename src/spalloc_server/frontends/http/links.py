"""How links in answers begin.

Theory of operation. Published clients follow links, so a link decides where passwords go. `base_url` of the settings
says how they begin, if it is there. Otherwise they name the host that the client has asked for, if that is one of this
computer's names; else its full name. What a request says of its host in `X-Forwarded-*` counts only where it comes from
one of the `proxies`.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from spalloc_server.frontends.http.answers import Scope
from spalloc_server.frontends.http.asking import WebSettings
from spalloc_server.frontends.http.clients import is_proxy, is_secure
from spalloc_server.frontends.http.names import full_name, own_names

__all__ = ["base_url", "websocket_url"]

PATH = "/spalloc"

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?P<port>:[0-9]{1,5})?")


def base_url(scope: Scope, settings: WebSettings) -> str:
    """Return how links begin, without a slash at the end: `https://host:8080/spalloc`."""
    web = settings.web
    if web.base_url:
        base = web.base_url.rstrip("/")
        return base if urlsplit(base).path else f"{base}{PATH}"
    scheme, host = "https" if is_secure(scope, web.proxies) else "http", _said(scope, b"host")
    if is_proxy(scope, web.proxies):
        return _begin(scheme, _said(scope, b"x-forwarded-host") or host, "")
    server = scope["server"]
    return _begin(scheme, host, f"{full_name()}:{server[1] if server else web.port}")


def websocket_url(base: str) -> str:
    """Return the same for WebSockets: `wss://` for `https://`, and `ws://` for `http://`."""
    return base.replace("http", "ws", 1)


def _begin(scheme: str, host: str, otherwise: str) -> str:
    """Return the beginning of links; `otherwise` has the host where that is none of ours, or is ""."""
    match = _HOST.fullmatch(host)
    if match is not None and (not otherwise or match["name"].strip("[]").lower() in own_names()):
        return f"{scheme}://{host}{PATH}"
    return f"{scheme}://{otherwise or full_name()}{PATH}"


def _said(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == name), "")
