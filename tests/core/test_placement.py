"""No placement is wrong, and none that there is is missed: checked against brute force on small machines."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import Board, BoardLink
from spalloc_server.core.messages import Request
from spalloc_server.core.occupancy import Occupancy
from spalloc_server.core.placement import place
from spalloc_server.core.torus import Block
from spalloc_server.links import Links
from tests.core import oracle
from tests.core.machines import a_machine

MOST_DEAD_LINKS = 4
"""Dead links for which all choices of boards to leave out are tried (`placement.MAX_DETOURS`)."""


def a_request(**what: object) -> Request:
    return Request(owner="someone", **what)  # type: ignore[arg-type]


def placed(machine: Machine, request: Request, busy: Collection[Board] = ()) -> tuple[Block, tuple[Board, ...]] | None:
    occupancy = Occupancy(machine)
    occupancy.hold([board for board in busy if board not in machine.dead_boards], 1)
    found = place(request, occupancy.ground)
    return found and (found[0], occupancy.torus.boards(found[1]))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Machine, frozenset[Board]]:
    """A small machine, a few of its boards and links dead, and some of its boards busy."""
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    board = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 2))
    link: st.SearchStrategy[BoardLink] = st.builds(lambda b, link: (*b, link), board, st.sampled_from(Links))
    machine = a_machine(
        "m",
        width,
        height,
        dead_boards=draw(st.sets(board, max_size=3)),
        dead_links=draw(st.sets(link, max_size=6)),
    )
    return machine, draw(st.frozensets(board, max_size=draw(st.sampled_from([0, 3, 12]))))


requests = st.builds(
    lambda sizes, **rest: a_request(**sizes, **rest),
    st.one_of(
        st.builds(lambda n: {"boards": n}, st.integers(2, 50)),
        st.builds(lambda w, h: {"triads": (w, h)}, st.integers(1, 5), st.integers(1, 5)),
    ),
    min_ratio=st.sampled_from([0.0, 0.333, 0.5, 1.0]),
    max_dead_boards=st.sampled_from([None, 0, 1, 5]),
    max_dead_links=st.sampled_from([None, None, 0, 1]),
    require_torus=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(situations(), requests)
def test_a_placement_keeps_every_promise(situation: tuple[Machine, frozenset[Board]], request: Request) -> None:
    machine, busy = situation
    found = placed(machine, request, busy)
    if found is None:
        return
    block, boards = found
    free = oracle.boards_of(machine, (0, 0, machine.width, machine.height)) - machine.dead_boards - busy
    assert len(set(boards)) == len(boards)
    assert list(boards) == sorted(boards)
    assert set(boards) <= free & oracle.boards_of(machine, block)
    assert (block[0], block[1], 0) in boards
    assert oracle.reached(machine, block, boards) == set(boards)
    assert block in set(oracle.blocks(machine, request))

    if request.boards is not None and not request.require_torus:
        assert len(boards) <= request.boards
    working = oracle.reached(machine, block, oracle.boards_of(machine, block) - machine.dead_boards)
    if request.triads is not None or request.require_torus:
        assert set(boards) == working
    dead_links = oracle.dead_links_in(machine, block, boards, with_wraps=request.require_torus)
    assert request.max_dead_links is None or dead_links <= request.max_dead_links
    if request.require_torus:
        assert oracle.goes_around(machine, block, boards)


@settings(max_examples=150, deadline=None)
@given(situations(), requests)
def test_what_is_refused_brute_force_refuses_too(situation: tuple[Machine, frozenset[Board]], request: Request) -> None:
    machine, busy = situation
    assume(request.max_dead_links is None or len(machine.dead_links) <= MOST_DEAD_LINKS)
    free = oracle.boards_of(machine, (0, 0, machine.width, machine.height)) - machine.dead_boards - busy
    if placed(machine, request, busy) is None:
        assert not [block for block in oracle.blocks(machine, request) if oracle.serves(machine, free, request, block)]
