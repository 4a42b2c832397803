"""The state of a server that may not run: read without a trace, in place of asking the server.

Theory of operation. Commands that only look at a server take the state's file where no server has it, or a copy of it
(`storage.settled`). A core is restored from that, with the time standing still at when a server was last seen, and
gives the same answers; what only hardware or a process could tell, it cannot. Reports read the file in any case. A line
on standard error says that no server runs, and of when the answer is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from spalloc_server.application import commands
from spalloc_server.application.commands import Command
from spalloc_server.cli.process import one_line_errors, say
from spalloc_server.cli.running_server import NoServerError, RunningServer, find_server, is_there, reaches
from spalloc_server.cli.servers import telling_which, which_options
from spalloc_server.cli.tables import clock

if TYPE_CHECKING:
    from spalloc_server.application.authentication import Authentication
    from spalloc_server.controller import Controller

__all__ = ["StateFile", "find_state", "of_a_state", "server_of"]

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

    def told_until(self) -> float:
        """Up to when it tells what was: until now, or, which is said, until a server was last seen."""
        return time.time() if self.live else _last_seen(self.path)

    def print(self, answer: Any, *, lines: bool = False) -> None:
        """Print an answer as JSON, in ASCII; on one line where there are to be several."""
        print(json.dumps(msgspec.to_builtins(answer), indent=None if lines else 2))


@dataclass(frozen=True, slots=True)
class StoppedServer(RunningServer):
    """A server that does not run, as its state tells of it. `path` is the state file."""

    controller: Controller = field(kw_only=True)
    authentication: Authentication = field(kw_only=True)

    def _patiently(self, request: Command) -> msgspec.Raw:
        from spalloc_server.application.authentication import ACCOUNTS
        from spalloc_server.application.caller import Caller
        from spalloc_server.application.performing import PERFORM

        if request.changes:
            raise NoServerError(f"no server runs with the state {self.path}")
        answer: Any
        if isinstance(request, commands.Status):
            answer = self._status()
        elif (of_accounts := ACCOUNTS.get(type(request))) is not None:
            answer = of_accounts(self.authentication, request)
        else:
            if isinstance(request, commands.ShowJob):
                self._remember(request.job_id)
            answer = PERFORM[type(request)](self.controller, Caller(door="state", permissions=frozenset()), request)
        return msgspec.Raw(msgspec.json.encode(answer))

    def _remember(self, job_id: int) -> None:
        """Have the core know a job that ended long ago."""
        from spalloc_server.storage import history
        from spalloc_server.storage.reading import read_jobs

        state = self.controller.state
        if job_id not in state.jobs and job_id not in state.retired:
            where = "WHERE job_id = ?", (job_id,)
            rows = history.read(self.path, lambda stored: [*read_jobs(stored, "history", *where)], live=False)
            state.retired.update({row.job_id: row for row in rows})

    def _status(self) -> Any:
        from collections import Counter

        from spalloc_server import __version__
        from spalloc_server.application.views import ServerView

        return ServerView(
            version=__version__,
            pid=0,
            config="",
            state=str(self.path),
            address=("", 0),
            started_at=self.at or 0.0,
            connections=0,
            refusal="no server runs with this state",
            stopped=self.controller.stopped,
            jobs=dict(Counter(job.state for job in self.controller.job_views())),
            machines=self.controller.machine_views(),
            set_aside=self.controller.set_aside(),
        )


def server_of(state: Path | None, config: Path | None, *, as_json: bool, must_run: bool = False) -> RunningServer:
    """The server that is meant; where it does not run, what its state tells of it, unless it `must_run`."""
    socket, path, live = find_state(state, config)
    if live:
        return RunningServer(socket, as_json)
    if not is_there(path):
        raise NoServerError(f"there is no such file, and no server runs with the state {path}")
    if must_run:
        raise NoServerError(f"start the server first: no server runs with the state {path}")
    return _restored(path, as_json=as_json)


def _restored(path: Path, *, as_json: bool) -> StoppedServer:
    from spalloc_server.application.authentication import Authentication, accounts_of
    from spalloc_server.controller import Controller
    from spalloc_server.core.model.arguments import read_request
    from spalloc_server.storage.history import read_state
    from spalloc_server.storage.state_file import consistent

    at = _last_seen(path)
    controller = Controller(max_retired_jobs=RETIRED, clock=lambda: at)
    accounts = accounts_of(controller)
    snapshot = read_state(path, read_request, live=False, max_retired=RETIRED)
    with consistent(path):
        accounts.restore(snapshot)
        controller.restore(snapshot)
        controller.predict_at_once()
    return StoppedServer(path, as_json, at, controller=controller, authentication=Authentication(accounts))


def _last_seen(path: Path) -> float:
    """When a server was last seen with this state, which is said, since that is what all else is of."""
    from spalloc_server.storage.history import last_seen

    at = last_seen(path)
    say(f"no server runs: this is how it was at {clock(at)}", file=sys.stderr)
    return at


def of_a_state(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which state, and the state as its first argument."""

    @which_options
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"), telling_which(state, config):
            _, path, live = find_state(state, config)
            if not is_there(path):
                raise NoServerError(f"there is no state {path}")
            function(StateFile(path, live, as_json), *args, **kwargs)

    return command


def find_state(state: Path | None, config: Path | None) -> tuple[Path, Path, bool]:
    """The socket and the state of the server that is meant, and whether it runs."""
    try:
        socket = find_server(state, config)
    except NoServerError:
        there = sorted(Path().glob("*.state.db"))
        if len(there) != 1:
            raise
        socket = find_server(there[0], None)
    return socket, socket.with_name(socket.name.removesuffix(".sock")), reaches(socket)
