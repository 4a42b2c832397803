"""`spalloc-admin config-schema`: what editors need so as to help with config files."""

from __future__ import annotations

import json

import click

from spalloc_server.config.schema import schema

__all__ = ["config_schema"]


@click.command("config-schema")
def config_schema() -> None:
    """Print the JSON schema of config files in TOML.

    An editor that knows taplo's directive uses it where a file begins with a line such as #:schema
    ./spalloc.schema.json.
    """
    click.echo(json.dumps(schema(), indent=2))
