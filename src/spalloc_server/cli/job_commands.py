"""What operators do with jobs: `kill`, `hold`, `release`, `extend` and `priority`.

Theory of operation. Each takes any number of jobs (`selectors`), which are looked up first. The server does it to all
of them at once, or to none. It takes `MAX_JOBS` at a time: of more, those that wait come first, so that none of them
starts while the others end. A line tells of each job what has come of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from spalloc_server.application import commands
from spalloc_server.application.job_commands import (
    MAX_JOBS,
    ExtendJobs,
    HoldJobs,
    KillJobs,
    ReleaseJobs,
    SetPriority,
)
from spalloc_server.cli.dates import length
from spalloc_server.cli.jobs import show_jobs
from spalloc_server.cli.process import count, say
from spalloc_server.cli.running_server import NUMBER, OperatorError, RunningServer
from spalloc_server.cli.selectors import JobChoice, job_choice, reason_option
from spalloc_server.cli.tables import clock, noted, span
from spalloc_server.cli.which_server import of_a_running_server
from spalloc_server.core.model import JobView

__all__ = ["extend", "hold", "kill", "priority", "release"]


def _in_parts(
    server: RunningServer, views: Sequence[JobView], command: Callable[..., commands.Command], **fields: Any
) -> list[int]:
    """Give the server a command for all of these jobs; the numbers that it answers."""
    first = sorted(views, key=lambda view: view.machine is not None)
    numbers: list[int] = []
    for begin in range(0, len(first), MAX_JOBS):
        job_ids = [view.job_id for view in first[begin : begin + MAX_JOBS]]
        numbers += server.look(command(job_ids=job_ids, **fields), list[int])
    return numbers


def _tell(
    server: RunningServer,
    views: Sequence[JobView],
    numbers: Sequence[int],
    done: Callable[[JobView], str],
    not_done: str,
) -> None:
    """Print the numbers as JSON, or what has become of each job."""
    if server.as_json:
        print(json.dumps(numbers))
        return
    changed = set(numbers)
    for view in views:
        say(f"job {view.job_id} of {view.owner} {done(view) if view.job_id in changed else not_done}")
    if not views:
        say("no live job is meant: nothing is done")


# -------------------------------------------------------------------- the end


@click.command()
@job_choice
@reason_option()
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--dry-run", is_flag=True, help="Only show which jobs would be ended.")
@of_a_running_server
def kill(server: RunningServer, choice: JobChoice, reason: str, yes: bool, dry_run: bool) -> None:
    """End jobs; their users are told the reason and who gave it. More than one that is named must be confirmed."""
    if len(choice.job_ids) == 1 and not dry_run:
        (job_id,) = choice.job_ids
        server.ask(commands.Kill(job_id=job_id, reason=reason), type(None))
        say(f"job {job_id} is ended")
        return
    views = choice.look(server)
    if dry_run and server.as_json:
        print(json.dumps([view.job_id for view in views]))
        return
    if views and not server.as_json and (dry_run or not yes):
        show_jobs(views)
    if dry_run:
        say(f"{count(len(views), 'job')} would be ended")
        return
    if views and not yes:
        _confirm(server, len(views))
    _tell(server, views, _in_parts(server, views, KillJobs, reason=reason), lambda _: "is ended", "had ended already")


def _confirm(server: RunningServer, number: int) -> None:
    """Go on only where the operator says yes, who must be at a terminal."""
    if server.as_json or not _at_a_terminal():
        told = f"this ends {count(number, 'job')}: add --yes to do it, or --dry-run to see which"
        raise OperatorError(told)
    if not click.confirm(f"End {count(number, 'job')}?"):
        say("nothing is done")
        raise click.exceptions.Exit(1)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


# -------------------------------------------------------------------- jobs that wait


@click.command()
@job_choice
@reason_option()
@of_a_running_server
def hold(server: RunningServer, choice: JobChoice, reason: str) -> None:
    """Have queued jobs not start until `release`. They keep their submit times, and their users keep them alive."""
    views = [view for view in choice.look(server) if choice.named or view.state == "queued"]

    def tell(view: JobView) -> str:
        before = "" if view.held is None else f"; it was so already, {noted(view.held)}; that reason is replaced"
        return f"is on hold{before}"

    _tell(server, views, _in_parts(server, views, HoldJobs, reason=reason), tell, "")


@click.command()
@job_choice
@of_a_running_server
def release(server: RunningServer, choice: JobChoice) -> None:
    """Have jobs that are on hold wait again, as if they had never been held."""
    views = [view for view in choice.look(server) if choice.named or view.held is not None]

    def tell(view: JobView) -> str:
        return "waits again" + ("" if view.held is None else f"; it was on hold {noted(view.held)}")

    _tell(server, views, _in_parts(server, views, ReleaseJobs), tell, "was not on hold")


@click.command(context_settings={"ignore_unknown_options": True})
@job_choice
@click.argument("priority", metavar="PRIORITY", type=NUMBER)
@of_a_running_server
def priority(server: RunningServer, choice: JobChoice, priority: int) -> None:
    """Give queued jobs another priority: a higher one goes first. They take their new places in the queue at once."""
    views = [view for view in choice.look(server) if choice.named or view.state == "queued"]
    numbers = _in_parts(server, views, SetPriority, priority=priority)
    _tell(server, views, numbers, lambda view: f"has priority {priority}; it had {view.priority}", "")


# -------------------------------------------------------------------- jobs with a longest run time


@click.command()
@job_choice
@click.option(
    "--by", "seconds", required=True, callback=length, help="How much longer: seconds, or such as 1h or 1h30m."
)
@of_a_running_server
def extend(server: RunningServer, choice: JobChoice, seconds: float) -> None:
    """Let jobs that have a `max_runtime` run longer, whether they have boards yet or not."""
    views = [view for view in choice.look(server) if choice.named or view.max_runtime is not None]

    def tell(view: JobView) -> str:
        until = "" if view.ends_at is None else f", until {clock(view.ends_at + seconds)}"
        return f"may run for {span((view.max_runtime or 0.0) + seconds)}{until}"

    _tell(server, views, _in_parts(server, views, ExtendJobs, seconds=seconds), tell, "")
