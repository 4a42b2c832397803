"""Coordinates against an oracle of its own: boards painted chip by chip, and links walked chip by chip."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, strategies as st

from spalloc_server.coordinates import (
    Board,
    Chip,
    WrapAround,
    axes_left,
    board_down_link,
    board_to_chip,
    chip_to_board,
    link_to_vector,
    triad_dimensions_to_chips,
)
from spalloc_server.links import Links

ROWS = [(0, 4), (0, 5), (0, 6), (0, 7), (1, 7), (2, 7), (3, 7), (4, 7)]
"""First and last chip of each row of a board, from its south-west corner upwards."""

CORNERS = [(0, 0), (8, 4), (4, 8)]
"""South-west corners of a triad's boards."""

ETHERNET_STEP = {
    Links.east: (4, -4),
    Links.north_east: (8, 4),
    Links.north: (4, 8),
    Links.west: (-4, 4),
    Links.south_west: (-8, -4),
    Links.south: (-4, -8),
}
"""From a board's south-west corner to that of its neighbour."""

EDGES = {
    Links.east: [((4, 0), "E S"), ((5, 1), "E S"), ((6, 2), "E S"), ((7, 3), "E S")],
    Links.north_east: [((7, 3), "NE"), ((7, 4), "E NE"), ((7, 5), "E NE"), ((7, 6), "E NE"), ((7, 7), "E")],
    Links.north: [((4, 7), "NE N"), ((5, 7), "NE N"), ((6, 7), "NE N"), ((7, 7), "NE N")],
    Links.west: [((0, 3), "N"), ((1, 4), "N W"), ((2, 5), "N W"), ((3, 6), "N W"), ((4, 7), "W")],
    Links.south_west: [((0, 0), "W SW"), ((0, 1), "W SW"), ((0, 2), "W SW"), ((0, 3), "W SW")],
    Links.south: [((0, 0), "S"), ((1, 0), "SW S"), ((2, 0), "SW S"), ((3, 0), "SW S"), ((4, 0), "SW")],
}
"""The chip links of which each board link consists."""

CHIP_STEP = {"E": (1, 0), "NE": (1, 1), "N": (0, 1), "W": (-1, 0), "SW": (-1, -1), "S": (0, -1)}

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@st.composite
def boards_of_machines(draw: st.DrawFn) -> tuple[Board, int, int]:
    """A board, and the width and height in triads of the machine that it is on."""
    width, height = draw(SIZES)
    board = (draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1)), draw(st.integers(0, 2)))
    return board, width, height


def painted(width: int, height: int) -> dict[Chip, Board]:
    """Every chip of a torus of triads, painted with the board that it is on."""
    owners: dict[Chip, Board] = {}
    for x, y, z in product(range(width), range(height), range(3)):
        left, bottom = 12 * x + CORNERS[z][0], 12 * y + CORNERS[z][1]
        for row, (first, last) in enumerate(ROWS):
            for column in range(first, last + 1):
                chip = ((left + column) % (12 * width), (bottom + row) % (12 * height))
                assert chip not in owners
                owners[chip] = (x, y, z)
    return owners


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3), (4, 2), (20, 20)])
def test_every_chip_maps_to_the_board_that_is_painted_there(width: int, height: int) -> None:
    owners = painted(width, height)
    assert len(owners) == 144 * width * height
    assert {chip: chip_to_board(*chip, 12 * width, 12 * height) for chip in owners} == owners


@given(boards_of_machines(), st.integers(-3, 3), st.integers(-3, 3))
def test_chips_beyond_the_edges_wrap_around(machine: tuple[Board, int, int], around_x: int, around_y: int) -> None:
    board, width, height = machine
    x, y = board_to_chip(*board)
    w, h = 12 * width, 12 * height
    assert chip_to_board(x + around_x * w, y + around_y * h, w, h) == board


@given(boards_of_machines(), st.sampled_from(Links))
def test_a_link_leads_where_its_chip_links_lead(machine: tuple[Board, int, int], link: Links) -> None:
    board, width, height = machine
    *neighbour, _ = board_down_link(*board, link, width, height)
    left, bottom = board_to_chip(*board)
    walked = set()
    for (x, y), chip_links in EDGES[link]:
        for dx, dy in (CHIP_STEP[name] for name in chip_links.split()):
            walked.add(chip_to_board(left + x + dx, bottom + y + dy, 12 * width, 12 * height))
    assert walked == {tuple(neighbour)}


@given(boards_of_machines(), st.sampled_from(Links))
def test_a_link_tells_which_edges_of_the_machine_it_crosses(machine: tuple[Board, int, int], link: Links) -> None:
    board, width, height = machine
    left, bottom = board_to_chip(*board)
    x, y = left + ETHERNET_STEP[link][0], bottom + ETHERNET_STEP[link][1]
    crossed = (WrapAround.x if not 0 <= x < 12 * width else 0) | (WrapAround.y if not 0 <= y < 12 * height else 0)
    *neighbour, wrapped = board_down_link(*board, link, width, height)
    assert wrapped is WrapAround(crossed)
    assert board_to_chip(*neighbour) == (x % (12 * width), y % (12 * height))


@given(boards_of_machines(), st.sampled_from(Links))
def test_going_down_a_link_and_back_ends_where_it_began(machine: tuple[Board, int, int], link: Links) -> None:
    board, width, height = machine
    x, y, z, out = board_down_link(*board, link, width, height)
    *back, home = board_down_link(x, y, z, link.opposite, width, height)
    assert tuple(back) == board
    assert out is home


@given(boards_of_machines(), st.sampled_from(Links))
def test_walking_straight_on_leads_back_around_the_torus(machine: tuple[Board, int, int], link: Links) -> None:
    start, width, height = machine
    board, steps = start, 0
    while steps == 0 or board != start:
        x, y, z, _ = board_down_link(*board, link, width, height)
        board, steps = (x, y, z), steps + 1
        assert steps <= 3 * width * height


def test_the_table_of_links_is_complete_and_keeps_to_the_three_boards_of_a_triad() -> None:
    assert set(link_to_vector) == set(product(range(3), Links))
    assert all(0 <= z + dz <= 2 for (z, _), (_, _, dz) in link_to_vector.items())


NEIGHBOURS = {
    0: [(0, -1, 2), (0, 0, 1), (0, 0, 2), (-1, 0, 1), (-1, -1, 2), (-1, -1, 1)],
    1: [(1, 0, 0), (1, 0, 2), (1, 1, 0), (0, 0, 2), (0, 0, 0), (0, -1, 2)],
    2: [(0, 0, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (-1, 0, 1), (0, 0, 0)],
}
"""By z: (dx, dy, new z) down each link, in order of the links."""


@pytest.mark.parametrize("z", NEIGHBOURS)
def test_neighbours_in_the_middle_of_a_machine_are_those_of_the_published_table(z: int) -> None:
    found = [board_down_link(5, 5, z, link, 10, 10) for link in Links]
    assert found == [(5 + dx, 5 + dy, new_z, WrapAround.none) for dx, dy, new_z in NEIGHBOURS[z]]


CHIPS_OF_4_BY_2 = [
    # chip, its board's Ethernet chip, its board, its place on the board
    ((0, 0), (0, 0), (0, 0, 0), (0, 0)),
    ((5, 0), (4, 20), (0, 1, 2), (1, 4)),
    ((7, 3), (0, 0), (0, 0, 0), (7, 3)),
    ((8, 3), (4, 20), (0, 1, 2), (4, 7)),
    ((8, 4), (8, 4), (0, 0, 1), (0, 0)),
    ((0, 4), (44, 4), (3, 0, 1), (4, 0)),
    ((3, 11), (44, 4), (3, 0, 1), (7, 7)),
    ((4, 11), (4, 8), (0, 0, 2), (0, 3)),
    ((11, 11), (4, 8), (0, 0, 2), (7, 3)),
    ((13, 2), (12, 0), (1, 0, 0), (1, 2)),
    ((16, 8), (16, 8), (1, 0, 2), (0, 0)),
    ((39, 15), (36, 12), (3, 1, 0), (3, 3)),
    ((47, 23), (40, 20), (3, 1, 2), (7, 3)),
    ((47, 0), (40, 20), (3, 1, 2), (7, 4)),
    ((44, 20), (40, 20), (3, 1, 2), (4, 0)),
    ((0, 23), (44, 16), (3, 1, 1), (4, 7)),
]
CHIPS_OF_1_BY_1 = [
    ((5, 0), (4, 8), (0, 0, 2), (1, 4)),
    ((0, 4), (8, 4), (0, 0, 1), (4, 0)),
    ((8, 3), (4, 8), (0, 0, 2), (4, 7)),
    ((3, 11), (8, 4), (0, 0, 1), (7, 7)),
]


@pytest.mark.parametrize(
    ("width", "height", "chip", "ethernet_chip", "board", "on_board"),
    [(4, 2, *case) for case in CHIPS_OF_4_BY_2] + [(1, 1, *case) for case in CHIPS_OF_1_BY_1],
)
def test_chips_whose_places_are_known_from_real_machines(
    width: int, height: int, chip: Chip, ethernet_chip: Chip, board: Board, on_board: Chip
) -> None:
    assert chip_to_board(*chip, 12 * width, 12 * height) == board
    assert board_to_chip(*board) == ethernet_chip
    assert ((chip[0] - ethernet_chip[0]) % (12 * width), (chip[1] - ethernet_chip[1]) % (12 * height)) == on_board


@pytest.mark.parametrize(
    ("triads", "torus", "chips"),
    [
        ((1, 1), WrapAround.both, (12, 12)),
        ((1, 1), WrapAround.none, (16, 16)),
        ((1, 2), WrapAround.y, (16, 24)),
        ((4, 1), WrapAround.x, (48, 16)),
        ((8, 5), WrapAround.both, (96, 60)),
        ((3, 3), WrapAround.none, (40, 40)),
        ((10, 20), WrapAround.y, (124, 240)),
    ],
)
def test_a_block_is_larger_by_half_a_board_on_an_axis_that_does_not_wrap(
    triads: tuple[int, int], torus: WrapAround, chips: tuple[int, int]
) -> None:
    assert triad_dimensions_to_chips(*triads, torus) == chips


@pytest.mark.parametrize(
    ("triad", "axes"),
    [
        ((0, 0), WrapAround.none),
        ((2, 1), WrapAround.none),
        ((3, 1), WrapAround.x),
        ((-1, 0), WrapAround.x),
        ((2, 2), WrapAround.y),
        ((0, -1), WrapAround.y),
        ((-1, 2), WrapAround.both),
    ],
)
def test_a_triad_is_outside_a_block_on_these_axes(triad: tuple[int, int], axes: WrapAround) -> None:
    assert axes_left(*triad, 3, 2) is axes
