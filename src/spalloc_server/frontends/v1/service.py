"""The v1 service: its parts, wired, and what the server tells them.

Theory of operation. *Nothing leaves before its commit.* After each command that may have changed something the
connection asks `hold()` for the number of the commit that will make it durable, its *ticket* (None: nothing to wait
for). Tickets rise. Its reply, and all replies behind it, wait in the connection until the server says
`committed(ticket)`, which ends the wait for that ticket and all before it. `Context.waiting` has who waits for which
ticket, so a commit costs as much as it has replies. After a commit the server also tells what has changed (`notify`).

Clients are told of changes when it is their turn (`turns`); changes that come meanwhile are merged into what is still
to be told. So a change that a thousand clients watch stalls nobody.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Iterable

from spalloc_server.config.options import Access, Limits
from spalloc_server.controller import Controller
from spalloc_server.frontends.v1.acceptor import Acceptor
from spalloc_server.frontends.v1.backlog import Backlog
from spalloc_server.frontends.v1.commands import Commands, exception_reply
from spalloc_server.frontends.v1.context import Context, Peer
from spalloc_server.frontends.v1.rates import Rates
from spalloc_server.frontends.v1.turns import Turns
from spalloc_server.log.complaints import Complaints
from spalloc_server.log.defects import DefectLog

__all__ = ["Service"]


class Service:
    """Serves clients of the v1 protocol.

    Args:
        core: executes the commands.
        limits: what clients may take; may be assigned anew.
        hold: gives the ticket of the commit that the last command's changes belong to, or None if it made none.
        clock: seconds, monotonic.
        defects: told what of this service itself goes wrong.
    """

    def __init__(
        self,
        core: Controller,
        limits: Limits,
        hold: Callable[[], int | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        defects: DefectLog | None = None,
    ) -> None:
        defects, loop, complaints = defects or DefectLog(), asyncio.get_running_loop(), Complaints(clock)
        self.commands: Commands[Peer] = Commands(core, limits, defects)
        self.turns = Turns(loop, clock)
        self.context = Context(
            commands=self.commands,
            limits=limits,
            hold=hold,
            loop=loop,
            turns=self.turns,
            rates=Rates(limits.commands_per_second, clock),
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
        self.context.limits = self.commands.limits = limits
        self.context.rates.rate = limits.commands_per_second
        self.context.backlog.bound = limits.unsent_bytes
        self.commands.access = access
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

    def committed(self, ticket: int, error: str | None = None) -> None:
        """Send the replies that waited for `ticket` and earlier ones.

        To be called after `hold` has returned the ticket, never from inside it.

        Args:
            ticket: the commit that has ended.
            error: why it failed; the clients are told instead of what they were going to hear.
        """
        waiting = self.context.waiting
        line = None if error is None else exception_reply(f"The server could not store this: {error}")
        while waiting and waiting[0][0] <= ticket:
            waiting.popleft()[1].release(ticket, line)

    def notify(self, jobs: Collection[int], machines: Collection[str], ended: Iterable[int] = ()) -> None:
        """Tell everybody who watches `jobs` and `machines` that they changed.

        Args:
            jobs: numbers of the jobs.
            machines: names of the machines.
            ended: those of the jobs that will not change again, so that nobody need watch them any longer.
        """
        commands = self.commands
        for client, job_ids in commands.watched_jobs.affected(jobs):
            client.tell(jobs=job_ids)
        commands.watched_jobs.drop(ended)
        for client, names in commands.watched_machines.affected(machines):
            client.tell(machines=names)

    async def stop(self) -> None:
        """Disconnect all clients, once they have taken what was sent; takes at most `LINGER_SECONDS`.

        To be called after the last commit; replies that still wait for one are not sent.
        """
        self.acceptor.stop_listening()
        await self.acceptor.close_all()
