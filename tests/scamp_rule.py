"""What SCAMP takes a job's boards for: an independent model of its network initialisation, and the verdict on a job.

Theory of operation. Each chip keeps a guess of its coordinates and sends it to its neighbours over every link that
works. A chip that hears a guess adds the step of the link, without wrapping. It takes the x that results if that is
better than its own: a non-negative one is better than a negative one, of two with one sign the smaller magnitude is
better. It decides on y apart from that. When its guess has changed, it sends it. The root chip begins with (0, 0), and
all others without a guess. When nobody changes any more, the size is the largest coordinate less the smallest, plus 1,
on each axis; the smallest is subtracted from every coordinate, so the root sits at minus the smallest.

Messages are delivered in the order in which they were sent, as if all links were equally fast. The order can matter:
a guess that is replaced later (-1 by 11) may have given a neighbour one that it keeps (0 where 11 gives 12). So
`coordinates` can be told to deliver messages in another order. It cannot matter where the links around the machine are
stopped, as then all ways to a chip are equally long; nor in a clean ring, because there each chip hears the best
coordinate that it could have, and keeps it.

Most jobs do not go around the machine. All ways to a board are then equally long on both axes, and every chip has the
only coordinates that it could get: `unambiguous` finds them by boards, 48 times sooner. A test compares the two.

Nothing here comes from the core. Chips are neighbours where their coordinates on the machine are; only which board a
chip is on, and the names of links, are the package's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from spalloc_server.coordinates import Board, BoardLink, Chip, board_down_link, board_to_chip, chip_to_board
from spalloc_server.links import Links

__all__ = ["Chips", "Ends", "Found", "Job", "coordinates", "found", "unambiguous", "verdict", "working_links"]

FARTHEST = 255
"""Coordinates beyond this are ignored, as they have gone around too often."""

STEPS: tuple[Chip, ...] = ((1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1))
"""(dx, dy) of a chip's links, by their numbers."""

LOCAL_CHIPS: tuple[Chip, ...] = tuple(
    (x, y)
    for y, xs in enumerate(((0, 4), (0, 5), (0, 6), (0, 7), (1, 7), (2, 7), (3, 7), (4, 7)))
    for x in range(xs[0], xs[1] + 1)
)
"""A board's chips, counted from its Ethernet chip."""

Ends = Mapping[tuple[Board, Links], Board]
"""What is at the other end of each working link; each link is there from both ends."""

ChipOf = tuple[Board, Chip]
"""A chip: its board, and where it is on the board."""

Chips = dict[ChipOf, Chip]
"""Coordinates of chips."""


def _edges() -> tuple[list[tuple[Chip, int, Chip]], dict[tuple[int, Links], list[tuple[Chip, int, Chip]]]]:
    """(chip, its link, the neighbour) inside a board, and over each link of each of the three boards of a triad."""
    size, inside = 4, []
    across: dict[tuple[int, Links], list[tuple[Chip, int, Chip]]] = {}
    for z in range(3):
        board = (1, 1, z)
        ethernet_x, ethernet_y = board_to_chip(*board)
        towards = {board_down_link(*board, link, size, size)[:3]: link for link in Links}
        for x, y in LOCAL_CHIPS:
            for number, (dx, dy) in enumerate(STEPS):
                there = ethernet_x + x + dx, ethernet_y + y + dy
                other = chip_to_board(*there, 12 * size, 12 * size)
                other_x, other_y = board_to_chip(*other)
                edge = (x, y), number, (there[0] - other_x, there[1] - other_y)
                if other != board:
                    across.setdefault((z, towards[other]), []).append(edge)
                elif z == 0:
                    inside.append(edge)
    return inside, across


INSIDE, ACROSS = _edges()

AWAY = {
    (z, link): (x + STEPS[number][0] - there[0], y + STEPS[number][1] - there[1])
    for (z, link), edges in ACROSS.items()
    for (x, y), number, there in edges[:1]
}
"""From a board's Ethernet chip to that of the board down a link."""


def working_links(
    width: int, height: int, boards: Collection[Board], dead: Collection[BoardLink], stopped: Collection[BoardLink]
) -> Ends:
    """The links between some powered boards that carry traffic.

    Args:
        width: of the machine, in triads.
        height: likewise.
        boards: the boards that are powered and belong together.
        dead: links that do not work, named from either end.
        stopped: links that have been stopped, named from either end.
    """
    mine, broken = set(boards), {*dead, *stopped}
    ends = {}
    for board in mine:
        for link in Links:
            *there, _ = board_down_link(*board, link, width, height)
            x, y, z = there
            if (x, y, z) in mine and (*board, link) not in broken and (x, y, z, link.opposite) not in broken:
                ends[board, link] = (x, y, z)
    return ends


def better(new: int, old: int | None) -> bool:
    """Whether a chip that has one coordinate takes another in its place."""
    if old is None or (new < 0) != (old < 0):
        return old is None or new >= 0
    return abs(new) < abs(old)


Message = tuple[ChipOf, int, int]
"""A chip, and the coordinates that it is offered."""


def coordinates(root: Board, ends: Ends, take: Callable[[deque[Message]], Message] = deque.popleft) -> Chips:
    """Every chip's coordinates after the network initialisation, the root chip's being (0, 0).

    Args:
        root: the board whose Ethernet chip is the root.
        ends: the links that work.
        take: takes the message that is delivered next out of those that are under way.
    """
    neighbours: dict[ChipOf, list[tuple[ChipOf, int]]] = {}
    for board in {root, *(board for board, _ in ends)}:
        for local, number, beyond in INSIDE:
            neighbours.setdefault((board, local), []).append(((board, beyond), number))
    for (board, link), other in ends.items():
        for local, number, beyond in ACROSS[board[2], link]:
            neighbours[board, local].append(((other, beyond), number))
    guesses: Chips = {}
    messages: deque[Message] = deque([((root, (0, 0)), 0, 0)])
    while messages:
        chip, x, y = take(messages)
        old_x, old_y = guesses.get(chip, (None, None))
        new_x = x if old_x is None or better(x, old_x) else old_x
        new_y = y if old_y is None or better(y, old_y) else old_y
        if (new_x, new_y) == (old_x, old_y) or max(abs(x), abs(y)) > FARTHEST:
            continue
        guesses[chip] = new_x, new_y
        for there, number in neighbours[chip]:
            dx, dy = STEPS[number]
            messages.append((there, new_x + dx, new_y + dy))
    return guesses


def unambiguous(root: Board, ends: Ends) -> dict[Board, Chip] | None:
    """Coordinates of the boards' Ethernet chips, if all ways to each are equally long; None where some are not."""
    at, todo = {root: (0, 0)}, [root]
    while todo:
        board = todo.pop()
        for link in Links:
            if (other := ends.get((board, link))) is not None:
                dx, dy = AWAY[board[2], link]
                there = at[board][0] + dx, at[board][1] + dy
                if other not in at:
                    todo.append(other)
                if at.setdefault(other, there) != there:
                    return None
    return at


@dataclass(frozen=True)
class Found:
    """What SCAMP finds. In chips."""

    width: int
    height: int
    root: Chip
    chips: Chips
    """Coordinates of each chip that is reached."""
    direct: bool
    """Whether all ways to each chip are equally long: then nothing goes around."""

    @property
    def ethernets(self) -> dict[Board, Chip]:
        """Coordinates of each board's Ethernet chip."""
        return {board: at for (board, chip), at in self.chips.items() if chip == (0, 0)}


def found(root: Board, ends: Ends) -> Found:
    """What SCAMP takes the boards that are connected with a root for."""
    boards = unambiguous(root, ends)
    if boards is None:
        chips = coordinates(root, ends)
    else:
        chips = {(board, (x, y)): (x0 + x, y0 + y) for board, (x0, y0) in boards.items() for x, y in LOCAL_CHIPS}
    xs, ys = {x for x, _ in chips.values()}, {y for _, y in chips.values()}
    left, bottom = min(xs), min(ys)
    if left or bottom:
        chips = {chip: (x - left, y - bottom) for chip, (x, y) in chips.items()}
    size = max(xs) - left + 1, max(ys) - bottom + 1
    return Found(*size, (-left, -bottom), chips, boards is not None)


@dataclass(frozen=True)
class Job:
    """A job's boards as the world has them, and what its user was told of them."""

    boards: frozenset[Board]
    """On the machine."""
    ends: Ends
    """The working links between them."""
    size: tuple[int, int]
    """The width and height told, in chips."""
    told: Mapping[Board, Chip]
    """The Ethernet chips told."""

    @property
    def root(self) -> Board | None:
        """The board that was told to have chip (0, 0)."""
        return next((board for board, chip in self.told.items() if chip == (0, 0)), None)


def verdict(job: Job) -> list[str]:
    """What keeps a job's boards from being the machine that its user was told; empty where nothing does."""
    if job.told.keys() != job.boards:
        return [f"connections to {sorted(job.told)} were told, and the boards are {sorted(job.boards)}"]
    if job.root is None:
        return ["no board was told to have chip (0, 0)"]
    seen = found(job.root, job.ends)
    complaints = []
    if (seen.width, seen.height) != job.size:
        complaints.append(f"{job.size} chips were told, SCAMP finds {(seen.width, seen.height)}")
    if seen.root != (0, 0):
        complaints.append(f"the root is chip {seen.root}")
    ethernets = seen.ethernets
    if missing := job.boards - ethernets.keys():
        complaints.append(f"boards {sorted(missing)} are not reached")
    width, height = job.size
    for board, (x, y) in ethernets.items():
        # On an axis that does not wrap no coordinate is as large as the size, so that the remainder changes nothing
        if (told := job.told[board]) != (x % width, y % height):
            complaints.append(f"board {board} was told to have chip {told}, SCAMP finds {(x, y)}")
    if len(job.boards) == 1:
        return complaints if job.size == (8, 8) else [*complaints, f"one board was told to have {job.size} chips"]
    for axis, name in enumerate("xy"):
        complaints += (f"{name}: {text}" for text in _axis_complaints(job, seen, axis))
    return complaints


def _axis_complaints(job: Job, seen: Found, axis: int) -> list[str]:
    size = (seen.width, seen.height)[axis]
    if size % 12 not in {0, 4}:
        return [f"{size} chips are no multiple of 12, nor 4 more"]
    if seen.direct:
        return [] if size % 12 else [f"{size} chips look like a ring, and there is none"]
    crossed = _crossings(job, seen, axis)
    if size % 12:
        return [f"links of {sorted(crossed)} go around, and {size} chips say that nothing does"] if crossed else []
    complaints = [] if crossed else [f"{size} chips look like a ring, and there is none"]
    ethernets = seen.ethernets
    odd = {
        board for (board, chip), at in seen.chips.items() if at[axis] != (ethernets[board][axis] + chip[axis]) % size
    }
    if odd:
        complaints.append(f"chips of boards {sorted(odd)} are not beside each other")
    over = {board for board, at in ethernets.items() if at[axis] + 8 > size}
    if stuck := over - crossed:
        complaints.append(f"boards {sorted(stuck)} overhang the edge, and none of their links crosses it")
    inside = {edge: other for edge, other in job.ends.items() if not _crosses(*edge, other, seen, axis)}
    assert job.root is not None
    if cut := ethernets.keys() - _reached(job.root, inside):
        complaints.append(f"boards {sorted(cut)} are reached across the edge only")
    return complaints


def _reached(root: Board, ends: Ends) -> set[Board]:
    reached, todo = {root}, [root]
    while todo:
        board = todo.pop()
        beyond = {other for link in Links if (other := ends.get((board, link)))} - reached
        reached |= beyond
        todo += beyond
    return reached


def _crosses(board: Board, link: Links, other: Board, seen: Found, axis: int) -> bool:
    """Whether the Ethernet chips at a link's ends are not as far apart on an axis as the boards are."""
    here, there = (seen.chips.get((at, (0, 0))) for at in (board, other))
    return here is not None and there is not None and there[axis] - here[axis] != AWAY[board[2], link][axis]


def _crossings(job: Job, seen: Found, axis: int) -> set[Board]:
    """The boards at the ends of links that cross the edge of an axis."""
    return {board for (board, link), other in job.ends.items() if _crosses(board, link, other, seen, axis)}
