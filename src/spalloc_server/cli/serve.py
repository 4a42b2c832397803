"""`spalloc_server`: run the server until it is told to stop.

Signals: the first SIGINT or SIGTERM stops gracefully, the second at once; SIGHUP reads the config file again;
SIGUSR2 has a new process take over (see `upgrade`). They are heeded even before this module is imported (`cli.start`).
All that is heavy is imported when it is needed, so that `--version` and `--help` answer quickly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spalloc_server import __version__

if TYPE_CHECKING:
    from spalloc_server.cli.logs import LogFormat
    from spalloc_server.server import Server

__all__ = ["main"]

GARBAGE_THRESHOLDS = (2_000, 10, 10_000)
"""New objects are looked at often, a few milliseconds each time; old ones when 200 million more have piled up."""

PATH = click.Path(path_type=Path)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  spalloc_server hall.toml --state /var/lib/spalloc/hall.db",
)
@click.version_option(__version__, "-V", "--version", prog_name="spalloc_server", message="%(prog)s %(version)s")
@click.argument("config_file", type=PATH)
@click.option("-q", "--quiet", is_flag=True, help="Hide all output but errors.")
@click.option(
    "--cold-start", is_flag=True, help="Begin anew: the saved state is moved aside, and all boards are switched off."
)
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="TCP port, 0 for any free one.  [default: 22244]")
@click.option("--watch-config", is_flag=True, help="Reload when CONFIG_FILE changes, as at SIGHUP.")
@click.option("--job-log", type=PATH, help="Append what happens to jobs to this file, one JSON object a line.")
@click.option("--state", type=PATH, help="Keep the state here.  [default: .CONFIG_FILE.state.db beside CONFIG_FILE]")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="The log on standard error: key=value for people, or JSON.",
)
@click.option("--allow-unsafe-config", is_flag=True, help="Execute a Python config file that others may write.")
def main(config_file: Path, *, quiet: bool, log_format: LogFormat, **options: object) -> None:
    """Share out the boards of the SpiNNaker machines that CONFIG_FILE describes.

    A file whose name ends in .toml is declarative; any other is a Python script. ctrl+c stops gracefully: jobs keep
    their boards, and a restart goes on with them. A second ctrl+c stops at once.
    """
    import gc

    gc.disable()  # until all jobs are read, of which nothing is garbage
    from spalloc_server.cli import output

    output.never_wait()
    from spalloc_server.cli import logs, process
    from spalloc_server.server import Server

    logs.configure(log_format=log_format, quiet=quiet)

    async def serve() -> None:
        server = Server(config_file, **options)  # type: ignore[arg-type]
        server.fronts.options = ("--log-format", log_format, *(("--quiet",) if quiet else ()))
        await _serve(server)

    process.run("spalloc_server", serve())


async def _serve(server: Server) -> None:
    import signal

    from spalloc_server.cli import process, signals

    process.allow_many_files()
    process.give_memory_back()
    signals.heed(
        {
            signal.SIGINT: server.stop,
            signal.SIGTERM: server.stop,
            signal.SIGHUP: server.reload,
            signal.SIGUSR2: server.upgrade,
        }
    )
    await server.run(on_ready=lambda: _ready(server))


def _ready(server: Server) -> None:
    """Say so, and let the garbage collector be: to look at all jobs would stop the service for tenths of a second."""
    import gc

    from spalloc_server.log.logger import get_logger

    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.enable()
    boards = {name: len(machine.live_boards) for name, machine in server.controller.machines.items()}
    log = get_logger(__name__)
    log.info(
        "serving",
        address="{}:{}".format(*server.address),
        machines=boards,
        boards=sum(boards.values()),
    )
