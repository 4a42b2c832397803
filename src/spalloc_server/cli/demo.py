"""`spalloc-admin demo`: the million-core machine and its server, on this computer alone.

Theory of operation. The machine (or another, with `--config`) is simulated down to its BMPs and to boards that boot.
The hardware is one process and the server another, so the hardware outlives a server that is killed. This process
starts both, starts the server again where it ends by itself, and shows what happens as a client sees it. The server
drives the hardware over UDP, and everybody reaches the server over TCP, the imaginary users too.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import time
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from spalloc_server.cli import output, process
from spalloc_server.cli.client import Client, ClientError
from spalloc_server.cli.demo_look import look_at_hardware
from spalloc_server.cli.demo_parts import Part
from spalloc_server.cli.demo_users import USERS, use
from spalloc_server.cli.demo_view import show
from spalloc_server.config.load import load
from spalloc_server.config.settings import DEFAULT_PORT, Configuration
from spalloc_server.controller import JobState
from spalloc_server.errors import ConfigurationError

__all__ = ["demo"]

HOST = "127.0.0.1"
MILLION_CORE = Path(__file__).parents[1] / "examples" / "simulated-1200.toml"
BRISK_FAULTS = """# Not a fault: boards a few times quicker than real ones, so that there is more to see
timings = { command = 0.0005, power_on = 0.5, power_on_others = 1.0 }
"""
ONCE_SECONDS = 60.0
"""The longest that `demo --once` may take."""
POLL_SECONDS = 0.05
"""`demo --once`: between looks whether boards are off."""
PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class _Options:
    config: Path
    port: int
    state: Path | None
    real_timings: bool
    users: bool
    once: bool


@click.command()
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one."
)
@click.option("--quiet-users", is_flag=True, help="No imaginary users: the machine is all yours.")
@click.option("--once", is_flag=True, help="Take one job through, tell what happened, and end.")
@click.option("--config", type=PATH, default=MILLION_CORE, help="Simulate this config file's machines instead.")
@click.option("--state", type=PATH, help="Keep the server's state here; without, it goes when the demo ends.")
@click.option("--real-timings", is_flag=True, help="Take as long as boards do: 3 to 6 seconds for a power-on.")
def demo(config: Path, port: int, state: Path | None, quiet_users: bool, once: bool, real_timings: bool) -> None:
    """A simulated machine of a million cores and its server, ready for real clients. ctrl+c ends it."""
    output.never_wait()
    options = _Options(config, port, state, real_timings, users=not (quiet_users or once), once=once)
    process.run("spalloc-admin demo", _demo(options))


async def _demo(options: _Options) -> None:
    started = time.monotonic()
    configuration = load(options.config)
    if not configuration.machines:
        raise ConfigurationError(f"{options.config}: has no machines to simulate")
    stopping = asyncio.Event()
    process.on_stop_signals(stopping.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="spalloc-demo-")))
        state = options.state or folder / "state.db"
        hardware, server = _hardware(options, folder), _server(options.config, options.port, state)
        parts = [hardware, server]
        stack.push_async_callback(_stop, parts)
        for part in parts:
            await part.begin()
        await hardware.ready()
        port = int(await server.ready())
        _introduce(configuration, port, state, time.monotonic() - started)
        life = [_keep_serving(parts, options, state, port), _watch(hardware, stopping)]
        if options.once:
            life.append(_take_one_job_through(port, configuration, stopping))
        else:
            (machine, *_) = configuration.machines
            life.append(show(HOST, port, machine, live=sys.stdout.isatty()))
        if options.users:
            life += [use(HOST, port, user) for user in USERS]
        await _until(stopping, life)
    print("stopped")


def _hardware(options: _Options, folder: Path) -> Part:
    """The simulated hardware, on its way."""
    timings = folder / "timings.toml"
    timings.write_text(BRISK_FAULTS)
    how = ["--real-timings"] if options.real_timings else ["--faults", timings]
    return Part(
        "spalloc_server.cli.admin",
        "simulate-hardware",
        options.config,
        "--boards",
        *how,
        says_ready=lambda line: line if line.startswith("simulated: ") else None,
        complaint="spalloc-admin simulate-hardware: ",
    )


def _server(config: Path, port: int, state: Path) -> Part:
    """The server, which says its port when it is there."""

    def port_of(line: str) -> str | None:
        address = re.search(r'"address": ?"[^"]*:(\d+)"', line)
        return address[1] if address and re.search(r'"event": ?"serving"', line) else None

    arguments = (config, "--port", port, "--state", state, "--log-format", "json")
    return Part("spalloc_server.cli.serve", *arguments, says_ready=port_of)


async def _stop(parts: list[Part]) -> None:
    await asyncio.gather(*(part.stop() for part in parts))


async def _keep_serving(parts: list[Part], options: _Options, state: Path, port: int) -> None:
    """Start the server, the last of the parts, again whenever it ends by itself: its jobs and their boards go on."""
    while True:
        how = await parts[-1].ended()
        print(f"the server {how}; it is started again, and goes on with its jobs", flush=True)
        parts[-1] = _server(options.config, port, state)
        await parts[-1].begin()
        await parts[-1].ready()


async def _watch(hardware: Part, stopping: asyncio.Event) -> None:
    """End the demo where the hardware ends."""
    how = await hardware.ended()
    print(f"the simulated hardware {how}: the demo ends", flush=True)
    stopping.set()


def _introduce(configuration: Configuration, port: int, state: Path, seconds: float) -> None:
    """Tell how to reach it, in lines of 80 columns at most where the names are not longer than usual."""
    at = f"--hostname {HOST}" + (f" --port {port}" if port != DEFAULT_PORT else "")
    machines = configuration.machines
    boards = sum(len(machine.live_boards) for machine in machines)
    frames = sum(len(machine.frames) for machine in machines)
    print(
        f"Serving {', '.join(machine.name for machine in machines)} at {HOST}:{port} after {seconds:.1f} s: "
        f"{process.count(boards, 'board')} in {process.count(frames, 'frame')}\n"
        "All of it is simulated; ctrl+c ends the demo. Reach it with any published client\n"
        "(pip install spalloc, in an environment of its own), such as:"
    )
    commands = (
        (f"spalloc {at} --owner you 24", "get 24 boards"),
        (f"spalloc-ps {at}", "list the jobs"),
        (f"spalloc-machine {at} {machines[0].name}", "draw the machine"),
    )
    width = max(len(command) for command, _ in commands)
    for command, what in commands:
        print(f"    {command:<{width}}  # {what}")
    print(
        "or run PyNN scripts (pip install sPyNNaker) on boards that boot,\nwith this as ~/.spynnaker.cfg:\n"
        f"    [Machine]\n    version = 5\n    spalloc_server = {HOST}\n    spalloc_port = {port}\n"
        "    spalloc_user = you\n"
        "or look after it as an operator, with spalloc-admin and this --state:\n"
        f"    spalloc-admin status --state {shlex.quote(str(state))}",
        flush=True,
    )


async def _until(stopping: asyncio.Event, life: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Let all of it go on side by side until it is time to stop."""
    async with asyncio.TaskGroup() as tasks:
        busy = [tasks.create_task(each) for each in life]
        await stopping.wait()
        for task in busy:
            task.cancel()


async def _take_one_job_through(port: int, configuration: Configuration, stopping: asyncio.Event) -> None:
    """Create, wait until ready, destroy; look at the hardware in between. `ClientError` where anything is odd."""
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - started:7.3f} s  {what}", flush=True)

    try:
        async with asyncio.timeout(ONCE_SECONDS), Client.connect(HOST, port) as client:
            tell(f"connected; the server speaks version {await client.call('version')} of the protocol")
            job_id = await client.call("create_job", 24, owner="demo")
            tell(f'create_job(24, owner="demo"): job {job_id}')
            status = await client.wait_for_job(job_id, JobState.ready, JobState.destroyed)
            if status["state"] != JobState.ready:
                raise ClientError(f"job {job_id} did not become ready: {status['reason']}")
            place = await client.call("get_job_machine_info", job_id)
            boards = len(place["boards"])
            tell(
                f"ready: {boards} boards, {place['width']} x {place['height']} chips, from board "
                f"{tuple(place['boards'][0])} of {place['machine_name']} on; {place['connections'][0][1]} is the first"
            )
            on, stopped = await look_at_hardware(configuration)
            tell(f"the hardware: {on} boards are on, {stopped} links that lead out of the job are stopped")
            if on != boards:
                raise ClientError(f"job {job_id} has {boards} boards, but {on} are switched on")
            await client.call("destroy_job", job_id, "the demo is over")
            tell(f"destroyed: {(await client.call('get_job_state', job_id))['reason']}")
            while (await look_at_hardware(configuration))[0]:  # noqa: ASYNC110 - hardware tells nobody
                await asyncio.sleep(POLL_SECONDS)
            tell("the hardware: all boards are off")
    except TimeoutError as exc:
        raise ClientError(f"the job was not through after {ONCE_SECONDS:.0f} s") from exc
    stopping.set()
