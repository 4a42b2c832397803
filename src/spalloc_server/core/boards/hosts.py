"""Hosts, however they are spelled."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

__all__ = ["host_key"]

MAX_REMEMBERED = 8192
"""Hosts of which the one spelling is remembered."""


@lru_cache(MAX_REMEMBERED)
def host_key(host: str) -> str:
    """Return the one spelling of an IP address or a name: without leading zeros, capitals, or a dot at the end."""
    text = host.strip().rstrip(".").lower()
    numbers = text.split(".")
    if len(numbers) == 4 and all(number.isdecimal() for number in numbers):
        text = ".".join(str(int(number)) for number in numbers)
    try:
        address = ip_address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
