"""Hosts of boards, as users spell them."""

from __future__ import annotations

from functools import lru_cache

from spalloc_server.config.hosts import canonical

__all__ = ["host_key"]

MAX_REMEMBERED = 8192
"""Hosts of which the one spelling is remembered."""


@lru_cache(MAX_REMEMBERED)
def host_key(host: str) -> str:
    """Return the one spelling of a host (`canonical`), also where it has blanks around it or leading zeros."""
    text = host.strip()
    numbers = text.split(".")
    if len(numbers) == 4 and all(number.isdecimal() for number in numbers):
        text = ".".join(str(int(number)) for number in numbers)
    return canonical(text)
