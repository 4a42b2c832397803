"""Where a client is, and how it came: its address, and whether it came by TLS, also behind a reverse proxy.

Theory of operation. Only what a proxy of `[web] proxies` says is believed. `X-Forwarded-For` is read from its end: each
proxy adds who asked it, so the last address that is no proxy's is the client's, whatever the client wrote before it.
"""

from __future__ import annotations

from functools import cache, lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from spalloc_server.frontends.http.answers import Scope

__all__ = ["address_of", "is_proxy", "is_secure"]

MAX_KNOWN = 4096
"""Addresses that are not parsed again."""

MAX_LENGTH = 64
"""Characters that are read of what a proxy says; an address has fewer."""


def address_of(scope: Scope, proxies: tuple[str, ...]) -> str | None:
    """Return the IP address of the client; None where it is not known.

    Args:
        scope: the request.
        proxies: networks, as in `[web] proxies`.
    """
    address, is_proxy = _known((scope.get("client") or ("",))[0], proxies)
    if is_proxy:
        for text in reversed(_said(scope, b"x-forwarded-for").split(",")):
            address, is_proxy = _known(text.strip()[:MAX_LENGTH], proxies)
            if not is_proxy:
                break
    return address


def is_proxy(scope: Scope, proxies: tuple[str, ...]) -> bool:
    """Return whether one of the proxies has passed the request on."""
    return _known((scope.get("client") or ("",))[0], proxies)[1]


def is_secure(scope: Scope, proxies: tuple[str, ...]) -> bool:
    """Return whether the client came by TLS."""
    said = _said(scope, b"x-forwarded-proto").strip().lower() if is_proxy(scope, proxies) else ""
    return (said if said in {"http", "https"} else scope["scheme"]) in {"https", "wss"}


def _said(scope: Scope, name: bytes) -> str:
    return b",".join([value for each, value in scope["headers"] if each == name]).decode("latin-1")


@lru_cache(MAX_KNOWN)
def _known(text: str, proxies: tuple[str, ...]) -> tuple[str | None, bool]:
    """Return an address as it is always written, None where it is none; and whether it is one of the proxies'."""
    try:
        address = ip_address(text)
    except ValueError:
        return None, False
    address = (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
    return str(address), any(address in network for network in _networks(proxies))


@cache
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)
