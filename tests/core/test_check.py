"""`check`, which tests call after every step, notices whatever does not agree with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from spalloc_server.core.model import Request
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Note
from spalloc_server.core.state import State
from tests.core.house import House
from tests.core.machines import a_machine

READY, SWITCHING, QUEUED, LATER = 1, 2, 3, 4


def a_house() -> House:
    """Jobs that are ready, switched on and queued; boards that are switched off, rest, and are closed or on trial."""
    house = House(a_machine("m", 3, 2), a_machine("n", 1, 1, tags=("n",)), seconds_before_free=50.0, max_retired_jobs=1)
    assert house.create(3, keepalive=60.0, max_runtime=500.0, keepalivehost="h") == READY
    house.hardware()
    assert house.create(1, 1, 0, keepalive=60.0, machine="m") == SWITCHING
    assert house.create(18, keepalive=None, max_dead_boards=9) == QUEUED
    assert house.create(18, keepalive=None) == LATER
    ended = house.create(0, 0, 0, machine="n", keepalive=None)
    house.controller.destroy_job(ended)
    house.controller.disable_board("m", (2, 1, 2), reason="r", by="eve")
    house.controller.disable_frame("n", (0, 0), reason="r", by="eve")
    house.controller.power_cycle("m", (2, 0, 0))
    house.controller.check()
    return house


def queue(state: State) -> Any:
    return state.scheduler._queue


def occupancy(state: State) -> Any:
    return queue(state).machines["m"]


def records(state: State) -> Any:
    return next(iter(state.boards._rows.values()))


def set_fields(what: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(what, name, value)
    return what


BREAK: dict[str, Callable[[State], object]] = {
    "an owner is counted twice": lambda s: s.quotas._owners.update(["me"]),
    "an address is not counted": lambda s: s.quotas._networks.pop("h"),
    "a lease is not watched": lambda s: s.leases._heap.clear(),
    "a lease is watched too late": lambda s: set_fields(s.jobs[READY], deadline=0.0),
    "a run time is watched too late": lambda s: set_fields(s.jobs[READY], bound=0.0),
    "an operation of no job": lambda s: s.power._job_of.update({99: READY}),
    "a job's operation is not known": lambda s: s.power._job_of.clear(),
    "too many retired jobs": lambda s: s.retired.update({98: s.jobs[READY].row(), 99: s.jobs[READY].row()}),
    "a job is both alive and retired": lambda s: (s.retired.popitem(), s.retired.update({READY: s.jobs[READY].row()})),
    "a job that has ended is alive": lambda s: set_fields(s.jobs[QUEUED], state=JobState.destroyed),
    "a queued job has boards": lambda s: set_fields(s.jobs[QUEUED], allocation=s.jobs[READY].allocation),
    "a ready job has none": lambda s: set_fields(s.jobs[READY], allocation=None),
    "a ready job is being switched": lambda s: set_fields(s.jobs[READY], state=JobState.power),
    "a job that is being switched is ready": lambda s: set_fields(s.jobs[SWITCHING], state=JobState.ready),
    "two jobs have a board": lambda s: set_fields(
        s.jobs[SWITCHING],
        allocation=msgspec.structs.replace(s.jobs[SWITCHING].allocation, boards=s.jobs[READY].allocation.boards[:1]),  # type: ignore[type-var, union-attr]
    ),
    "a job has a board that nobody holds": lambda s: occupancy(s).holders.pop(s.jobs[READY].allocation.boards[0]),  # type: ignore[union-attr]
    "a board is held for nobody": lambda s: s.scheduler.hold("m", [(2, 1, 1)], 77),
    "a board is held for another job": lambda s: s.scheduler.hold_again("m", s.jobs[READY].allocation.boards[:1], 77),  # type: ignore[union-attr]
    "a board that is switched off is held for nobody": lambda s: s.power._releases.clear(),
    "a board on trial is held for nobody": lambda s: s.self_tests._under_way.clear(),
    "a board is both held and resting": lambda s: occupancy(s).resting.update({(2, 0, 0): 9000.0}),
    "a rest has no end": lambda s: occupancy(s).resting.update({(2, 1, 1): 9000.0}),
    "a held board may be given": lambda s: set_fields(occupancy(s), free=occupancy(s)._live),
    "a board out of service may be given": lambda s: set_fields(
        occupancy(s), _live=occupancy(s).torus.planes((x, y, z) for x in range(3) for y in range(2) for z in range(3))
    ),
    "the scheduler does not know what is out of service": lambda s: occupancy(s).set_out_of_service(
        [(2, 1, 2)], out=False
    ),
    "the scheduler takes too much out of service": lambda s: occupancy(s).set_out_of_service([(2, 1, 1)], out=True),
    "a record is out of service for no reason": lambda s: set_fields(records(s), out_of_service=None),
    "a record is out of service by nobody": lambda s: set_fields(records(s), by=None),
    "a record is out of service since never": lambda s: set_fields(records(s), since=None),
    "a record is to be tried and is not watched": lambda s: set_fields(records(s), by="server", trial_at=9000.0),
    "a trial is watched of no record": lambda s: s.boards.trial_at.update({("m", 0, 0, 0): 9000.0}),
    "an operator's word is to be undone": lambda s: (
        set_fields(records(s), trial_at=9000.0),
        s.boards.trial_at.update({("m", 2, 1, 2): 9000.0}),
    ),
    "a closed frame is in service": lambda s: (
        s.closures.frames.update({("m", (0, 0)): Note("r", "eve", 1.0)}),
        s.facts.update({"disabled/0/0/m": {"reason": "r", "by": "eve", "since": 1.0}}),
    ),
    "a frame is closed for no reason": lambda s: (
        s.closures.frames.update({("n", (0, 0)): Note("", "eve", 1.0)}),
        s.facts.update({"disabled/0/0/n": {"reason": "", "by": "eve", "since": 1.0}}),
    ),
    "a closure is not stored": lambda s: s.closures.drained.update({"m": Note("r", "eve", 1.0)}),
    "a closure is stored that does not hold": lambda s: s.facts.update({"drained/m": {"reason": "r"}}),
    "a frame that is closed is not stored": lambda s: s.facts.pop("disabled/0/0/n"),
    "an emergency stop is not stored": lambda s: set_fields(s.closures, stopped=Note("r", "eve", 1.0)),
    "a job has boards in an emergency": lambda s: (
        set_fields(s.closures, stopped=Note("r", "eve", 1.0)),
        s.facts.update({"stopped": {"reason": "r", "by": "eve", "since": 1.0}}),
    ),
    "a job waits in no queue": lambda s: queue(s)._groups.clear(),
    "a job waits in the wrong queue": lambda s: set_fields(queue(s).waiting[QUEUED], machines=("n",)),
    "a job waits in a queue of before": lambda s: set_fields(queue(s).waiting[QUEUED], generation=-1),
    "a line is out of order": lambda s: next(line for line in queue(s).lines()).jobs.reverse(),
    "a job waits in the wrong line": lambda s: set_fields(
        queue(s).waiting[QUEUED], request=Request(owner="other", boards=1)
    ),
    "what waits comes to another sum": lambda s: set_fields(next(iter(queue(s)._groups.values())), work=7),
    "a job both waits and runs": lambda s: queue(s).running.update({QUEUED: queue(s).running[READY]}),
    "a job that waits is taken for something else": lambda s: set_fields(
        queue(s).waiting[QUEUED], kind=queue(s).waiting[LATER].kind
    ),
    "a job waits for the wrong machines": lambda s: queue(s)._suitable.update(
        dict.fromkeys(queue(s)._suitable, ("n",))
    ),
    "a job runs on a board that is another's": lambda s: set_fields(
        queue(s).running[READY], allocation=s.jobs[SWITCHING].allocation
    ),
}


def test_no_board_is_held_twice_and_a_hold_that_fails_holds_none() -> None:
    state = a_house().controller.state
    with pytest.raises(RuntimeError, match="is held already"):
        state.scheduler.hold("m", [(2, 1, 1), state.jobs[READY].allocation.boards[0]], 77)  # type: ignore[union-attr]
    assert state.scheduler.holder("m", (2, 1, 1)) is None


@pytest.mark.parametrize("broken", BREAK)
def test_what_does_not_agree_with_itself_is_noticed(broken: str) -> None:
    house = a_house()
    BREAK[broken](house.controller.state)
    with pytest.raises((AssertionError, KeyError)):
        house.controller.check()
