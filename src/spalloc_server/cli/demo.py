"""`spalloc-admin demo`: the million-core machine and its server, on this computer alone.

Theory of operation. The machine (or another, with `--config`) is simulated down to its BMPs and to boards that boot.
The hardware is one process and the server another, so the hardware outlives a server that is killed. This process
starts both, starts the server again where it ends by itself, and shows what happens as a client sees it. The server
drives the hardware over UDP, and everybody reaches the server over TCP, the imaginary users too: networks that are
simulated now and then, each through a connection of its own. `demo --once` looks at the hardware as a driver would:
which boards are on, and which links they stop. The demo's own machine is served by HTTP, too, where the extra `web` is
installed: by a front process, a third part.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import shlex
import sys
import time
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from spalloc_server.application.account_commands import AccountView, ChangeAccount, CreateAccount
from spalloc_server.cli import output, process
from spalloc_server.cli.client import Client, ClientError
from spalloc_server.cli.demo_config import HOST, MILLION_CORE, beside_other_demos, serving_http
from spalloc_server.cli.demo_parts import Part, start_again
from spalloc_server.cli.demo_view import show
from spalloc_server.cli.running_server import OperatorError, RunningServer
from spalloc_server.config.load import load
from spalloc_server.config.settings import DEFAULT_PORT, Configuration
from spalloc_server.controller import JobState
from spalloc_server.errors import ConfigurationError
from spalloc_server.frontends.local_api import socket_path
from spalloc_server.hardware.bmp import Bmp
from spalloc_server.hardware.scp import FLAG_REGISTER, Command, stop_register
from spalloc_server.hardware.timings import Timings
from spalloc_server.links import Links

__all__ = ["USERS", "demo", "look_at_hardware", "use"]

BRISK_FAULTS = """# Not a fault: boards a few times quicker than real ones, so that there is more to see
timings = { command = 0.0005, power_on = 0.5, power_on_others = 1.0 }
"""
ONCE_SECONDS = 60.0
"""The longest that `demo --once` may take."""
POLL_SECONDS = 0.05
"""`demo --once`: between looks whether boards are off."""
ACCOUNT: Final = "you"
COLUMNS: Final = 80
"""Of the terminal that it speaks to."""

FPGA_OFF: Final = 0xFFFFFFFF
"""What a register of a board that is off reads as."""

USERS = (
    "retina",
    "visual-cortex",
    "cochlea",
    "hippocampus",
    "cerebellum",
    "basal-ganglia",
    "motor-cortex",
    "sudoku",
    "robot-arm",
    "mushroom-body",
)
"""Each has at most one job at a time, so that all together leave room for real users."""

SIZES = (1, 1, 1, 3, 3, 6, 12, 24, 24, 48, 96, 200)
"""Boards that they ask for, alike probable."""

THINKING_SECONDS = (0.5, 6.0)

RUNNING_SECONDS = (3.0, 20.0)
"""Shortest and longest; less than a job's keepalive."""


@click.command()
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one."
)
@click.option("--quiet-users", is_flag=True, help="No imaginary users: the machine is all yours.")
@click.option("--once", is_flag=True, help="Take one job through, tell what happened, and end.")
@click.option("--config", type=process.PATH, default=MILLION_CORE, help="Simulate this config file's machines instead.")
@click.option("--state", type=process.PATH, help="Keep the server's state here; without, it goes when the demo ends.")
@click.option("--real-timings", is_flag=True, help="Take as long as boards do: 3 to 6 seconds for a power-on.")
def demo(config: Path, port: int, state: Path | None, quiet_users: bool, once: bool, real_timings: bool) -> None:
    """A simulated machine of a million cores and its server, ready for real clients. ctrl+c ends it."""
    output.never_wait()
    users = () if quiet_users or once else USERS
    process.run("spalloc-admin demo", _demo(config, port, state, real_timings=real_timings, users=users, once=once))


async def _demo(
    config: Path, port: int, state: Path | None, *, real_timings: bool, users: Iterable[str], once: bool
) -> None:
    started = time.monotonic()
    stopping = asyncio.Event()
    process.on_stop_signals(stopping.set)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="spalloc-demo-")))
        config = serving_http(beside_other_demos(config, folder, stack), folder, stack, once=once)
        configuration = load(config)
        if not configuration.machines:
            raise ConfigurationError(f"{config}: has no machines to simulate")
        state = state or folder / "state.db"
        hardware, server = _hardware(config, folder, real_timings=real_timings), _server(config, port, state)
        parts = [hardware, server]
        stack.push_async_callback(lambda: asyncio.gather(*(part.stop() for part in parts)))
        for part in parts:
            await part.begin()
        await hardware.ready()
        port = int(await server.ready())
        web = url = None
        if configuration.web is not None and not configuration.web.start:
            parts.insert(0, web := _front(state))
            await web.begin()
            url = await asyncio.to_thread(_with_account, await web.ready(), state)
        life = [_keep_serving(parts, config, state, port), _watch(hardware, "the simulated hardware", stopping)]
        if web is not None:
            life.append(_watch(web, "what serves HTTP", stopping))
        _introduce(configuration, port, state, time.monotonic() - started, url)
        if once:
            life.append(_take_one_job_through(port, configuration, stopping))
        else:
            (machine, *_) = configuration.machines
            life.append(show(HOST, port, machine, live=sys.stdout.isatty()))
        life += [use(HOST, port, user) for user in users]
        await _until(stopping, life)
    process.say("stopped")


def _hardware(config: Path, folder: Path, *, real_timings: bool) -> Part:
    """The simulated hardware, on its way."""
    timings = folder / "timings.toml"
    timings.write_text(BRISK_FAULTS)
    how = ["--real-timings"] if real_timings else ["--faults", timings]
    return Part(
        "spalloc_server.cli",
        "simulate-hardware",
        config,
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
    return Part("spalloc_server", *arguments, says_ready=port_of)


def _front(state: Path) -> Part:
    """What serves HTTP, which says where when it does."""

    def address_of(line: str) -> str | None:
        address = re.search(r'"address": ?"([^"]*)"', line)
        return address[1] if address and re.search(r'"event": ?"serving HTTP"', line) else None

    return Part("spalloc_server.cli.front", "--state", state, "--log-format", "json", says_ready=address_of)


def _with_account(address: str, state: Path) -> str:
    """Return the URL of the demo with an account that clients log in with; a state that is kept may have it already."""
    password = secrets.token_hex(6)
    server = RunningServer(socket_path(state), as_json=False)
    try:
        server.ask(CreateAccount(name=ACCOUNT, password=password), AccountView)
    except OperatorError:
        request = ChangeAccount(name=ACCOUNT, password=password, enabled=True, unlock=True)
        server.ask(request, AccountView)
    return f"http://{ACCOUNT}:{password}@{address}/spalloc"


async def _keep_serving(parts: list[Part], config: Path, state: Path, port: int) -> None:
    """Start the server, the last of the parts, again whenever it ends by itself: its jobs and their boards go on."""
    while True:
        how = await parts[-1].ended()
        process.say(f"the server {how}; it is started again, and goes on with its jobs")
        await start_again(parts, lambda: _server(config, port, state))


async def _watch(part: Part, name: str, stopping: asyncio.Event) -> None:
    """End the demo where a part ends that is not started again."""
    how = await part.ended()
    process.say(f"{name} {how}: the demo ends")
    stopping.set()


def _introduce(configuration: Configuration, port: int, state: Path, seconds: float, url: str | None = None) -> None:
    """Tell how to reach it, in lines of 80 columns at most where the names are not longer than usual."""
    where = shlex.quote(str(state))
    at = f"--hostname {HOST}" + (f" --port {port}" if port != DEFAULT_PORT else "")
    machines = configuration.machines
    names = ", ".join(machine.name for machine in machines)
    boards = process.count(sum(len(machine.live_boards) for machine in machines), "board")
    size = f"{boards} in {process.count(sum(len(machine.frames) for machine in machines), 'frame')}"
    commands = (
        (f"spalloc {at} --owner you 24", "get 24 boards"),
        (f"spalloc-ps {at}", "list the jobs"),
        (f"spalloc-machine {at} {machines[0].name}", "draw the machine"),
    )
    width = max(len(command) for command, _ in commands)
    room = width + max(len(what) for _, what in commands) <= COLUMNS - len("      # ")
    for line in (
        f"Serving {names} at {HOST}:{port} after {seconds:.1f} s: {size}",
        "All of it is simulated; ctrl+c ends the demo. Reach it with any published client",
        "(pip install spalloc, in an environment of its own), such as:",
        *(
            line
            for command, what in commands
            for line in ((f"    {command:<{width}}  # {what}",) if room else (f"    # {what}", f"    {command}"))
        ),
        "or run PyNN scripts (pip install sPyNNaker) on boards that boot,",
        "with this as ~/.spynnaker.cfg:",
        "    [Machine]",
        "    version = 5",
        f"    spalloc_server = {HOST}",
        f"    spalloc_port = {port}",
        "    spalloc_user = you",
        *(() if url is None else ("or by HTTP and REST, with this in place of the last three lines,",)),
        *(() if url is None else (f"    spalloc_server = {url}", "once the shell knows which certificates to trust:")),
        *(() if url is None else (f'    eval "$(spalloc-admin web-ca --state {where})"',)),
        "or look after it as an operator, with spalloc-admin and this --state:",
        f"    spalloc-admin status --state {where}",
    ):
        process.say(line, wrap=False)


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
        process.say(f"{time.monotonic() - started:7.3f} s  {what}", indent=11)

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


async def look_at_hardware(configuration: Configuration) -> tuple[int, int]:
    """Return (boards that are on, links that they stop) of all machines.

    `HardwareError` where a BMP is silent.
    """
    on = stopped = 0
    for machine in configuration.machines:
        for frame, boards in machine.frames.items():
            bmp = Bmp(machine.bmp_ips[frame], Timings(), lambda _: None)
            try:
                for board in boards:
                    number = machine.board_locations[board][2]
                    if await _read(bmp, number, 0, FLAG_REGISTER) == FPGA_OFF:
                        continue
                    on += 1
                    for link in Links:
                        stopped += await _read(bmp, number, *stop_register(link)) & 1
            finally:
                bmp.close()
    return on, stopped


async def _read(bmp: Bmp, board: int, fpga: int, address: int) -> int:
    return int.from_bytes(await bmp.command(board, Command.FPGA_READ, address, 4, fpga), "little")


async def use(host: str, port: int, user: str) -> None:
    """Come, get boards, use them, give them back; and again, until cancelled. Come back where the server was away."""
    chance = random.Random(user)
    while True:
        with suppress(ClientError):
            async with Client.connect(host, port) as client:
                while True:
                    await _use_once(client, user, chance)
        await asyncio.sleep(THINKING_SECONDS[0])


async def _use_once(client: Client, user: str, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(*THINKING_SECONDS))
    job_id = await client.call("create_job", chance.choice(SIZES), owner=user)
    await client.wait_for_job(job_id, JobState.ready, JobState.destroyed)
    await asyncio.sleep(chance.uniform(*RUNNING_SECONDS))
    await client.call("destroy_job", job_id, "done")
