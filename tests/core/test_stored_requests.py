"""What a stored job asks for: brought back as it is, without the arguments that it came with, or set aside alone."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.arguments import parse_request
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.errors import RequestError
from tests.core.house import House
from tests.core.machines import a_machine

MACHINE = a_machine("m", 4, 2)
READY, SWITCHING, QUEUED = 1, 2, 3


@pytest.fixture
def stored() -> Snapshot:
    """A job of each kind: one has a certain board, one is being switched on, one waits for the whole machine."""
    house = House(MACHINE, seconds_before_free=0)
    assert house.create(0, 0, 0, keepalive=None, machine="m") == READY
    house.hardware()
    assert house.create(6, keepalive=None) == SWITCHING
    assert house.create(24, keepalive=None, max_dead_boards=2) == QUEUED
    assert [house.state(job_id) for job_id in (READY, SWITCHING, QUEUED)] == [3, 2, 1]
    return house.controller.snapshot()


def restored(snapshot: Snapshot) -> tuple[Controller, list[str]]:
    """A controller that goes on with what is stored, and the rows that it set aside."""
    controller = Controller(clock=lambda: 2000.0)
    set_aside = controller.restore(snapshot)
    controller.configure(Configuration([MACHINE], seconds_before_free=0))
    controller.check()
    return controller, [f"{row.table}/{row.key}: {row.reason}" for row in set_aside]


def with_request(snapshot: Snapshot, job_id: int, request: Request | None) -> Snapshot:
    jobs = [msgspec.structs.replace(row, request=request) if row.job_id == job_id else row for row in snapshot.jobs]
    return msgspec.structs.replace(snapshot, jobs=jobs)


def damaged(snapshot: Snapshot, job_id: int, **fields: Any) -> Snapshot:
    (before,) = (row.request for row in snapshot.jobs if row.job_id == job_id)
    assert before is not None
    return with_request(snapshot, job_id, msgspec.structs.replace(before, **fields))


def requests(snapshot: Snapshot) -> dict[int, Request | None]:
    return {row.job_id: row.request for row in snapshot.jobs if row.ended_at is None}


DAMAGE: list[tuple[int, dict[str, Any], str]] = [
    (QUEUED, {"boards": None}, "none, or for more than one"),
    (QUEUED, {"triads": (4, 2)}, "none, or for more than one"),
    (QUEUED, {"board": (0, 0, 0)}, "none, or for more than one"),
    (READY, {"boards": 1}, "none, or for more than one"),
    (QUEUED, {"owner": "mallory"}, "its owner is 'me', and that of its request 'mallory'"),
    (QUEUED, {"owner": "zoe"}, "its owner is 'me', and that of its request 'zoe'"),
    *((QUEUED, {"boards": number}, str(number)) for number in (0, -1, MAX_NUMBER + 1, 10**30, -(10**30))),
    *((QUEUED, {"boards": None, "triads": sizes}, "from 1 to") for sizes in ((0, 1), (1, -1), (1, 2**60))),
    *((QUEUED, {"boards": None, "board": place}, "from 0 to") for place in ((-1, 0, 0), (0, 0, 2**60))),
    *(
        (QUEUED, {name: number}, str(number))
        for name in ("max_dead_boards", "max_dead_links", "priority")
        for number in (MAX_NUMBER + 1, -MAX_NUMBER - 1)
    ),
    *((QUEUED, {"min_ratio": ratio}, "least ratio") for ratio in (-0.1, 1.1, math.nan, math.inf)),
    *(
        (SWITCHING, {"max_runtime": seconds}, "longest run time")
        for seconds in (0.0, -1.0, math.nan, math.inf, 2 * MAX_SECONDS)
    ),
    (QUEUED, {"machine": "m"}, "a machine and for tags"),
    (READY, {"require_torus": True}, "one board that is a torus"),
    (READY, {"board": (1, 0, 0)}, "another board than the one that it asked for"),
    (SWITCHING, {"boards": 1}, "asked for one board and has a block"),
    (SWITCHING, {"machine": "other", "tags": frozenset()}, "another machine than it asked for"),
]


@pytest.mark.parametrize(("job_id", "fields", "reason"), DAMAGE, ids=str)
def test_a_request_that_makes_no_sense_costs_its_job_alone(
    stored: Snapshot, job_id: int, fields: dict[str, Any], reason: str
) -> None:
    controller, (set_aside,) = restored(damaged(stored, job_id, **fields))
    assert set_aside.startswith(f"jobs/{job_id}: ")
    assert reason in set_aside
    assert controller.get_job_state(job_id).state == JobState.destroyed
    assert {job.job_id for job in controller.list_jobs()} == {READY, SWITCHING, QUEUED} - {job_id}


@pytest.mark.parametrize("job_id", [READY, SWITCHING, QUEUED])
def test_a_live_job_without_a_request_is_set_aside(stored: Snapshot, job_id: int) -> None:
    _, set_aside = restored(with_request(stored, job_id, None))
    assert set_aside == [f"jobs/{job_id}: what it asks for is not stored"]


def test_a_restart_asks_the_request_and_not_the_arguments(stored: Snapshot) -> None:
    for row in stored.jobs:
        row.args, row.kwargs = ["no protocol", "takes this"], {"nor": "this"}
    controller, set_aside = restored(stored)
    assert set_aside == []
    assert {job.job_id: job.state for job in controller.list_jobs()} == {READY: 3, SWITCHING: 2, QUEUED: 1}
    assert [job.args for job in controller.list_jobs()] == [["no protocol", "takes this"]] * 3
    assert requests(controller.snapshot()) == requests(stored)


def test_a_job_needs_no_arguments(stored: Snapshot) -> None:
    for row in stored.jobs:
        row.args, row.kwargs = [], {}
    controller, set_aside = restored(stored)
    assert set_aside == []
    assert [(job.args, job.kwargs) for job in controller.list_jobs()] == [([], {})] * 3


def test_the_request_of_a_job_goes_into_history_if_it_had_boards(stored: Snapshot) -> None:
    controller, _ = restored(stored)
    (asked,) = (row.request for row in stored.jobs if row.job_id == READY)
    controller.take_changes()
    controller.destroy_job(READY)
    controller.destroy_job(QUEUED)
    ended = controller.take_changes().jobs
    assert asked is not None
    assert (ended[READY].request, ended[QUEUED].request) == (asked, None)


# ----------------------------------------------------------------------------------------- whatever v1's arguments are

_edges = st.sampled_from([sign * (MAX_NUMBER + more) for sign in (1, -1) for more in (-1, 0, 1, 2)])
_numbers = st.none() | st.integers(-2, 30) | st.integers() | st.floats() | st.booleans() | _edges
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_arguments: st.SearchStrategy[tuple[list[Any], dict[str, Any]]] = st.tuples(
    st.lists(_numbers, max_size=3),
    st.fixed_dictionaries(
        {"owner": _texts | st.integers() | st.lists(_texts, max_size=2)},
        optional={
            "machine": st.none() | st.just("m") | _texts | st.integers(0, 3),
            "tags": st.none() | st.just({}) | st.lists(st.sampled_from(["default", "x"]) | _texts, max_size=3),
            "min_ratio": _numbers | st.floats(0, 3),
            "max_dead_boards": _numbers,
            "max_dead_links": _numbers,
            "require_torus": st.booleans() | st.integers(0, 2) | _texts,
            "max_runtime": _numbers | st.floats(1e-3, 1e10),
            "priority": _numbers,
        },
    ),
)


@given(_arguments)
def test_what_was_asked_for_comes_back_from_json_as_it_was(arguments: tuple[list[Any], dict[str, Any]]) -> None:
    args, kwargs = arguments
    try:
        request = parse_request(args, kwargs)
    except RequestError:
        return
    again = msgspec.json.decode(msgspec.json.encode(request), type=Request)
    assert again == request
    assert repr(again.min_ratio) == repr(request.min_ratio), "not even the sign of a zero"


@given(st.lists(_arguments, max_size=4))
def test_every_job_that_lives_is_restored_with_an_equal_request(some: list[tuple[list[Any], dict[str, Any]]]) -> None:
    house = House(MACHINE, seconds_before_free=0)
    house.create(12, keepalive=None)
    for args, kwargs in some:
        try:
            house.create(*args, keepalive=None, **kwargs)
        except RequestError:
            continue
    house.hardware()
    snapshot = msgspec.json.decode(msgspec.json.encode(house.controller.snapshot()), type=Snapshot)
    controller, set_aside = restored(snapshot)
    assert set_aside == []
    assert requests(controller.snapshot()) == requests(house.controller.snapshot())
