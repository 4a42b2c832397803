"""Config files in the middle of all kinds of saves, under `--watch-config`, while jobs run.

Each round saves the config, and the CSV that it names, in ways that editors, copies and full disks have: cut off,
emptied, in pieces, replaced, gone for a while, damaged. What is bad may stay so for long. A file that is cut off and
good, with fewer machines, is what a copy leaves for a moment, and stays no longer than one takes. Then the round saves
another good configuration, waits until it is in force, and finds every job as it was; and SIGTERM ends the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spalloc_server.config.load import load
from spalloc_server.config.machine import Machine
from spalloc_server.errors import ConfigurationError
from spalloc_server.simulator.simulator import Simulator
from tests.hardware.addresses import loopback_hosts
from tests.house import PATIENCE, Client, Place
from tests.processes import ServerProcess, events

READY = 3
WATCH_SECONDS = 0.1
STOP_SECONDS = 10.0
WIRING = (Path(__file__).parents[2] / "examples" / "spinner-24.csv").read_bytes()

TOML = """# {tag}
ip = "127.0.0.1"
timeout_check_interval = 0.05
[access]
clients = ["127.0.0.0/8"]
[[machine]]
form = "standard_ips"
name = "hall"
tags = ["default", "{tag}"]
board_locations = "wiring.csv"
base_ip = "{hall}"
[[machine]]
form = "single_board"
name = "desk"
tags = ["desk", "{tag}"]
bmp_ip = "{desk}"
spinnaker_ip = "desk-board"
# the end
"""

PYTHON = """# {tag}
configuration = Configuration([], ip="127.0.0.1")
hall = Machine.with_standard_ips(
    "hall",
    {{"default", "{tag}"}},
    board_locations=board_locations_from_spinner("{folder}/wiring.csv"),
    base_ip="{hall}",
)
desk = Machine.single_board("desk", {{"desk", "{tag}"}}, bmp_ip="{desk}", spinnaker_ip="desk-board")
configuration = Configuration([hall], ip="127.0.0.1", timeout_check_interval=0.05)
configuration = Configuration([hall, desk], ip="127.0.0.1", timeout_check_interval=0.05)
# the end
"""


class Office(Place):
    """Two machines, one of which has its boards' places in a CSV, and the config file that is saved."""

    def __init__(self, folder: Path, text: str, name: str) -> None:
        super().__init__(folder, loopback_hosts(2))
        self.name, self._text = name, text
        self.wiring = folder / "wiring.csv"
        self.wiring.write_bytes(WIRING)
        self.trial = folder / "trial"
        self.trial.mkdir()
        self.save(self.config, self.text("r0000"))
        self.config.chmod(0o600)

    @property
    def config(self) -> Path:
        return self.folder / self.name

    def text(self, tag: str, folder: Path | None = None) -> bytes:
        hall, desk = self.hosts
        return self._text.format(tag=tag, hall=hall, desk=desk, folder=folder or self.folder).encode()

    def save(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

    def remove(self, path: Path) -> None:
        path.unlink()

    def machines(self, config: bytes, wiring: bytes) -> list[Machine] | None:
        """Those of a configuration; None where it is bad."""
        path = self.trial / self.name
        path.write_bytes(config.replace(str(self.folder).encode(), str(self.trial).encode()))
        path.chmod(0o600)
        (self.trial / "wiring.csv").write_bytes(wiring)
        try:
            return list(load(path).machines)
        except ConfigurationError:
            return None

    @asynccontextmanager
    async def simulator(self) -> AsyncIterator[Simulator]:
        async with Simulator({self.hosts[0]: range(24), self.hosts[1]: range(1)}) as simulator:
            yield simulator


class Saver:
    """Saves a config file and its CSV in all kinds of ways."""

    def __init__(self, office: Office, rng: random.Random) -> None:
        self._office, self._rng = office, rng
        self.bad = 0
        """Bad contents that stayed for long."""

    async def round(self, tag: str) -> None:
        """Damage the files several times; then save a good config with this tag, and the CSV."""
        office, rng = self._office, self._rng
        for _ in range(rng.randint(1, 3)):
            path, whole = rng.choice([(office.config, office.text(tag)), (office.wiring, WIRING)])
            await rng.choice([self._cut, self._cut, self._garbage, self._absent, self._pieces])(path, whole)
        await rng.choice([self._pieces, self._replace])(office.wiring, WIRING)
        await rng.choice([self._pieces, self._replace])(office.config, office.text(tag))

    async def _cut(self, path: Path, whole: bytes) -> None:
        cut = whole[: self._rng.choice([0, self._rng.randrange(len(whole))])]
        await self._leave(path, cut, whole)

    async def _garbage(self, path: Path, whole: bytes) -> None:
        at, size = self._rng.randrange(len(whole)), self._rng.randint(1, 40)
        await self._leave(path, whole[:at] + self._rng.randbytes(size) + whole[at + size :], whole)

    async def _leave(self, path: Path, content: bytes, whole: bytes) -> None:
        """Save this; for long where it is bad, and for as long as a copy takes where it is good and cut off."""
        office, config, wiring = self._office, self._office.text("r0000"), WIRING
        if path == office.config:
            config = content
        else:
            wiring = content
        bad = office.machines(config, wiring) is None
        if bad or len(content) < len(whole):
            office.save(path, content)
            self.bad += bad
            await self._pause(8 * WATCH_SECONDS if bad else 0.001)
            office.save(path, whole)

    async def _pieces(self, path: Path, whole: bytes) -> None:
        cuts = sorted(self._rng.choices(range(len(whole)), k=self._rng.randint(1, 5)))
        with path.open("wb") as file:
            for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                file.write(whole[begin:end])
                file.flush()
                await self._pause(0.002)

    async def _replace(self, path: Path, whole: bytes) -> None:
        new = path.with_name("new")
        new.write_bytes(whole)
        new.chmod(0o600)
        new.replace(path)
        await self._pause(WATCH_SECONDS)

    async def _absent(self, path: Path, whole: bytes) -> None:
        self._office.remove(path)
        await self._pause(4 * WATCH_SECONDS)
        await self._replace(path, whole)

    async def _pause(self, longest: float) -> None:
        await asyncio.sleep(self._rng.uniform(0, longest))


async def torture(folder: Path, text: str, name: str, seeds: range) -> tuple[int, float]:
    """One round for each seed; (bad contents that stayed for long, seconds of the slowest stop)."""
    office = Office(folder, text, name)
    bad, slowest = 0, 0.0
    jobs: list[int] = []
    async with office.simulator():
        for seed in seeds:
            server = await ServerProcess.start(office, "--watch-config", WATCH_SECONDS=str(WATCH_SECONDS))
            try:
                client = await Client.connect(server.address)
                jobs = jobs or [await client.create(size) for size in (3, 6)] + [await client.create(tags=["desk"])]
                saver, tag = Saver(office, random.Random(seed)), f"r{seed:04}"
                await saver.round(tag)
                await in_force(client, tag)
                for job_id in jobs:
                    assert (await client.until(job_id, READY))["power"] is True, f"seed {seed}"
                bad += saver.bad
                await client.close()
                begun = time.monotonic()
                await server.stop()
                slowest = max(slowest, time.monotonic() - begun)
            finally:
                await server.kill()
    assert not [event for event in events(office) if event["event"] == "the configuration ends jobs"]
    return bad, slowest


async def in_force(client: Client, tag: str) -> None:
    """Wait until both machines have this tag."""
    async with asyncio.timeout(PATIENCE):
        while [tag in machine["tags"] for machine in await client.call("list_machines")] != [True, True]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


FORMS = pytest.mark.parametrize(("text", "name"), [(TOML, "hall.toml"), (PYTHON, "hall.conf")], ids=["toml", "python"])


@FORMS
async def test_no_job_is_lost_to_a_save(tmp_path: Path, text: str, name: str) -> None:
    bad, slowest = await torture(tmp_path, text, name, range(1, 4))
    assert bad
    assert slowest < STOP_SECONDS


@pytest.mark.torture
@FORMS
async def test_no_job_is_lost_to_fifty_rounds_of_saves(
    tmp_path: Path, text: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    bad, slowest = await torture(tmp_path, text, name, range(1, 51))
    with capsys.disabled():
        told = f"{bad} bad contents, slowest stop {slowest:.2f} s, {time.monotonic() - begun:.0f} s in all"
        print(f"\n50 rounds of saves of {name}, 0 jobs lost, {told}", end=" ")
    assert bad > 20
    assert slowest < STOP_SECONDS
