"""The local API socket: where it is.

Theory of operation. A connection to the Unix socket `<state>.sock` carries one JSON object a line: `AnyCommand` there,
its `command` field telling which, and `{"return": ...}` or `{"exception": "..."}` back. Whoever may connect may do
everything: the socket's permissions admit the server's own user only. Who it was is known from the operating system,
not from what is said. An exception with `"again": true` beside it says that nothing was done, and that the request may
be sent again.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["socket_path"]


def socket_path(state: Path) -> Path:
    """Return where the server of this state listens to operators."""
    return state.with_name(f"{state.name}.sock")
