"""An hour under load of all kinds leaves nothing behind: no socket, no task, no thread, no memory.

Theory of operation. Server, front process and hardware are processes of their own, as at a site with two units. A load
that never changes (`soak_load`) runs three times, with a quiet time after each: once to warm up, and then twice for
half of `SOAK_SECONDS`. What is there in quiet times is compared: of descriptors and tasks not one more is allowed, and
of the blocks of memory that Python has given out, once garbage is collected, no more than `BLOCKS`: so one that each
job, or each WebSocket, leaves behind is found. Libraries in C have memory of their own, and so under load the memory of
each process (PSS, so what processes share is counted once) is sampled all the while, and a line is fitted to what is
found in the second half. It may rise by `MIB_PER_HOUR`; 200 bytes that are left behind by each of the
requests would let it rise by more than ten times as much. -s shows figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.boards import boot, connected
from spalloc_server.config.load import load
from tests.conformance.hall import write_hall
from tests.conformance.servers import free_port, listens, simulated_hardware
from tests.frontends.http.fake_socket import until
from tests.house import PATIENCE
from tests.torture.halls import admin_says
from tests.torture.soak_load import PASSWORD, USER, Connection, Load

SECONDS = float(os.environ.get("SOAK_SECONDS") or 3600)
"""How long the load runs, the warm-up apart."""

WARM_UP = min(120.0, SECONDS / 2)

SAMPLES = 240
"""In the whole of it."""

BLOCKS = 1_000
"""By how many blocks of memory (most are of less than 100 bytes) a process may have more in quiet times, after the
second half than after the first."""

MIB_PER_HOUR = 6.0
"""By which the memory of a process may rise in the second half."""

MIB_ANYWAY = 3.0
"""What it may rise besides: how many clients are there at a time varies."""

MORE = 0.2
"""Of descriptors and tasks: the part of what there is on average under load by which it may rise. What clients leave
half-done ends by itself after a while, so there are more of them at one time than at another."""

THREADS = 12
"""That a process has at most; those of pools are made when they are first needed."""

COMPLAINT = re.compile(r'"level": ?"(error|critical)"|Traceback')

TICK = os.sysconf("SC_CLK_TCK")

pytestmark = [pytest.mark.torture, pytest.mark.timeout(SECONDS + 1200)]

WEB = """
[limits]
creates_per_second = 0
[web]
ip = "127.0.0.1"
port = {port}
start = false
plain_http = true
requests_per_second = 0
header_seconds = 2.0
body_seconds = 2.0
"""


class Facts(NamedTuple):
    """What one process has."""

    descriptors: int
    tasks: int
    threads: int
    blocks: int
    mib: float
    """Memory (PSS)."""
    kinds: dict[str, int]
    """Descriptors and tasks by what they are."""


class Program:
    """A process that tells what it has."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._socket = f"{folder}/{name}.facts"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.torture.counted", self._socket, self.name, *arguments]
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        self.pid = self._process.pid
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(FileNotFoundError, ConnectionRefusedError):
                    self._reader, self._writer = await asyncio.open_unix_connection(self._socket)
                    return
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop it; it must end well."""
        assert self._process is not None
        self._writer.close()
        async with asyncio.timeout(PATIENCE):
            await self._reader.read()
            self._process.terminate()
            assert await self._process.wait() == 0, self.log.read_text()[-4000:]

    async def facts(self, *, collected: bool = False) -> Facts:
        """What it has now; with `collected`, once it has collected garbage."""
        self._writer.write(b"!" if collected else b"?")
        async with asyncio.timeout(PATIENCE):
            told = json.loads(await self._reader.readline())
        proc = Path(f"/proc/{self.pid}")
        names = []
        for each in proc.joinpath("fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed just now
                names.append(str(each.readlink()))
        kinds = told["kinds"] | Counter(name.partition(":")[0] for name in names)
        pss = re.search(r"(?m)^Pss: +(\d+) kB", proc.joinpath("smaps_rollup").read_text())
        assert pss is not None
        threads = len([*proc.joinpath("task").iterdir()])
        return Facts(len(names), told["tasks"], threads, told["blocks"], int(pss[1]) / 1024, kinds)

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    async def kill(self) -> None:
        """End it, where it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Site:
    """Two units, and a client's load."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.v1 = free_port(), free_port()
        self.server, self.front = Program("spalloc_server", folder), Program("spalloc_web", folder)
        self.programs = (self.server, self.front)
        self.config = write_hall(24, folder)
        self.config.write_text(f"max_retired_jobs = 50\n{self.config.read_text()}{WEB.format(port=self.port)}")
        self.config.chmod(0o600)

    async def admin(self, *arguments: str, given: str = "") -> str:
        """What `spalloc-admin` says."""
        return await admin_says(self.config, *arguments, given=given)

    async def defects(self) -> dict[str, float]:
        """How many defects each program counts."""
        it = await Connection.open(self.port, tls=True)
        told = (await it.ask("GET", "/metrics")).body.decode()
        await it.close()
        return {name: float(number) for name, number in re.findall(r"(?m)^(\w+_defects) (\S+)$", told)}

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time of each program, and of this one with its clients."""
        return {program.name: program.cpu() for program in self.programs} | {"clients": time.process_time()}

    async def quiet(self, before: list[Facts] | None = None) -> list[Facts]:
        """What each process has once nothing is left to do, which comes to what there was `before`.

        Raises:
            AssertionError: it does not, or never comes to rest.
        """
        seen: list[list[Facts]] = []
        deadline = time.monotonic() + PATIENCE
        while json.loads(await self.admin("jobs", "--json")):
            assert time.monotonic() < deadline
        while True:
            await asyncio.sleep(0.5)
            seen.append([await program.facts(collected=True) for program in self.programs])
            last = [[(each.descriptors, each.tasks) for each in facts] for facts in seen[-3:]]
            if len(last) == 3 and last[0] == last[1] == last[2] and not self._more(seen[-1], before or seen[-1]):
                return seen[-1]
            assert time.monotonic() < deadline, f"they do not come to rest: {self._more(seen[-1], before or seen[-2])}"

    def _more(self, now: list[Facts], before: list[Facts]) -> list[str]:
        """What there is more of, in words."""
        return [
            f"{program.name} has {new.kinds}, and had {old.kinds}"
            for program, new, old in zip(self.programs, now, before, strict=True)
            if new.descriptors > old.descriptors or new.tasks > old.tasks
        ]


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """Both units run, and are stopped at the end."""
    it = Site(folder)
    (machine,) = load(it.config).machines
    with simulated_hardware(it.config, machine.bmp_ips.values(), folder, "--boards"):
        try:
            await it.server.start(str(it.config), "--port", str(it.v1), "--log-format", "json")
            await it.front.start("--config", str(it.config), "--log-format", "json")
            await until(lambda: listens(it.port))
            await it.admin("user", "add", USER, given=PASSWORD)
            yield it
            for program in reversed(it.programs):
                await program.stop()
        finally:
            for program in it.programs:
                await program.kill()


class Half(NamedTuple):
    """What was found in half of the time."""

    times: list[float]
    """Seconds since it began, of each sample."""
    samples: list[list[Facts]]
    """Under load, of each program."""
    quiet: list[Facts]
    """Behind it."""
    cpu: dict[str, float]
    """Cores that each program took, and this one with its clients."""

    def of(self, number: int, what: str) -> list[float]:
        """All samples of a figure of one program."""
        return [getattr(facts[number], what) for facts in self.samples]

    def growth(self, number: int, what: str) -> float:
        """By how much it rises from the first sample to the last, by a line that is fitted to it."""
        line = statistics.linear_regression(self.times, self.of(number, what))
        return line.slope * (self.times[-1] - self.times[0])

    @property
    def hours(self) -> float:
        return (self.times[-1] - self.times[0]) / 3600


async def loaded(it: Site, clients: Load, before: list[Facts]) -> Half:
    """Half of the time."""
    half = Half([], [], [], {})

    async def look(passed: float) -> None:
        facts = [await program.facts() for program in it.programs]
        half.times.append(passed)
        half.samples.append(facts)
        with (it.folder / "samples").open("a") as file:
            print(round(passed), *(value for each in facts for value in each[:-1]), file=file)
        await asyncio.sleep(SECONDS / SAMPLES)

    spent = it.cpu()
    await clients.run(SECONDS / 2, boot_board, look)
    half.cpu.update({name: (seconds - spent[name]) / half.times[-1] for name, seconds in it.cpu().items()})
    half.quiet.extend(await it.quiet(before))
    return half


def boot_board(host: str) -> None:
    with connected(host) as client:
        boot(client, host)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with site(tmp_path) as it:
        token = json.loads(await it.admin("token", "create", USER, "--json"))["secret"]
        clients = Load(it.port, ("127.0.0.1", it.v1), token)
        await clients.run(WARM_UP, boot_board, lambda _: asyncio.sleep(0.1))
        warm = await it.quiet()
        half = await loaded(it, clients, warm)
        whole = await loaded(it, clients, warm)
        figures = await it.defects()
    show(it, clients, warm, half, whole)
    assert clients.faults == []
    assert figures == {"spalloc_web_defects": 0, "spalloc_defects": 0}
    for program in it.programs:
        complaints = [line for line in program.log.read_text().splitlines() if COMPLAINT.search(line)]
        assert complaints == []
    for number, program in enumerate(it.programs):
        assert whole.quiet[number].blocks - half.quiet[number].blocks <= BLOCKS, program.name
        assert whole.growth(number, "mib") <= MIB_PER_HOUR * whole.hours + MIB_ANYWAY, program.name
        for what in ("descriptors", "tasks"):
            assert whole.growth(number, what) <= MORE * statistics.mean(whole.of(number, what)), (program.name, what)
        assert max(whole.of(number, "threads")) <= THREADS, program.name


def show(it: Site, clients: Load, warm: list[Facts], half: Half, whole: Half) -> None:
    """Print what was found."""
    count = sum(clients.done.values())
    print(f"\n{count} clients, {Connection.answers} answers; cores: { {k: round(v, 2) for k, v in whole.cpu.items()} }")
    print(dict(clients.done))
    print("| program | what | quiet: warm | half | whole | under load | rise in the second half |")
    print("|---|---|---|---|---|---|---|")
    for number, program in enumerate(it.programs):
        for what in ("descriptors", "tasks", "threads", "blocks", "mib"):
            quiet = [f"{getattr(facts[number], what):,.6g}" for facts in (warm, half.quiet, whole.quiet)]
            level = statistics.mean(whole.of(number, what))
            rise = f"{whole.growth(number, what):+,.4g}"
            print("|", " | ".join([program.name, what, *quiet, f"{level:,.6g}", rise]), "|")
