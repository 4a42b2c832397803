"""One finding of `spalloc-admin doctor`: what it is about, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

__all__ = ["Finding", "Level", "bad", "good", "note", "some", "warning"]

Level: TypeAlias = Literal["good", "note", "warning", "bad"]

SHOWN = 5
"""Names, boards or frames that one finding lists; of more, it tells how many."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was found."""

    about: str
    """`config`, `names`, `BMPs` and so on."""
    level: Level
    """`bad`: a server will not serve, or not all of it. `warning`: sooner or later somebody will notice it."""
    text: str
    do: str = ""
    """What to do about it."""


def good(about: str, text: str) -> Finding:
    """All is well."""
    return Finding(about=about, level="good", text=text)


def note(about: str, text: str, do: str = "") -> Finding:
    """Something could not be looked at, or is worth knowing."""
    return Finding(about=about, level="note", text=text, do=do)


def warning(about: str, text: str, do: str) -> Finding:
    """Something will be noticed later."""
    return Finding(about=about, level="warning", text=text, do=do)


def bad(about: str, text: str, do: str) -> Finding:
    """Something keeps a server, or a part of the machine, from serving."""
    return Finding(about=about, level="bad", text=text, do=do)


def some(items: Iterable[object]) -> str:
    """The first few of them, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
