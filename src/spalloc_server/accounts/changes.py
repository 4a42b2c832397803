"""Where changed rows are noted, and the base of tables whose rows are looked up by an id and end by themselves."""

from __future__ import annotations

from typing import Final, Protocol

from spalloc_server.core.model import SessionRow, TokenRow, UserRow

__all__ = ["NOTED_SECONDS", "Changed"]

NOTED_SECONDS: Final = 3600.0
"""The use of a session or token is noted at most so often, so that it is not written with each request."""


class Changed(Protocol):
    """Rows to store; None stands for one that goes. `core.outbox.Outbox` is one."""

    users: dict[int, UserRow | None]
    tokens: dict[str, TokenRow | None]
    sessions: dict[str, SessionRow | None]
