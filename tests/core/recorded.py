"""Plain data as it is recorded: alike under every Python, whose versions differ in the last digits of sums."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec


def text_of(what: Any) -> str:
    """Plain data in JSON, floats to nine digits."""
    return json.dumps(_rounded(msgspec.to_builtins(what, str_keys=True)), sort_keys=True)


def sum_of(what: Any) -> str:
    """A check sum of plain data."""
    return f"{zlib.crc32(text_of(what).encode()):08x}"


def shortened(line: str) -> str:
    """A line as it is recorded: how it begins, and a check sum of what is left out."""
    return line if len(line) <= 60 else f"{line[:50]}... {sum_of(line)}"


def _rounded(what: Any) -> Any:
    if isinstance(what, float):
        return float(f"{what:.9g}")
    if isinstance(what, dict):
        return {key: _rounded(value) for key, value in what.items()}
    return [_rounded(each) for each in what] if isinstance(what, list | tuple) else what
