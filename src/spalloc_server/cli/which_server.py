"""The options by which an operator's command is told which server it is about.

Theory of operation. `running_server` finds the server that is meant and asks it. Where none runs with that state, the
state itself answers what only looks (`stopped_server`). What changes something, or asks hardware, is refused then,
before the operator is asked anything. The error tells of the servers that run elsewhere (`servers`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from spalloc_server.cli.process import one_line_errors
from spalloc_server.cli.servers import telling_which, which_options

__all__ = ["of_a_running_server", "of_a_server"]


def of_a_server(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server, and as its first argument that, or what its state tells."""
    return _given(function, must_run=False)


def of_a_running_server(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that only a running server can do."""
    return _given(function, must_run=True)


def _given(function: Callable[..., None], *, must_run: bool) -> Callable[..., None]:
    @which_options
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"), telling_which(state, config):
            from spalloc_server.cli.stopped_server import server_of  # only where a command runs

            lasts = bool(kwargs.get("watch"))  # there is nothing to watch where no server runs
            function(server_of(state, config, as_json=as_json, must_run=must_run or lasts), *args, **kwargs)

    return command
