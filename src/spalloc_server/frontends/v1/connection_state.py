"""What goes with a client's socket from one process to another: `Connection.export` makes it, `Connection` takes it."""

from __future__ import annotations

import msgspec

__all__ = ["ConnectionState"]


class ConnectionState(msgspec.Struct, kw_only=True):
    """All that another process needs, besides the socket, to go on with a connection.

    Its fields' names are on the wire between two versions (`process.handover.FORMAT`): they stay.
    """

    unread: bytes = b""
    """Received and not answered yet."""
    unsent: bytes = b""
    """Answered and not sent yet."""
    jobs: list[int] | None = []
    """Jobs watched; None for all."""
    machines: list[str] | None = []
    """Machines watched; None for all."""
    changed_jobs: list[int] = []
    """Changes that the client has not been told of yet."""
    changed_machines: list[str] = []
