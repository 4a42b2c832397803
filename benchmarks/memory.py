"""Memory of boards through the front process: MB/s of a job each way, by commands and by fast transfers.

The boards are simulated ones, in a process of their own (`spalloc-admin simulate-hardware`), which send fast transfers
at the pace of real ones. Processor time is that of this process, which has the part of the front process.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Coroutine

import uvloop

from benchmarks import boards
from spalloc_server.frontends.http.boards.fast import Core, Gatherer
from spalloc_server.frontends.http.boards.memory import BoardAccess
from spalloc_server.simulator.applications import Signal
from tests.frontends.http.boards.stand_in import StandIn, sub_machine, who
from tests.simulator.machines import Client
from tests.simulator.test_applications import give_data, load, signal

CHIP = (2, 1)
GATHERER, MONITOR = Core(0, 0, 3), Core(*CHIP, 2)
TAG = 4
ADDRESS = 0x60400000
FILTERS = {14: 33535473, 15: 33519089}
MB = 1e6


class _Remote(Client):
    """A client of a board in another process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def ask(
        self,
        command: int,
        arg1: int = 0,
        arg2: int = 0,
        arg3: int = 0,
        data: bytes = b"",
        *,
        chip: tuple[int, int] = (255, 255),
        core: int = 0,  # noqa: ARG002
        port: int = 0,  # noqa: ARG002
    ) -> tuple[int, bytes]:
        (answer,) = boards.answers(self._channel, [boards.command_of(command, arg1, arg2, arg3, data, chip=chip)])
        return answer[10], answer[14:]


def main(*, quick: bool) -> None:
    """Measure transfers to and from one chip, and the reset of routers."""
    uvloop.run(measure(2 if quick else 16))


async def measure(megabytes: int) -> None:
    """Print a table."""
    data = os.urandom(megabytes * 1_000_000)
    caller = who()
    print("| one job | by the clock | by this process's processor time |\n|---|---|---|")
    with boards.simulated(3) as (machine, _):
        host = machine.spinnaker_ips[0, 0, 0]
        with boards.connected(host) as channel:
            boards.boot(channel, host)
            _start_programs(_Remote(channel))
        hosts = dict(zip(((0, 0), (8, 4), (4, 8)), machine.spinnaker_ips.values(), strict=True))
        access = BoardAccess(StandIn({1: sub_machine(hosts)}))
        gatherer = Gatherer(GATHERER, (0, 0), TAG)

        async def read() -> None:
            assert await access.read(caller, 1, *CHIP, ADDRESS, len(data)) == data

        async def fast_read() -> None:
            parts = await access.fast_stream(caller, 1, gatherer, MONITOR, ADDRESS, len(data))
            assert b"".join([part async for part in parts]) == data

        await _told("write", access.write(caller, 1, *CHIP, ADDRESS, data), len(data))
        await _told("read", read(), len(data))
        await _told("fast write", access.fast_write(caller, 1, gatherer, *CHIP, ADDRESS, data), len(data))
        await _told("fast read", fast_read(), len(data))
        began = time.monotonic()
        await access.reset_router(caller, 1, FILTERS)
        print(f"| reset of 144 chips' routers | {time.monotonic() - began:.3f} s | |")


def _start_programs(client: Client) -> None:
    """Run a gatherer and a monitor."""
    give_data(client, GATHERER.p, (0xFFFFFFF8, 0, 0, 0, 0, TAG), app=16, chip=(0, 0))
    give_data(client, MONITOR.p, (9, 9, 9), app=16, chip=CHIP)
    load(client, GATHERER.p, app=16, chip=(0, 0))
    load(client, MONITOR.p, app=16, chip=CHIP)
    signal(client, Signal.START, 16)


async def _told(name: str, transfer: Coroutine[object, None, None], size: int) -> None:
    began, spent = time.monotonic(), time.process_time()
    await transfer
    wall, cpu = time.monotonic() - began, time.process_time() - spent
    print(f"| {name} | {size / wall / MB:.1f} MB/s | {size / cpu / MB:.1f} MB/s |", flush=True)
