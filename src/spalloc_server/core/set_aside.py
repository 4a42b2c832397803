"""Stored rows that make no sense, and what is kept of them.

Theory of operation. A row that cannot be read, or that contradicts itself or the others, must cost no more than what it
is about. It is taken out of its table and kept as a fact: why, since when, and all that could be read of it. So nothing
is deleted, an operator sees it, and the next start does not meet it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from spalloc_server.core.model import SetAsideView, UnreadableRow

__all__ = ["PREFIX", "fact_name", "to_fact", "views"]

PREFIX = "set_aside/"
"""How the names of such facts begin."""


def key_in_text(row: UnreadableRow) -> str:
    """The key of a row as operators read it."""
    return "/".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in row.key)


def fact_name(row: UnreadableRow, taken: Collection[str]) -> str:
    """Return a name for the fact that keeps this row; none that is `taken`."""
    name = wanted = f"{PREFIX}{row.table}/{key_in_text(row)}"
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    return name


def to_fact(row: UnreadableRow, now: float) -> dict[str, Any]:
    """Return what is kept of a row, as plain JSON."""
    view = SetAsideView(table=row.table, key=key_in_text(row), reason=row.reason, since=now)
    return {**msgspec.to_builtins(view), "row": msgspec.to_builtins(row.row)}


def views(facts: Mapping[str, Any]) -> list[SetAsideView]:
    """Return what was set aside, in order of table and key."""
    found = []
    for name, fact in sorted(facts.items()):
        if name.startswith(PREFIX):
            try:
                found.append(msgspec.convert(fact, SetAsideView))
            except msgspec.ValidationError:  # it was changed by hand
                table, _, key = name.removeprefix(PREFIX).partition("/")
                found.append(SetAsideView(table=table, key=key, reason="unknown", since=0.0))
    return found
