"""What all connections share.

Theory of operation. A connection knows this, and neither the service that wires it nor the acceptor that makes
connections. Here a connection is only what can be done to it, a `Peer`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from spalloc_server.config.options import Limits
from spalloc_server.frontends.v1.backlog import Backlog
from spalloc_server.frontends.v1.commands import Client, Commands
from spalloc_server.frontends.v1.rates import Rates
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.complaints import Complaints
from spalloc_server.log.defects import DefectLog

__all__ = ["Context", "Peer"]


class Peer(Client, Protocol):
    """A connection, for those who do something to it."""

    def tell(self, *, jobs: Iterable[int] = (), machines: Iterable[str] = ()) -> None:
        """Notify the client, when it is its turn, that these have changed."""

    def release(self, ticket: int, error: bytes | None) -> None:
        """Send the replies that waited for the commit of `ticket`, or of an earlier one, and go on answering.

        Args:
            ticket: the commit that has ended.
            error: the line that takes their place where it failed.
        """


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What connections need of each other and of the server."""

    commands: Commands[Peer]
    limits: Limits
    """What clients may take; may be assigned anew."""
    hold: Callable[[], int | None]
    """Gives the ticket of the commit that the last command's changes belong to, or None if it made none."""
    loop: asyncio.AbstractEventLoop
    turns: Turns
    rates: Rates
    backlog: Backlog
    complaints: Complaints
    defects: DefectLog
    waiting: deque[tuple[int, Peer]] = field(default_factory=deque)
    """Who waits for the commit of which ticket, in the order of the tickets."""
    refusal: str | None = None
    """While set, the answer to every command that would change something."""
    frozen: bool = False
    """Whether connections wait, so that they can be handed over."""
