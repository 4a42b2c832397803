"""The options by which an operator's command is told which server it is about.

Theory of operation. `running_server` finds the server that is meant and asks it. Where none runs with that state, the
state itself answers what only looks (`stopped_server`), and where there is none either, the error tells of the servers
that run elsewhere (`servers`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from spalloc_server.cli.process import one_line_errors
from spalloc_server.cli.servers import telling_which, which_options

__all__ = ["of_a_server"]


def of_a_server(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server, and the server as its first argument."""

    @which_options
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"), telling_which(state, config):
            from spalloc_server.cli.stopped_server import server_of  # only where a command runs

            function(server_of(state, config, as_json=as_json), *args, **kwargs)

    return command
