"""`spalloc-admin demo`: the million-core machine and its server, in one process, on this computer alone.

The machine (or another, with `--config`) is simulated down to its BMPs: the server drives them over UDP as it would
drive hardware, and everybody reaches the server over TCP, the imaginary users too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from spalloc_server import config_file
from spalloc_server.cli import logs, output, process
from spalloc_server.cli.client import Client, ClientError
from spalloc_server.cli.demo_users import USERS, use
from spalloc_server.cli.demo_view import show
from spalloc_server.config_watch import DEFAULT_PORT
from spalloc_server.controller import JobState
from spalloc_server.errors import ConfigurationError
from spalloc_server.server import Server
from spalloc_server.simulator.frame import REAL_TIMINGS, SimulatedTimings
from spalloc_server.simulator.simulator import Simulator

__all__ = ["demo"]

HOST = "127.0.0.1"
MILLION_CORE = Path(__file__).parents[1] / "examples" / "simulated-1200.toml"
BRISK_TIMINGS = SimulatedTimings(command=0.0005, power_on=0.5, power_on_others=1.0)
"""A few times quicker than boards are, so that there is more to see."""
ONCE_SECONDS = 60.0
"""The longest that `--once` may take."""
PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class _Options:
    config: Path
    port: int
    state: Path | None
    timings: SimulatedTimings
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
    logs.configure(quiet=True)
    timings = REAL_TIMINGS if real_timings else BRISK_TIMINGS
    options = _Options(config, port, state, timings, users=not (quiet_users or once), once=once)
    process.run("spalloc-admin demo", _demo(options))


async def _demo(options: _Options) -> None:
    started = time.monotonic()
    configuration = config_file.load(options.config)
    if not configuration.machines:
        raise ConfigurationError(f"{options.config}: has no machines to simulate")
    simulator = Simulator.of_configuration(configuration, timings=options.timings)
    stopping = asyncio.Event()
    ready = asyncio.Event()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="spalloc-demo-"))
        server = Server(options.config, port=options.port, state=options.state or Path(folder) / "state.db")

        def stop() -> None:
            if stopping.is_set():
                server.stop()
            stopping.set()

        process.on_stop_signals(stop)
        await stack.enter_async_context(simulator)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(server.run(on_ready=ready.set))
        stack.callback(server.stop)
        await ready.wait()
        _introduce(server, simulator, time.monotonic() - started)
        if options.once:
            life = [_take_one_job_through(server.address[1], simulator, stopping)]
        else:
            life = [show(server, simulator, live=sys.stdout.isatty())]
        if options.users:
            life += [use(HOST, server.address[1], user) for user in USERS]
        await _until(stopping, life)
    print("stopped")


def _introduce(server: Server, simulator: Simulator, seconds: float) -> None:
    port = server.address[1]
    at = f"--hostname {HOST}" + (f" --port {port}" if port != DEFAULT_PORT else "")
    machines = server.controller.machines
    boards = sum(len(machine.live_boards) for machine in machines.values())
    print(
        f"Serving {', '.join(machines)} at {HOST}:{port} after {seconds:.1f} s: {process.count(boards, 'board')} in "
        f"{process.count(len(simulator.frames), 'frame')}, all simulated; ctrl+c ends the demo.\n"
        "Reach it with any published client (pip install spalloc, in an environment of its own), such as:"
    )
    for command, what in (
        (f"spalloc {at} --owner you 24", "get 24 boards, until you press enter"),
        (f"spalloc-ps {at}", "list the jobs"),
        (f"spalloc-machine {at} {next(iter(machines), '')}", "draw the machine"),
    ):
        print(f"    {command:<64} # {what}", flush=True)


async def _until(stopping: asyncio.Event, life: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Let all of it go on side by side until it is time to stop."""
    async with asyncio.TaskGroup() as tasks:
        busy = [tasks.create_task(each) for each in life]
        await stopping.wait()
        for task in busy:
            task.cancel()


async def _take_one_job_through(port: int, simulator: Simulator, stopping: asyncio.Event) -> None:
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
            on, stopped = len(simulator.boards_on()), len(simulator.stopped_links())
            tell(f"the hardware: {on} boards are on, {stopped} links that lead out of the job are stopped")
            if on != boards:
                raise ClientError(f"job {job_id} has {boards} boards, but {on} are switched on")
            await client.call("destroy_job", job_id, "the demo is over")
            tell(f"destroyed: {(await client.call('get_job_state', job_id))['reason']}")
            while simulator.boards_on():  # noqa: ASYNC110 - hardware tells nobody
                await asyncio.sleep(0.01)
            tell("the hardware: all boards are off")
    except TimeoutError as exc:
        raise ClientError(f"the job was not through after {ONCE_SECONDS:.0f} s") from exc
    stopping.set()
