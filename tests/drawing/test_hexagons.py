"""Where boards are drawn, held to the geometry of their chips."""

from __future__ import annotations

from itertools import product
from math import sqrt

import pytest

from spalloc_server.coordinates import board_down_link, board_to_chip
from spalloc_server.drawing.hexagons import PALETTE, Tile, boards_of, cell, job_colours
from spalloc_server.links import Links

DOWN_LINK = {
    Links.east: (1, -1),
    Links.north_east: (1, 1),
    Links.north: (0, 2),
    Links.west: (-1, 1),
    Links.south_west: (-1, -1),
    Links.south: (0, -2),
}
"""Steps (columns, rows) from a hexagon to its neighbours."""


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 2), (20, 20)])
def test_a_board_is_drawn_where_its_chips_lie(width: int, height: int) -> None:
    for board in boards_of((width, height)):
        x, y = board_to_chip(*board)
        column, row = cell(board, width)
        assert 6 * column == (x - y / 2) % (12 * width)
        assert row * 2 * sqrt(3) == pytest.approx(y * sqrt(3) / 2)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (5, 2)])
def test_boards_fill_the_tiling_and_links_lead_to_neighbouring_hexagons(width: int, height: int) -> None:
    boards = list(boards_of((width, height)))
    assert len({cell(board, width) for board in boards}) == len(boards)
    for board, link in product(boards, Links):
        column, row = cell(board, width)
        *neighbour, _ = board_down_link(*board, link, width, height)
        x, y, z = neighbour
        columns, rows = DOWN_LINK[link]
        across = (column + columns) % (2 * width), row + rows
        if 0 <= across[1] < 3 * height:
            assert cell((x, y, z), width) == across


def test_neighbouring_jobs_differ_in_colour() -> None:
    tiles = {board: Tile(job_id=1 + number) for number, board in enumerate(boards_of((4, 4)))}
    colours = job_colours((4, 4), tiles)
    assert set(colours.values()) <= set(PALETTE)
    for board, tile in tiles.items():
        for link in Links:
            x, y, z, _ = board_down_link(*board, link, 4, 4)
            assert colours[tile.job_id or 0] != colours[tiles[x, y, z].job_id or 0]


def test_free_boards_need_no_colour() -> None:
    assert job_colours((1, 1), {(0, 0, 0): Tile(), (0, 0, 1): Tile(job_id=3)}) == {3: PALETTE[0]}
