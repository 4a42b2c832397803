"""Pictures of figures over time: curves where they belong, few points, marks that people can read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from spalloc_server.drawing.plot import POINTS, Curve, Panel, plot_svg

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str | None]:
    return [text.text for text in ET.fromstring(picture).iter(f"{SVG}text")]


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_curve_keeps_each_value_until_the_next_one() -> None:
    picture = plot_svg("t", ["a"], [Panel("p", [Curve([(0.0, 0.0), (50.0, 10.0), (100.0, 5.0)])])])
    (path,) = re.findall(r'd="(M[^"]*H[^"]*)"', picture)
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    left, bottom, half, top, right, middle = numbers
    assert (left + right) / 2 == pytest.approx(half)
    assert (bottom + top) / 2 == pytest.approx(middle)


def test_axes_have_marks_at_round_numbers_and_say_their_unit() -> None:
    points = [(0.0, 0.0), (4 * 86400.0, 1234.0)]
    told = texts(plot_svg("title", ["a", "b"], [Panel("boards", [Curve(points, limit=1200), Curve(points)])]))
    assert told[:3] == ["title", "a", "b"]
    assert {"boards", "0", "200", "1,400", "days since the first job was submitted"} <= set(told)
    assert told[told.index("1,400") + 1 :][:5] == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    ("hours", "marks"),
    [(240, ["2026-11-04", "2026-11-06", "2026-11-08"]), (10, ["02 Nov 08:00", "02 Nov 10:00", "02 Nov 12:00"])],
)
def test_where_times_are_known_the_axis_has_dates(hours: int, marks: list[str]) -> None:
    begin = 1793577600.0 + 7 * 3600  # 2026-11-02 07:00
    curve = Curve([(begin, 0.0), (begin + hours * 3600, 1.0)])
    told = texts(plot_svg("t", ["a"], [Panel("p", [curve])], epoch=True))
    at = told.index(marks[0])
    assert told[at : at + 3] == marks
    assert "local time" in told


def test_a_curve_of_many_points_is_drawn_by_few_that_have_its_mean() -> None:
    curve = Curve([(float(at), float(at % 2)) for at in range(100_000)])
    picture = plot_svg("t", ["a"], [Panel("p", [curve])])
    assert 0 < picture.count("H") <= POINTS + 1
    levels = {float(level) for level in re.findall(r"V([\d.]+)", re.findall(r'd="(M[^"]*H[^"]*)"', picture)[0])}
    assert max(list(levels)) - min(level for level in levels if level > min(levels)) < 111


def test_nothing_to_draw_and_hostile_names_are_no_obstacle() -> None:
    assert "t" in texts(plot_svg("t", ["a"], [Panel("p", [Curve([(0.0, 0.0)])])]))
    assert "a\\x1b<b>&" in texts(plot_svg("t", ["a\x1b<b>&"], [Panel("p", [Curve([(5.0, 0.0)])])]))
