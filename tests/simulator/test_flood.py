"""SCAMP's rule for coordinates, compared with a model that knows nothing but chips, links and steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from hypothesis import given, settings, strategies as st

from spalloc_server.coordinates import Board, Chip, board_down_link, board_to_chip, chip_to_board
from spalloc_server.links import Links
from spalloc_server.simulator.flood import CHIPS, CHIPS_PER_BOARD, NO_CHIP, Numbering, flood, hops

Across = Callable[[Board, Links], Board | None]


def torus(width: int, height: int, boards: set[Board] | None = None, *, closed: bool = False) -> Across:
    """The wiring of some boards of a torus of triads; `closed`, without the links over its edges."""

    def across(board: Board, link: Links) -> Board | None:
        x, y, z, wrapped = board_down_link(*board, link, width, height)
        absent = boards is not None and (x, y, z) not in boards
        return None if absent or (closed and wrapped) else (x, y, z)

    return across


def slow_model(
    root: Board,
    width: int,
    height: int,
    across: Across,
    dead_chips: set[Chip] = frozenset(),  # type: ignore[assignment]
    dead_links: set[tuple[Chip, Links]] = frozenset(),  # type: ignore[assignment]
) -> tuple[int, int, dict[Chip, Chip]]:
    """(width, height, coordinates by chip of the machine): every chip tells all neighbours until nobody learns more.

    Chips are those of the machine, wrapped around it; a chip's neighbour on another board is there where the board's
    link works.
    """
    w, h = 12 * width, 12 * height

    @cache
    def neighbour(chip: Chip, link: Links) -> Chip | None:
        dx, dy = link.to_vector()
        there = ((chip[0] + dx) % w, (chip[1] + dy) % h)
        mine, other = chip_to_board(*chip, w, h), chip_to_board(*there, w, h)
        broken = chip in dead_chips or there in dead_chips or (chip, link) in dead_links
        if broken or (there, link.opposite) in dead_links:
            return None
        at = board_to_chip(*mine)
        on_board = ((chip[0] - at[0]) % w + dx, (chip[1] - at[1]) % h + dy)
        if on_board in CHIPS:
            return there
        over = [each for each in Links if _crossed(on_board, each)]
        return there if across(mine, over[0]) == other else None

    def better(new: int, old: int | None) -> bool:
        if old is None or (new >= 0) != (old >= 0):
            return old is None or new >= 0
        return abs(new) < abs(old)

    known: dict[Chip, list[int]] = {board_to_chip(*root): [0, 0]}
    fresh = set(known)
    while fresh:
        told = [(chip, known[chip][0], known[chip][1]) for chip in fresh]
        fresh = set()
        for chip, x, y in told:
            for link in Links:
                there = neighbour(chip, link)
                if there is None:
                    continue
                candidate = (x + link.to_vector()[0], y + link.to_vector()[1])
                if there not in known:
                    known[there] = list(candidate)
                    fresh.add(there)
                for axis in (0, 1):
                    if better(candidate[axis], known[there][axis]):
                        known[there][axis] = candidate[axis]
                        fresh.add(there)
    left, bottom = (min(place[axis] for place in known.values()) for axis in (0, 1))
    shifted = {chip: (x - left, y - bottom) for chip, (x, y) in known.items()}
    return (
        max(x for x, _ in shifted.values()) + 1,
        max(y for _, y in shifted.values()) + 1,
        shifted,
    )


def _crossed(chip: Chip, link: Links) -> bool:
    """Whether a place just off a board is on the board down this link."""
    steps = {
        Links.east: (4, -4),
        Links.north_east: (8, 4),
        Links.north: (4, 8),
        Links.west: (-4, 4),
        Links.south_west: (-8, -4),
        Links.south: (-4, -8),
    }
    dx, dy = steps[link]
    return (chip[0] - dx, chip[1] - dy) in CHIPS


def chips_of(numbering: Numbering[Board], width: int, height: int) -> dict[Chip, Chip]:
    """Coordinates by chip of the machine."""
    found = {}
    for number, (x, y) in enumerate(zip(numbering.x, numbering.y, strict=True)):
        board, chip = divmod(number, CHIPS_PER_BOARD)
        at = board_to_chip(*numbering.boards[board])
        if x >= 0:
            found[(at[0] + CHIPS[chip][0]) % (12 * width), (at[1] + CHIPS[chip][1]) % (12 * height)] = (x, y)
    return found


def test_a_board_is_8_by_8() -> None:
    alone = flood((0, 0, 0), torus(1, 1, {(0, 0, 0)}))
    assert (alone.width, alone.height, len(alone.boards)) == (8, 8, 1)
    assert sorted(zip(alone.x, alone.y, strict=True)) == sorted(CHIPS)


def test_a_triad_is_12_by_12_around_and_16_by_16_without_its_edges() -> None:
    around = flood((0, 0, 0), torus(1, 1))
    open_ = flood((0, 0, 0), torus(1, 1, closed=True))
    assert (around.width, around.height) == (12, 12)
    assert (open_.width, open_.height) == (16, 16)
    assert len(set(zip(around.x, around.y, strict=True))) == 144


def test_a_root_that_is_not_at_the_bottom_left_gets_other_coordinates_than_0_0() -> None:
    from_the_right = flood((0, 0, 1), torus(3, 3, {(0, 0, 0), (0, 0, 1), (0, 0, 2)}))
    assert (from_the_right.width, from_the_right.height) == (16, 16)
    assert (from_the_right.x[0], from_the_right.y[0]) == (8, 4)


def test_a_link_that_runs_where_it_should_not_is_seen_in_the_size() -> None:
    fenced = flood((0, 0, 0), torus(4, 1, {(0, 0, 0)}))
    joined = flood((0, 0, 0), torus(4, 1, {(0, 0, 0), (0, 0, 1)}))
    assert (fenced.width, fenced.height) == (8, 8)
    assert (joined.width, joined.height) != (8, 8)


def test_parents_lead_to_the_root() -> None:
    numbering = flood((0, 0, 0), torus(2, 2))
    for start in range(len(numbering.x)):
        chip, steps = start, 0
        while numbering.parents[chip] != 7:
            chip = numbering.neighbours[6 * chip + numbering.parents[chip]]
            steps += 1
            assert steps < 48
        assert chip == 0


def test_hops_are_the_first_links_of_shortest_ways() -> None:
    numbering = flood((0, 0, 0), torus(1, 1, {(0, 0, 0)}))
    ways = hops(numbering.neighbours, 0)
    assert [ways[CHIPS.index((0, y))] for y in range(4)] == [7, 2, 2, 2]
    assert ways[CHIPS.index((7, 7))] == Links.north_east
    cut = flood((0, 0, 0), torus(1, 1, {(0, 0, 0)}), dead_chips=lambda _: {CHIPS.index((0, 1))})
    assert hops(cut.neighbours, 0)[CHIPS.index((0, 1))] == 6
    assert cut.x[CHIPS.index((0, 1))] == -1
    assert all(end != CHIPS.index((0, 1)) for end in cut.neighbours if end != NO_CHIP)


SIZES = st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 2)])


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, set[Board], Board, bool, set[Chip], set[tuple[Chip, Links]]]:
    """A part of a small machine, where it boots, and what is broken."""
    width, height = draw(SIZES)
    every = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    boards = set(draw(st.lists(st.sampled_from(every), min_size=1, unique=True)))
    root = draw(st.sampled_from(sorted(boards)))
    chips = st.sampled_from([(x, y) for x in range(12 * width) for y in range(12 * height)])
    dead = set(draw(st.lists(chips, max_size=6))) - {board_to_chip(*board) for board in every}
    links = set(draw(st.lists(st.tuples(chips, st.sampled_from(Links)), max_size=12)))
    return width, height, boards, root, draw(st.booleans()), dead, links


@settings(max_examples=25)
@given(cases())
def test_it_agrees_with_a_model_of_chips_alone(
    case: tuple[int, int, set[Board], Board, bool, set[Chip], set[tuple[Chip, Links]]],
) -> None:
    width, height, boards, root, closed, dead, links = case
    across = torus(width, height, boards, closed=closed)
    numbers = {chip: number for number, chip in enumerate(CHIPS)}

    def on(board: Board, chip: Chip) -> int | None:
        at = board_to_chip(*board)
        mine = chip_to_board(*chip, 12 * width, 12 * height) == board
        return numbers[(chip[0] - at[0]) % (12 * width), (chip[1] - at[1]) % (12 * height)] if mine else None

    result = flood(
        root,
        across,
        dead_chips=lambda board: [number for chip in dead if (number := on(board, chip)) is not None],
        dead_links=lambda board: [(number, link) for chip, link in links if (number := on(board, chip)) is not None],
    )
    expected_width, expected_height, expected = slow_model(root, width, height, across, dead, links)
    assert (result.width, result.height) == (expected_width, expected_height)
    assert chips_of(result, width, height) == expected
