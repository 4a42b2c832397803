"""The server's ear for operators: a Unix socket, a request a line, a reply a line.

Theory of operation. `connections` accepts operators and gives their requests to this module, one at a time from each.
What changes anything is answered once its commit is durable, as with clients. Requests that need hardware
(temperatures, a power cycle) wait for it with a deadline, while other operators' connections go on. Requests for a view
of everything are answered one in each turn of the event loop, since they may take long: whoever would change something
goes in between. The socket admits only the server's own user and root, and its path ends with the server; one that a
crash left behind is replaced. At an upgrade the socket goes to the new process as it is, so somebody always listens.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from spalloc_server.application.api import Answer, Application
from spalloc_server.application.caller import ROLES, Caller
from spalloc_server.application.commands import AnyCommand, Command
from spalloc_server.errors import BusyError, SpallocServerError, UpgradeError
from spalloc_server.frontends.operators.connection import refusal
from spalloc_server.frontends.operators.connections import Connections
from spalloc_server.frontends.operators.messages import socket_path
from spalloc_server.log.defects import DefectLog
from spalloc_server.log.logger import get_logger

__all__ = ["Operators"]

_decode = msgspec.json.Decoder(AnyCommand).decode
_encode = msgspec.json.Encoder().encode

Inherited: TypeAlias = tuple[socket.socket, list[tuple[socket.socket, bytes]]]
"""A listening socket, and connections with what each of them had sent."""

log = get_logger(__name__)


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
        self.connections = Connections(self._reply, repeatable=_is_repeatable, complain=complain)
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

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.connections.close()
        with suppress(FileNotFoundError):
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

    async def _reply(self, line: bytes, by: str) -> bytes:
        try:
            command = _decode(line)
            caller = Caller(door="socket", name=by, verified=True, permissions=ROLES["admin"])
            answer = await self._in_turn(caller, command)
            await self._application.commits.durable(answer.commit)
            return _encode({"return": answer.value})
        except BusyError as exc:
            return refusal(str(exc), again=True)
        except (SpallocServerError, msgspec.ValidationError, msgspec.DecodeError) as exc:
            return refusal(str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the operator is told, and others are served
            self._defects.note("an operator's request failed", exc, by=by)
            return refusal("internal error of the server; its log tells more")

    async def _in_turn(self, caller: Caller, command: Command) -> Answer:
        """The answer, when it is the turn of this kind of command; what is done at once goes first."""
        if command.at_hardware:
            return await self._application.ask_hardware(caller, command)
        if not command.takes_long:
            return self._application.perform(caller, command)
        async with self._view:
            await asyncio.sleep(0)
            return self._application.perform(caller, command)


def _is_repeatable(line: bytes) -> bool:
    """Whether the request may be done twice."""
    try:
        return _decode(line).repeatable
    except msgspec.MsgspecError:
        return True  # it does nothing


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
