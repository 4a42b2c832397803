"""Name services that hang: `make torture`, or this file with `--run-torture -m torture -s` for figures.

Each round starts a server, some of whose BMPs have names that are never answered for, or only that it cannot be said
now, with the help of a library that is preloaded (`hanging.c`, which needs a C compiler). Jobs live meanwhile on frames
that have addresses. Reloads bring such names in and take them out, upgrades come while they are looked up, and the
round ends with one SIGTERM or two, at any moment.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.house import PATIENCE, Client, Place
from tests.processes import ServerProcess
from tests.test_server import READY

ROUNDS = int(os.environ.get("NAME_ROUNDS", "100"))

STOP_SECONDS = 15.0
"""A stop takes less: BMPs have at most one power command to finish."""

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("hanging") / "hanging.so"
    source = Path(__file__).with_name("hanging.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Lane(Place):
    """A machine of frames of one triad: the first has an address, and any other a name that is of no use."""

    def write(self, rng: random.Random) -> None:
        ends = [rng.choice([".hangs", ".hangs", ".slow"]) for _ in range(rng.choice([1, 3, 8, 40]))]
        boards = [(0, y, z) for y in range(1 + len(ends)) for z in range(3)]
        bmps = {(0, 0): self.hosts[0]} | {(0, n): f"bmp-{n}{end}" for n, end in enumerate(ends, start=1)}
        hosts = {board: "board-{}-{}-{}".format(*board) for board in boards}
        self.config.write_text(
            f"machine = Machine('m', board_locations={ {board: (0, board[1], board[2]) for board in boards} },"
            f" bmp_ips={bmps}, spinnaker_ips={hosts})\n"
            "configuration = Configuration([machine], ip='127.0.0.1', seconds_before_free=0)\n"
        )
        self.config.chmod(0o600)


class Round:
    """The life of one server."""

    def __init__(self, lane: Lane, library: Path, seed: int) -> None:
        self._lane, self._library, self._rng = lane, library, random.Random(seed)
        self.stopped_in = 0.0
        self.upgrades = self.reloads = self.jobs = 0

    async def live(self) -> None:
        rng, lane = self._rng, self._lane
        lane.state.unlink(missing_ok=True)
        lane.write(rng)
        server = await ServerProcess.start(lane, LD_PRELOAD=str(self._library))
        try:
            client = await Client.connect(server.address)
            for _ in range(rng.randrange(4)):
                await self._step(server, client)
            await client.close()
            await asyncio.sleep(rng.choice([0, 0, 0.05, 1]))
            begun = time.monotonic()
            for number in range(rng.choice([1, 2])):
                await asyncio.sleep(number * rng.choice([0, 0.01, 0.5]))
                try:
                    server.signal(signal.SIGTERM)
                except ProcessLookupError:
                    break
            status = await server.ended()
            self.stopped_in = time.monotonic() - begun
            assert status == 0
            assert self.stopped_in < STOP_SECONDS
        finally:
            await server.kill()

    async def _step(self, server: ServerProcess, client: Client) -> None:
        kind = self._rng.choice(["job", "job", "reload", "upgrade"])
        if kind == "job":
            self.jobs += 1
            job_id = await client.create(0, 0, 0)
            async with asyncio.timeout(PATIENCE):
                await client.until(job_id, READY)
            await client.call("destroy_job", job_id)
        elif kind == "reload":
            self.reloads += 1
            self._lane.write(self._rng)
            server.signal(signal.SIGHUP)
            assert await client.call("version") == "1.0.0"
        else:
            self.upgrades += 1
            before = server.pid
            server.signal(signal.SIGUSR2)
            assert await server.serves() != before


async def test_no_name_service_ends_a_server_or_keeps_it_from_ending(tmp_path: Path, hanging: Path) -> None:
    seeds = [int(os.environ["NAME_SEED"])] if "NAME_SEED" in os.environ else range(ROUNDS)
    lane = Lane(tmp_path)
    rounds = []
    async with lane.simulator():
        for seed in seeds:
            rounds.append(Round(lane, hanging, seed))
            try:
                await rounds[-1].live()
            except BaseException as exc:
                exc.add_note(f"NAME_SEED={seed} plays this round alone")
                raise
    print(
        f"\n{len(rounds)} rounds, {sum(each.jobs for each in rounds)} jobs, {sum(each.reloads for each in rounds)} "
        f"reloads, {sum(each.upgrades for each in rounds)} upgrades: no server ended, the slowest stop took "
        f"{max(each.stopped_in for each in rounds):.2f} s"
    )
