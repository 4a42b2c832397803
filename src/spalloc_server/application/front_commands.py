"""What front processes ask for themselves."""

from __future__ import annotations

from spalloc_server.application.caller import Permission
from spalloc_server.application.command_kinds import Command

__all__ = ["Figures"]


class Figures(Command, frozen=True, tag="figures"):
    """`views.ServerView`, which front processes show to Prometheus."""

    permission = Permission.AUTHENTICATE
    changes = False
    repeatable = True
    audited = False
    takes_long = True
