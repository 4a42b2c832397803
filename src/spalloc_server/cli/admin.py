"""`spalloc-admin`: the commands around the server, each in a module of its own."""

from __future__ import annotations

import click

from spalloc_server.cli.simulate_hardware import simulate_hardware

__all__ = ["main"]


@click.group()
def main() -> None:
    """Look after a spalloc server, and try things without hardware."""


main.add_command(simulate_hardware)


if __name__ == "__main__":
    main()
