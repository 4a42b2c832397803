"""Links: numbers, opposites and vectors, against the hexagonal grid that they are steps on."""

from __future__ import annotations

import pytest

from spalloc_server.links import Links


def test_links_are_numbered_anticlockwise_from_east() -> None:
    assert [link.name for link in sorted(Links)] == ["east", "north_east", "north", "west", "south_west", "south"]
    assert [int(link) for link in sorted(Links)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("link", Links)
def test_a_link_and_its_opposite_undo_each_other(link: Links) -> None:
    dx, dy = link.to_vector()
    assert link.opposite.to_vector() == (-dx, -dy)
    assert link.opposite.opposite is link


def test_walking_every_link_once_leads_back() -> None:
    steps = [link.to_vector() for link in Links]
    assert (sum(dx for dx, _ in steps), sum(dy for _, dy in steps)) == (0, 0)
    assert len(set(steps)) == 6


def test_each_link_is_the_sum_of_its_two_neighbours() -> None:
    for link in Links:
        (left_x, left_y), (right_x, right_y) = (Links((link + turn) % 6).to_vector() for turn in (-1, 1))
        assert link.to_vector() == (left_x + right_x, left_y + right_y)


@pytest.mark.parametrize("link", Links)
@pytest.mark.parametrize(("width", "height"), [(3, 3), (4, 7), (8, 5)])
def test_the_step_between_two_places_of_a_torus_is_their_link_across_its_edges_too(
    link: Links, width: int, height: int
) -> None:
    dx, dy = link.to_vector()
    for x in range(width):
        for y in range(height):
            step = ((x + dx) % width - x, (y + dy) % height - y)
            assert Links.from_vector(step) is link


@pytest.mark.parametrize(
    ("vector", "link"),
    [
        ((1, -1), Links.south_west),
        ((-1, 1), Links.north_east),
        ((2, 1), Links.north_east),
        ((-1, -3), Links.north_east),
        ((1, 5), Links.south_west),
        ((-2, -1), Links.south_west),
    ],
)
def test_a_step_across_one_edge_of_a_machine_that_is_two_wide_is_the_diagonal_that_it_was_published_as(
    vector: tuple[int, int], link: Links
) -> None:
    assert Links.from_vector(vector) is link


@pytest.mark.parametrize("link", [Links.north_east, Links.south_west])
def test_a_diagonal_of_a_machine_that_is_two_wide_is_found_by_its_step_across_the_edge(link: Links) -> None:
    dx, dy = link.to_vector()
    for x in range(2):
        for y in range(1, 4):  # of five, so that no edge in y is crossed
            step = ((x + dx) % 2 - x, (y + dy) % 5 - y)
            assert Links.from_vector(step) is link


def test_no_step_is_no_link() -> None:
    with pytest.raises(ValueError, match="no link takes the step"):
        Links.from_vector((0, 0))
