"""The running server that an operator's command is about: which one it is, and one request to it.

Theory of operation. A server listens to operators at a socket beside its state (`frontends.local_api`).
`--state` or `--config` tell which server is meant; without either the variable `SPALLOC_STATE` does, and without that
it is the one that runs in this folder.

Where the connection is lost, as when the server is upgraded at that moment, the request is sent again for some seconds:
if the server says that it did nothing of it, or if doing it twice is to do it once, as with an emergency stop.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final, TypeVar

import click
import msgspec

from spalloc_server import __version__
from spalloc_server.application.commands import Command
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.local_api import PROTOCOL, Hello, Subscribe, socket_path

__all__ = ["NUMBER", "VARIABLE", "NoServerError", "NotReachedError", "OperatorError", "RunningServer", "find_server"]
__all__ += ["changes", "is_there", "named_state", "reaches"]

VARIABLE: Final = "SPALLOC_STATE"
"""Names the state of the server that is meant, where no option does."""

NUMBER = click.IntRange(-MAX_NUMBER, MAX_NUMBER)
"""Of a job, a board, a frame or a cabinet: what a server can read."""

CONNECT_SECONDS = 5.0
"""The longest wait for a connection to a server."""
REPLY_SECONDS = 150.0
"""The longest wait for its answer; a power cycle waits for its turn."""

AGAIN_SECONDS = 10.0
"""For so long a request is sent again where the connection was lost, if that is safe."""

PAUSE_SECONDS = 0.1
"""From one attempt to send a request to the next."""

_OLDER = "Object missing required field `command`"
"""What a server says to a hello that is older than this protocol."""

T = TypeVar("T")


class OperatorError(SpallocServerError):
    """The server is not found, or refuses."""


class NotReachedError(OperatorError):
    """The server cannot be reached."""


class NoServerError(NotReachedError):
    """No server runs with this state."""


class _LostError(OperatorError):
    """There was no answer."""


class _BusyError(OperatorError):
    """The server did nothing of it, for the moment."""


class _Error(msgspec.Struct):
    text: str
    again: bool = False


class _Said(msgspec.Struct):
    """A line of the server, see `frontends.local_api`."""

    id: int | None = None
    reply: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw())
    error: _Error | None = None
    exception: str | None = None
    code: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server, as these commands reach it."""

    path: Path
    as_json: bool
    at: float | None = None
    """When its answers were true (seconds since the Unix epoch); None where it runs, and they are of now."""

    def ask(self, request: Command, kind: type[T], *, good: Callable[[T], bool] = lambda _: True) -> T:
        """The reply to `request`; with `--json`, print it and end instead: with status 1 where it is not `good`."""
        reply = self._patiently(request)
        answer = msgspec.json.decode(reply, type=kind)
        if self.as_json:
            print(json.dumps(msgspec.json.decode(reply), indent=2))  # in ASCII
            raise click.exceptions.Exit(0 if good(answer) else 1)
        return answer

    def look(self, request: Command, kind: type[T]) -> T:
        """The reply to a request that is not what the command was asked."""
        return msgspec.json.decode(self._patiently(request), type=kind)

    def glance(self, request: Command, kind: type[T], seconds: float) -> T:
        """The reply to a request that is sent once; `OperatorError` where a step of that takes longer than this."""
        return msgspec.json.decode(self._exchange(request, seconds), type=kind)

    def _patiently(self, request: Command) -> msgspec.Raw:
        """Return the reply to a request, which is sent again where that may help and does no harm."""
        deadline, again = time.monotonic() + AGAIN_SECONDS, False
        while True:
            try:
                return self._exchange(request)
            except (_LostError, _BusyError, NoServerError) as exc:
                if not isinstance(exc, NoServerError):
                    again = request.repeatable or isinstance(exc, _BusyError)
                if not again or time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _exchange(self, request: Command, seconds: float = REPLY_SECONDS) -> msgspec.Raw:
        try:
            line = msgspec.json.encode({"id": 1, "command": request}) + b"\n"
        except UnicodeEncodeError as exc:
            raise OperatorError(f"{exc.object!r} is no text in UTF-8") from exc
        with _connected(self.path, min(seconds, CONNECT_SECONDS)) as connection:
            connection.settimeout(seconds)
            try:
                with suppress(ConnectionError):  # there may be a last word all the same
                    connection.sendall(_hello() + line)
                with connection.makefile("rb") as lines:
                    for line in lines:
                        if (reply := _reply_in(line)) is not None:
                            return reply
            except TimeoutError as exc:
                raise OperatorError(f"the server did not answer within {seconds:g} s") from exc
            except OSError as exc:
                raise _LostError(f"the connection to the server is lost: {exc}") from exc
        raise _LostError("the server has ended")


def _hello() -> bytes:
    return (
        msgspec.json.encode({"hello": Hello(protocol=PROTOCOL, version=__version__, program="spalloc-admin")}) + b"\n"
    )


def _reply_in(line: bytes) -> msgspec.Raw | None:
    """Return the reply to the request in a line of the server; None where it is something else."""
    if not line.endswith(b"\n"):
        raise _LostError("the server has ended")
    said = msgspec.json.decode(line, type=_Said)
    if said.exception is not None:
        if said.again:
            raise _BusyError(said.exception)
        if said.code is None and said.exception.startswith(_OLDER):
            told = "the server is older than this spalloc-admin and does not understand it: use the one that was "
            raise OperatorError(told + "installed with the server, or install the server anew and upgrade it")
        raise OperatorError(said.exception)
    if said.error is not None and said.id == 1:
        raise _BusyError(said.error.text) if said.error.again else OperatorError(said.error.text)
    return said.reply if said.id == 1 and said.reply else None


def find_server(state: Path | None, config: Path | None) -> Path:
    """The socket of the server that is meant; `OperatorError` where that is not clear."""
    if state is not None:
        return socket_path(state)
    if config is not None:
        from spalloc_server.storage.state_file import state_path

        if not is_there(config):
            raise OperatorError(f"there is no config file {config}; of a server whose file has gone, give the --state")
        return socket_path(state_path(config))
    if (named := named_state()) is not None:
        return socket_path(named)
    running = []
    for path in sorted(Path().glob("*.sock")):
        try:
            _connected(path).close()
        except OperatorError:
            continue
        running.append(path)
    if len(running) != 1:
        found = " and ".join(str(path).removesuffix(".sock") for path in running)
        which = (
            f"several servers run in this folder, with the states {found}"
            if running
            else "no server runs in this folder"
        )
        kind = OperatorError if running else NoServerError
        raise kind(f"{which}: say which is meant with {_options()}")
    return running[0]


def _options() -> str:
    """The options that say which server is meant, as far as the command that runs has them."""
    context = click.get_current_context(silent=True)
    has = (
        {"--state", "--config"} if context is None else {name for each in context.command.params for name in each.opts}
    )
    return " or ".join(name for name in ("--state", "--config") if name in has)


def named_state() -> Path | None:
    """The state that the environment names; None where it names none."""
    return Path(named) if (named := os.environ.get(VARIABLE)) else None


def is_there(path: Path) -> bool:
    """Whether there is such a file; `OperatorError` where this user may not know."""
    try:
        return S_ISREG(path.stat().st_mode)
    except PermissionError as exc:
        raise OperatorError(f"this user may not look for {path}: ask as the server's user, or as root") from exc
    except OSError:
        return False


def reaches(path: Path) -> bool:
    """Whether a server listens at this socket, so that it has its state."""
    try:
        _connected(path).close()
    except NoServerError:
        return False
    except OperatorError:  # it is there, and busy or not for us
        return True
    return True


def changes(path: Path) -> Iterator[None]:
    """Subscribe to all jobs and machines, and to the server itself: yield at once, and after each change, for ever.

    Raises:
        OperatorError: the server has ended.
    """
    keys = ["jobs", "machines", "server"]
    with _connected(path) as connection, connection.makefile("rb") as lines:
        connection.settimeout(None)
        connection.sendall(_hello() + msgspec.json.encode({"id": 1, "command": Subscribe(keys=keys)}) + b"\n")
        yield
        for line in lines:
            if msgspec.json.decode(line, type=_Said).exception is not None:
                _reply_in(line)
            yield
    raise _LostError("the server has ended")


def _connected(path: Path, seconds: float = CONNECT_SECONDS) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        connection.connect(str(path))
    except OSError as exc:
        connection.close()
        state = str(path).removesuffix(".sock")
        if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
            raise NoServerError(f"no server runs with the state {state}") from exc
        if isinstance(exc, PermissionError):
            raise NotReachedError(f"the server with the state {state} listens to its own user and root only") from exc
        if isinstance(exc, BlockingIOError):
            raise _BusyError(f"the server at {path} accepts nobody at present: too many wait") from exc
        raise NotReachedError(f"cannot reach the server at {path}: {exc}") from exc
    return connection
