"""When those who wait will start, as it is predicted: small cases, long queues, and what is learnt."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from spalloc_server.config.machine import DEFAULT_TAGS
from spalloc_server.config.options import Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure
from spalloc_server.core.model.request import Request
from spalloc_server.core.placement.effort import STEP
from spalloc_server.core.scheduling import forecast as forecasts, spread
from spalloc_server.core.scheduling.scheduler import Scheduler
from spalloc_server.core.scheduling.spread import SAMPLES, USUAL, Spreads
from tests.core.machines import a_machine
from tests.core.test_scheduler import HOUR, Hall

POLICIES = ("backfill", "fifo")


class Seer(Hall):
    """A hall in which starts are predicted."""

    def __init__(self, **what: Any) -> None:
        super().__init__(**what)
        self.closed = ""
        self.scheduler.predict_starts(lambda _: self.closed)

    def steps(self) -> int:
        """Make a whole forecast; how many steps it took."""
        self.now += forecasts.LEAST_SECONDS
        steps = 0
        while (due := self.scheduler.forecast_at()) is not None and due <= self.now + 2 * forecasts.LEAST_SECONDS:
            self.scheduler.forecast(self.now)
            steps += 1
            assert steps < 10_000, "it never ends"
        self.scheduler.check()
        return steps

    def forecast(self, job_id: int) -> Forecast:
        found = self.scheduler.predicted(job_id)
        assert found is not None
        return found

    def vagueness(self, job_id: int) -> float:
        """Seconds between the earliest and the latest start."""
        told = self.forecast(job_id)
        assert told.earliest is not None
        assert told.latest is not None
        return told.latest - told.earliest

    def start(self, job_id: int) -> float:
        start = self.forecast(job_id).start
        assert start is not None
        return start


@pytest.mark.parametrize("policy", POLICIES)
def test_jobs_are_predicted_to_start_one_after_the_other(policy: str) -> None:
    hall = Seer(policy=policy)
    hall.teach("me", 48, 600.0)
    began, first = hall.now, hall.submit(48)
    waiting = [hall.submit(48) for _ in range(3)]
    hall.steps()
    assert [hall.forecast(job_id).position for job_id in waiting] == [1, 2, 3]
    assert [hall.start(job_id) for job_id in waiting] == pytest.approx([began + each * 600 for each in (1, 2, 3)])
    assert [hall.forecast(job_id).why for job_id in waiting] == [
        f"it waits for boards of job {before}" for before in (first, *waiting[:2])
    ]
    for job_id in waiting:
        told = hall.forecast(job_id)
        assert told.earliest is not None
        assert told.latest is not None
        assert (told.queued, told.estimated) == (3, False)
        assert told.earliest <= hall.start(job_id) <= told.latest


def test_a_job_that_goes_ahead_by_backfill_is_predicted_to_do_so() -> None:
    hall = Seer()
    hall.teach("long", 36, HOUR)
    hall.teach("quick", 24, 60.0)
    hall.teach("large", 48, 300.0)
    began = hall.now
    hall.submit(36, "long")
    brief = hall.submit(12, "quick")
    large = hall.submit(48, "large")
    quick = hall.submit(12, "quick")
    hall.steps()
    assert brief in hall.running
    assert hall.start(quick) == pytest.approx(began + 60)
    assert hall.start(large) == pytest.approx(began + HOUR)


def test_boards_rest_in_a_rehearsal_too() -> None:
    hall = Seer(rest=30.0)
    hall.teach("me", 48, 600.0)
    hall.now += 30.0
    hall.run()
    began = hall.now
    hall.submit(48)
    waiting = [hall.submit(48) for _ in range(2)]
    hall.steps()
    assert [hall.start(job_id) for job_id in waiting] == pytest.approx([began + 630, began + 1260])


def test_a_core_that_stands_still_predicts_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "REHEARSED", 3)
    now = [1000.0]
    core = Controller(clock=lambda: now[0])
    core.configure(Configuration([a_machine("m", 4, 4)]))
    job_ids = [core.create_job(48, owner="me") for _ in range(6)]
    core.tick()
    (began,) = {view.created_at for view in core.job_views()}
    assert {view.position for view in core.job_views()} == {None}
    core.predict_at_once()
    waiting = [view for view in core.job_views() if view.job_id != job_ids[0]]
    assert [view.position for view in waiting] == [1, 2, 3, 4, 5]
    assert all(view.predicted_start is not None and view.predicted_start > began for view in waiting)
    assert all(view.state == "queued" for view in waiting), "nothing else has happened"


def test_a_forecast_changes_nothing_of_the_queue() -> None:
    with_it, without = Seer(), Hall()
    for hall in (with_it, without):
        hall.teach("me", 24, 100.0, 300.0)
        for size in (24, 24, 48, 6, 12, 48, 3):
            hall.submit(size)
    with_it.steps()
    without.now = with_it.now
    assert with_it.scheduler.ordered(with_it.now) == without.scheduler.ordered(without.now)
    for hall in (with_it, without):
        hall.end(min(hall.running))
    assert with_it.running == without.running
    assert with_it.scheduler.holders("m") == without.scheduler.holders("m")


def test_a_closed_machine_and_boards_out_of_service_leave_nothing_to_predict() -> None:
    hall = Seer()
    hall.submit(48)
    waiting = hall.submit(48, max_dead_boards=0)
    hall.closed = "m is drained by eve: dust"
    hall.scheduler.close(["m"])
    hall.run()
    hall.steps()
    told = hall.forecast(waiting)
    assert (told.earliest, told.start, told.latest, told.why) == (None, None, None, hall.closed)
    hall.closed = ""
    hall.scheduler.close([])
    hall.scheduler.set_out_of_service("m", [(0, 0, 0)], out=True)
    hall.run()
    hall.steps()
    told = hall.forecast(waiting)
    assert (told.start, told.why) == (None, "too little of m is in service for now")
    hall.scheduler.set_out_of_service("m", [(0, 0, 0)], out=False)
    hall.run()
    hall.steps()
    assert hall.forecast(waiting).start is not None


def test_nothing_is_due_while_nobody_waits_or_all_is_known() -> None:
    hall = Seer()
    assert hall.scheduler.forecast_at() is None
    hall.submit(48)
    assert hall.scheduler.forecast_at() is None
    hall.submit(48)
    assert hall.steps() > 0
    due = hall.scheduler.forecast_at()
    assert due == pytest.approx(hall.now + forecasts.RENEWED_SECONDS)
    hall.submit(48)
    due = hall.scheduler.forecast_at()
    assert due == pytest.approx(hall.now + forecasts.LEAST_SECONDS), "something has changed"


def test_nobody_is_told_anew_where_nothing_is_different() -> None:
    hall = Seer()
    hall.teach("me", 48, 10_000.0)
    hall.submit(48)
    waiting = [hall.submit(48) for _ in range(3)]
    hall.steps()
    assert [hall.forecast(job_id).estimated for job_id in waiting] == [False] * 3
    changed = []
    hall.now += forecasts.RENEWED_SECONDS
    while (due := hall.scheduler.forecast_at()) is not None and due <= hall.now + forecasts.LEAST_SECONDS:
        changed += hall.scheduler.forecast(hall.now)
    assert changed == []


def many_wait(hall: Seer) -> None:
    """Have jobs 1 to 10,000 wait for one that runs."""
    hall.scheduler.submit(0, Request(owner="first", boards=48), 0.0)
    hall.run()
    for number in range(1, 10_001):
        hall.scheduler.submit(number, Request(owner=f"o{number % 500}", boards=1 + number % 48), 0.0)
    while hall.scheduler.pending:
        hall.scheduler.run(0.0)


def test_after_a_forecast_that_took_long_there_is_a_rest_in_proportion() -> None:
    hall = Seer()
    many_wait(hall)
    began = hall.now = hall.now + forecasts.LEAST_SECONDS
    while (due := hall.scheduler.forecast_at()) is not None and due < began + 0.5 * forecasts.RENEWED_SECONDS:
        hall.now = max(hall.now, due)
        hall.scheduler.forecast(hall.now)
    took = hall.now - began
    assert 0.2 < took < 10.0
    hall.scheduler.submit(10_001, Request(owner="late", boards=48), hall.now)
    hall.scheduler.run(hall.now)
    due = hall.scheduler.forecast_at()
    assert due == pytest.approx(hall.now + forecasts.RESTS * took)


def test_those_far_back_are_estimated_by_the_work_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "REHEARSED", 2)
    hall = Seer()
    hall.teach("me", 48, 100.0)
    hall.submit(48)
    waiting = [hall.submit(48) for _ in range(5)]
    hall.steps()
    assert [hall.forecast(job_id).estimated for job_id in waiting] == [False, False, True, True, True]
    starts = [hall.start(job_id) - hall.now for job_id in waiting[2:]]
    assert starts == pytest.approx([(each * 100 - 1) / forecasts.THROUGHPUT for each in (3, 4, 5)], rel=0.01)
    assert hall.forecast(waiting[4]).why == "4 others go before it"


def test_whom_a_rehearsal_does_not_reach_in_its_allowance_keeps_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "ALLOWANCE", 1)
    hall = Seer()
    hall.submit(48)
    waiting = [hall.submit(48) for _ in range(60)]
    hall.steps()
    estimated = [hall.forecast(job_id).estimated for job_id in waiting]
    assert estimated[-1]
    assert all(hall.forecast(job_id).start is not None for job_id in waiting)


def test_a_forecast_of_ten_thousand_jobs_is_cut_into_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Seer()
    many_wait(hall)
    left: list[int] = []
    step = forecasts.Forecaster.step

    def counted(self: forecasts.Forecaster, *args: Any) -> list[int]:
        changed = step(self, *args)
        left.append(self._queue.work.left)
        return changed

    monkeypatch.setattr(forecasts.Forecaster, "step", counted)
    steps = hall.steps()
    assert 10_000 / STEP < steps < 200
    assert min(left) > -STEP / 4, "a step ends as soon as its work is done"
    positions = sorted(hall.forecast(number).position for number in range(1, 10_001))
    assert positions == list(range(1, 10_001))


def test_who_joins_and_leaves_while_a_forecast_is_made_does_no_harm() -> None:
    hall = Seer()
    hall.submit(48)
    waiting = [hall.submit(48) for _ in range(1000)]
    hall.now += forecasts.LEAST_SECONDS
    hall.scheduler.forecast(hall.now)
    hall.scheduler.withdraw(waiting[0])
    hall.scheduler.withdraw(waiting[-1])
    late = hall.submit(48)
    hall.steps()
    hall.now += forecasts.RESTS * forecasts.LEAST_SECONDS
    hall.steps()
    assert hall.forecast(waiting[1]).position == 1
    assert abs(hall.forecast(late).position - 999) <= 50, "one in twenty is no news"
    assert hall.scheduler.predicted(waiting[0]) is None


def test_a_defect_of_forecasts_is_told_and_stops_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Seer()
    first = hall.submit(48)
    waiting = hall.submit(48)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(forecasts, "Rehearsal", broken)
    hall.now += forecasts.LEAST_SECONDS
    assert hall.scheduler.forecast(hall.now) == []
    ((doing, error, culprit),) = hall.scheduler.take_failures()
    assert (doing, str(error), culprit) == ("the prediction of starts", "broken", 0)
    due = hall.scheduler.forecast_at()
    assert due == pytest.approx(hall.now + forecasts.RENEWED_SECONDS), "not at once again"
    hall.end(first)
    assert waiting in hall.running


# ---------------------------------------------------------------- the spread


def spread_of(spreads: Spreads, job_id: int, ahead: float, now: float = 0.0) -> tuple[float, float, float]:
    earliest, start, latest = spreads.spread(job_id, now, now + ahead, part=0.01, estimated=False)
    return earliest - now, start - now, latest - now


def test_a_spread_begins_with_what_is_usual_and_follows_what_was_seen() -> None:
    spreads = Spreads()
    usual = sorted(USUAL)
    assert spread_of(spreads, 1, 1000.0) == (usual[0] * 1000, 1000.0, usual[9] * 1000)
    for job_id in range(2, 2 + 2 * SAMPLES):
        spread_of(spreads, job_id, 1000.0)
        spreads.started(job_id, 1500.0)
    assert spread_of(spreads, 1, 1000.0) == (1500.0, 1500.0, 1500.0)
    assert spread_of(spreads, 1, 100.0) == (usual[0] * 100, 100.0, usual[9] * 100), "that is another kind"


def test_quantiles_are_found_again_for_one_in_twenty_of_those_that_are_learnt_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spreads, found = Spreads(), list[int]()
    quantiles = spread._quantiles

    def counted(values: tuple[float, ...]) -> tuple[float, float, float]:
        found.append(len(values))
        return quantiles(values)

    for job_id in range(5 * SAMPLES):
        spread_of(spreads, job_id, 1000.0)
    for job_id in range(5 * SAMPLES):
        if job_id == 2 * SAMPLES:
            monkeypatch.setattr(spread, "_quantiles", counted)
        spreads.started(job_id, 1500.0)
    assert found == [SAMPLES] * (3 * SAMPLES // (SAMPLES // spread.AGAIN))


def test_jobs_that_still_wait_are_learnt_from_once_they_are_late() -> None:
    spreads = Spreads()
    for job_id in range(1, 2 * SAMPLES):
        spread_of(spreads, job_id, 1000.0)
    before = spread_of(spreads, 0, 1000.0)[2]
    for job_id in range(1, 2 * SAMPLES):
        spread_of(spreads, job_id, 1000.0, now=9000.0)
    assert spread_of(spreads, 0, 1000.0)[2] > 2 * before


def test_a_short_wait_is_told_as_it_is_and_the_spread_is_at_least_a_minutes() -> None:
    earliest, start, latest = spread_of(Spreads(), 1, 5.0)
    assert earliest <= start == 5.0
    assert latest >= 60.0
    assert spread_of(Spreads(), 1, 0.0)[1] == 0.0


def test_jobs_that_left_without_a_start_are_forgotten() -> None:
    spreads = Spreads()
    spread_of(spreads, 1, 100.0)
    spread_of(spreads, 2, 100.0)
    spreads.forget_all_but({2})
    assert spreads._said.keys() == {2}


@pytest.mark.parametrize("how", ["hold", "drain"])
def test_the_time_for_which_jobs_were_kept_from_starting_makes_no_predictions_vaguer(how: str) -> None:
    hall = Seer(policy="fifo")
    hall.teach("me", 48, 600.0)
    running = hall.submit(48)
    waiting = [hall.submit(48) for _ in range(20)]
    hall.steps()
    vague = [hall.vagueness(job_id) for job_id in waiting]
    left = [hall.scheduler.waiting(job_id) for job_id in waiting]
    if how == "hold":
        for job_id in waiting:
            hall.scheduler.withdraw(job_id)
    else:
        hall.scheduler.close(["m"])
    hall.run()
    hall.steps()
    hall.now += 100 * HOUR
    hall.scheduler.end(running, hall.now, learn=False)
    boards = hall.running[running]
    hall.scheduler.free("m", boards.boards, rest_until=None, now=hall.now)
    hall.scheduler.adopt(running, Request(owner="me", boards=48, tags=DEFAULT_TAGS), boards, hall.now)
    for job in left if how == "hold" else ():
        assert job is not None
        hall.scheduler.submit(job.job_id, job.request, job.since)
    hall.scheduler.close([])
    hall.run()
    hall.steps()
    assert [hall.vagueness(job_id) for job_id in waiting] == pytest.approx(vague, rel=0.1)


# ---------------------------------------------------------------- what users and operators see


def words(forecast: Forecast) -> str:
    return f"number {forecast.position}: {forecast.why}"


@pytest.fixture
def core() -> Iterator[Controller]:
    clock = Clock()
    core = Controller(clock=clock)
    core.configure(Configuration([a_machine("m", 2, 2)], seconds_before_free=0.0))
    core.predict_starts(words)
    yield core
    core.check()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pass_time(core: Controller) -> None:
    """Have all done that is due within some seconds."""
    clock = core.state.clock
    assert isinstance(clock, Clock)
    end = clock.now + 5.0
    while (wake := core.wake_at()) is not None and wake <= end:
        clock.now = max(clock.now, wake)
        core.tick()
    clock.now = end


def test_users_of_jobs_that_wait_are_told_and_no_others(core: Controller) -> None:
    first = core.create_job(12, owner="ann", keepalivehost="10.0.0.1")
    second = core.create_job(12, owner="bob", keepalivehost="10.0.0.2")
    assert core.get_job_state(second).reason is None, "it is not known yet"
    before = core.renew(second, None, look=True)
    pass_time(core)
    told = f"number 1: it waits for boards of job {first}"
    assert core.renew(second, None, look=True) != before, "kept replies are out of date"
    assert core.get_job_state(second).reason == core.job_details(second, 0).reason == told
    assert core.get_job_state(first).reason is None
    assert [(job.keepalivehost, job.notice) for job in core.list_jobs()] == [("10.0.0.1", None), ("10.0.0.2", told)]
    core.destroy_job(first)
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    pass_time(core)
    assert core.get_job_state(second).reason is None
    assert [(job.keepalivehost, job.notice) for job in core.list_jobs()] == [("10.0.0.2", None)]


def test_users_are_told_why_nothing_starts(core: Controller) -> None:
    core.create_job(12, owner="ann")
    second = core.create_job(12, owner="bob")
    core.drain("m", reason="dust", by="eve")
    pass_time(core)
    assert core.get_job_state(second).reason == "number 1: m is drained by eve: dust"
    core.undrain("m")
    core.emergency_stop(reason="smoke", by="eve")
    pass_time(core)
    assert core.get_job_state(second).reason == (
        "number 2: nothing starts before the emergency stop by eve is over: smoke"
    )


def test_what_was_predicted_before_a_hold_is_not_told_after_it(core: Controller) -> None:
    first = core.create_job(12, owner="ann")
    second = core.create_job(12, owner="bob")
    pass_time(core)
    told = f"number 1: it waits for boards of job {first}"
    assert core.get_job_state(second).reason == told
    core.hold_jobs([second], reason="night", by="eve")
    core.state.clock.now += 36_000.0  # type: ignore[attr-defined]
    core.release_jobs([second], by="eve")
    assert core.get_job_state(second).reason is None
    view = core.job_views()[-1]
    assert (view.position, view.earliest_start, view.latest_start) == (None, None, None)
    pass_time(core)
    assert core.get_job_state(second).reason == told


def test_what_was_predicted_before_boards_failed_is_not_told_after_it(core: Controller) -> None:
    first = core.create_job(12, owner="ann")
    second = core.create_job(12, owner="bob")
    pass_time(core)
    assert core.get_job_state(second).reason == f"number 1: it waits for boards of job {first}"
    core.destroy_job(first)
    for switch in core.take_switches():
        core.switched(Outcome(switch.operation))
    core.tick()
    on = next(switch for switch in core.take_switches() if switch.job_id == second)
    failure = BoardFailure(on.frames[0].bmp, on.frames[0].boards[0], "no FPGA")
    core.switched(Outcome(on.operation, (failure,)))
    assert core.state.jobs[second].state == JobState.queued
    assert core.get_job_state(second).reason is None


def test_operators_see_place_and_spread_of_all_who_wait(core: Controller) -> None:
    first = core.create_job(12, owner="ann")
    waiting = [core.create_job(12, owner="bob") for _ in range(2)]
    pass_time(core)
    running, *queued = core.job_views()
    assert (running.position, running.predicted_start, running.earliest_start) == (None, None, None)
    assert [view.position for view in queued] == [1, 2]
    assert queued[0].reason == f"it waits for boards of job {first}"
    for view in queued:
        assert view.earliest_start is not None
        assert view.predicted_start is not None
        assert view.latest_start is not None
        assert view.earliest_start <= view.predicted_start <= view.latest_start
    alone = core.job_view(waiting[0])
    assert alone.latest_start == queued[0].latest_start
    assert alone.reason is not None
    assert "predicted to start in " in alone.reason
    assert ", probably between " in alone.reason


def test_a_controller_that_predicts_can_be_pickled(core: Controller) -> None:
    core.create_job(12, owner="ann")
    second = core.create_job(12, owner="bob")
    core.tick()
    again = pickle.loads(pickle.dumps(core))
    pass_time(again)
    assert again.get_job_state(second).reason is not None


def test_without_being_told_a_controller_predicts_nothing() -> None:
    core = Controller()
    core.configure(Configuration([a_machine("m", 2, 2)]))
    core.create_job(12, owner="ann")
    second = core.create_job(12, owner="bob")
    core.tick()
    assert core.get_job_state(second).reason is None
    assert core.wake_at() is None
    assert Scheduler(Scheduling()).forecast_at() is None


@pytest.mark.parametrize(
    ("before", "after", "now", "told"),
    [
        (2e9, 2e9 + 31.0, 2e9, True),
        (2e9, 2e9 + 30.0, 2e9, False),
        (2e9 + 31.0, 2e9, 2e9, True),
        (2e9 + 2000.0, 2e9 + 2200.0, 2e9, False),
        (2e9 + 2000.0, 2e9 + 2300.0, 2e9, True),
    ],
)
def test_another_start_is_told_where_it_differs_by_half_a_minute_and_by_a_tenth_of_the_wait(
    before: float, after: float, now: float, *, told: bool
) -> None:
    old, new = (Forecast(position=1, queued=1, start=start, why="") for start in (before, after))
    assert forecasts._differs(new, old, now) == told
