"""Machines for the conformance tests, and the config files that describe them to either server.

The files are Python, and use only what the published server's config files may use.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hardware.addresses import loopback_hosts

__all__ = ["FRAME_BOARDS", "TestMachine", "bmp_hosts", "write_config"]

FRAME_BOARDS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class TestMachine:
    """A machine of `width` x `height` triads in a cabinet of its own, its boards numbered in order of coordinates."""

    __test__ = False

    name: str
    cabinet: int
    """Its cabinet, and the number that makes its boards' addresses its own."""
    width: int
    height: int
    tags: frozenset[str] = frozenset({"default"})
    dead_boards: frozenset[tuple[int, int, int]] = frozenset()
    dead_links: frozenset[tuple[int, int, int, int]] = frozenset()
    network: int = 10
    """First number of its boards' addresses."""

    def boards(self) -> Iterator[tuple[int, int, int]]:
        """All boards, dead ones too."""
        return itertools.product(range(self.width), range(self.height), range(3))

    def locations(self) -> dict[tuple[int, int, int], tuple[int, int, int]]:
        """(cabinet, frame, board) of each live board."""
        return {
            board: (self.cabinet, number // FRAME_BOARDS, number % FRAME_BOARDS)
            for number, board in enumerate(self.boards())
            if board not in self.dead_boards
        }

    def addresses(self) -> dict[tuple[int, int, int], str]:
        """The host of each live board."""
        return {
            board: f"{self.network}.{self.cabinet}.{frame}.{8 * number + 1}"
            for board, (_, frame, number) in self.locations().items()
        }

    def frames(self) -> list[tuple[int, int]]:
        """(cabinet, frame) of each frame."""
        return sorted({(cabinet, frame) for cabinet, frame, _ in self.locations().values()})


def bmp_hosts(machines: Collection[TestMachine]) -> dict[tuple[int, int], str]:
    """A loopback address of its own for the BMP of each frame of `machines`."""
    frames = [frame for machine in machines for frame in machine.frames()]
    return dict(zip(frames, loopback_hosts(len(frames)), strict=True))


def write_config(
    path: Path, machines: Collection[TestMachine], bmps: dict[tuple[int, int], str], **settings: float
) -> Path:
    """Write a config file of `machines` with the BMPs at `bmps`; `settings` are keywords of `Configuration`."""
    text = "".join(
        f"""    Machine(
        {machine.name!r},
        tags={set(machine.tags)!r},
        width={machine.width},
        height={machine.height},
        dead_boards=set({sorted(machine.dead_boards)!r}),
        dead_links=set((x, y, z, Links(n)) for x, y, z, n in {sorted(machine.dead_links)!r}),
        board_locations={machine.locations()!r},
        bmp_ips={ {frame: bmps[frame] for frame in machine.frames()}!r},
        spinnaker_ips={machine.addresses()!r},
    ),
"""
        for machine in machines
    )
    rest = "".join(f", {name}={value!r}" for name, value in settings.items())
    path.write_text(f"from spalloc_server.links import Links\n\nconfiguration = Configuration([\n{text}]{rest})\n")
    path.chmod(0o644)
    return path
