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

import click

from spalloc_server.cli.process import PATH, one_line_errors
from spalloc_server.cli.servers import telling_which

__all__ = ["of_a_server"]


def of_a_server(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server, and the server as its first argument."""

    @click.option("--state", type=PATH, help="The server's state file, or a copy; else SPALLOC_STATE names it.")
    @click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it.")
    @click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs.")
    @wraps(function)
    def command(*args: Any, state: Path | None, config: Path | None, as_json: bool, **kwargs: Any) -> None:
        with one_line_errors("spalloc-admin"), telling_which(state, config):
            from spalloc_server.cli.stopped_server import server_of  # only where a command runs

            function(server_of(state, config, as_json=as_json), *args, **kwargs)

    return command
