"""One command is one transaction: whichever call inside it raises, a command that raises has changed nothing."""

from __future__ import annotations

import pickle
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import CO_GENERATOR
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import pytest

import spalloc_server
from spalloc_server.config.options import Limits, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller, Outcome
from spalloc_server.core import transitions
from spalloc_server.core.deadlines import Deadlines
from spalloc_server.core.engine import Engine
from spalloc_server.core.job import Job
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.rows import Changes
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.scheduling.waiting import Waiting
from spalloc_server.errors import RequestError
from tests.core.machines import a_machine

CORE = Path(spalloc_server.__file__).parent / "core"

BOUNDARIES: Collection[CodeType] = {
    function.__code__
    for function in (Engine.contained, Engine.follow, Engine._raised, Engine._give_up, Engine._reclaim)
}
"""What contains what is raised within, and does nothing else that could raise."""

MECHANISM = {str(CORE / "defects.py"), str(CORE / "undo.py")}
"""What contains, and what puts back."""


class Boom(Exception):
    """What no code raises on purpose."""


class Clock:
    """A clock that can be pickled."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Saboteur:
    """Lets the call of this number into the core raise, and no other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _arg: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(CORE)):
            return
        if code in BOUNDARIES or code.co_filename in MECHANISM or code.co_flags & CO_GENERATOR:
            return  # of generators, this is called whenever they go on, and when they are thrown away
        self.calls += 1
        if self.calls == self.number:
            raise Boom(f"{code.co_filename}: {code.co_qualname}")


# -------------------------------------------------------------------- what a state is

SKIPPED: Mapping[type, Collection[str]] = {
    Occupancy: {
        "_topology",
        "_whole",
        "_free_boards",
        "_could_serve",
        "_serves_now",
        "_nearest",
        "_ends_of_rest",
        "work",
    },
    Waiting: {"there", "apart"},
}
"""What is only remembered so that it need not be worked out again; it is left out."""

OTHERS = {"_scheduler", "_boards", "_power", "_closures", "_outbox", "_defects", "torus", "clock"}
"""Parts that other parts refer to, and what never changes."""

WHATEVER_HAPPENS = {"_changed", "_suitable", "_joined", "_policy", "_failures", "tried", "work", "defects"}
"""Of all others: what only says that somebody is to look again; and what went wrong."""


def plain(value: Any) -> Any:
    """All of a state, as values that can be compared; the order of what is ordered is part of it."""
    if isinstance(value, Mapping):
        return {repr(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | deque):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, Deadlines):
        return sorted((time, job_id) for time, job_id in value._heap if job_id in value._jobs)
    if isinstance(value, Job | Changes) or not type(value).__module__.startswith("spalloc_server.core"):
        fields = {name: getattr(value, name) for name in getattr(value, "__struct_fields__", ())}
        return repr(fields or value)
    if isinstance(value, msgspec.Struct):
        return repr(value)
    names = [*getattr(value, "__slots__", ()), *getattr(value, "__dict__", ())]
    skipped = {*SKIPPED.get(type(value), ()), *WHATEVER_HAPPENS, *OTHERS}
    return {name: plain(getattr(value, name)) for name in names if name not in skipped}


def seen(controller: Controller) -> Any:
    """All that a state is, and all that it says."""
    state = plain(controller.state)
    state["order of the queue"] = controller.state.scheduler.ordered(controller.state.clock())
    return state


# -------------------------------------------------------------------- what is commanded


def a_hall() -> Controller:
    """Two machines on which everything is under way: jobs that wait, are held, run, are switched; rests, closures."""
    controller = Controller(clock=Clock(), seconds_before_free=30.0)
    machines = [a_machine("a", 3, 2), a_machine("b", 1, 1)]
    controller.configure(Configuration(machines, limits=Limits(jobs_per_owner=20)))
    for boards in (6, 3, 3):
        controller.create_job(boards, owner="me", keepalive=60.0, machine="a", max_runtime=600.0)
    controller.create_job(3, owner="you", keepalive=60.0, machine="b")
    for switch in controller.take_switches()[:2]:
        controller.switched(Outcome(switch.operation))
    controller.create_job(18, owner="me", keepalive=None)
    controller.create_job(3, owner="you", machine="b", max_runtime=600.0)
    for _ in range(2):
        controller.create_job(3, owner="you", machine="b", max_runtime=600.0)
    controller.hold_jobs([7, 8], reason="night", by="eve")
    controller.power_off_job_boards(1)
    controller.disable_frame("b", (0, 0), reason="fans", by="eve")
    controller.drain("b", reason="moving", by="eve")
    controller.report_problem("spinn-a-2-1-2", "no chip", reporter="here")
    controller.destroy_job(3)
    for switch in controller.take_switches():
        if not switch.on:
            controller.switched(Outcome(switch.operation))
    controller.check()
    return controller


def a_hall_after_an_emergency() -> Controller:
    controller = a_hall()
    controller.emergency_stop(reason="smoke", by="eve")
    return controller


def other_machines() -> Configuration:
    """`a` with a board less, `b` rebuilt, and a new one; other settings too."""
    machines = [a_machine("a", 3, 2, dead_boards={(2, 1, 2)}), a_machine("b", 2, 1), a_machine("c", 1, 1)]
    return Configuration(machines, seconds_before_free=5.0, scheduling=Scheduling(policy="fifo"), max_retired_jobs=0)


COMMANDS: dict[str, Callable[[Controller], object]] = {
    "create a job that starts": lambda core: core.create_job(1, owner="new", keepalivehost="10.0.0.1"),
    "create a job that waits": lambda core: core.create_job(9, owner="me", machine="a"),
    "create a job that is impossible": lambda core: core.create_job(1000, owner="me"),
    "destroy a job that runs": lambda core: core.destroy_job(1, "done"),
    "destroy a job that waits": lambda core: core.destroy_job(6),
    "kill": lambda core: core.kill(2, reason="stuck", by="eve"),
    "kill jobs": lambda core: core.kill_jobs([1, 2, 5], reason="stuck", by="eve"),
    "hold": lambda core: core.hold_jobs([6, 5, 7], reason="stuck", by="eve"),
    "release": lambda core: core.release_jobs([7, 8], by="eve"),
    "extend": lambda core: core.extend_jobs([1, 6, 8], 60.0, by="eve"),
    "set a priority": lambda core: core.set_priority([6, 5, 7], -3, by="eve"),
    "power on": lambda core: core.power_on_job_boards(1, "10.0.0.2"),
    "power off": lambda core: core.power_off_job_boards(2, "10.0.0.2"),
    "disable a board": lambda core: core.disable_board("a", (0, 0, 1), reason="dirty", by="eve"),
    "enable a board": lambda core: core.enable_board("a", (2, 1, 2)),
    "disable a frame": lambda core: core.disable_frame("a", (0, 0), reason="fans", by="eve"),
    "enable a frame": lambda core: core.enable_frame("b", (0, 0)),
    "drain": lambda core: core.drain("a", reason="moving", by="eve"),
    "undrain": lambda core: core.undrain("b"),
    "emergency stop": lambda core: core.emergency_stop(reason="smoke", by="eve"),
    "resume": lambda core: core.resume(),
    "power-cycle": lambda core: core.power_cycle("a", (1, 1, 0)),
    "report a problem": lambda core: core.report_problem("spinn-a-2-1-2", "dead", reporter="there"),
    "configure": lambda core: core.configure(other_machines()),
}
AFTER_AN_EMERGENCY = {"resume"}

OBEYED_WHATEVER_RAISES = {"destroy a job that runs", "destroy a job that waits", "kill", "kill jobs"}
"""What never raises: a job that cannot be ended as it should be is given up."""


def settles(core: Controller) -> None:
    """What could not be done was given up, and no board is lost by it."""
    for _ in range(3):
        for switch in core.take_switches():
            core.switched(Outcome(switch.operation))
        core.state.clock.now += 40.0  # type: ignore[attr-defined]
        for job in core.list_jobs():
            core.job_keepalive(job.job_id)
        core.tick()
    core.check()
    for machine in core.machine_views():
        assert machine.boards.keys() <= {"free", "in use", "out of service", "dead"}, machine


PARTS = 4
"""Every command is tried in so many tests, each of which lets every so-many-th call raise."""


CASES = [
    pytest.param(name, part, id=f"{name}-{part}", marks=[pytest.mark.slow] if part or name == "configure" else [])
    for name in COMMANDS
    for part in range(PARTS)
]


@pytest.mark.parametrize(("name", "part"), CASES)
def test_a_command_that_raises_has_changed_nothing_and_what_does_not_raise_is_done(name: str, part: int) -> None:
    hall = pickle.dumps(a_hall_after_an_emergency() if name in AFTER_AN_EMERGENCY else a_hall())
    before = seen(pickle.loads(hall))
    raised = contained = 0
    for number in count(1 + part, PARTS):
        core, saboteur, boom = pickle.loads(hall), Saboteur(number), None
        try:
            with saboteur.at_work():
                COMMANDS[name](core)
        except Boom as raised_:
            boom = raised_
        if boom is not None:
            raised += 1
            assert seen(core) == before, boom
            core.check()
        elif saboteur.calls < number:
            break
        else:
            contained += 1
            assert core.defects, "it was swallowed"
            assert seen(core) != before, "it has neither raised nor done anything"
            settles(core)
    assert raised or part or name in OBEYED_WHATEVER_RAISES
    assert raised + contained > 1


def test_a_request_that_is_refused_has_changed_nothing() -> None:
    core = a_hall()
    core.state.quotas.limits = Limits(jobs_per_owner=1)
    before = seen(core)
    with pytest.raises(RequestError, match="'me' has 3 jobs"):
        core.create_job(3, owner="me", machine="b")
    for operation in (core.power_cycle, core.enable_board):
        with pytest.raises(RequestError):
            operation("a", (9, 9, 9))
    assert seen(core) == before


def test_a_power_command_that_raises_leaves_the_earlier_one_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Controller(clock=Clock())
    core.configure(Configuration([a_machine("a", 1, 1)]))
    job_id = core.create_job(3, owner="me")
    (switch,) = core.take_switches()
    with monkeypatch.context() as patch:
        patch.setattr(transitions, "changed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            core.power_off_job_boards(job_id)
    assert core.take_switches() == []
    core.switched(Outcome(switch.operation))
    assert core.get_job_state(job_id).state == JobState.ready
