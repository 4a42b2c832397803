"""The network service, side by side with the published server: `python -m benchmarks service`.

Both servers are loaded in turn, on simulated machines alike; this one commits durably. Processor time is the server
process's own, all threads; for reads, the cores are kept awake (`awake`). Each figure of `calls/s` and of latency is
what the generator saw while it and the server shared the computer's cores.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import crowds
from benchmarks.awake import cores_awake
from benchmarks.generator import Generator, Load
from benchmarks.subjects import Subject, echo, hardware, ours, published, request

__all__ = ["main"]

STATE = request("get_job_state", 1)
LIST = request("list_jobs")
CYCLE = (
    request("create_job", 1, owner="benchmark", keepalive=60.0),
    '{"command":"destroy_job","args":[%d]}',
)
FILL_SECONDS = 180.0
"""A server is not filled any further after this time."""

LAST_SHARED = 100_000
"""Live jobs from which on only this project's server is measured: the other would take hours."""

ROUNDS = 3

Start = Callable[[Path, Path], AbstractContextManager[Subject]]


@dataclass(frozen=True)
class Row:
    """One server's figures in one scenario."""

    scenario: str
    live: int
    server: str
    cpu_us: float
    """Of the server, for each call."""
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    memory_mib: float

    def cells(self) -> list[str]:
        """As they are printed."""
        return [
            *(self.scenario, f"{self.live:,}", self.server, f"{self.cpu_us:,.1f}", f"{self.calls_per_s:,.0f}"),
            *(f"{self.p50_ms:.2f}", f"{self.p99_ms:.2f}", f"{self.memory_mib:.0f}"),
        ]


@dataclass(frozen=True)
class Scenario:
    """One kind of load that is measured on both servers."""

    name: str
    lines: tuple[str, ...] = (STATE,)
    clients: int = 1
    depth: int = 1
    rate: float = 0.0
    levels: tuple[int, ...] = (0, 1_000, 5_000, 10_000, 100_000)
    """Numbers of live jobs at which it is measured."""

    @property
    def reads(self) -> bool:
        """Whether it is over in microseconds: then it matters whether the cores are asleep."""
        return self.lines == (STATE,)

    def measure(self, subject: Subject, generator: Generator, seconds: float) -> Row:
        """Run it on this server. A call is a whole sequence of lines; latency is that of its first."""
        with cores_awake() if self.reads else contextlib.nullcontext():
            before = subject.cpu()
            load = generator.run(
                subject.port, *self.lines, clients=self.clients, depth=self.depth, rate=self.rate, seconds=seconds
            )
            return row(self.name, subject, load, subject.cpu() - before)


SCENARIOS = (
    Scenario("get_job_state, 1 client"),
    Scenario("get_job_state, 50 clients", clients=50),
    Scenario("get_job_state, 32 deep", depth=32),
    Scenario("list_jobs", lines=(LIST,), levels=(1_000, 5_000, 10_000)),
    Scenario("create + destroy, 8 clients", lines=CYCLE, clients=8),
    Scenario("create_job at 200/s", lines=CYCLE, clients=50, rate=200, levels=(0, 5_000)),
)


def row(scenario: str, subject: Subject, load: Load, cpu: float) -> Row:
    """The figures of `load`, whose first line stands for the whole sequence."""
    assert not load.errors, f"{subject.name} answered {load.errors} times with an exception"
    first = load.lines[0]
    return Row(
        scenario=scenario,
        live=subject.live,
        server=subject.name,
        cpu_us=cpu / max(1, first.count) * 1e6,
        calls_per_s=first.count / load.seconds,
        p50_ms=first.p50 * 1e3,
        p99_ms=first.p99 * 1e3,
        memory_mib=subject.memory() / 2**20,
    )


def measure(subjects: list[Subject], generator: Generator, level: int, seconds: float) -> list[Row]:
    """All scenarios at this level. Servers take turns; of each, the round that cost it least counts.

    What else the computer does makes a round dearer, never cheaper.
    """
    rows = []
    for scenario in SCENARIOS:
        if level in scenario.levels:
            rounds = [[scenario.measure(each, generator, seconds) for each in subjects] for _ in range(ROUNDS)]
            rows += [min(of_one, key=lambda row: row.cpu_us) for of_one in zip(*rounds, strict=True)]
    if level == crowds.LIVE_JOBS:
        for subject in subjects:
            crowds.list_polling(subject, generator, seconds)
    return rows


def fill(subjects: list[Subject], level: int) -> list[Subject]:
    """Bring them to so many live jobs; those that got there in time."""
    filled = []
    for subject in subjects:
        if subject.fill(level, time.monotonic() + FILL_SECONDS):
            filled.append(subject)
        else:
            print(f"{subject.name}: stopped at {subject.live:,} live jobs, after {FILL_SECONDS:.0f} s of filling")
    for subject in filled:
        settle(subject)
    return filled


def settle(subject: Subject) -> None:
    """Wait until the server has nothing left to do, at most half a minute."""
    for _ in range(60):
        before = subject.cpu()
        time.sleep(0.5)
        if subject.cpu() - before <= 0.03:
            return


def report_stalls(subject: Subject) -> None:
    """Say how often the event loop stood still; only this project's server counts that."""
    if subject.name == "ours":
        stalls = subject.stalls()
        worked = [worked for _, worked in stalls if worked >= 20]
        print(
            f"ours: {len(stalls)} stalls of the event loop were logged (the longest of each minute), the longest "
            f"{max((stalled for stalled, _ in stalls), default=0)} ms; in {len(worked)} of them it was at work for "
            f"20 ms or more, at most {max(worked, default=0)} ms"
        )


def table(rows: list[Row]) -> str:
    """As Markdown, the servers next to each other."""
    names = ["scenario", "live jobs", "server", "CPU us/call", "calls/s", "p50 ms", "p99 ms", "MiB"]
    order = {(each.name, level): n for n, (each, level) in enumerate((s, v) for s in SCENARIOS for v in s.levels)}
    sorted_rows = sorted(rows, key=lambda each: (order[each.scenario, each.live], each.server))
    lines = [names, ["---"] * 2 + ["---"] + ["---:"] * 5, *(each.cells() for each in sorted_rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def ratios(rows: list[Row]) -> str:
    """How many times less processor time this server takes."""
    cpu = {(each.scenario, each.live, each.server): each.cpu_us for each in rows}
    lines = []
    for (scenario, live, server), spent in cpu.items():
        other = cpu.get((scenario, live, "7.0.0"))
        if server == "ours" and other:
            lines.append(f"{scenario}, {live:,} live jobs: {other / spent:.1f} times less CPU")
    return "\n".join(lines)


def main(*, quick: bool) -> None:
    """Print all figures."""
    seconds = 1.0 if quick else 2.0
    levels = (0, 5_000) if quick else (0, 1_000, 5_000, 10_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="spalloc-bench-") as name:
        directory = Path(name)
        generator = Generator(directory)
        alone = [generator.alone(STATE, clients=n, depth=d, seconds=1) for n, d in ((50, 1), (1, 32))]
        print(
            "the generator against a server that does nothing: "
            f"{alone[0].calls / alone[0].seconds:,.0f} calls/s with 50 clients, "
            f"{alone[1].calls / alone[1].seconds:,.0f} 32 deep"
        )
        with echo(directory) as subject:
            rows = [scenario.measure(subject, generator, seconds) for scenario in SCENARIOS if scenario.reads]
        print("an event loop that does nothing but answer costs, and no server that has it can cost less:")
        print("\n".join(f"- {each.scenario}: {each.cpu_us:.1f} us of CPU a call" for each in rows))
        crowds.allow_files()
        with contextlib.ExitStack() as stack:
            crowd(
                start(stack, ours, directory / "crowds"), generator, crowds.Sizes.quick() if quick else crowds.Sizes()
            )
        rows = []
        with contextlib.ExitStack() as stack:
            subjects = [start(stack, each, directory / each.__name__) for each in (published, ours)]
            this_one = subjects[-1]
            for level in levels:
                subjects = fill(subjects if level < LAST_SHARED else [this_one], level)
                rows += measure(subjects, generator, level, seconds)
            report_stalls(this_one)
    print(table(rows))
    print(ratios(rows))


def crowd(subject: Subject, generator: Generator, sizes: crowds.Sizes) -> None:
    """What crowds and bad clients cost, on a server that has done nothing else."""
    crowds.run(subject, generator, sizes)
    fill([subject], crowds.LIVE_JOBS)
    crowds.attack_it(subject, generator, sizes)
    report_stalls(subject)


def start(stack: contextlib.ExitStack, server: Start, place: Path) -> Subject:
    """A server on machines of its own."""
    place.mkdir()
    return stack.enter_context(server(stack.enter_context(hardware(place)), place))
