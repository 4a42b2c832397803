"""The state of a server that may not run: read without a trace, in place of asking the server.

Theory of operation. Commands that only look at a server take the state's file where no server has it, or a copy of it
(`storage.settled`). A core is restored from that, with the time standing still at when a server was last seen, and
gives the same answers; what only hardware or a process could tell, it cannot. Reports read the file in any case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from spalloc_server.application import commands
from spalloc_server.application.commands import Command
from spalloc_server.cli.process import one_line_errors, say
from spalloc_server.cli.running_server import NoServerError, RunningServer, find_server, reaches
from spalloc_server.cli.servers import telling_which, which_options
from spalloc_server.cli.tables import clock

if TYPE_CHECKING:
    from spalloc_server.controller import Controller

__all__ = ["StateFile", "of_a_state", "server_of"]

T = TypeVar("T")

RETIRED = 1200
"""Jobs that ended last that are read of a state."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A state, which a server may have or not."""

    path: Path
    live: bool
    """Whether a server runs with it."""
    as_json: bool

    def print(self, answer: Any, *, lines: bool = False) -> None:
        """Print an answer as JSON, in ASCII; on one line where there are to be several."""
        print(json.dumps(msgspec.to_builtins(answer), indent=None if lines else 2))


@dataclass(frozen=True, slots=True)
class StoppedServer(RunningServer):
    """A server that does not run, as its state tells of it. `path` is the state file."""

    def _patiently(self, request: Command) -> msgspec.Raw:
        from spalloc_server.application.caller import Caller
        from spalloc_server.application.performing import PERFORM
        from spalloc_server.storage.history import last_seen

        if request.changes or type(request) not in {*PERFORM, commands.Status}:
            raise NoServerError(f"no server runs with the state {self.path}")
        at = last_seen(self.path)
        controller = self._controller(at, getattr(request, "job_id", None))
        if isinstance(request, commands.Status):
            answer: Any = _status(controller, self.path, at)
        else:
            answer = PERFORM[type(request)](controller, Caller(door="state", permissions=frozenset()), request)
        say(f"no server runs: this is how it was at {clock(at)}", file=sys.stderr)
        return msgspec.Raw(msgspec.json.encode(answer))

    def _controller(self, at: float, job_id: int | None) -> Controller:
        from spalloc_server.controller import Controller
        from spalloc_server.core.model.arguments import read_request
        from spalloc_server.storage import history
        from spalloc_server.storage.reading import read_jobs
        from spalloc_server.storage.state_file import consistent

        snapshot = history.read_state(self.path, read_request, live=False, max_retired=RETIRED)
        if job_id is not None and all(job.job_id != job_id for job in snapshot.jobs):
            snapshot.jobs += history.read(
                self.path, lambda state: [*read_jobs(state, "history", "WHERE job_id = ?", (job_id,))], live=False
            )
        controller = Controller(max_retired_jobs=RETIRED + 1, clock=lambda: at)
        with consistent(self.path):
            controller.restore(snapshot)
        return controller


def _status(controller: Controller, path: Path, at: float) -> Any:
    from collections import Counter

    from spalloc_server import __version__
    from spalloc_server.application.views import ServerView

    return ServerView(
        version=__version__,
        pid=0,
        config="",
        state=str(path),
        address=("", 0),
        started_at=at,
        connections=0,
        refusal="no server runs with this state",
        stopped=controller.stopped,
        jobs=dict(Counter(job.state for job in controller.job_views())),
        machines=controller.machine_views(),
        set_aside=controller.set_aside(),
    )


def server_of(state: Path | None, config: Path | None, *, as_json: bool) -> RunningServer:
    """The server that is meant; where it does not run, and there is its state, what that tells of it."""
    socket, path, live = _found(state, config)
    return RunningServer(socket, as_json) if live or not path.is_file() else StoppedServer(path, as_json)


def of_a_state(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which state, and the state as its first argument."""

    @which_options
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"), telling_which(state, config):
            _, path, live = _found(state, config)
            if not path.is_file():
                raise NoServerError(f"there is no state {path}")
            function(StateFile(path, live, as_json), *args, **kwargs)

    return command


def _found(state: Path | None, config: Path | None) -> tuple[Path, Path, bool]:
    """The socket and the state of the server that is meant, and whether it runs."""
    try:
        socket = find_server(state, config)
    except NoServerError:
        there = sorted(Path().glob("*.state.db"))
        if len(there) != 1:
            raise
        socket = find_server(there[0], None)
    return socket, socket.with_name(socket.name.removesuffix(".sock")), reaches(socket)
