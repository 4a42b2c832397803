"""`spalloc_web`: serve HTTP for a running server until told to stop.

Signals: the first SIGINT or SIGTERM answers what is under way, the second ends at once, unless the server has started
this process; SIGHUP reads the certificates again; SIGUSR2 has a new process take over.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spalloc_server import __version__

if TYPE_CHECKING:
    from spalloc_server.cli.logs import LogFormat

__all__ = ["main"]

GARBAGE_THRESHOLDS = (2_000, 10, 100)
"""New objects are looked at often; old ones when two million more have piled up, as connections that end leave none."""

PATH = click.Path(path_type=Path)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  spalloc_web --state /var/lib/spalloc/hall.db",
)
@click.version_option(__version__, "-V", "--version", prog_name="spalloc_web", message="%(prog)s %(version)s")
@click.option("--state", type=PATH, help="The server's state file; else SPALLOC_STATE names it.")
@click.option("--config", type=PATH, help="The server's config file, if its state is kept beside it.")
@click.option("-q", "--quiet", is_flag=True, help="Hide all output but errors.")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="The log on standard error: key=value for people, or JSON.",
)
@click.option("--of-server", is_flag=True, hidden=True)  # as the server says that starts this
def main(*, state: Path | None, config: Path | None, quiet: bool, log_format: LogFormat, of_server: bool) -> None:
    """Serve HTTP for a running spalloc server: REST, and the proxy to boards.

    Without options it is the one server that runs in this folder. All settings are in the server's config file, in
    [web]. It waits for the server where that is not there, and goes on where that is restarted.
    """
    from spalloc_server.cli import output

    output.never_wait()
    from spalloc_server.cli import logs, process
    from spalloc_server.cli.running_server import find_server
    from spalloc_server.config.extras import require_web

    logs.configure(log_format=log_format, quiet=quiet)
    with process.one_line_errors("spalloc_web"):
        require_web()
        found = find_server(state, config)
    process.run("spalloc_web", _serve(found.with_name(found.name.removesuffix(".sock")), of_server))


async def _serve(state: Path, of_server: bool) -> None:
    import signal

    from spalloc_server.cli import process, signals
    from spalloc_server.frontends.http.main import Front
    from spalloc_server.process import systemd

    process.allow_many_files()
    process.give_memory_back()
    front = Front(state, of_server=of_server, notify=systemd.notify)
    signals.heed(
        {
            signal.SIGINT: front.stop,
            signal.SIGTERM: front.stop,
            signal.SIGHUP: front.reload,
            signal.SIGUSR2: front.replace,
        }
    )
    await front.run(on_ready=_spare_garbage_collector)
    await systemd.flush()


def _spare_garbage_collector() -> None:
    """Let it hardly ever look at old objects: with thousands of long polls, that takes tenths of a second."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
