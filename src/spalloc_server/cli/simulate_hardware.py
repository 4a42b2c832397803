"""`spalloc-admin simulate-hardware`: BMPs, and boards, at the loopback addresses that a config file names.

Runs until ctrl+c (or SIGTERM). A server with the same config file then finds its hardware on this computer. Without a
server `--power-on` switches boards on, so that clients can be tried alone.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from spalloc_server.cli.output import never_wait
from spalloc_server.cli.process import PATH, count, on_stop_signals, one_line_errors, run, say
from spalloc_server.config.load import load
from spalloc_server.hardware.scp import SCP_PORT
from spalloc_server.simulator.faults import Faults, read_faults
from spalloc_server.simulator.frame import REAL_TIMINGS
from spalloc_server.simulator.simulator import Simulator

__all__ = ["simulate_hardware"]

PROGRAM = "spalloc-admin simulate-hardware"


@click.command("simulate-hardware")
@click.argument("config", type=PATH)
@click.option(
    "--faults", "fault_file", type=PATH, help="What is to go wrong: a TOML file such as examples/faults.toml."
)
@click.option("--boards", is_flag=True, help="Simulate the boards, too: they boot, and run what clients load.")
@click.option("--power-on", is_flag=True, help="Begin with all boards switched on, for use without a server.")
@click.option("--real-timings", is_flag=True, help="Take as long as boards do: 3 to 6 seconds for a power-on.")
@click.option("--allow-unsafe-config", is_flag=True, help="Execute CONFIG even if others may write to it.")
def simulate_hardware(
    config: Path, fault_file: Path | None, boards: bool, power_on: bool, real_timings: bool, allow_unsafe_config: bool
) -> None:
    """Simulate the BMPs of the machines in CONFIG, whose addresses must be loopback ones (127.x.y.z)."""
    never_wait()
    with one_line_errors(PROGRAM):
        simulator = Simulator.of_configuration(
            load(config, allow_unsafe=allow_unsafe_config),
            faults=read_faults(fault_file) if fault_file else Faults(),
            timings=REAL_TIMINGS if real_timings else None,
            boards=boards,
            report=_report,
        )
    run(PROGRAM, _simulate(simulator, power_on=power_on))


def _report(line: str) -> None:
    say(f"{PROGRAM}: {line}", file=sys.stderr)


async def _simulate(simulator: Simulator, *, power_on: bool) -> None:
    stop = asyncio.Event()
    on_stop_signals(stop.set)
    async with simulator:
        if power_on:
            simulator.power_on()
        for host, frame in simulator.frames.items():
            print(f"{host}:{SCP_PORT}  {count(len(frame.boards), 'board')}")
        boards = count(sum(len(frame.boards) for frame in simulator.frames.values()), "board")
        print(f"simulated: {boards} in {count(len(simulator.frames), 'frame')}; ctrl+c stops", flush=True)
        await stop.wait()
    counters = simulator.counters
    print(f"stopped after {counters.datagrams} datagrams, {counters.overlaps} of them while a BMP was busy")
    seen = simulator.boards.counters
    if seen.images or seen.spoilt_images or seen.malformed:
        print(
            f"boards: {count(seen.images, 'boot')}, {count(seen.spoilt_images, 'spoilt image')}, "
            f"{count(seen.datagrams, 'datagram')}, {seen.malformed} that made no sense"
        )
