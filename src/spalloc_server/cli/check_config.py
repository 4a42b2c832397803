"""`spalloc-admin check-config`: what a config file says, and what it would change.

The answer to the second question is not worked out here: a core of its own takes over the stored state, applies the
file just as a server would at its next start, and is then asked which jobs are left. Nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from spalloc_server.cli.process import PATH, count, one_line_errors, say
from spalloc_server.cli.running_server import reaches
from spalloc_server.config.compare import compare
from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.config.watch import Source
from spalloc_server.controller import Controller
from spalloc_server.core.model.arguments import read_request
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.storage.history import read_state
from spalloc_server.storage.state_file import consistent

__all__ = ["check_config"]


@click.command("check-config")
@click.argument("config", type=PATH)
@click.option("--against", type=PATH, help="A server's state file: tell what would change, and which jobs would end.")
@click.option("--allow-unsafe-config", is_flag=True, help="Execute a Python config file that others may write.")
def check_config(config: Path, against: Path | None, allow_unsafe_config: bool) -> None:
    """Check CONFIG and describe what it says; exit status 1 where it is bad."""
    with one_line_errors("spalloc-admin check-config"):
        configuration = Source(config, allow_unsafe=allow_unsafe_config).read()
        for machine in configuration.machines:
            say(_description(machine))
        if (warning := configuration.port_and_warning()[1]) is not None:
            say(f"warning: {warning}")
        boards = sum(len(machine.live_boards) for machine in configuration.machines)
        say(f"{config} is good: {count(len(configuration.machines), 'machine')}, {count(boards, 'board')}")
        if against is not None:
            for line in _changes(configuration, _restored(against, configuration)):
                say(line)


def _description(machine: Machine) -> str:
    dead = len(machine.dead_boards & machine.board_locations.keys())  # without a place it is only a gap in a triad
    parts = [
        f"{machine.name}: {machine.width} x {machine.height} triads",
        f"{count(len(machine.live_boards), 'board')} in {count(len(machine.frames), 'frame')}",
        *([count(dead, "dead board")] if dead else ()),
        *([count(len(machine.dead_links), "dead link")] if machine.dead_links else ()),
        f"tags {', '.join(sorted(machine.tags)) or 'none'}",
    ]
    return ", ".join(parts)


def _restored(path: Path, configuration: Configuration) -> Controller:
    core = Controller()
    state = read_state(path, read_request, live=reaches(socket_path(path)))
    with consistent(path):
        set_aside = core.restore(state, configuration.machines)
    for row in set_aside:
        say(f"{row.table}/{row.key} in {path} would be set aside, since it makes no sense: {row.reason}")
    return core


def _changes(configuration: Configuration, core: Controller) -> list[str]:
    before = replace(configuration, machines=list(core.machines.values()))
    jobs = core.list_jobs()
    core.configure(configuration)
    left = {job.job_id for job in core.list_jobs()}
    after = replace(configuration, machines=list(core.machines.values()))
    lines = compare(before, after).lines() or ["no machine would change"]
    lines += [
        f"job {job.job_id} of {job.owner} ({count(len(job.boards or ()), 'board')}) would end: "
        f"{core.get_job_state(job.job_id).reason}"
        for job in jobs
        if job.job_id not in left
    ]
    return [*lines, f"{count(len(jobs) - len(left), 'job')} of {len(jobs)} would end"]
