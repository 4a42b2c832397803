"""Machines of several simulated frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from spalloc_server.simulator.frame import SimulatedTimings
from spalloc_server.simulator.simulator import Simulator
from tests.conformance.servers import COMMANDS
from tests.hardware.addresses import loopback_hosts
from tests.house import Place


class Hall(Place):
    """A machine of so many frames of 24 boards, and the place of its server's files."""

    def __init__(self, folder: Path, *, frames: int, history_days: float = 400) -> None:
        super().__init__(folder, loopback_hosts(frames))
        boards = [(x, y, z) for x in range(4) for y in range(2 * frames) for z in range(3)]
        locations = {board: (0, number // 24, number % 24) for number, board in enumerate(boards)}
        hosts = {board: "board-{}-{}-{}".format(*board) for board in boards}
        self.boards = {board: (self.hosts[frame], number) for board, (_, frame, number) in locations.items()}
        self.config.write_text(
            f"machine = Machine('m', board_locations={locations}, spinnaker_ips={hosts},"
            f" bmp_ips={ {(0, frame): host for frame, host in enumerate(self.hosts)} })\n"
            "configuration = Configuration([machine], ip='127.0.0.1', seconds_before_free=0,"
            f" timeout_check_interval=0.05, history_days={history_days}, limits=Limits(creates_per_second=0))\n"
        )
        self.config.chmod(0o600)

    @asynccontextmanager
    async def simulator(self, timings: SimulatedTimings | None = None) -> AsyncIterator[Simulator]:
        """All BMPs, with all boards."""
        async with Simulator({host: range(24) for host in self.hosts}, timings=timings) as simulator:
            yield simulator


async def admin_says(config: Path, *arguments: str, given: str = "") -> str:
    """What `spalloc-admin` says of the server with this config file; it must succeed."""
    command = [str(COMMANDS / "spalloc-admin"), *arguments, "--config", str(config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    said, _ = await process.communicate(given.encode())
    assert process.returncode == 0
    return said.decode()
