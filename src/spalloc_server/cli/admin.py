"""`spalloc-admin`: the commands around the server, each in a module of its own that is imported when it is used."""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from spalloc_server import __version__
from spalloc_server.cli import signals
from spalloc_server.cli.examples import show_examples

__all__ = ["main"]

COMPLETION = "_SPALLOC_ADMIN_COMPLETE"
"""The variable by which a shell asks how a line may go on."""

COMMANDS = {
    "demo": ("demo", "A simulated million-core machine and a server, ready for real clients."),
    "init": ("init", "Write a config file, from a few questions."),
    "doctor": ("doctor", "Look for what may keep a server from serving, and say what to do."),
    "check-config": ("check_config", "Check a config file, and tell what it would change."),
    "config-schema": ("config_schema", "The JSON schema of config files in TOML, for editors."),
    "import-machines": ("definitions", "Turn the Java server's machine definitions into a config file."),
    "web-ca": ("web_ca", "The certificate authority that clients of a server's HTTP have to trust."),
    "simulate-hardware": ("simulate_hardware", "Simulated BMPs on this computer, so that a server needs no hardware."),
    "simulate": ("simulate", "A trace of jobs through the scheduler, in virtual time."),
    "servers": ("servers", "The servers that run on this computer."),
    "status": ("machines", "How a running server is, at one glance."),
    "machines": ("machines", "Its machines: size, load, and what is not in service."),
    "boards": ("machines", "Its boards; --bad: those out of service or with failures."),
    "map": ("map", "A machine drawn as its hexagons, in a terminal or as SVG."),
    "jobs": ("jobs", "Its live jobs; of those that wait, place and predicted start."),
    "top": ("top", "A live picture of its machines and jobs."),
    "job": ("jobs", "Everything about one job."),
    "explain": ("jobs", "Why a job waits, and until when."),
    "report": ("reports", "Who has used the boards, how much, and how long jobs waited."),
    "history": ("reports", "Jobs that have ended."),
    "events": ("reports", "What happened to jobs and boards, to whom, and why."),
    "kill": ("job_commands", "End jobs."),
    "hold": ("job_commands", "Have queued jobs not start until they are released."),
    "release": ("job_commands", "Have jobs that are on hold wait again."),
    "extend": ("job_commands", "Let jobs that have a longest run time run longer."),
    "priority": ("job_commands", "Give queued jobs another priority."),
    "board": ("board_commands", "Take boards out of service, or return them."),
    "frame": ("operators", "The same for a frame of boards."),
    "drain": ("operators", "Start no more jobs on a machine."),
    "undrain": ("operators", "Start jobs on a machine again."),
    "add-machines": ("definitions", "Add machines to a running server, from the Java server's definitions."),
    "remove-machine": ("definitions", "Remove a machine that was added."),
    "power-cycle": ("board_commands", "Switch boards that nobody has on, verify them, and switch them off."),
    "read-temperatures": ("board_commands", "Temperatures, fans and supply of boards."),
    "blacklist": ("board_commands", "What is broken on boards, as their own flash says."),
    "user": ("accounts", "Who may log in, and as what."),
    "token": ("accounts", "What programs show in place of a password."),
    "emergency-stop": ("operators", "Switch every board off, now."),
    "resume": ("operators", "End an emergency stop."),
}
"""The module of each command and what `--help` tells of it; `check-config` is the function `check_config` there."""


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = "".join(f" Did you mean {meant!r}?" for meant in get_close_matches(args[0], COMMANDS, n=1))
            raise click.UsageError(f"{error.message}{hint}", ctx) from error
        # Not earlier: `KeyboardInterrupt` can get lost in an import, and click would say "Aborted!"
        signals.release_interrupt()
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"spalloc_server.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        show_examples(command, cmd_name)
        if COMPLETION in os.environ:
            from spalloc_server.cli.completion import complete_from_server

            complete_from_server(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=told) for name, (_, told) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)  # its options

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n  spalloc-admin demo\n  spalloc-admin status --help",
)
@click.version_option(__version__, "-V", "--version", prog_name="spalloc-admin", message="%(prog)s %(version)s")
def main() -> None:
    """Look after a spalloc server, and try things without hardware."""
