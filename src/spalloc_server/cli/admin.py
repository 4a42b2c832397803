"""`spalloc-admin`: the commands around the server, each in a module of its own that is imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from spalloc_server import __version__

__all__ = ["main"]

COMMANDS = {
    "demo": "A simulated million-core machine and a server, ready for real clients.",
    "check-config": "Check a config file, and tell what it would change.",
    "simulate-hardware": "BMPs on this computer, for a server without machines.",
}
"""What `--help` tells of each; `check-config` is the function `check_config` of the module `cli.check_config`."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"spalloc_server.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="spalloc-admin", message="%(prog)s %(version)s")
def main() -> None:
    """Look after a spalloc server, and try things without hardware."""


if __name__ == "__main__":
    main()
