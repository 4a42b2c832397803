"""Loopback addresses for simulated BMPs: all BMPs listen on one port number, so each needs an address of its own."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

from spalloc_server.hardware.scp import SCP_PORT

__all__ = ["loopback_hosts"]

_NETWORKS = 254 * 254
"""Blocks 127.a.b.*; each process begins at one of its own and walks on from there."""


def _candidates() -> Iterator[str]:
    for network in itertools.count(os.getpid() * 127):
        a, b = divmod(network % _NETWORKS, 254)
        for c in range(1, 255):
            yield f"127.{a + 1}.{b + 1}.{c}"


_unused = _candidates()


def loopback_hosts(count: int) -> list[str]:
    """`count` addresses, never given before by this process, at which port 17893 can be had now."""
    return list(itertools.islice(filter(_is_free, _unused), count))


def _is_free(host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, SCP_PORT))
        except OSError:
            return False
        return True
