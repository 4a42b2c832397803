"""An example of each command of `spalloc-admin`, for its `--help` and its manual page."""

from __future__ import annotations

import click

__all__ = ["EXAMPLES", "examples_of", "show_examples"]

EXAMPLES = {
    "demo": "--quiet-users",
    "init": "hall.toml",
    "doctor": "hall.toml",
    "check-config": "hall.toml --against /var/lib/spalloc/hall.db",
    "config-schema": "> spalloc.schema.json",
    "import-machines": "hall.json > hall.toml",
    "web-ca": "--state /var/lib/spalloc/hall.db",
    "simulate-hardware": "hall.toml --boards",
    "simulate": "jobs.swf.gz --machine 20x20 --machine 24x20",
    "servers": "",
    "status": "",
    "machines": "--json",
    "boards": "hall --bad",
    "map": "hall --svg hall.svg",
    "jobs": "--owner ann --watch",
    "top": "",
    "job": "17",
    "explain": "17",
    "report": "--since 'last month' --until 'this month'",
    "history": "--owner ann --since yesterday",
    "events": "--job 17",
    "kill": "--owner ann --reason 'a script runs wild' --dry-run",
    "hold": "17 18 --reason 'after the course'",
    "release": "17 18",
    "extend": "17 --by 1h",
    "priority": "17 18 5",
    "board disable": "hall 3,1,2 0/0/7 --reason 'its fan is broken'",
    "board enable": "hall 3,1,2",
    "frame disable": "hall 0 1 --reason 'it is being cabled anew'",
    "frame enable": "hall 0 1",
    "drain": "hall --reason 'the hall is rebuilt'",
    "undrain": "hall",
    "add-machines": "hall.json",
    "remove-machine": "hall",
    "power-cycle": "hall 3,1,2",
    "read-temperatures": "hall 0 1",
    "blacklist show": "hall 3,1,2",
    "blacklist set": "hall 3,1,2 -",
    "user add": "ann --role operator",
    "user list": "",
    "user set": "ann --disable",
    "user password": "ann --generate",
    "user remove": "ann",
    "token create": "ann --days 30 --note 'nightly tests'",
    "token list": "ann",
    "token revoke": "3f9c2a",
    "emergency-stop": "--yes --reason 'water in the hall'",
    "resume": "",
}
"""{command: what follows it}."""


def examples_of(name: str) -> list[str]:
    """The examples of a command, or of all commands of a group, as they are typed."""
    found = {each: rest for each, rest in EXAMPLES.items() if each == name or each.startswith(f"{name} ")}
    return [f"spalloc-admin {each} {rest}".rstrip() for each, rest in found.items()]


def show_examples(command: click.Command, name: str) -> None:
    """Have `--help` of a command, and of all below it, end with examples."""
    lines = examples_of(name)
    command.epilog = "\n  ".join(["\b\nExamples:" if len(lines) > 1 else "\b\nExample:", *lines])
    if isinstance(command, click.Group):
        for each, below in command.commands.items():
            show_examples(below, f"{name} {each}")
