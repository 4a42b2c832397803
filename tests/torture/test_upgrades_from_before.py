"""Upgrades from the version before the state's present schema, under users who must not notice; and ones that fail.

Theory of operation. What `pip install --upgrade` does is done with two symbolic links, `src` and `tests`: a server is
started where they lead to the version before, taken out of the repository's history; then they lead to this one, and
the server is told to upgrade. Its dependencies are in an environment of their own.
"""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import tarfile
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from spalloc_server.simulator.frame import SimulatedTimings
from tests.conformance.environments import ROOT, environment
from tests.house import PATIENCE, Client
from tests.processes import ServerProcess, events
from tests.torture.halls import Hall
from tests.torture.users import READY, User

BEFORE = "15a8daba868d432d06c63e8cdef56316c80ecfd7"
"""The last commit whose servers store jobs as the arguments of `create_job`."""

USERS = 40
WAITING = 5

SLOW_ENOUGH = SimulatedTimings(power_on=0.05, power_on_others=0.05)


class Installation:
    """Where a server is installed: links that lead to the version before, or to this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = folder / "before"
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", BEFORE, "src", "tests", "pyproject.toml"],
            check=True,
            capture_output=True,
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(self._before, filter="data")
        project = tomllib.loads((self._before / "pyproject.toml").read_text())["project"]
        self.python = environment("version-before", *project["dependencies"])
        self.install(before=True)

    def install(self, *, before: bool) -> None:
        """Have whoever starts from now on run this version."""
        for name in ("src", "tests"):
            new = self.folder / f"{name}.new"
            new.symlink_to((self._before if before else ROOT) / name)
            new.replace(self.folder / name)

    async def start(self, hall: Hall) -> ServerProcess:
        hall.python, hall.installed = str(self.python), self.folder
        text = hall.config.read_text()
        hall.config.write_text(text.replace(", limits=Limits(creates_per_second=0)", ""))  # which it does not know
        return await ServerProcess.start(hall, PYTHONPATH=str(self.folder / "src"))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installation"))


async def upgraded(hall: Hall, installation: Installation, *, failing: bool) -> float:
    """Upgrade a server of the version before, under users; the longest wait of a user in seconds."""
    installation.install(before=True)
    async with hall.simulator(SLOW_ENOUGH) as simulator, AsyncExitStack() as stack:
        server = await installation.start(hall)
        stack.push_async_callback(server.kill)
        users = [await User.arrive(server.address) for _ in range(USERS)]
        client = await Client.connect(server.address)
        stack.push_async_callback(client.close)
        for number in range(WAITING):
            await client.create(24, min_ratio=0.1 * number, max_dead_boards=number, tags=["default"])
        before = await lasting(client)
        installation.install(before=False)
        async with asyncio.TaskGroup() as group:
            for user in users[: USERS // 2]:
                group.create_task(_switch(user))
            if failing:
                (hall.folder / "fault").write_text("exits instead of being ready")
                server.signal(signal.SIGUSR2)
                await _failure(hall)
                (hall.folder / "fault").write_text("")
                assert await lasting(client) == before
            for _ in range(2):  # into this version, and then within it
                pid = server.pid
                server.signal(signal.SIGUSR2)
                assert await server.serves() != pid
        assert await lasting(client) == before
        for user in users:
            assert (await user.status())["state"] == READY
            await user.leave()
        assert simulator.counters.overlaps == 0
    said = [event["event"] for event in events(hall)]
    assert not [event for event in said if "set aside" in event]
    return max(user.longest for user in users)


async def lasting(client: Client) -> list[dict[str, Any]]:
    """What `list_jobs` tells of jobs and does not change as their users switch them."""
    passing = ("state", "power", "keepalivehost")
    return [{key: job[key] for key in job if key not in passing} for job in await client.call("list_jobs")]


async def _switch(user: User) -> None:
    for on in (False, True, False, True):
        await user.switch(on=on)


async def _failure(hall: Hall) -> None:
    async with asyncio.timeout(PATIENCE):
        while not any(event["event"].startswith("upgrade failed") for event in events(hall)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.torture
async def test_twenty_five_upgrades_from_the_version_before(
    tmp_path: Path, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = 0.0
    for number in range(25):
        hall = Hall(made(tmp_path / str(number)), frames=2)
        longest = max(longest, await upgraded(hall, installation, failing=number < 5))
    with capsys.disabled():
        print(f"\n25 upgrades from the version before, 5 of them failed first; longest wait {1000 * longest:.0f} ms")
    assert longest < 1.0


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
