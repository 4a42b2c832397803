"""Upgrade in place: a new process takes the server over, and clients notice nothing but a short pause.

Theory of operation. Published clients take a closed connection for the end of their job, so a new version must take
over the connections, too. The old process starts the new one with the same arguments, at the other end of a pair of
sockets. They talk in messages (`handover`):

    old, still serving                            new
                                                  imports everything, reads the config
                                            <---  Warm
    answers nobody, waits for the last commits
    Takeover (lock, listening sockets)      --->  reads the config again, which may have changed meanwhile
    Clients (their sockets), repeated       --->  opens the state, restores the core, applies the config
    Operators (likewise, and their socket)  --->
                                            <---  Ready
    Go                                      --->  is the server
    lets go of the connections                    goes on with them, operators first
    passes signals on                             heeds them
    finishes the commands that BMPs are doing
    a line with the host of each such BMP   --->  begins to use that BMP
    ends

The event loop of the old process stands still from Takeover to Go, so nothing can be sent or received twice. Until it
says Go it can go on as if nothing had happened, and does so where the new process ends, is too slow or does not
understand: it kills that process first. The new one, in turn, neither writes to the state nor speaks to a client or a
BMP before Go. (It may bring the state to a newer schema. Should it fail after that, which is unlikely, the old process
sets that state aside and begins a new one with what it knows.) Power operations that were under way are in the state,
and the new process drives them anew as after any restart; so no two processes ever have commands in flight at one BMP,
and boards of jobs that are ready are left alone. Nor does a third: a process is not upgraded before its predecessor's
BMPs are free.

With Go the old process gives up all authority: it has no timers, answers nobody, logs nothing that BMPs do, and leaves
the state alone. What operators send from then on arrives in the new process. (One that is too old to take their
connections binds a socket of its own; then they are told to send it again.)

The right to the state is an open file that both share (`storage.files.Lock`), so there is no moment at which a third
process could have it. The new one compares how far the state has come with what the old one says of it: where another
file has taken its place, it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Self

from spalloc_server import __version__
from spalloc_server.application.commits import Commits
from spalloc_server.core.model import Snapshot
from spalloc_server.errors import UpgradeError
from spalloc_server.frontends.operators.service import Inherited, Operators as OperatorsService
from spalloc_server.frontends.v1.connection import Connection, ConnectionState
from spalloc_server.frontends.v1.service import Service
from spalloc_server.hardware.switchboard import Hardware
from spalloc_server.log.logger import get_logger
from spalloc_server.process import systemd
from spalloc_server.process.handover import FORMAT, Channel, Clients, Go, Operators, Ready, Takeover, Warm
from spalloc_server.storage.journal import Committed
from spalloc_server.storage.sqlite import SqliteJournal

__all__ = ["Predecessor", "Successor", "pass_on"]

VARIABLE: Final = "SPALLOC_SERVER_UPGRADE"
"""Environment variable that tells a new process which file descriptor leads to its predecessor."""

WARM_SECONDS = 10.0
"""The longest that a new process of an upgrade may take to start; clients are served meanwhile."""

SETTLE_SECONDS = 2.0
"""The longest that an upgrade waits for the last commits, while clients wait."""

HANDOVER_SECONDS = 5.0
"""The longest that the handover may take, while clients wait. Usually it takes a tenth of a second."""

COMMAND_SECONDS = 30.0
"""The longest that an upgrade waits for commands that are in flight at BMPs."""

CHUNK = 100
"""Connections in one message between the two processes of an upgrade; systems pass 253 descriptors at once, at
most."""

ACCEPTED_TURNS = 10
"""Turns of the event loop after which a client that was accepted before an upgrade is a connection of the service."""

log = get_logger(__name__)


class Successor:
    """A new process of this program, with the same arguments. It is killed at the end of the block, unless it serves.

    Raises:
        UpgradeError: from every method; it cannot take over.
    """

    def __init__(self) -> None:
        self._serves = False
        self.takes_operators = False
        """Whether it goes on with operators' connections; known once it is warm."""
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        environment = {name: value for name, value in os.environ.items() if name != systemd.WATCHDOG_PID}
        environment[VARIABLE] = str(theirs.fileno())
        with theirs:
            theirs.set_inheritable(True)
            # Not `subprocess`: a child of that is waited for, or complained about, when this process ends.
            try:
                self.pid = os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
            except OSError as exc:
                ours.close()
                raise UpgradeError(f"{sys.executable} cannot be started: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        if not self._serves:
            self.kill()
            self._channel.socket.close()

    def kill(self) -> None:
        """End it. Harmless when repeated."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    async def warm(self) -> None:
        """Wait until it is warm."""
        self._channel.allow(WARM_SECONDS)
        warm, _ = await asyncio.to_thread(self._channel.receive, Warm)
        if FORMAT not in warm.formats:
            raise UpgradeError(f"version {warm.version} cannot take over from version {__version__}: stop and start it")
        self.takes_operators = warm.operators

    def hand_over(
        self,
        takeover: Takeover,
        files: Sequence[int],
        clients: list[tuple[int, ConnectionState]],
        operators: tuple[list[int], list[bytes]] | None,
    ) -> None:
        """Give it everything, and wait until it is ready. Blocks."""
        self._channel.allow(HANDOVER_SECONDS)
        self._channel.send(takeover, files)
        for begin in range(0, len(clients), CHUNK):
            chunk = clients[begin : begin + CHUNK]
            self._channel.send(Clients(states=[state for _, state in chunk]), [number for number, _ in chunk])
        if operators is not None:
            self._channel.send(Operators(unread=operators[1]), operators[0])
        self._channel.receive(Ready)

    def go(self) -> None:
        """Let it be the server."""
        self._channel.send(Go())
        self._serves = True

    async def finish_commands(self, hardware: Hardware) -> None:
        """See the commands at BMPs to their end, and tell which BMPs are free."""
        busy = set(hardware.in_flight())
        with self._channel.socket, suppress(OSError):  # which a timeout is, too
            async with asyncio.timeout(COMMAND_SECONDS):
                while busy:
                    free = busy.difference(hardware.in_flight())
                    self._channel.socket.sendall("".join(f"{host}\n" for host in free).encode())
                    busy -= free
                    await asyncio.sleep(0.01)
        await systemd.flush(systemd.MAINPID_SECONDS)


class Predecessor:
    """The process from which this one is to take over.

    Raises:
        UpgradeError: from every method; this process must end.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        channel.allow(WARM_SECONDS)
        channel.send(Warm(formats=[FORMAT], version=__version__, operators=True))
        channel.allow(WARM_SECONDS + SETTLE_SECONDS + HANDOVER_SECONDS)
        takeover, (self.lock, *listening) = channel.receive(Takeover)
        if takeover.format != FORMAT:
            raise UpgradeError(f"the other process hands over in format {takeover.format}, not {FORMAT}")
        self.listening = takeover.listening
        """(ip, port), where the sockets listen."""
        self.sockets = [socket.socket(fileno=number) for number in listening]
        self.left = takeover.left
        """How far the state has come that this process is to find; None where that is not told."""
        self._busy = takeover.busy
        self._clients: list[tuple[socket.socket, ConnectionState]] = []
        while len(self._clients) < takeover.clients:
            clients, numbers = channel.receive(Clients)
            sockets = [socket.socket(fileno=number) for number in numbers]
            self._clients += zip(sockets, clients.states, strict=True)
        self._operators: Inherited | None = None
        if takeover.operators:
            operators, numbers = channel.receive(Operators)
            listening_socket, *sockets = (socket.socket(fileno=number) for number in numbers)
            self._operators = listening_socket, list(zip(sockets, operators.unread, strict=True))

    @classmethod
    def find(cls) -> Self | None:
        """Say that this process is warm, and take what its predecessor hands over; None where there is none. Blocks."""
        number = os.environ.pop(VARIABLE, None)
        if number is None:
            return None
        os.set_inheritable(int(number), False)
        return cls(Channel(socket.socket(fileno=int(number))))

    def claim(self, commits: Commits, hardware: Hardware, operators: OperatorsService) -> None:
        """Say that this process is ready, and wait for `Go`. Blocks.

        Args:
            commits: stopped until then.
            hardware: paused until then; at BMPs that are busy, until `await_commands` knows that they are not.
            operators: not entered before.
        """
        hardware.pause()
        try:
            self._channel.send(Ready())
            self._channel.receive(Go)
        except BaseException:
            self._channel.socket.close()  # so that the other process does not wait for the end of this one
            raise
        commits.stopped = False
        operators.inherited = self._operators
        hardware.resume(hardware.frames())
        hardware.pause(self._busy)

    async def go_on(self, service: Service) -> None:
        """Go on with the clients.

        None is answered before all are there: who watches something must not miss that it changes.
        """
        service.context.frozen = True
        for begin in range(0, len(self._clients), CHUNK):
            adoptions = [service.acceptor.adopt(*client) for client in self._clients[begin : begin + CHUNK]]
            for problem in await asyncio.gather(*adoptions, return_exceptions=True):
                if problem is not None:
                    log.warning("a client was lost at the upgrade", error=repr(problem))
        self._clients.clear()
        service.thaw()

    async def await_commands(self, hardware: Hardware) -> None:
        """Use each BMP again as soon as the predecessor's last command there has ended."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                self._channel.socket.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(sock=self._channel.socket)
                while host := (await reader.readline()).decode().strip():
                    hardware.resume([host])
                writer.close()
        except (OSError, TimeoutError) as exc:
            log.warning("the predecessor did not tell when its BMPs were free", error=str(exc))
        finally:
            hardware.resume(self._busy)


async def pass_on(
    *,
    snapshot: Callable[[], Snapshot],
    journal: SqliteJournal,
    last_commit: Callable[[Committed], None],
    service: Service,
    operators: OperatorsService,
    commits: Commits,
    hardware: Hardware,
    listening: tuple[str, int],
) -> Successor:
    """Have a new process take over from these parts of a server; then they must not be used any more.

    Args:
        snapshot: gives the core's state.
        journal: where it is kept.
        last_commit: commits something, which shows that the state is there and can be written, and calls back.
        service: has the clients.
        operators: has the operators.
        commits: knows what waits for a commit.
        hardware: has the BMPs.
        listening: (ip, port) as the configuration or the command line has it.

    Returns:
        The new process, which serves; it waits for `finish_commands`.

    Raises:
        Exception: any; it did not take over, and everything goes on as if nothing had happened.
    """
    with Successor() as successor:
        await successor.warm()
        sockets: list[socket.socket] = []
        try:
            sockets = service.freeze()
            operators.connections.freeze()
            journal.stop_pruning()
            await _settle(commits, journal, last_commit)
            clients = [(client, export) for client in service.connections if (export := client.export())]
            at_operators = operators.export(wanted=successor.takes_operators)
            takeover = Takeover(
                format=FORMAT,
                listening=listening,
                clients=len(clients),
                busy=hardware.in_flight(),
                operators=at_operators is not None,
                left=journal.count,
            )
            files = [journal.lock.file, *(sock.fileno() for sock in sockets)]
            successor.hand_over(takeover, files, [export for _, export in clients], at_operators)
            successor.go()
        except BaseException:
            successor.kill()
            await _go_on(snapshot, journal, service, operators, sockets)
            raise
    systemd.notify(f"MAINPID={successor.pid}")
    commits.stop()
    hardware.retire()
    operators.retire()
    _let_go(service, [client for client, _ in clients], sockets)
    return successor


def _let_go(service: Service, handed_over: Iterable[Connection], sockets: Iterable[socket.socket]) -> None:
    """Close what clients are connected by; the new process has those that were handed over, and goes on with them."""
    service.acceptor.stop_greeting()
    for client in handed_over:
        client.abort()
    for client in tuple(service.connections):  # those that cannot be handed over
        client.close()
    for sock in sockets:
        sock.close()


async def _go_on(
    snapshot: Callable[[], Snapshot],
    journal: SqliteJournal,
    service: Service,
    operators: OperatorsService,
    sockets: list[socket.socket],
) -> None:
    """Serve as before; also where the state cannot be had back, which is as with a disk that refuses."""
    try:
        if aside := journal.reclaim(snapshot):
            log.warning("the new process had changed the state's schema: it is set aside", kept_as=str(aside))
    finally:
        operators.connections.thaw()
        if sockets:  # else it has not stopped listening
            service.acceptor.listen(sockets)
        service.thaw()


async def _settle(commits: Commits, journal: SqliteJournal, last_commit: Callable[[Committed], None]) -> None:
    """Wait until nothing waits for a commit, and return in the same cycle of the event loop."""
    over = asyncio.Event()
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            for _ in range(ACCEPTED_TURNS):
                await asyncio.sleep(0)
            last_commit(lambda _: over.set())
            await over.wait()
            while not commits.settled():
                await commits.settle()
    except TimeoutError as exc:
        raise UpgradeError("the disk is too slow at present") from exc
    if journal.error is not None:
        raise UpgradeError(f"not everything is stored: {journal.error}")
