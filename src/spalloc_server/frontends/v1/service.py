"""The v1 service: its parts, wired, and what the server tells them.

Theory of operation. *Nothing leaves before its commit.* The answer to each command names the commit that it must wait
for, if any. The reply, and all replies behind it, wait in the connection until the server says `committed(commit)`,
which ends the wait for that commit and all before it. `Context.waiting` has who waits for which commit, so one costs as
much as it has replies.

Clients hear of changes (`Connection.hear`) after a commit, and are notified when it is their turn (`turns`); changes
that come meanwhile are merged. So a change that a thousand clients watch stalls nobody.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from spalloc_server.application.api import Application
from spalloc_server.config.options import Access, Limits
from spalloc_server.frontends.v1.acceptor import Acceptor
from spalloc_server.frontends.v1.backlog import Backlog
from spalloc_server.frontends.v1.context import Context
from spalloc_server.frontends.v1.door import Door
from spalloc_server.frontends.v1.replies import exception_reply
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.complaints import Complaints
from spalloc_server.log.defects import DefectLog

__all__ = ["Service"]


class Service:
    """Serves clients of the v1 protocol.

    Args:
        application: performs commands.
        limits: what clients may take.
        clock: seconds, monotonic.
        defects: told what of this service itself goes wrong.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        defects: DefectLog | None = None,
    ) -> None:
        defects, loop, complaints = defects or DefectLog(), asyncio.get_running_loop(), Complaints(clock)
        self.turns = Turns(loop, clock)
        self.context = Context(
            door=Door(application, limits.watches_per_connection, defects),
            limits=limits,
            loop=loop,
            turns=self.turns,
            backlog=Backlog(limits.unsent_bytes, complaints, clock),
            complaints=complaints,
            defects=defects,
        )
        self.acceptor = Acceptor(self.context)
        self.connections = self.acceptor.connections
        """Those that are open."""
        self.complain = complaints.complain

    def configure(self, limits: Limits, access: Access) -> None:
        """Heed new settings. Those who may not connect any more are disconnected."""
        self.context.limits, self.context.access = limits, access
        self.context.door.most_watched = limits.watches_per_connection
        self.context.backlog.bound = limits.unsent_bytes
        self.acceptor.judge_again()

    def freeze(self) -> list[socket.socket]:
        """Accept nobody and answer nobody until `thaw`; what was answered already is still sent.

        Returns:
            The listening sockets, for `Acceptor.listen` or for another process; the caller closes them.
        """
        self.context.frozen = True
        sockets = self.acceptor.listening_sockets()
        self.acceptor.stop_listening()
        return sockets

    def thaw(self) -> None:
        """Go on answering."""
        self.context.frozen = False
        for connection in self.connections:
            connection.thaw()

    def committed(self, commit: int, error: str | None = None) -> None:
        """Send the replies that waited for `commit` and earlier ones.

        Args:
            commit: the one that is over.
            error: why it failed; the clients are told instead of what they were going to hear.
        """
        waiting = self.context.waiting
        line = None if error is None else exception_reply(f"The server could not store this: {error}")
        while waiting and waiting[0][0] <= commit:
            waiting.popleft()[1].release(commit, line)

    async def stop(self) -> None:
        """Disconnect all clients, once they have taken what was sent; takes at most `LINGER_SECONDS`.

        To be called after the last commit; replies that still wait for one are not sent.
        """
        self.acceptor.stop_listening()
        await self.acceptor.close_all()
