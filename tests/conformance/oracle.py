"""An oracle for placement: what may serve a request, found by trying everything, slowly and plainly.

It shares nothing with the code under test: `tests.core.machine_oracle` says what is a machine, and neighbours are found
here by where their Ethernet chips lie.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.core.model.request import Request
from spalloc_server.links import Links
from tests.conformance.machines import TestMachine
from tests.core import machine_oracle, oracle
from tests.core.machines import a_machine

__all__ = ["Wish", "block_faults", "could_serve"]

Board = tuple[int, int, int]

CHIP_OF_Z = ((0, 0), (8, 4), (4, 8))

FILL = Fraction(2, 3)


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

    @property
    def request(self) -> Request:
        """The same, for more than one board."""
        return Request(
            owner="",
            boards=self.sizes[0] if len(self.sizes) == 1 else None,
            triads=(self.sizes[0], self.sizes[1]) if len(self.sizes) == 2 else None,
            min_ratio=self.min_ratio,
            max_dead_boards=self.max_dead_boards,
            max_dead_links=self.max_dead_links,
            require_torus=self.require_torus,
        )


def block_faults(machine: TestMachine, wish: Wish, boards: Collection[Board], size: tuple[int, int]) -> str | None:
    """What is wrong with `boards` as the answer to `wish`, told to be `size` chips; None where nothing is."""
    alive, held = set(machine.locations()), set(boards)
    if not held <= alive:
        return f"dead boards {held - alive}"
    if wish.single:
        if len(held) != 1 or (len(wish.sizes) == 3 and held != {wish.sizes}):
            return f"{held} for one board"
        return None if size == (8, 8) else f"one board told to be {size}"
    here, request = _machine(machine), wish.request
    for block in machine_oracle.blocks_for(here, request):
        complete = machine_oracle.connected(here, block, alive)
        ways = machine_oracle.rings(here, block, held) if held == complete else []
        around = ways[0] if ways else set()
        told = tuple(12 * block[2 + axis] + 4 * (axis not in around) for axis in (0, 1))
        part = machine_oracle.is_part(request) and len(held) == machine_oracle.wanted(request)
        if (
            (*block[:2], 0) in held
            and told == size
            and machine_oracle.connected(here, block, held) == held
            and machine_oracle.few_dead_links(here, request, block, held)
            and (around or not request.require_torus)
            and (
                _is_good_part(here, request, block, held, around)
                if part
                else held == complete and _lacks_few(request, held)
            )
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
    here, request = _machine(machine), wish.request
    if min(wish.sizes) < 1 or min(wish.max_dead_boards or 0, wish.max_dead_links or 0) < 0:
        return False
    if machine_oracle.is_part(request):
        if machine_oracle.part(here, request, free, FILL):
            return True
        if wish.max_dead_boards == 0 or not (here.dead_boards or here.dead_links):
            return False
    alive = set(machine.locations())
    only_spanned = request.require_torus
    if machine_oracle.is_part(request) and machine_oracle.part(here, request, alive, Fraction(0)):
        if wish.max_dead_boards is None:
            return False  # it waits for all of its boards
        only_spanned = True
    for spanned in (True,) if only_spanned else (True, False):
        for compact in (True, False) if machine_oracle.is_part(request) else (True,):

            def of(shape: tuple[int, int], *, compact: bool = compact) -> bool:
                return not machine_oracle.is_part(request) or _compact(here, request, shape) == compact

            if machine_oracle.whole(here, request, alive, spanned=spanned, of=of):
                return machine_oracle.whole(here, request, free, spanned=spanned, of=of)
    return False


@cache
def _machine(machine: TestMachine) -> Machine:
    return a_machine(
        machine.name,
        machine.width,
        machine.height,
        dead_boards=machine.dead_boards,
        dead_links={(x, y, z, Links(link)) for x, y, z, link in machine.dead_links},
    )


def _is_good_part(
    machine: Machine, request: Request, block: oracle.BlockAt, held: set[Board], around: set[int]
) -> bool:
    """Whether as many boards as asked for span their block and are compact, or the machine has none that do."""
    if machine_oracle.spans(machine, block, held, around):
        return machine_oracle.compact_enough(machine, request, block[2:], FILL)
    return not machine_oracle.part(machine, request, machine.live_boards, Fraction(0))


def _compact(machine: Machine, request: Request, shape: tuple[int, int]) -> bool:
    """Whether so many boards fill a rectangle well, or fit into no smaller one inside it."""
    wanted = machine_oracle.wanted(request)
    return wanted >= FILL * 3 * shape[0] * shape[1] or not any(
        other != shape and other[0] <= shape[0] and other[1] <= shape[1] and _fewest(other) <= wanted
        for other in machine_oracle.shapes(machine, request)
    )


def _fewest(shape: tuple[int, int]) -> int:
    """The fewest boards that span a rectangle."""
    return 2 * max(shape) + (shape[0] == shape[1])


def _lacks_few(request: Request, held: set[Board]) -> bool:
    return request.max_dead_boards is None or request.asked - len(held) <= request.max_dead_boards
