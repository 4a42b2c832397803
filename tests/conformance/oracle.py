"""An oracle for placement: what may serve a request, found by trying everything, slowly and plainly.

It shares nothing with the code under test: boards are neighbours where their Ethernet chips lie the right way apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from tests.conformance.machines import TestMachine

__all__ = ["Wish", "block_faults", "could_serve"]

Board = tuple[int, int, int]

CHIP_OF_Z = ((0, 0), (8, 4), (4, 8))
CHIPS_AWAY = ((4, -4), (8, 4), (4, 8), (-4, 4), (-8, -4), (-4, -8))
"""By link number: from a board's Ethernet chip to its neighbour's."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a well-formed `create_job` asked for, as the oracle sees it."""

    sizes: tuple[int, ...]
    min_ratio: float
    max_dead_boards: int | None
    max_dead_links: int | None
    require_torus: bool

    @classmethod
    def of(cls, args: list[Any], kwargs: dict[str, Any]) -> Wish:
        """The wish of a job as `list_jobs` tells it."""
        sizes = tuple(int(size) for size in args if size is not None) or (1,)
        ratio = kwargs.get("min_ratio") or 0.0
        return cls(
            sizes,
            1 / ratio if ratio > 1 else ratio,
            kwargs.get("max_dead_boards"),
            kwargs.get("max_dead_links"),
            bool(kwargs.get("require_torus")),
        )

    @property
    def single(self) -> bool:
        """Whether it is for one board."""
        return self.sizes == (1,) or len(self.sizes) == 3


def neighbours(machine: TestMachine, board: Board) -> Iterator[tuple[int, Board]]:
    """(link, board) of all six neighbours."""
    x, y, z = board
    for link, (dx, dy) in enumerate(CHIPS_AWAY):
        chip_x, chip_y = 12 * x + CHIP_OF_Z[z][0] + dx, 12 * y + CHIP_OF_Z[z][1] + dy
        other_z = CHIP_OF_Z.index((chip_x % 12, chip_y % 12))
        yield link, (chip_x // 12 % machine.width, chip_y // 12 % machine.height, other_z)


def block_faults(machine: TestMachine, wish: Wish, boards: Collection[Board], size: tuple[int, int]) -> str | None:
    """What is wrong with `boards` as the answer to `wish`, told to be `size` chips; None where nothing is."""
    alive = set(machine.locations())
    held = set(boards)
    if not held <= alive:
        return f"dead boards {held - alive}"
    if wish.single:
        if len(held) != 1 or (len(wish.sizes) == 3 and held != {wish.sizes}):
            return f"{held} for one board"
        return None if size == (8, 8) else f"one board told to be {size}"
    for origin, width, height in _blocks(machine, wish):
        if (*origin, 0) not in held or size != _chips(machine, held, origin, width, height):
            continue
        inside = {board for board in held if board[:2] in _triads(machine, origin, width, height)}
        complete = _reachable(machine, _all_alive(machine, origin, width, height), origin)
        enough = len(wish.sizes) == 1 and len(held) == wish.sizes[0] and not wish.require_torus
        if (
            held == inside == _reachable(machine, held, origin)
            and (enough or held == complete)
            and _block_problem(machine, wish, held, origin, width, height) is None
        ):
            return None
    return f"no block that serves {wish} is made of {sorted(held)} and {size} chips"


def could_serve(machine: TestMachine, wish: Wish, taken: Collection[Board] = ()) -> bool:
    """Whether a machine whose boards `taken` are held by others has a place for `wish`."""
    free = set(machine.locations()) - set(taken)
    if wish.single:
        if wish.require_torus:
            return False
        return wish.sizes in free if len(wish.sizes) == 3 else bool(free)
    for origin, width, height in _blocks(machine, wish):
        alive = _all_alive(machine, origin, width, height)
        complete = _reachable(machine, alive, origin)
        if complete <= free and _block_problem(machine, wish, complete, origin, width, height) is None:
            return True
        if len(wish.sizes) == 1 and not wish.require_torus:
            connected = _reachable(machine, alive & free, origin)
            if (
                len(connected) >= wish.sizes[0]
                and _block_problem(machine, wish, connected, origin, width, height) is None
            ):
                return True
    return False


def _blocks(machine: TestMachine, wish: Wish) -> Iterator[tuple[tuple[int, int], int, int]]:
    if len(wish.sizes) == 2:
        sizes = [wish.sizes]
    else:
        sizes = list(itertools.product(range(1, machine.width + 1), range(1, machine.height + 1)))
    for size in sizes:
        width, height = size
        if 1 <= width <= machine.width and 1 <= height <= machine.height:
            for origin in itertools.product(range(machine.width), range(machine.height)):
                yield origin, width, height


def _triads(machine: TestMachine, origin: tuple[int, int], width: int, height: int) -> set[tuple[int, int]]:
    return {
        ((origin[0] + dx) % machine.width, (origin[1] + dy) % machine.height)
        for dx, dy in itertools.product(range(width), range(height))
    }


def _all_alive(machine: TestMachine, origin: tuple[int, int], width: int, height: int) -> set[Board]:
    triads = _triads(machine, origin, width, height)
    return {board for board in machine.locations() if board[:2] in triads}


def _reachable(machine: TestMachine, boards: set[Board], origin: tuple[int, int]) -> set[Board]:
    """Those of `boards` that working links between them connect to the first board of a block's origin."""
    found: set[Board] = set()
    to_visit = [(*origin, 0)]
    while to_visit:
        board = to_visit.pop()
        if board in boards and board not in found:
            found.add(board)
            to_visit += [
                other for link, other in neighbours(machine, board) if (*board, link) not in machine.dead_links
            ]
    return found


def _block_problem(
    machine: TestMachine, wish: Wish, boards: set[Board], origin: tuple[int, int], width: int, height: int
) -> str | None:
    if not boards:
        return "its first board is dead"
    asked = wish.sizes[0] if len(wish.sizes) == 1 else 3 * width * height
    if wish.max_dead_boards is not None and asked - len(boards) > wish.max_dead_boards:
        return "too many dead boards"
    if len(wish.sizes) == 1:
        if 3 * width * height < asked:
            return "too small"
        if min(width, height) / max(width, height) < wish.min_ratio:
            return "not square enough"
    wraps_x, wraps_y = _wraps(machine, boards, origin, width, height)
    if wish.require_torus and not (wraps_x or wraps_y):
        return "no torus"
    if wish.max_dead_links is not None:
        dead = sum(
            (*board, link) in machine.dead_links
            for board in boards
            for link, other in neighbours(machine, board)
            if other in boards
        )
        if dead > wish.max_dead_links:
            return "too many dead links"
    return None


def _wraps(
    machine: TestMachine, boards: set[Board], origin: tuple[int, int], width: int, height: int
) -> tuple[bool, bool]:
    """Whether links between the boards lead around the machine, over the block's own edges, in x and in y."""
    x = y = False
    for board in boards:
        chip_x = 12 * ((board[0] - origin[0]) % machine.width) + CHIP_OF_Z[board[2]][0]
        chip_y = 12 * ((board[1] - origin[1]) % machine.height) + CHIP_OF_Z[board[2]][1]
        for link, other in neighbours(machine, board):
            if other in boards:
                x |= width == machine.width and not 0 <= chip_x + CHIPS_AWAY[link][0] < 12 * width
                y |= height == machine.height and not 0 <= chip_y + CHIPS_AWAY[link][1] < 12 * height
    return x, y


def _chips(
    machine: TestMachine, boards: set[Board], origin: tuple[int, int], width: int, height: int
) -> tuple[int, int]:
    wraps_x, wraps_y = _wraps(machine, boards, origin, width, height)
    return 12 * width + 4 * (not wraps_x), 12 * height + 4 * (not wraps_y)
