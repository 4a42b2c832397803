"""The local API socket: what asks the server from this computer, operators with `spalloc-admin` above all.

Theory of operation. `connections` accepts clients and gives their lines to this module, which performs what they ask
and answers once that is durable. Who asks is known from the operating system; the server's own user, and root, may ask
for others, too. Of requests that take long, one is answered in each cycle of the event loop, so that commands that
change something go in between, and not before the client has read its earlier replies.

The socket admits only the server's own user and root, and its path ends with the server; one that a crash left behind
is replaced. At an upgrade the socket goes to the new process as it is, so somebody always listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeAlias

import msgspec

from spalloc_server import __version__
from spalloc_server.application.api import FRONT, ROLES, Answer, Application, Caller, Charged, permissions_of
from spalloc_server.application.commands import Command, CreateJob, KeepAlive
from spalloc_server.errors import BusyError, ForbiddenError, RequestError, SpallocServerError, UpgradeError
from spalloc_server.frontends.local_api import (
    MAX_KEYS,
    MAX_KEYS_OF_FRONT,
    AnyRequest,
    Behalf,
    Request,
    Subscribe,
    Unsubscribe,
    Wait,
    answer,
    error,
    key_in,
    last_word,
    socket_path,
)
from spalloc_server.frontends.operators.connection import Connection
from spalloc_server.frontends.operators.connections import Connections
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Operators"]

DOOR = "socket"
UNCLEAR = RequestError.code

_request_in = msgspec.json.Decoder(Request).decode

Inherited: TypeAlias = tuple[socket.socket, list[tuple[socket.socket, bytes]]]
"""A listening socket, and connections with what each of them had sent."""

log = get_logger(__name__)


@cache
def _command_in() -> Callable[[bytes], AnyRequest]:
    """Return the decoder of commands, which is made for the first request: that would take 4 % of each start."""
    return msgspec.json.Decoder(AnyRequest).decode


class Operators:
    """Listens to operators while entered.

    Args:
        application: performs what they ask.
        state: the server's state file, beside which the socket is.
        complain: logs a warning, unless there are too many.
        defects: told what goes wrong that never should.
    """

    def __init__(
        self,
        application: Application,
        *,
        state: Path,
        complain: Callable[..., None],
        defects: DefectLog | None = None,
    ) -> None:
        self._defects = defects or DefectLog()
        self._application = application
        self._path = socket_path(state)
        self.inherited: Inherited | None = None
        """The listening socket and the connections of another process, to go on with when entered."""
        self._inode = 0
        self._view = asyncio.Lock()
        self.connections = Connections(
            self._begin, application.subscriptions, repeatable=_is_repeatable, complain=complain
        )
        """Of operators; for an upgrade, which hands them over."""

    async def __aenter__(self) -> Self:
        listening, connections = self.inherited or (None, [])
        try:
            if listening is None or not self._path.is_socket():  # somebody may have removed it
                listening = _bound(self._path)
            self._inode = self._path.stat().st_ino
            self.connections.listen(listening)
        except OSError as exc:  # a path that is too long, for example; no reason to serve nobody
            log.error("operators cannot reach this server", path=str(self._path), error=exc.strerror or str(exc))
        for sock, unread in connections:
            self.connections.adopt(sock, unread)
        return self

    async def __aexit__(self, *_raised: object) -> None:
        self.connections.close()
        with suppress(OSError):  # it has gone already, or its folder cannot be written: the next server replaces it
            if self._path.stat().st_ino == self._inode:  # else another server listens there already
                self._path.unlink()

    def export(self, *, wanted: bool) -> tuple[list[int], list[bytes]] | None:
        """See `Connections.export`; None where that is not wanted.

        Raises:
            UpgradeError: a board's flash is being written, which must not be cut off.
        """
        if self._application.at_hardware.writing:
            raise UpgradeError("an operator writes to a board's flash: upgrade once that is done")
        return self.connections.export() if wanted else None

    def retire(self) -> None:
        """Another process has the socket and the connections: answer nobody, and leave the socket to it."""
        self._inode = 0
        self.connections.retire()

    # -- answering

    def _begin(self, connection: Connection, line: bytes) -> Coroutine[Any, Any, None] | None:
        """Answer a line, at once or when its commit is over; or return the coroutine that does, where it must wait.

        What is no request ends the connection.
        """
        try:
            request = _request_in(line)
        except (msgspec.MsgspecError, RecursionError) as exc:
            connection.dismiss(last_word(f"this is no request: {exc}"))
            return None
        number = request.id
        if number in connection.under_way:
            connection.dismiss(last_word(f"request {number} is under way: a new one must have another number"))
            return None
        try:
            command = _command_in()(request.command)
            if isinstance(command, Wait) or (isinstance(command, Command) and (command.waits or command.takes_long)):
                connection.under_way[number] = line
                return self._answer_later(connection, request, command)
            value, commit = self._at_once(connection, request, command)
            reply = answer(number, value)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client is told, and others are served
            connection.send(self._refusal(connection, number, exc))
            return None
        if commit is None:
            connection.send(reply)
        else:
            connection.under_way[number] = line
            self._application.commits.when_stored(
                commit, lambda failed: connection.answer(number, error(number, failed) if failed else reply)
            )
        return None

    def _at_once(
        self, connection: Connection, request: Request, command: Command | Subscribe | Unsubscribe
    ) -> tuple[Any, int | None]:
        """Return what a request is answered with, and the commit to wait for."""
        if isinstance(command, Command):
            caller = self._caller(connection, request.behalf, command)
            return self._application.perform(caller, command, request.once)
        if isinstance(command, Subscribe):
            return self._subscribe(connection, command), None
        for key in map(key_in, command.keys):
            self._application.subscriptions.unsubscribe(connection, key)
        return None, None

    async def _answer_later(self, connection: Connection, request: Request, command: Command | Wait) -> None:
        try:
            reply = answer(request.id, await self._value(connection, request, command))
        except Exception as exc:  # noqa: BLE001 - likewise
            reply = self._refusal(connection, request.id, exc)
        connection.answer(request.id, reply)

    async def _value(self, connection: Connection, request: Request, command: Command | Wait) -> Any:
        """Return what a request that must wait is answered with, once it is durable."""
        if isinstance(command, Wait):
            return await self._application.subscriptions.wait(key_in(command.key), command.since, command.seconds)
        result = await self._in_turn(self._caller(connection, request.behalf, command), connection, command)
        await self._application.commits.durable(result.commit)
        return result.value

    def _refusal(self, connection: Connection, number: int, exc: Exception) -> bytes:
        """Return the line that says why a request was not done."""
        if isinstance(exc, SpallocServerError):
            return error(number, exc, again=isinstance(exc, BusyError))
        if isinstance(exc, msgspec.MsgspecError | RecursionError):
            told = f"version {__version__} of the server does not understand this: {exc}"
            return error(number, told, code=UNCLEAR)
        self._defects.note("an operator's request failed", exc, by=connection.user)
        return error(number, "internal error of the server; its log tells more", code="internal")

    def _subscribe(self, connection: Connection, command: Subscribe) -> dict[str, int]:
        subscriptions, keys = self._application.subscriptions, {text: key_in(text) for text in command.keys}
        most = MAX_KEYS_OF_FRONT if connection.is_front else MAX_KEYS
        if subscriptions.count(connection) + len(keys) > most:
            raise RequestError(f"one connection may subscribe to at most {most} keys: `jobs` stands for all jobs")
        for key in keys.values():
            subscriptions.subscribe(connection, key)
        return {text: subscriptions.revision(key) for text, key in keys.items()}

    def _caller(self, connection: Connection, behalf: Behalf | None, command: Command) -> Caller:
        """Return the caller: the user at the other end, or the one that it asks for, within the budget of that one."""
        if isinstance(command, CreateJob) and command.args is not None:
            raise RequestError("only clients of v1 give `args`: say in `request` what the job is to get")
        if not connection.trusted and (behalf is not None or connection.is_front):
            raise ForbiddenError(f"{connection.user} may not ask for others: the server's own user and root may")
        if behalf is None:
            permissions = FRONT if connection.is_front else ROLES["admin"]
            return Caller(door=DOOR, name=connection.user, verified=True, permissions=permissions)
        caller = self._other(connection, behalf)
        identity = caller.name if caller.verified else caller.address
        admission, kinds = self._application.admission, [Charged(type(command) is not KeepAlive)]
        if isinstance(command, CreateJob):
            kinds.append(Charged.CREATE)
        if identity is not None:
            if (seconds := max(admission.delay(identity, kind) for kind in kinds)) > 0:
                raise BusyError(f"{identity} asks for too much at once: try again in {seconds:.1f} s")
            for kind in kinds:
                admission.charge(identity, kind)
        return caller

    def _other(self, connection: Connection, behalf: Behalf) -> Caller:
        """Return the caller that a connection asks for."""
        address, said = behalf.address, behalf.name is not None or behalf.roles or behalf.verified
        accounts = (behalf.session, behalf.token, behalf.account)
        if (known := 3 - accounts.count(None)) > 1 or (known and said):
            raise RequestError("`for` has one of session, token and account; or name, roles and verified")
        if known:
            session, token, account = accounts
            return self._application.caller(
                DOOR, session=session, token=token, account=account, address=address, stamp=behalf.stamp
            )
        if connection.is_front:
            raise ForbiddenError("a front process asks for accounts, by session, token or account: it may not say who")
        if unknown := set(behalf.roles) - ROLES.keys():
            raise RequestError(f"there is no role {min(unknown)!r}; there are {', '.join(ROLES)}")
        permissions = permissions_of(behalf.roles)
        return Caller(door=DOOR, name=behalf.name, address=address, verified=behalf.verified, permissions=permissions)

    async def _in_turn(self, caller: Caller, connection: Connection, command: Command) -> Answer:
        """Perform a command when it is the turn of its kind; what is done at once goes first."""
        if command.waits:
            return await self._application.ask(caller, command)
        while True:
            await connection.can_take.wait()  # else replies would pile up that nobody reads
            async with self._view:
                await asyncio.sleep(0)
                if connection.can_take.is_set():
                    return self._application.perform(caller, command)


def _is_repeatable(line: bytes) -> bool:
    """Whether the request in this line may be sent twice: it may be done twice, or is done once all the same."""
    try:
        request = _request_in(line)
        command = _command_in()(request.command)
    except (msgspec.MsgspecError, RecursionError):
        return True  # it does nothing
    if not isinstance(command, Command) or command.repeatable:
        return True
    return request.once is not None and not (command.waits or command.confidential)


def _bound(path: Path) -> socket.socket:
    """A socket at `path`, in place of one that a crash left behind; nobody but its owner and root can connect."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    sock = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(sock.fileno(), 0o600)  # which bind gives to the path, so that it is never open to others
        sock.bind(os.fspath(path))
        path.chmod(0o600)  # for systems on which it does not
    except BaseException:
        sock.close()
        raise
    return sock
