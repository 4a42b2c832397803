"""SVG pictures: well formed, one hexagon a board, and nothing of a user's gets out of its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from spalloc_server.drawing.hexagons import PALETTE, Condition, Tile, boards_of
from spalloc_server.drawing.svg import machine_svg

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def hexagons(text: str) -> Counter[str | None]:
    """{colour, or class where a group has none: hexagons in it}."""
    root = ET.fromstring(text)
    return Counter(
        {group.get("fill") or group.get("class"): len(group.findall(f"{SVG}use")) for group in root.iter(f"{SVG}g")}
    )


def test_every_board_is_drawn_as_what_it_is() -> None:
    tiles = {
        (0, 0, 0): Tile(job_id=7),
        (0, 0, 1): Tile(job_id=7, condition=Condition.out_of_service),
        (0, 0, 2): Tile(condition=Condition.dead),
        (1, 0, 0): Tile(condition=Condition.resting),
        (1, 0, 1): Tile(condition=Condition.out_of_service),
    }
    text = machine_svg("m", (2, 2), tiles)
    assert hexagons(text) == {PALETTE[0]: 2, "dead": 1, "resting": 1, "out_of_service": 1, "free": 7}
    marks = [mark.text for mark in ET.fromstring(text).iter(f"{SVG}text")]
    assert sorted(mark for mark in marks if mark) == ["!", "!", "~", "×"]  # noqa: RUF001 - the mark of dead boards


def test_a_mark_goes_before_text() -> None:
    tiles = {(0, 0, 0): Tile(1, text="7"), (0, 0, 1): Tile(1, Condition.out_of_service, text="8")}
    root = ET.fromstring(machine_svg("m", (1, 1), tiles))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["7", "!"]


def test_what_users_say_is_text_and_never_markup() -> None:
    tiles = {(0, 0, 0): Tile(job_id=1, title="<script>&")}
    root = ET.fromstring(machine_svg("m", (1, 1), tiles, {1: "1: <b>&amp;</b>"}))
    assert [title.text for title in root.iter(f"{SVG}title")] == ["m: 1 x 1 triads", "<script>&"]
    assert [text.text for text in root.iter(f"{SVG}text")] == ["m: 1 x 1 triads", "free", "1: <b>&amp;</b>"]


def test_the_legend_says_what_the_marks_mean_that_there_are() -> None:
    tiles = {
        (0, 0, 0): Tile(job_id=1, condition=Condition.out_of_service),
        (0, 0, 1): Tile(condition=Condition.dead),
        (0, 0, 2): Tile(job_id=1),
    }
    root = ET.fromstring(machine_svg("m", (1, 1), tiles, {1: "job 1"}))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words[-5:] == ["!", "out of service, or in a silent frame", "×", "dead", "job 1"]  # noqa: RUF001 - as above


def test_a_picture_is_as_high_as_its_legend() -> None:
    root = ET.fromstring(machine_svg("m", (1, 1), {}, {number: f"job {number}" for number in range(12)}))
    lowest = max(float(text.get("y", 0)) for text in root.iter(f"{SVG}text"))
    assert lowest < float(root.get("height", 0))


def test_a_legend_stands_apart_below_a_heading_with_the_time_and_is_as_wide_as_its_text() -> None:
    owner = "somebody-with-a-long-name@far.away.example.org" * 2
    root = ET.fromstring(machine_svg("m", (4, 2), {(0, 0, 0): Tile(1)}, {1: owner}, when="2026-11-02 09:30:00"))
    heading, *lines = root.iter(f"{SVG}text")
    assert (heading.text or "").strip() == "m: 4 x 2 triads"
    assert [part.text for part in heading] == ["2026-11-02 09:30:00"]
    (mine,) = (line for line in lines if line.text == owner)
    boards = list(root.iter(f"{SVG}use"))
    *machine, _free, _job = sorted(float(use.get("x", 0)) for use in boards)
    assert float(mine.get("x", 0)) > max(machine) + 40
    assert float(heading.get("y", 0)) < min(float(use.get("y", 0)) for use in boards) - 20
    assert float(mine.get("x", 0)) + 7 * len(owner) < float(root.get("width", 0))


def test_a_long_legend_is_cut_short() -> None:
    tiles = {board: Tile(job_id=1 + number) for number, board in enumerate(boards_of((2, 2)))}
    root = ET.fromstring(machine_svg("m", (2, 2), tiles, {number: f"job {number}" for number in range(1, 41)}))
    _heading, *lines = [text.text for text in root.iter(f"{SVG}text")]
    assert lines[-1] == f"and {41 - len(lines)} more"


@pytest.mark.parametrize(
    "name",
    ["triad.svg", "machine.svg", "frame.svg", "coordinates.svg", pytest.param("simulated.svg", marks=pytest.mark.slow)],
)
def test_the_pictures_in_the_docs_are_what_this_code_draws(name: str) -> None:
    script: dict[str, object] = {"__name__": "pictures", "__file__": str(ROOT / "docs" / "draw_pictures.py")}
    exec((ROOT / "docs" / "draw_pictures.py").read_text(), script)
    draw = script["PICTURES"][name]  # type: ignore[index]
    assert (ROOT / "docs" / "img" / name).read_text() == draw()


def test_no_text_makes_a_picture_malformed() -> None:
    hostile = "a\x00\x1b[31m\x9b\ufffe\udc80\u202e<b>&\n"
    tiles = {(0, 0, 0): Tile(job_id=7, text=hostile, title=hostile)}
    root = ET.fromstring(machine_svg(hostile, (2, 2), tiles, {7: hostile}).encode())
    shown = r"a\x00\x1b[31m\x9b\ufffe\udc80\u202e<b>&\n"
    texts = [each.text for each in root.iter() if each.text and "31m" in each.text]
    assert texts == [f"{shown}: 2 x 2 triads", shown, shown, f"{shown}: 2 x 2 triads", shown]
