"""Hosts: names and addresses of BMPs and boards, as operators write them.

Theory of operation. What no resolver could look up, or would take for something else than is meant, is refused when the
configuration is read: so `check-config` finds what would otherwise keep one frame silent. One host has many spellings
(`BMP.example.`, `0:0::1`); `canonical` gives each of them the same one, for comparisons. What is told to others is what
the operator wrote.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

__all__ = ["canonical", "is_loopback", "network_of", "why_no_host"]


def why_no_host(host: str) -> str | None:
    """What is wrong with a host, in words for the operator; None for nothing."""
    name = host.removesuffix(".")
    last = name.rpartition(".")[2]
    if not name or not host.isprintable() or " " in host:
        return "a host's name or address has no blanks and no control characters, and is not empty"
    if "/" in host:
        return "give the bare host, without a scheme or path"
    if _address(host) is not None:
        return None
    if ":" in host:
        return "give the bare host, without a port or brackets"
    if last.isdecimal() or last.lower().startswith("0x"):
        return "an IPv4 address is four numbers from 0 to 255, without leading zeros, such as 192.168.0.1"
    try:
        encoded = name.encode("idna")
    except UnicodeError:
        return "each part of a host's name, between its dots, has 1 to 63 characters"
    if not re.fullmatch(rb"[\w.-]{1,253}", encoded):
        return "a host's name has at most 253 letters, digits, hyphens and dots"
    return None


def canonical(host: str) -> str:
    """The one spelling of all that mean this host, as far as its text tells."""
    address = _address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return host.removesuffix(".").lower() if address is None else str(address)


def is_loopback(host: str) -> bool:
    """Whether a host is an address of this computer alone."""
    address = _address(host)
    return address is not None and address.is_loopback


@lru_cache(maxsize=4096)  # some ask at each command
def network_of(address: str | None) -> str:
    """The network that counts, where clients are counted by address: an IPv4 address, or what a home has of IPv6.

    That is 64 bits, of which each computer may take as many addresses as it likes.
    """
    ip = _address((address or "").partition("%")[0])
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((int(ip), 64), strict=False))
    return (address or "") if ip is None else str(ip)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
