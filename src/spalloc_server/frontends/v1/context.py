"""What all connections share.

Theory of operation. A connection knows this, and neither the service that wires it nor the acceptor that makes
connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from spalloc_server.config.options import Access, Limits
from spalloc_server.frontends.v1.backlog import Backlog
from spalloc_server.frontends.v1.door import Door
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.complaints import Complaints
from spalloc_server.log.defects import DefectLog

__all__ = ["Context", "Waiting"]


class Waiting(Protocol):
    """A connection that waits for a commit."""

    def release(self, commit: int, error: bytes | None) -> None:
        """Send the replies that waited for `commit`, or for an earlier one, and go on answering.

        Args:
            commit: the one that is over.
            error: the line that takes their place where it failed.
        """


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What connections need of each other and of the server."""

    door: Door
    limits: Limits
    """What clients may take; may be assigned anew."""
    access: Access = field(default_factory=Access)
    """Who may connect; may be assigned anew."""
    loop: asyncio.AbstractEventLoop
    turns: Turns
    backlog: Backlog
    complaints: Complaints
    defects: DefectLog
    waiting: deque[tuple[int, Waiting]] = field(default_factory=deque)
    """Who waits for which commit, in the order of the commits."""
    frozen: bool = False
    """Whether connections wait, so that they can be handed over."""
