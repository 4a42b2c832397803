"""Accounts while the server runs: sessions and tokens that are over are forgotten.

Theory of operation. Nobody waits for the notes of when sessions and tokens were used last, so they are stored with
whatever is stored next, or by the next look here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spalloc_server.accounts.accounts import Accounts

__all__ = ["look_after_accounts"]

SWEEP_SECONDS = 60.0
"""Between looks for sessions and tokens that are over."""


async def look_after_accounts(accounts: Accounts, changed: Callable[[], object]) -> None:
    """Forget sessions and tokens that are over, for ever; call `changed` when that may have changed something."""
    while True:
        accounts.sweep()
        changed()
        await asyncio.sleep(SWEEP_SECONDS)
