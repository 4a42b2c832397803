from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from spalloc_server.controller import Controller
from spalloc_server.core.model import Request
from spalloc_server.core.model.arguments import parse_keepalive, parse_request, read_request, told_of
from spalloc_server.errors import RequestError


@pytest.mark.parametrize(
    ("args", "boards", "triads", "board"),
    [
        ((), 1, None, None),
        ((1,), 1, None, None),
        ((5,), 5, None, None),
        ((2, 3), None, (2, 3), None),
        ((4, 0, 2), None, None, (4, 0, 2)),
        ((0,), 0, None, None),
        ((-1, 4), None, (-1, 4), None),
    ],
)
def test_the_number_of_sizes_says_what_is_asked_for(args: Any, boards: Any, triads: Any, board: Any) -> None:
    request = parse_request(args, {"owner": "me"})
    assert (request.boards, request.triads, request.board) == (boards, triads, board)
    assert request.single == (args in ((), (1,), (4, 0, 2)))


def a_list_in_lists(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize("depth", [None, 100_000], ids=["too long", "nested too deeply"])
def test_an_owner_that_cannot_be_a_text_is_refused(depth: int | None) -> None:
    owner = 10**5000 if depth is None else a_list_in_lists(depth)
    with pytest.raises(RequestError, match="owner must be a text, not a value of the kind"):
        parse_request((), {"owner": owner})


def test_defaults_are_those_of_the_protocol() -> None:
    request = parse_request((), {"owner": "me"})
    assert request.tags == {"default"}
    assert (request.machine, request.min_ratio, request.require_torus) == (None, 0.0, False)
    assert (request.max_dead_boards, request.max_dead_links) == (None, None)


def test_requests_in_loose_types_that_always_worked_still_do() -> None:
    request = parse_request((4.0, True, None), {"owner": 7, "min_ratio": 1, "max_dead_boards": 3.0, "tags": ""})
    assert (request.triads, request.owner, request.max_dead_boards, request.tags) == ((4, 1), "7", 3, frozenset())
    assert parse_request((None,), {"owner": "me"}).boards == 1
    assert parse_keepalive(" 7 ") == 7.0
    assert parse_keepalive(None) is None


def test_a_ratio_over_one_is_inverted() -> None:
    assert parse_request((3,), {"owner": "me", "min_ratio": 4}).min_ratio == 0.25


def test_a_machine_replaces_the_default_tag() -> None:
    request = parse_request((), {"owner": "me", "machine": "m"})
    assert (request.machine, request.tags) == ("m", frozenset())


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "owner must be specified"),
        ((), {"owner": None}, "owner must be specified"),
        ((1, 2, 3, 4), {"owner": "me"}, "4 sizes"),
        ((1.5,), {"owner": "me"}, "whole number"),
        (("many",), {"owner": "me"}, "whole number, not 'many'"),
        (("4",), {"owner": "me"}, "whole number"),
        ((2**53 + 1,), {"owner": "me"}, f"whole number from {-(2**53)} to {2**53}, not {2**53 + 1}"),
        ((), {"owner": "me", "machine": []}, "machine's name"),
        ((), {"owner": "me", "tags": [3]}, "a tag must be a string"),
        ((float("inf"),), {"owner": "me"}, "whole number"),
        (([],), {"owner": "me"}, "whole number"),
        ((), {"owner": "me", "machine": "m", "tags": ["a"]}, "exclude each other"),
        ((), {"owner": "me", "tags": "default"}, "list of strings"),
        ((), {"owner": "me", "tags": 3}, "list of strings"),
        ((), {"owner": "me", "colour": "red"}, "unknown argument 'colour'"),
        ((2,), {"owner": "me", "min_ratio": -0.5}, "min_ratio must be from 0"),
        ((2,), {"owner": "me", "max_dead_boards": 0.5}, "max_dead_boards must be a whole number"),
        ((), {"owner": "me", "require_torus": True}, "single board cannot be a torus"),
        ((0, 0, 0), {"owner": "me", "require_torus": True}, "single board cannot be a torus"),
        ((), {"owner": "me", "max_runtime": 0}, "more than 0 seconds"),
        ((), {"owner": "me", "priority": 1.5}, "priority must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_text_that_says_why(args: Any, kwargs: Any, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        parse_request(args, kwargs)


LONG = "x" * 257


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"owner": LONG}, "owner of 257 characters given: it may have at most 256"),
        ({"owner": [LONG]}, "owner of 261 characters"),
        ({"owner": "me", "machine": LONG}, "machine of 257 characters"),
        ({"owner": "me", "tags": ["a", LONG]}, "a tag of 257 characters"),
        ({"owner": "me", "tags": ["a"] * 17}, "17 tags given: name at most 16"),
    ],
)
def test_long_texts_are_refused_in_new_jobs_and_read_in_old_rows(kwargs: Any, text: str) -> None:
    request = parse_request((), kwargs)
    assert read_request(kwargs["owner"], (), kwargs) == request
    with pytest.raises(RequestError, match=text):
        Controller().create_job(**kwargs)


def test_what_is_told_of_a_request_is_as_it_came_but_never_long() -> None:
    assert told_of((4.0, True), {"owner": "me", "keepalive": 5, "tags": [], "require_torus": 0}) == (
        [4.0, True],
        {"tags": [], "require_torus": 0},
    )
    assert told_of([None] * 1000, {"owner": "x" * 256}) == ([None] * 3, {})
    assert told_of([1], {"owner": "me", "require_torus": ["x" * 1000]}) == ([1], {"require_torus": True})


def test_a_keepalive_that_is_no_number_is_refused() -> None:
    with pytest.raises(RequestError, match="keepalive must be a number of seconds"):
        parse_keepalive("soon")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["owner", "keepalive", "machine", "tags", "min_ratio", "max_dead_boards", "require_torus", "max_runtime", "x"]
)


@given(st.lists(junk, max_size=4), st.dictionaries(names, junk, max_size=6))
def test_whatever_comes_is_parsed_or_refused(args: list[Any], kwargs: dict[str, Any]) -> None:
    try:
        request = parse_request(args, kwargs)
    except RequestError:
        return
    assert sum(value is not None for value in (request.boards, request.triads, request.board)) == 1
    assert 0 <= request.min_ratio <= 1


@pytest.mark.parametrize("size", [{"boards": -(2**60)}, {"triads": (1, 2**60)}, {"board": (0, 2**60, 0)}], ids=str)
def test_a_size_is_no_number_that_a_client_could_not_read_again(size: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"size must be a whole number from .*, not -?{2**60}"):
        Request(owner="me", **size).check()
