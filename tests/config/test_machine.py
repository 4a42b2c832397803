"""Machines: what is inferred, what is refused and how that is told, and that they are values."""

from __future__ import annotations

import dataclasses
import pickle
import time
from copy import deepcopy
from typing import Any

import pytest

from spalloc_server.config.machine import Machine
from spalloc_server.coordinates import Board, Location
from spalloc_server.errors import ConfigurationError
from spalloc_server.links import Links


def triad(**changes: Any) -> Machine:
    """A machine of one triad, in one frame."""
    parts: dict[str, Any] = {
        "name": "m",
        "board_locations": {(0, 0, z): (0, 0, z) for z in range(3)},
        "bmp_ips": {(0, 0): "bmp"},
        "spinnaker_ips": {(0, 0, z): f"board-{z}" for z in range(3)},
    }
    return Machine(**{**parts, **changes})


def locations(width: int, height: int) -> dict[Board, Location]:
    """Frames of 24 boards, filled in the boards' order."""
    boards = [(x, y, z) for x in range(width) for y in range(height) for z in range(3)]
    return {board: (n // 120, n // 24 % 5, n % 24) for n, board in enumerate(boards)}


def test_arguments_may_be_given_by_position_in_the_published_order() -> None:
    by_position = Machine(
        "m",
        {"a"},
        1,
        1,
        {(0, 0, 1), (0, 0, 2)},
        {(0, 0, 0, Links.north)},
        {(0, 0, 0): (1, 2, 3)},
        {(1, 2): "bmp"},
        {(0, 0, 0): "board"},
    )
    by_name = Machine(
        name="m",
        tags={"a"},
        width=1,
        height=1,
        dead_boards={(0, 0, 1), (0, 0, 2)},
        dead_links={(0, 0, 0, Links.north)},
        board_locations={(0, 0, 0): (1, 2, 3)},
        bmp_ips={(1, 2): "bmp"},
        spinnaker_ips={(0, 0, 0): "board"},
    )
    assert by_position == by_name


def test_tags_are_default_and_nothing_is_dead_unless_told() -> None:
    machine = triad()
    assert machine.tags == {"default"}
    assert (machine.dead_boards, machine.dead_links) == (frozenset(), frozenset())


def test_size_is_inferred_from_board_locations_and_dead_boards() -> None:
    machine = triad(
        dead_boards={(2, 1, 0), *((x, y, z) for x in range(3) for y in range(2) for z in range(3) if x + y)}
    )
    assert (machine.width, machine.height) == (3, 2)


def test_links_given_as_numbers_become_links() -> None:
    (link,) = triad(dead_links={(0, 0, 0, 2)}).dead_links
    assert link[3] is Links.north


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, ["name"]),
        ({"tags": ["default"]}, ["machine 'm'", "tags must be a set", "list"]),
        ({"tags": {1}}, ["machine 'm'", "tag 1"]),
        ({"dead_boards": [(0, 0, 0)]}, ["machine 'm'", "dead_boards must be a set"]),
        ({"dead_links": [(0, 0, 0, Links.north)]}, ["machine 'm'", "dead_links must be a set"]),
        ({"width": 1}, ["machine 'm'", "both or neither of width and height"]),
        ({"height": 1}, ["machine 'm'", "both or neither of width and height"]),
        ({"width": 1.0, "height": 1.0}, ["machine 'm'", "whole numbers"]),
        ({"board_locations": [(0, 0, 0)]}, ["machine 'm'", "board_locations must be a mapping"]),
        ({"bmp_ips": {(0, 0): None}}, ["machine 'm'", "bmp_ips of (0, 0)", "None"]),
    ],
)
def test_a_wrong_kind_is_a_type_error_that_says_which_is_right(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TypeError) as caught:
        triad(**changes)
    assert isinstance(caught.value, ConfigurationError)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"board_locations": {}}, ["machine 'm'", "no boards"]),
        ({"width": 0, "height": 1}, ["machine 'm'", "1 or more triads", "0 x 1"]),
        ({"dead_boards": {(0, 0, 3)}}, ["machine 'm'", "dead board (0, 0, 3)", "z is 0 to 2"]),
        ({"width": 1, "height": 1, "dead_boards": {(1, 0, 0)}}, ["(1, 0, 0)", "1 x 1 triads", "x is 0 to 0"]),
        ({"dead_boards": {(0, 0)}}, ["machine 'm'", "dead board", "(x, y, z)", "(0, 0)"]),
        ({"dead_boards": {(-1, 0, 0)}}, ["dead board (-1, 0, 0)"]),
        ({"dead_links": {(0, 1, 0, Links.north)}}, ["machine 'm'", "dead link", "(0, 1, 0)"]),
        ({"dead_links": {(0, 0, 0, 6)}}, ["machine 'm'", "dead link", "Links.north", "(0, 0, 0, 6)"]),
        ({"dead_links": {(0, 0, 0)}}, ["machine 'm'", "dead link", "(x, y, z, link)"]),
        (
            {"width": 1, "height": 1, "board_locations": {**locations(1, 1), (1, 0, 0): (0, 0, 9)}},
            ["location", "board (1, 0, 0)", "outside"],
        ),
        ({"board_locations": {**locations(1, 1), (0, 0, 2): (0, 0)}}, ["board (0, 0, 2)", "(cabinet, frame, board)"]),
        (
            {"board_locations": {**locations(1, 1), (0, 0, 2): (0, 0, 1)}},
            ["(0, 0, 1) and (0, 0, 2)", "cabinet 0, frame 0, board 1"],
        ),
        (
            {"board_locations": {(0, 0, 0): (0, 0, 0), (0, 0, 1): (0, 0, 1)}},
            ["live board (0, 0, 2)", "no location", "dead_boards"],
        ),
        ({"spinnaker_ips": {(0, 0, 0): "a"}}, ["live board (0, 0, 1), (0, 0, 2)", "no address", "spinnaker_ips"]),
        ({"bmp_ips": {(0, 1): "a"}}, ["(0, 0)", "no BMP", "bmp_ips"]),
    ],
)
def test_what_cannot_be_is_a_value_error_that_names_machine_and_board(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        triad(**changes)
    assert isinstance(caught.value, ConfigurationError)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_long_list_of_faulty_boards_is_cut_short_and_counted() -> None:
    with pytest.raises(ValueError, match=r"\(0, 0, 0\), \(0, 0, 1\), \(0, 0, 2\) \(and 9 more\) has no address"):
        Machine("m", board_locations=locations(2, 2), bmp_ips={(0, 0): "bmp"})


def test_a_dead_board_needs_neither_place_nor_address_but_may_have_both() -> None:
    bare = triad(
        dead_boards={(0, 0, 2)},
        board_locations={(0, 0, 0): (0, 0, 0), (0, 0, 1): (0, 0, 1)},
        spinnaker_ips={(0, 0, 0): "a", (0, 0, 1): "b"},
    )
    assert bare.live_boards == triad(dead_boards={(0, 0, 2)}).live_boards == ((0, 0, 0), (0, 0, 1))


def test_a_single_board_is_one_triad_with_two_dead_boards() -> None:
    machine = Machine.single_board("one", {"x"}, "bmp", "board")
    assert machine == Machine(
        "one", {"x"}, 1, 1, {(0, 0, 1), (0, 0, 2)}, set(), {(0, 0, 0): (0, 0, 0)}, {(0, 0): "bmp"}, {(0, 0, 0): "board"}
    )
    assert machine.tags == {"x"}


def test_a_single_board_without_addresses_is_refused() -> None:
    with pytest.raises(TypeError, match="'one': bmp_ip must be given"):
        Machine.single_board("one", spinnaker_ip="board")
    with pytest.raises(TypeError, match="'one': spinnaker_ip must be given"):
        Machine.single_board("one", bmp_ip="bmp")


def test_standard_addresses_are_sums_of_base_strides_and_offset() -> None:
    machine = Machine.with_standard_ips(
        "m", dead_boards={(0, 0, 1)}, board_locations={(0, 0, 0): (0, 0, 0), (0, 0, 2): (2, 4, 23)}
    )
    assert machine.bmp_ips == {(0, 0): "192.168.0.0", (2, 4): "192.168.14.0"}
    assert machine.spinnaker_ips == {(0, 0, 0): "192.168.0.1", (0, 0, 2): "192.168.14.185"}


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter, lambda items: (item for item in items)])
def test_with_standard_addresses_what_is_dead_and_tags_come_in_any_iterables(kind: Any) -> None:
    dead, links = [(0, 0, 1), (0, 0, 2)], [(0, 0, 0, Links.north)]
    expected = Machine.with_standard_ips(
        "m", {"a", "b"}, dead_boards=set(dead), dead_links=set(links), board_locations={(0, 0, 0): (0, 0, 0)}
    )
    assert expected == Machine.with_standard_ips(
        "m",
        tags=kind(["a", "b", "b"]),
        dead_boards=kind(dead),
        dead_links=kind(links),
        board_locations={(0, 0, 0): (0, 0, 0)},
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tags": "default"}, r"tags must be a set, as in \{'default'\}, not 'default'"),
        ({"tags": 3}, "tags must be a set, as in .*not iterable"),
        ({"dead_boards": [[0, 0, 1]]}, "dead_boards must be a set, as in .*unhashable"),
        ({"dead_links": None}, "dead_links must be a set, as in "),
    ],
)
def test_what_is_no_iterable_of_such_things_is_a_type_error(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=rf"machine 'm': {told}"):
        Machine.with_standard_ips("m", board_locations={(0, 0, 0): (0, 0, 0)}, **changes)


def test_parts_of_addresses_are_decimal_whatever_zeros_they_begin_with() -> None:
    made = [
        Machine.with_standard_ips(
            "m", board_locations={(0, 0, z): (0, 0, z) for z in range(3)}, base_ip=base, spinnaker_offset=offset
        )
        for base, offset in (("010.011.000.000", "000.000.000.010"), ("10.11.0.0", "0.0.0.10"))
    ]
    assert made[0] == made[1]
    assert made[0].spinnaker_ips[0, 0, 1] == "10.11.0.18"


def test_standard_addresses_carry_from_byte_to_byte() -> None:
    machine = Machine.with_standard_ips(
        "m",
        dead_boards={(0, 0, 1), (0, 0, 2)},
        board_locations={(0, 0, 0): (1, 1, 3)},
        base_ip="10.0.254.250",
        cabinet_stride="0.1.0.0",
        frame_stride="0.0.2.0",
        board_stride="0.0.0.100",
        bmp_offset="0.0.0.6",
        spinnaker_offset="0.0.0.10",
    )
    assert machine.bmp_ips == {(1, 1): "10.2.1.0"}
    assert machine.spinnaker_ips == {(0, 0, 0): "10.2.2.48"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_ip": "192.168.0"}, ["machine 'm'", "base_ip", "'192.168.0'"]),
        ({"board_stride": "8"}, ["machine 'm'", "board_stride", "'8'"]),
        ({"base_ip": "255.255.255.250"}, ["machine 'm'", "cabinet 0, frame 0, board 1", "255.255.255.255"]),
        ({"board_locations": None}, ["machine 'm'", "no boards"]),
    ],
)
def test_addresses_that_cannot_be_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    arguments = {"board_locations": locations(1, 1), **changes}
    with pytest.raises(ValueError) as caught:
        Machine.with_standard_ips("m", **arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_boards_are_found_by_place_and_by_frame() -> None:
    machine = Machine.with_standard_ips("m", board_locations=locations(4, 4))
    assert len(machine.live_boards) == 48
    assert all(machine.board_at[machine.board_locations[board]] == board for board in machine.live_boards)
    assert list(machine.frames) == [(0, 0), (0, 1)]
    assert [machine.board_locations[board][2] for board in machine.frames[0, 1]] == list(range(24))


def test_a_machine_cannot_be_changed() -> None:
    machine = triad()
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine.name = "n"  # type: ignore[misc]
    with pytest.raises(TypeError):
        machine.bmp_ips[0, 0] = "elsewhere"  # type: ignore[index]


def test_what_a_machine_was_made_from_may_change_afterwards() -> None:
    dead = {(0, 0, 1)}
    hosts = {(0, 0): "bmp"}
    machine = triad(dead_boards=dead, bmp_ips=hosts)
    dead.clear()
    hosts.clear()
    assert machine == triad(dead_boards={(0, 0, 1)})


def test_copies_and_pickles_are_equal_whatever_was_looked_up_before() -> None:
    machine = triad(dead_links={(0, 0, 0, Links.north)})
    assert machine.frames
    assert pickle.loads(pickle.dumps(machine)) == machine == deepcopy(machine)
    assert dataclasses.replace(machine, name="n") == triad(name="n", dead_links={(0, 0, 0, Links.north)})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"tags": {"other"}}, True),
        ({"dead_boards": {(0, 0, 1)}}, True),
        ({"dead_links": {(0, 0, 0, Links.north)}}, True),
        ({"name": "n"}, False),
        ({"bmp_ips": {(0, 0): "other"}}, False),
        ({"spinnaker_ips": {(0, 0, z): f"other-{z}" for z in range(3)}}, False),
        ({"board_locations": {(0, 0, z): (0, 0, z + 3) for z in range(3)}}, False),
        ({"width": 1, "height": 2, "dead_boards": {(0, 1, z) for z in range(3)}}, False),
    ],
)
def test_only_tags_and_what_is_dead_may_differ_in_the_same_hardware(changes: dict[str, Any], same: bool) -> None:
    assert triad().same_hardware(triad(**changes)) is same


def test_a_machine_of_1200_boards_is_checked_in_a_fraction_of_a_second() -> None:
    places = locations(20, 20)
    seconds = []
    for _ in range(3):  # in one of them the garbage of earlier tests may be collected
        began = time.process_time()
        machine = Machine.with_standard_ips("m", board_locations=places)
        seconds.append(time.process_time() - began)
        assert len(machine.frames) == 50
    assert min(seconds) < 0.3
