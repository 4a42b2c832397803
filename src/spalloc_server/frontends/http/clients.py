"""Where a client is, and how it came: its address, and whether it came by TLS, also behind a reverse proxy.

Theory of operation. Only what a proxy of `[web] proxies` says is believed. `X-Forwarded-For` is read from its end: each
proxy adds who asked it, so the last address that is no proxy's is the client's, whatever the client wrote before it.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from spalloc_server.frontends.http.answers import Scope

__all__ = ["address_of", "is_secure"]


def address_of(scope: Scope, proxies: tuple[str, ...]) -> str | None:
    """Return the IP address of the client; None where it is not known.

    Args:
        scope: the request.
        proxies: networks, as in `[web] proxies`.
    """
    address = _address((scope.get("client") or ("",))[0])
    if address is None or not _is_in(address, proxies):
        return None if address is None else str(address)
    for text in reversed(_said(scope, b"x-forwarded-for").split(",")):
        address = _address(text.strip())
        if address is None or not _is_in(address, proxies):
            break
    return None if address is None else str(address)


def is_secure(scope: Scope, proxies: tuple[str, ...]) -> bool:
    """Return whether the client came by TLS."""
    if scope["scheme"] in {"https", "wss"}:
        return True
    peer = _address((scope.get("client") or ("",))[0])
    return peer is not None and _is_in(peer, proxies) and _said(scope, b"x-forwarded-proto").strip().lower() == "https"


def _said(scope: Scope, name: bytes) -> str:
    return b",".join([value for each, value in scope["headers"] if each == name]).decode("latin-1")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _is_in(address: IPv4Address | IPv6Address, networks: tuple[str, ...]) -> bool:
    return any(address in network for network in _networks(networks))


@cache
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)
