"""Published versions of SpiNNMachine as judges of jobs: each runs in an environment of its own.

Theory of operation. `as_discovered` writes down what SpiNNMan would learn from a job's chips once they have booted:
their coordinates and the size as SCAMP's rule gives them, the links that work, the boards' addresses. `Judges` hands
that to a process of each version (`judge_machines.py`), which builds the machine from it, and collects what they
complain of. Machines that are alike are judged once.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from spalloc_server.coordinates import Board, Chip
from spalloc_server.links import Links
from tests.conformance.environments import environment
from tests.scamp_rule import ACROSS, INSIDE, STEPS, Found, Job, found, verdict

__all__ = ["VERSIONS", "Judges", "Verdicts", "as_discovered"]

VERSIONS = ("6.0.0", "7.0.0", "7.3.0", "7.4.1")
MODEL = "SCAMP's rule"
"""The name under which the complaints of `scamp_rule.verdict` are kept."""

INSIDE_LINKS: dict[Chip, int] = {}
"""A bit for each link of a board's chip that leads to a chip of the same board."""
for _chip, _number, _ in INSIDE:
    INSIDE_LINKS[_chip] = INSIDE_LINKS.get(_chip, 0) | 1 << _number


def address(chip: Chip) -> str:
    """The address of the board that was told to have an Ethernet chip here."""
    return f"10.0.{chip[0]}.{chip[1]}"


def as_discovered(job: Job) -> str:
    """A line for `judge_machines.py`: what a job's chips tell of themselves."""
    assert job.root is not None
    seen = found(job.root, job.ends)
    ethernets = seen.ethernets
    links = _links(seen, job)
    chips = [
        (*at, *ethernets[board], address(job.told[board]) if chip == (0, 0) else None, links[board, chip])
        for (board, chip), at in seen.chips.items()
    ]
    return json.dumps(
        {
            "width": seen.width,
            "height": seen.height,
            "told": sorted((*chip, address(chip)) for chip in job.told.values()),
            "chips": sorted(chips, key=lambda chip: chip[:4]),
            "around": [] if seen.direct else _around(seen, job),
        }
    )


def _links(seen: Found, job: Job) -> dict[tuple[Board, Chip], int]:
    """A bit for each link that works, for each chip."""
    links = {(board, chip): INSIDE_LINKS[chip] for board, chip in seen.chips}
    for board, link in job.ends:
        if (board, (0, 0)) in links:
            for chip, number, _ in ACROSS[board[2], link]:
                links[board, chip] |= 1 << number
    return links


def _around(seen: Found, job: Job) -> list[tuple[int, int, int, int, int]]:
    """(x, y, link, to x, to y) of the working links that lead elsewhere than to the coordinates beside them."""
    edges = [((board, chip), number, (board, there)) for board in seen.ethernets for chip, number, there in INSIDE]
    for (board, link), other in job.ends.items():
        edges += [((board, chip), number, (other, there)) for chip, number, there in ACROSS[board[2], Links(link)]]
    elsewhere = []
    for here, number, there in edges:
        if here in seen.chips:
            (x, y), (to_x, to_y) = seen.chips[here], seen.chips[there]
            if (to_x - x, to_y - y) != STEPS[number]:
                elsewhere.append((x, y, number, to_x, to_y))
    return sorted(elsewhere)


class Verdicts:
    """What the judges said of some jobs."""

    def __init__(self) -> None:
        self.jobs = 0
        self.complaints: dict[str, dict[str, str]] = {}
        """By judge, by job: the first complaint."""

    def __str__(self) -> str:
        lines = [f"{self.jobs} jobs"]
        for judge, complaints in sorted(self.complaints.items()):
            lines.append(f"{judge} complains of {len(complaints)}:")
            lines += [f"    {job}: {text[:300]}" for job, text in complaints.items()]
        return "\n".join(lines)


class Judges:
    """A process of each version. A context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._known: dict[int, dict[str, str]] = {}

    def __enter__(self) -> Self:
        script = Path(__file__).with_name("judge_machines.py")
        for version in VERSIONS:
            pins = (f"SpiNNMachine==1!{version}", f"SpiNNUtilities==1!{version}")
            python = environment(f"spinnmachine-{version}", *pins)
            process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._processes[version] = self._stack.enter_context(process)
            self._stack.callback(process.kill)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def judge(self, jobs: Iterable[tuple[str, Job]]) -> Verdicts:
        """Have jobs, each with a name, judged by all."""
        verdicts = Verdicts()
        for name, job in jobs:
            verdicts.jobs += 1
            for judge, text in self._first_complaints(job).items():
                verdicts.complaints.setdefault(judge, {})[name] = text
        return verdicts

    def _first_complaints(self, job: Job) -> dict[str, str]:
        if job.root is None:
            return {MODEL: verdict(job)[0]}
        line = as_discovered(job)
        key = hash((line, job.size))
        if key not in self._known:
            self._known[key] = self._ask(line)
            if texts := verdict(job):
                self._known[key][MODEL] = texts[0]
        return self._known[key]

    def _ask(self, line: str) -> dict[str, str]:
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answers = {}
        for version, process in self._processes.items():
            assert process.stdout is not None
            if complaints := json.loads(process.stdout.readline()):
                answers[version] = complaints[0]
        return answers
