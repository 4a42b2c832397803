"""Stored rows that no core can have written are set aside, each for its own reason; those at the bounds are not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from spalloc_server.config.options import MAX_NUMBER, MAX_SECONDS
from spalloc_server.config.settings import Configuration
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import FrameWork
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import BoardReport, Note
from spalloc_server.links import Links
from tests.core.rows import (
    BMP,
    MACHINE,
    NOW,
    TOO_LATE,
    TOO_MUCH,
    block,
    board,
    ended,
    job,
    on,
    release,
    restored,
    single,
)


def a_request(**what: Any) -> Request:
    return Request(owner="ann", boards=3, **what)


TIMES = [(TOO_LATE, False), (-TOO_LATE, False), (math.nan, False), (math.inf, False), (1e12, True), (-1e12, True)]

ROWS: list[tuple[Any, str | None]] = [
    # jobs
    (job(), None),
    *(
        (make(job_id=number), "is not a number from 1 to")
        for make in (job, ended)
        for number in (0, -1, MAX_NUMBER + 1)
    ),
    (job(job_id=1), None),
    (job(job_id=MAX_NUMBER), None),
    *(
        (make(**{name: time}), None if good else "is no time")
        for make in (job, ended)
        for name in ("created_at", "allocated_at", "ready_at", "due")
        for time, good in TIMES
    ),
    *((ended(ended_at=time), None if good else "is no time") for time, good in TIMES),
    *((make(board_seconds=amount), "board-seconds") for make in (job, ended) for amount in (-1.0, TOO_MUCH, math.nan)),
    *((make(placements=number), "placements") for make in (job, ended) for number in (-1, MAX_NUMBER + 1)),
    *((make(board_seconds=amount), None) for make in (job, ended) for amount in (0.0, 1e18)),
    *((make(placements=number), None) for make in (job, ended) for number in (0, MAX_NUMBER)),
    *((job(keepalive=time), "its keepalive is") for time in (2 * MAX_SECONDS, -2 * MAX_SECONDS, math.nan)),
    *((job(keepalive=time), None) for time in (MAX_SECONDS, -MAX_SECONDS, None)),
    (job(state=JobState.queued), "and has boards"),
    (job(state=JobState.destroyed), "and has boards"),
    (job(state=JobState.power, allocation=None), "and has no boards"),
    (job(state=JobState.ready, allocation=None), "and has no boards"),
    (job(state=JobState.queued, allocation=None, power=None, allocated_at=None, ready_at=None), None),
    (job(held=Note("night", "eve", NOW)), "it is on hold, and has boards"),
    *(
        (
            job(state=JobState.queued, allocation=None, power=None, held=Note("night", "eve", time)),
            None if good else "is no time",
        )
        for time, good in TIMES
    ),
    (job(allocated_at=None), "not since when"),
    (job(power=None), "not whether they are on"),
    (job(ready_at=None), "not since when"),
    (job(state=JobState.power, ready_at=None), None),
    (job(power=False), None),
    (ended(state=JobState.ready), "it has not ended"),
    (ended(), None),
    *(
        (job(request=a_request(**{name: number})), "a number of its request")
        for name in ("max_dead_boards", "max_dead_links", "priority")
        for number in (MAX_NUMBER + 1, -MAX_NUMBER - 1)
    ),
    *(
        (job(request=a_request(**{name: number})), None)
        for name in ("max_dead_boards", "max_dead_links", "priority")
        for number in (MAX_NUMBER, -MAX_NUMBER, 0)
    ),
    (job(request=Request(owner="ann", triads=(1, 1), min_ratio=1.0)), None),
    *((job(request=Request(owner="ann", triads=sizes)), "from 1 to") for sizes in ((0, 1), (1, 0))),
    *((job(request=Request(owner="ann", boards=3, min_ratio=ratio)), None) for ratio in (0.0, 0.5, 1.0)),
    *((job(request=Request(owner="ann", boards=3, min_ratio=ratio)), "its least ratio") for ratio in (-0.1, 1.1)),
    *((job(request=Request(owner="ann", boards=3, max_runtime=time)), None) for time in (1e-3, 1e6, MAX_SECONDS)),
    *(
        (job(request=Request(owner="ann", boards=3, max_runtime=time)), "longest run")
        for time in (0.0, 2 * MAX_SECONDS)
    ),
    (job(request=Request(owner="ann", boards=3, machine="m")), None),
    (job(request=Request(owner="ann", boards=3, tags=frozenset({"big"}))), None),
    (job(request=Request(owner="ann", boards=3, machine="n")), "another machine than it asked for"),
    (job(request=Request(owner="ann", boards=3, require_torus=True)), None),
    # the boards of jobs
    (block(machine="n"), "there is no machine 'n'"),
    *((block(x=x), "its block begins at") for x in (-1, 4)),
    *((block(y=y), "its block begins at") for y in (-1, 2)),
    *((block(width=width), "its block has") for width in (0, 5)),
    *((block(height=height), "its block has") for height in (0, 3)),
    (block(width=4, height=2), None),
    (on((3, 1, 0)), None),
    (on((3, 1, 0), (0, 1, 0)), None),
    (on((3, 1, 0), (1, 1, 0)), "board (1, 1, 0) is not in its block"),
    (on((3, 1, 0), (2, 1, 0)), "board (2, 1, 0) is not in its block"),
    (on((3, 1, 0), (3, 0, 0)), "board (3, 0, 0) is not in its block"),
    (on((3, 1, 0), (3, 0, 0), height=2), None),
    (on(), "it has no boards"),
    (on((3, 1, 0), (3, 1, 0)), "is there twice"),
    *((on((3, 1, 0), no), f"m has no board {no}") for no in ((4, 1, 0), (-1, 1, 0), (0, 2, 0), (0, -1, 0), (0, 1, 3))),
    (on((3, 1, 0), (0, 1, -1)), "m has no board (0, 1, -1)"),
    (on((3, 1, 1)), "its block lacks its first board"),
    (on((0, 1, 0)), "its block lacks its first board"),
    (block(stopped=((3, 1, 0, Links.north),)), None),
    (block(stopped=((2, 1, 0, Links.north),)), "links are stopped of boards that it does not have"),
    (block(single=True), "it asked for one board and has a block"),
    (single(), None),
    (single(single=False), "it asked for one board and has a block"),
    (single(boards=((1, 1, 0), (1, 1, 2))), "it asked for one board and has a block"),
    (single(what={"board": (1, 1, 2)}), None),
    (single(what={"board": (1, 1, 1)}), "another board than the one"),
    (single((0, 0, 0), what={"board": (0, 0, 0)}), None),
    (single(what={"boards": 1, "require_torus": True}), "one board that is a torus"),
    (single(what={"board": (0, -1, 0)}), "from 0 to"),
    # releases
    (release(), None),
    *((release(release_id=number), "is not a number from 1 to") for number in (0, -1, MAX_NUMBER + 1)),
    *((release(rest_until=time), "is no time") for time, good in TIMES if not good),
    (release(frames=()), "it has no boards"),
    (release(frames=(FrameWork(BMP, (0, 2, 2)),)), "one of them twice"),
    (release(frames=(FrameWork(BMP, (0, 2)), FrameWork(BMP, (2,)))), "one of them twice"),
    (release(frames=(FrameWork(BMP, (0,)),)), "its boards are not those of its frames"),
    (release(frames=(FrameWork(BMP, (0, 1, 2)),)), None),
    (release(machine="n"), "there is no machine 'n'"),
    (release(machine="n", boards=[]), None),
    (release(boards=[(0, 0, 0), (0, 0, 0)]), "is there twice"),
    # records of boards
    (board(), None),
    *((board(since=time), None if good else "is no time") for time, good in TIMES),
    *((board(counts_from=time), None if good else "is no time") for time, good in TIMES),
    *((board(failures=[(time, "x")]), None if good else "is no time") for time, good in TIMES),
    *((board(reports=[BoardReport(time, None, "h", "x")]), None if good else "is no time") for time, good in TIMES),
    *((board(by="server", trial_at=time), None if good else "is no time") for time, good in TIMES),
    *((board(**{name: MAX_NUMBER + 1}), "no sensible numbers") for name in ("x", "y", "z", "strikes")),
    *((board(**{name: -MAX_NUMBER - 1}), "no sensible numbers") for name in ("x", "y", "z")),
    *((board(**{name: MAX_NUMBER}), None) for name in ("x", "y", "z", "strikes")),
    (board(strikes=-1), "no sensible numbers"),
    *((board(**{name: None}), "but not by whom") for name in ("out_of_service", "by", "since")),
    (board(out_of_service=None, by=None, since=None), None),
    (board(trial_at=6000.0), "an operator has taken it out"),
    (board(by="server", trial_at=6000.0), None),
]


@pytest.mark.parametrize(("row", "reason"), ROWS, ids=[f"{type(row).__name__}-{n}" for n, (row, _) in enumerate(ROWS)])
def test_a_row_is_set_aside_where_it_makes_no_sense_and_only_there(row: Any, reason: str | None) -> None:
    _, set_aside = restored(row)
    if reason is None:
        assert set_aside == []
    else:
        assert len(set_aside) == 1
        assert reason in set_aside[0]


# -------------------------------------------------------------------- rows that contradict each other


def test_of_two_jobs_with_one_board_the_older_one_keeps_it_and_the_other_ends() -> None:
    controller, set_aside = restored(job(job_id=8), job(job_id=7))
    assert set_aside == ["jobs/8: job 7 has its board (0, 1, 1)"]
    assert controller.get_job_state(7).state == JobState.ready
    assert controller.get_job_state(8).state == JobState.destroyed
    assert controller.take_switches() == []


def test_a_job_that_lives_is_not_told_as_one_that_has_ended_as_well() -> None:
    controller, set_aside = restored(job(), ended())
    assert set_aside == []
    assert [row.ended_at for row in controller.snapshot().jobs] == [None]


@pytest.mark.parametrize("state", [JobState.power, JobState.ready])
@pytest.mark.parametrize("rest_until", [None, 6000.0])
@pytest.mark.parametrize("waited_for", [False, True])
def test_no_release_switches_off_what_a_job_has_unless_nobody_waits_for_it_and_the_job_is_not_ready(
    state: JobState, rest_until: float | None, waited_for: bool
) -> None:
    mine = release(boards=[(3, 1, 0)] if waited_for else [], frames=(FrameWork(BMP, (21,)),), rest_until=rest_until)
    _, set_aside = restored(job(state=state), mine)
    contradicts = waited_for or (rest_until is None and state == JobState.ready)
    assert set_aside == ([f"releases/9: job 7 has board 21 of {BMP}"] if contradicts else [])


def test_boards_of_two_releases_wait_for_the_first_and_each_is_switched_off_by_both() -> None:
    controller, set_aside = restored(release(), release(release_id=10))
    assert set_aside == []
    assert [(switch.operation, switch.on, switch.frames) for switch in controller.take_switches()] == [
        (9, False, release().frames),
        (10, False, release().frames),
    ]
    assert [row.boards for row in controller.snapshot().releases] == [[(0, 0, 0), (0, 0, 2)], []]


def test_operations_after_a_restart_have_numbers_above_those_of_all_releases() -> None:
    controller, _ = restored(release(release_id=40), release(release_id=12, boards=[], frames=(FrameWork(BMP, (7,)),)))
    controller.configure(Configuration([MACHINE], seconds_before_free=0.0))
    controller.create_job(owner="bob")
    assert max(switch.operation for switch in controller.take_switches()) == 41


def test_a_rest_is_no_longer_after_a_restart_than_a_rest_is() -> None:
    controller, _ = restored(release(rest_until=NOW + 1e6))
    (row,) = controller.snapshot().releases
    assert row.rest_until == NOW + 30.0


@pytest.mark.parametrize(("rest_until", "goes_on"), [(NOW + 10, True), (NOW, False), (NOW - 1, False)])
def test_a_rest_goes_on_to_its_end_and_is_forgotten_after_it(rest_until: float, goes_on: bool) -> None:
    controller, _ = restored(release(rest_until=rest_until))
    assert [row.rest_until for row in controller.snapshot().releases] == ([rest_until] if goes_on else [])
    assert controller.take_switches() == []
    state = controller.board_view("m", (0, 0, 0)).state
    assert state == ("resting" if goes_on else "free")
    changes = controller.take_changes().releases
    assert (changes[9] is not None) == goes_on
