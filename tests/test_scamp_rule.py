"""The model that judges jobs is right itself: it knows machines by sight, and its shortcut changes nothing."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings, strategies as st

from spalloc_server.coordinates import Board, BoardLink, Chip, board_to_chip
from spalloc_server.links import Links
from tests.scamp_rule import LOCAL_CHIPS, Ends, Job, Message, coordinates, found, unambiguous, verdict, working_links


def block(width: int, height: int) -> frozenset[Board]:
    return frozenset((x, y, z) for x in range(width) for y in range(height) for z in range(3))


def a_job(boards: frozenset[Board], ends: Ends, size: tuple[int, int]) -> Job:
    return Job(boards, ends, size, {board: board_to_chip(*board) for board in boards})


def around(ends: Ends, axis: int) -> set[BoardLink]:
    """Links that lead from the first to the last column (or row) of a machine of three or more, or back."""
    return {(*board, link) for (board, link), other in ends.items() if abs(board[axis] - other[axis]) > 1}


@pytest.mark.parametrize(
    ("machine", "boards", "size"),
    [
        ((1, 1), block(1, 1), (12, 12)),
        ((4, 4), block(1, 1), (16, 16)),
        ((3, 5), block(3, 2), (36, 28)),
        ((5, 3), block(2, 3), (28, 36)),
        ((3, 3), block(3, 3), (36, 36)),
        ((4, 4), frozenset({(0, 0, 0)}), (8, 8)),
        ((4, 4), frozenset({(0, 0, 0), (0, 0, 1)}), (16, 12)),
        ((4, 4), frozenset({(0, 0, 0), (0, 0, 1), (1, 0, 0)}), (20, 12)),
    ],
)
def test_sizes_that_are_found(machine: tuple[int, int], boards: frozenset[Board], size: tuple[int, int]) -> None:
    seen = found((0, 0, 0), working_links(*machine, boards, (), ()))
    assert (seen.width, seen.height) == size
    assert seen.root == (0, 0)
    assert seen.ethernets == {board: board_to_chip(*board) for board in boards}
    assert len(seen.chips) == 48 * len(boards)


def test_boards_west_of_the_root_move_it() -> None:
    seen = found((1, 0, 0), working_links(4, 4, {(1, 0, 0), (0, 0, 1)}, (), ()))
    assert seen.root == (4, 0)
    assert seen.ethernets == {(0, 0, 1): (0, 4), (1, 0, 0): (4, 0)}


def test_a_ring_is_found_only_where_links_go_around() -> None:
    boards = block(3, 3)
    ends = working_links(3, 3, boards, (), ())
    assert verdict(a_job(boards, ends, (36, 36))) == []
    closed = working_links(3, 3, boards, (), around(ends, 0))
    assert verdict(a_job(boards, closed, (40, 36))) == []
    both = working_links(3, 3, boards, around(ends, 1), around(ends, 0))
    assert verdict(a_job(boards, both, (40, 40))) == []


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ring_that_is_not_clean_is_no_machine(axis: int) -> None:
    boards = block(3, 3)
    ends = working_links(3, 3, boards, (), ())
    overhanging = (2, 1, 1) if axis == 0 else (1, 2, 2)
    stuck = {link for link in around(ends, axis) if link[:3] == overhanging}
    assert len(stuck) == 3
    ends = working_links(3, 3, boards, stuck, ())
    assert any("overhang" in complaint for complaint in verdict(a_job(boards, ends, (36, 36))))

    def the_right_way_first(messages: deque[Message]) -> Message:
        at = next((at for at, message in enumerate(messages) if message[1:][axis] >= 0), 0)
        messages.rotate(-at)
        return messages.popleft()

    sizes = {
        max(at[axis] for at in chips.values()) + 1
        for chips in (coordinates((0, 0, 0), ends), coordinates((0, 0, 0), ends, the_right_way_first))
    }
    assert sizes == {36, 40}, "here the size depends on which links are faster"


def complaints(machine: tuple[int, int], boards: frozenset[Board], size: tuple[int, int], *dead: BoardLink) -> str:
    return "; ".join(verdict(a_job(boards, working_links(*machine, boards, dead, ()), size)))


def test_what_else_is_no_machine() -> None:
    boards = block(2, 1)
    assert complaints((6, 6), boards, (28, 16)) == ""
    assert complaints((6, 6), boards, (24, 16)).startswith("(24, 16) chips were told, SCAMP finds (28, 16)")
    alone = [(1, 0, 1, link) for link in Links]
    assert "boards [(1, 0, 1)] are not reached" in complaints((6, 6), boards, (28, 16), *alone)
    few = boards - {(1, 0, 1)}
    assert complaints((6, 6), few, (24, 16)) == "x: 24 chips look like a ring, and there is none"
    fewer = few - {(1, 0, 2)}
    assert complaints((6, 6), fewer, (20, 16)) == "x: 20 chips are no multiple of 12, nor 4 more"
    assert complaints((2, 6), boards, (28, 16)) == "(28, 16) chips were told, SCAMP finds (24, 16)"
    assert complaints((6, 6), frozenset({(0, 0, 0)}), (12, 12)).endswith("one board was told to have (12, 12) chips")


def test_connections_that_are_not_where_chips_are() -> None:
    boards = block(1, 1)
    ends = working_links(4, 4, boards, (), ())
    told = {(0, 0, 0): (0, 0), (0, 0, 1): (4, 8), (0, 0, 2): (4, 8)}
    assert verdict(Job(boards, ends, (16, 16), told)) == [
        "board (0, 0, 1) was told to have chip (4, 8), SCAMP finds (8, 4)"
    ]
    assert "connections" in verdict(Job(boards, ends, (16, 16), {(0, 0, 0): (0, 0)}))[0]
    assert verdict(Job(boards, ends, (16, 16), dict.fromkeys(boards, (4, 8)))) == [
        "no board was told to have chip (0, 0)"
    ]


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, int, Board, Ends]:
    """A connected or scattered piece of a small machine, some of its links dead."""
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    boards = sorted(block(width, height))
    out = draw(st.sets(st.sampled_from(boards), max_size=draw(st.sampled_from([0, 3, 20]))))
    inside = [board for board in boards if board not in out] or boards
    links = [(*board, link) for board in inside for link in Links]
    dead = draw(st.sets(st.sampled_from(links), max_size=draw(st.sampled_from([0, 4, 30]))))
    if draw(st.booleans()):
        ends = working_links(width, height, inside, (), ())
        dead |= around(ends, draw(st.integers(0, 1)))
    return width, height, draw(st.sampled_from(inside)), working_links(width, height, inside, dead, ())


@settings(max_examples=150)
@given(pieces())
def test_the_shortcut_over_boards_finds_what_the_chips_find(piece: tuple[int, int, Board, Ends]) -> None:
    _, _, root, ends = piece
    boards = unambiguous(root, ends)
    if boards is None:
        return
    chips = coordinates(root, ends)
    assert chips == {(board, (x, y)): (x0 + x, y0 + y) for board, (x0, y0) in boards.items() for x, y in LOCAL_CHIPS}


@settings(max_examples=30)
@given(pieces(), st.integers(0, 1000))
def test_the_order_of_messages_changes_nothing_for_what_passes(piece: tuple[int, int, Board, Ends], seed: int) -> None:
    _, _, root, ends = piece
    seen = found(root, ends)
    boards = frozenset(seen.ethernets)
    inside = {edge: other for edge, other in ends.items() if other in boards and edge[0] in boards}
    told: dict[Board, Chip] = seen.ethernets
    if seen.root != (0, 0) or verdict(Job(boards, inside, (seen.width, seen.height), told)):
        return

    rng = random.Random(seed)

    def any_of_the_first(messages: deque[Message]) -> Message:
        messages.rotate(-rng.randrange(min(20, len(messages))))
        return messages.popleft()

    assert coordinates(root, ends, any_of_the_first) == seen.chips
