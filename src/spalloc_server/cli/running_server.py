"""The running server that an operator's command is about: which one it is, and one request to it.

Theory of operation. A server listens to operators at a socket beside its state (`frontends.local_api`).
`--state` or `--config` tell which server is meant; without either it is the one that runs in this folder.

Where the connection is lost, as when the server is upgraded at that moment, the request is sent again for some seconds:
if the server says that it did nothing of it, or if doing it twice is to do it once, as with an emergency stop.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from spalloc_server import __version__
from spalloc_server.application.commands import Command
from spalloc_server.cli.process import PATH, one_line_errors
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.errors import SpallocServerError
from spalloc_server.frontends.local_api import PROTOCOL, Hello, socket_path

__all__ = ["NUMBER", "NoServerError", "OperatorError", "RunningServer", "find_server", "of_a_server"]

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


class NoServerError(OperatorError):
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

    def _exchange(self, request: Command) -> msgspec.Raw:
        try:
            line = msgspec.json.encode({"id": 1, "command": request}) + b"\n"
        except UnicodeEncodeError as exc:
            raise OperatorError(f"{exc.object!r} is no text in UTF-8") from exc
        with _connected(self.path) as connection:
            connection.settimeout(REPLY_SECONDS)
            try:
                with suppress(ConnectionError):  # there may be a last word all the same
                    connection.sendall(_hello() + line)
                with connection.makefile("rb") as lines:
                    for line in lines:
                        if (reply := _reply_in(line)) is not None:
                            return reply
            except TimeoutError as exc:
                raise OperatorError(f"the server did not answer within {REPLY_SECONDS:.0f} s") from exc
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


def of_a_server(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server, and the server as its first argument."""

    @click.option("--state", type=PATH, help="The server's state file.")
    @click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it.")
    @click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs.")
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"):
            function(RunningServer(find_server(state, config), as_json), *args, **kwargs)

    return command


def find_server(state: Path | None, config: Path | None) -> Path:
    """The socket of the server that is meant; `OperatorError` where that is not clear."""
    if state is not None:
        return socket_path(state)
    if config is not None:
        from spalloc_server.storage.state_file import state_path

        if not config.is_file():
            raise OperatorError(f"there is no config file {config}; of a server whose file has gone, give the --state")
        return socket_path(state_path(config))
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
        raise OperatorError(f"{which}: say which is meant with --state or --config")
    return running[0]


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(str(path))
    except OSError as exc:
        connection.close()
        state = str(path).removesuffix(".sock")
        if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
            raise NoServerError(f"no server runs with the state {state}") from exc
        if isinstance(exc, PermissionError):
            raise OperatorError(f"the server with the state {state} listens to its own user and root only") from exc
        if isinstance(exc, BlockingIOError):
            raise _BusyError(f"the server at {path} accepts nobody at present: too many wait") from exc
        raise OperatorError(f"cannot reach the server at {path}: {exc}") from exc
    return connection
