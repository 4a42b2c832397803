"""Maps in a terminal, in colour and without."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.color import Color, ColorSystem
from rich.console import Console

from spalloc_server.drawing.hexagons import PALETTE, Condition, Tile, boards_of, job_colours
from spalloc_server.drawing.terminal import CONDITION_COLOURS, coloured_map, job_letters, plain_map

TILES = {
    (0, 0, 0): Tile(job_id=7),
    (0, 0, 1): Tile(job_id=9),
    (0, 0, 2): Tile(condition=Condition.dead),
    (1, 0, 0): Tile(condition=Condition.resting),
    (1, 0, 1): Tile(job_id=9, condition=Condition.out_of_service),
    (1, 0, 2): Tile(condition=Condition.out_of_service),
}


def test_letters_stand_where_hexagons_do() -> None:
    assert plain_map((2, 1), TILES).splitlines() == ["× !", " b b", "a ~"]  # noqa: RUF001 - the mark


def test_each_job_has_a_letter() -> None:
    assert job_letters(TILES) == {7: "a", 9: "b"}
    many = job_letters({(x, 0, 0): Tile(job_id=x) for x in range(1, 70)})
    assert many[1] == many[63] == "a"


def test_each_board_is_two_halves_of_its_colour() -> None:
    there = (2, 1)
    colours = job_colours(there, TILES)
    text = coloured_map(there, TILES, wide=False)
    halves: Counter[str] = Counter()
    for start, end, style in text.spans:
        assert end - start == 1
        whole = text.plain[start] not in "▀▄"
        for colour in (style.bgcolor,) * 2 if whole else (style.color, style.bgcolor):  # type: ignore[union-attr]
            if colour is not None:
                halves[colour.name] += 1
    assert halves == {
        colours[7]: 2,
        colours[9]: 4,
        CONDITION_COLOURS[Condition.dead]: 2,
        CONDITION_COLOURS[Condition.resting]: 2,
        CONDITION_COLOURS[Condition.out_of_service]: 2,
    }
    assert {colours[7], colours[9]} <= set(PALETTE)


def lettered(size: tuple[int, int], tiles: dict[tuple[int, int, int], Tile]) -> Counter[tuple[str, str]]:
    """{(letter, the colour that it stands on): how often}."""
    text = coloured_map(size, tiles)
    return Counter(
        (text.plain[start], style.bgcolor.name)  # type: ignore[union-attr]
        for start, end, style in text.spans
        if text.plain[start] not in "▀▄ "
    )


def test_letters_and_marks_stand_on_the_colours() -> None:
    colours = job_colours((2, 1), TILES)
    assert lettered((2, 1), TILES) == {
        ("a", colours[7]): 1,
        ("b", colours[9]): 1,
        ("×", CONDITION_COLOURS[Condition.dead]): 1,  # noqa: RUF001 - the mark
        ("~", CONDITION_COLOURS[Condition.resting]): 1,
        ("!", CONDITION_COLOURS[Condition.out_of_service]): 1,
    }


@pytest.mark.parametrize("board", list(boards_of((2, 2))))
@pytest.mark.parametrize("tile", [Tile(job_id=3), Tile(condition=Condition.out_of_service)])
def test_a_board_alone_has_its_letter_wherever_it_is(board: tuple[int, int, int], tile: Tile) -> None:
    assert list(lettered((2, 2), {board: tile}).values()) == [1]


def test_all_colours_differ_in_256_colours() -> None:
    colours = [*PALETTE, *CONDITION_COLOURS.values()]
    assert len({Color.parse(colour).downgrade(ColorSystem.EIGHT_BIT).number for colour in colours}) == len(colours)


def test_a_machine_of_1200_boards_fits_into_80_columns_and_31_lines() -> None:
    lines = coloured_map((20, 20), {}).split("\n")
    console = Console(width=80)
    assert len(lines) == 31
    assert {console.measure(line).maximum for line in lines} <= {79, 80}
