"""The lines that v1's clients are sent.

Theory of operation. A reply is `{"return": ...}` or `{"exception": ...}`. What commands answer are plain structs whose
fields bear the protocol's names (`core.model.replies`), so they are encoded as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["PROTOCOL_VERSION", "RETURN_NULL", "encode", "exception_reply", "notification", "reply"]

PROTOCOL_VERSION = "1.0.0"
"""Reply of `version`. Every published client checks it before anything else: it must be three plain integers, and no
range that all of them accept is wider than [0.4.0, 2.0.0). The version of this package is told by `--version`."""

RETURN_NULL = b'{"return":null}\n'
"""The reply of commands that have nothing to tell."""

encode = msgspec.json.Encoder().encode


class _Return(msgspec.Struct):
    value: Any = msgspec.field(name="return")


class _Exception(msgspec.Struct):
    text: str = msgspec.field(name="exception")


def reply(value: Any) -> bytes:
    """The line that tells a client what its command has come to."""
    return RETURN_NULL if value is None else encode(_Return(value)) + b"\n"


def exception_reply(text: str) -> bytes:
    """The line that tells a client that its command failed."""
    return encode(_Exception(text)) + b"\n"


def notification(kind: str, changed: list[Any]) -> bytes:
    """The line that tells a client what changed; `kind` is jobs_changed or machines_changed."""
    return encode({kind: changed}) + b"\n"
