"""Machines, free boards and requests on which the search for a place has most to do.

Theory of operation. An *input* is a machine, which of its boards are free, and a request. Some are those that have been
found to take seconds; the others are a grid: patterns of free boards that are connected by a hair or not at all, with
none, 1 % and 5 % of the boards dead and half as many links, times requests that combine what can be asked for. Nothing
here measures: the benchmark takes the time of them, and tests count floods, by `counting_floods`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from unittest import mock

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import BOARDS_PER_TRIAD, Board
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.free_boards import FreeBoards
from spalloc_server.core.placement.topology import Topology
from spalloc_server.core.placement.torus import Block, Planes, Torus
from spalloc_server.links import Links

__all__ = ["PATTERNS", "Floods", "Input", "a_machine", "counting_floods", "found_slow", "grid"]


def a_machine(width: int, height: int, *, dead_boards: int = 0, dead_links: int = 0, seed: int = 3) -> Machine:
    """A machine of width x height triads, so many of whose boards and links, at random, are dead."""
    rng = random.Random(seed)
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(BOARDS_PER_TRIAD)]
    locations = {board: (0, number // 24, number % 24) for number, board in enumerate(boards)}
    return Machine(
        "m",
        width=width,
        height=height,
        dead_boards=set(rng.sample(boards, dead_boards)),
        dead_links={(x, y, z, rng.choice(list(Links))) for x, y, z in rng.sample(boards, dead_links)},
        board_locations=locations,
        bmp_ips={(0, frame): f"bmp-{frame}" for _, frame, _ in locations.values()},
        spinnaker_ips={board: "board-{}-{}-{}".format(*board) for board in boards},
    )


def _serpentine(width: int, height: int) -> Callable[[Board], bool]:
    """One winding string of triads, cut off where the machine wraps."""

    def free(board: Board) -> bool:
        x, y, _ = board
        if x == width - 1 or y == height - 1:
            return False
        return y % 2 == 0 or x == (width - 2 if y // 2 % 2 == 0 else 0)

    return free


PATTERNS: Mapping[str, Callable[[int, int], Callable[[Board], bool]]] = {
    "empty": lambda _width, _height: lambda _board: True,
    "checkerboard": lambda _width, _height: lambda board: (board[0] + board[1]) % 2 == 0,
    "board by board": lambda _width, _height: lambda board: sum(board) % 2 == 0,
    "comb": lambda _width, _height: lambda board: board[1] == 0 or board[0] % 2 == 0,
    "serpentine": _serpentine,
}
"""By name, which boards of a machine of this width and height are free."""


@dataclass(frozen=True, slots=True)
class Input:
    """A request, and the machine on which a place is looked for. Its boards are those of `pattern` that work."""

    name: str
    machine: Machine
    request: Request
    pattern: str = "empty"

    def free_boards(self) -> FreeBoards:
        """The boards that are free; nothing is known of them yet."""
        machine = self.machine
        free = PATTERNS[self.pattern](machine.width, machine.height)
        torus = Torus(machine.width, machine.height)
        topology = Topology(torus, machine.dead_boards, machine.dead_links)
        return FreeBoards(topology, torus.planes(board for board in machine.live_boards if free(board)))


def found_slow() -> Iterator[Input]:
    """Those that were found to stop the event loop."""

    def asked(boards: int, *, ratio: float = 0.0, dead: int | None = None, links: int | None = None) -> Request:
        return Request(owner="me", boards=boards, min_ratio=ratio, max_dead_boards=dead, max_dead_links=links)

    blemished = a_machine(20, 20, dead_boards=12, dead_links=6)
    yield Input("12 dead boards, 6 dead links: 1,187 boards, no dead link", blemished, asked(1187, links=0))
    broken = a_machine(20, 20, dead_boards=60, dead_links=30)
    torus = Request(owner="me", boards=300, require_torus=True, max_dead_links=0)
    yield Input("60 dead boards, 30 dead links: a torus of 300 boards, no dead link", broken, torus)
    one_link = a_machine(20, 20, dead_links=1)
    yield Input("1 dead link: 1,200 boards, square, no dead link", one_link, asked(1200, ratio=1.0, links=0))
    large = a_machine(100, 100, dead_boards=300)
    half = Request(owner="me", triads=(50, 50), max_dead_boards=10)
    yield Input("30,000 boards, 1 % dead: 50x50 triads, 10 dead boards", large, half)
    for side in (20, 100):
        name = f"a serpentine on {side}x{side} triads: 298 boards, ratio 0.333"
        yield Input(name, a_machine(side, side), asked(298, ratio=0.333), "serpentine")
    for pattern in ("checkerboard", "board by board"):
        for boards in (4, 12, 300):
            yield Input(f"{pattern} on 20x20 triads: {boards} boards", a_machine(20, 20), asked(boards), pattern)


def grid(side: int, *, every: int = 1) -> Iterator[Input]:
    """Requests on all patterns of a machine of side x side triads.

    Args:
        side: triads.
        every: of the requests, take one in so many, for a quick look.
    """
    boards = BOARDS_PER_TRIAD * side * side
    sizes = (2, 7, 24, 50, 120, 298, boards // 3, boards // 2, boards - 13, boards)
    blocks = ((2, 2), (side // 3, side // 4), (side // 2, side // 2), (side, side))
    wishes = [
        *product(sizes, (0.0, 0.333, 1.0), (None, 0, 3), (None, 0), (False, True)),
        *product(blocks, (0.0,), (None, 0, 10), (None, 0), (False,)),
    ]
    for pattern, dead in product(PATTERNS, (0.0, 0.01, 0.05)):
        machine = a_machine(side, side, dead_boards=int(dead * boards), dead_links=int(dead * boards / 2))
        for asked, ratio, dead_boards, dead_links, torus in wishes[::every]:
            request = Request(
                owner="me",
                boards=asked if isinstance(asked, int) else None,
                triads=asked if isinstance(asked, tuple) else None,
                min_ratio=ratio,
                max_dead_boards=dead_boards,
                max_dead_links=dead_links,
                require_torus=torus,
            )
            yield Input(f"{pattern}, {dead:.0%} dead: {_in_words(request)}", machine, request, pattern)


def _in_words(request: Request) -> str:
    words = [f"{request.boards} boards" if request.triads is None else "{}x{} triads".format(*request.triads)]
    if request.min_ratio:
        words.append(f"ratio {request.min_ratio:g}")
    for bound, what in ((request.max_dead_boards, "boards"), (request.max_dead_links, "links")):
        if bound is not None:
            words.append(f"{bound} dead {what}")
    return ", ".join([*words, "a torus"] if request.require_torus else words)


@dataclass(slots=True)
class Floods:
    """What the search for places did."""

    floods: int = 0
    """Calls of `Topology.layers`, by `flooded` too."""
    layers: int = 0
    """Layers that these went on for, in all."""


@contextmanager
def counting_floods() -> Iterator[Floods]:
    """Count what all topologies do meanwhile."""
    counted = Floods()
    layers = Topology.layers

    def counting(topology: Topology, start: Planes, among: Planes, block: Block | None = None) -> Iterator[Planes]:
        counted.floods += 1
        for reached in layers(topology, start, among, block):
            counted.layers += 1
            yield reached

    with mock.patch.object(Topology, "layers", counting):
        yield counted
