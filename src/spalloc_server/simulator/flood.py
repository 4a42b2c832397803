"""Which chips a boot reaches, and the coordinates that SCAMP gives them.

Theory of operation. SCAMP is given no coordinates. The chip that the image is sent to, the *root*, takes (0, 0) and
tells its neighbours; each chip takes its neighbour's coordinates plus the step of the link between them, never wrapped,
and tells its own neighbours whenever it has found better ones. Each axis is judged apart: a coordinate that is not
negative beats a negative one; of two of a kind the one of smaller magnitude wins. This comes to rest when no chip finds
anything better. Then the size of the machine on an axis is the largest coordinate minus the smallest, plus 1, and
everything is shifted so that the smallest is 0. On a torus the two ways around meet, and the rule makes the coordinates
of its chips 0 to size minus 1. On other sets of boards it may make a size that nobody asked for: so a client *sees* a
link that runs where it should not.

It is computed chip by chip, since chips of one board may take their coordinates from different ways around: on a torus
it is so at every edge. All chips tell their neighbours at the same time, once a round.

Chips are numbered by board, 48 each, the boards in the order in which the flood reached them, the root's first.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from spalloc_server.coordinates import BOARD_CHIPS, Chip, board_to_chip, chip_to_board, link_to_vector
from spalloc_server.links import Links

__all__ = ["CHIPS", "CHIPS_PER_BOARD", "NO_CHIP", "NUMBER_OF_CHIP", "Numbering", "flood", "hops"]

Place = TypeVar("Place")
"""What stands for a board: anything hashable."""

ChipLink: TypeAlias = tuple[int, Links]
"""A chip by its number on its board, and one of its links."""

CHIPS: Final[tuple[Chip, ...]] = tuple(
    (x, y) for y in range(BOARD_CHIPS) for x in range(BOARD_CHIPS) if chip_to_board(x, y, 24, 24) == (0, 0, 0)
)
"""(x, y) on the board of each of its chips, by number; the Ethernet chip is number 0."""
CHIPS_PER_BOARD: Final = len(CHIPS)
NUMBER_OF_CHIP: Final = {chip: number for number, chip in enumerate(CHIPS)}

NO_CHIP: Final = -1
NO_HOP: Final = 6
"""What a P2P table says of a chip that is not there."""
HERE: Final = 7
"""What a P2P table says of the chip itself; and the root's link to its parent."""
_UNKNOWN: Final = 1 << 30
"""Worse than any rank of a coordinate."""
_NEGATIVE: Final = 1 << 20
_STEPS: Final = tuple(link.to_vector() for link in Links)


def _destinations() -> list[tuple[Links | None, int]]:
    """(link of the board that it passes or None, number of the chip at its end) of link l of chip k, at 6 k + l."""
    found: list[tuple[Links | None, int]] = []
    for x, y in CHIPS:
        for dx, dy in _STEPS:
            there = (x + dx, y + dy)
            if there in NUMBER_OF_CHIP:
                found.append((None, NUMBER_OF_CHIP[there]))
                continue
            for link in Links:
                ox, oy = board_to_chip(*link_to_vector[0, link])  # the same from every board of a triad
                number = NUMBER_OF_CHIP.get((there[0] - ox, there[1] - oy))
                if number is not None:
                    found.append((link, number))
    return found


_DESTINATIONS: Final = _destinations()


@dataclass(frozen=True, slots=True)
class Numbering(Generic[Place]):
    """What a flood came to.

    `boards` are the boards reached. `x`, `y` are the coordinates by number of chip, -1 of those that are dead or cut
    off; `parents` the link of each chip to the one that it first heard of, `HERE` of the root. `neighbours` holds the
    number of the chip at the end of link l of chip c at 6 c + l, `NO_CHIP` where nothing works there.
    """

    boards: tuple[Place, ...]
    width: int
    height: int
    x: Sequence[int]
    y: Sequence[int]
    parents: bytearray
    neighbours: Sequence[int]


def flood(
    root: Place,
    across: Callable[[Place, Links], Place | None],
    *,
    dead_chips: Callable[[Place], Collection[int]] = lambda _: (),
    dead_links: Callable[[Place], Collection[ChipLink]] = lambda _: (),
) -> Numbering[Place]:
    """Return what SCAMP makes of the boards that a boot of `root` reaches.

    `across` gives the board at the other end of a board's link, None where that link does not work both ways or the
    board takes no part. `dead_chips` and `dead_links` give what is broken on a board; of a link that is dead both ends
    must be given. The root's Ethernet chip, number 0, is never dead.
    """
    boards, neighbours = _connected(root, across, dead_chips, dead_links)
    chips = CHIPS_PER_BOARD * len(boards)
    x, y = [_UNKNOWN] * chips, [_UNKNOWN] * chips
    rank_x, rank_y = [_UNKNOWN] * chips, [_UNKNOWN] * chips
    parents = bytearray([NO_HOP]) * chips
    x[0] = y[0] = rank_x[0] = rank_y[0] = 0
    parents[0] = HERE
    telling: Iterable[int] = (0,)
    while telling:
        heard: set[int] = set()
        for chip, from_x, from_y in [(chip, x[chip], y[chip]) for chip in telling]:
            for link, (dx, dy) in enumerate(_STEPS):
                there = neighbours[6 * chip + link]
                if there == NO_CHIP:
                    continue
                new_x, new_y = from_x + dx, from_y + dy
                rank = new_x if new_x >= 0 else _NEGATIVE - new_x
                if rank < rank_x[there]:
                    rank_x[there], x[there] = rank, new_x
                    heard.add(there)
                rank = new_y if new_y >= 0 else _NEGATIVE - new_y
                if rank < rank_y[there]:
                    rank_y[there], y[there] = rank, new_y
                    heard.add(there)
                if parents[there] == NO_HOP:
                    parents[there] = (link + 3) % 6
        telling = sorted(heard)
    return _shifted(boards, x, y, parents, neighbours)


def _connected(
    root: Place,
    across: Callable[[Place, Links], Place | None],
    dead_chips: Callable[[Place], Collection[int]],
    dead_links: Callable[[Place], Collection[ChipLink]],
) -> tuple[list[Place], array[int]]:
    """The boards that are joined to `root`, in order of their distance, and all chips' neighbours."""
    index = {root: 0}
    boards = [root]
    beyond: list[list[int]] = []
    for board in boards:
        ends = []
        for link in Links:
            other = across(board, link)
            if other is not None and other not in index:
                index[other] = len(boards)
                boards.append(other)
            ends.append(NO_CHIP if other is None else CHIPS_PER_BOARD * index[other])
        beyond.append(ends)
    neighbours = array("i")
    for first, ends in zip(range(0, CHIPS_PER_BOARD * len(boards), CHIPS_PER_BOARD), beyond, strict=True):
        for across_link, number in _DESTINATIONS:
            base = first if across_link is None else ends[across_link]
            neighbours.append(NO_CHIP if base == NO_CHIP else base + number)
    for position, board in enumerate(boards):
        first = CHIPS_PER_BOARD * position
        for number in dead_chips(board):
            for link in Links:
                _cut(neighbours, first + number, link)
        for number, link in dead_links(board):
            _cut(neighbours, first + number, link)
    return boards, neighbours


def _cut(neighbours: array[int], chip: int, link: Links) -> None:
    """Make a link work neither way."""
    there = neighbours[6 * chip + link]
    if there != NO_CHIP:
        neighbours[6 * there + link.opposite] = NO_CHIP
        neighbours[6 * chip + link] = NO_CHIP


def _shifted(
    boards: list[Place], x: list[int], y: list[int], parents: bytearray, neighbours: array[int]
) -> Numbering[Place]:
    """The result, with coordinates from 0 on."""
    left = min(value for value in x if value != _UNKNOWN)
    bottom = min(value for value in y if value != _UNKNOWN)
    xs = array("h", [-1 if value == _UNKNOWN else value - left for value in x])
    ys = array("h", [-1 if value == _UNKNOWN else value - bottom for value in y])
    return Numbering(tuple(boards), max(xs) + 1, max(ys) + 1, xs, ys, parents, neighbours)


def hops(neighbours: Sequence[int], start: int) -> bytearray:
    """Return, by number of chip, the link on which a shortest way from chip `start` leaves it.

    `HERE` for the chip itself, `NO_HOP` for those that it does not reach.
    """
    found = bytearray([NO_HOP]) * (len(neighbours) // 6)
    found[start] = HERE
    reached = [start]
    for chip in reached:
        for link in range(6):
            there = neighbours[6 * chip + link]
            if there != NO_CHIP and found[there] == NO_HOP:
                found[there] = link if chip == start else found[chip]
                reached.append(there)
    return found
