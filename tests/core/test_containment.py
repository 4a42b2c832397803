"""Whatever raises in the core, and for whichever job: the others live on, and no board is lost for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from spalloc_server.config.options import Health, Scheduling
from spalloc_server.config.settings import Configuration
from spalloc_server.core import engine, transitions
from spalloc_server.core.boards import power
from spalloc_server.core.boards.power import Power
from spalloc_server.core.boards.records import BoardRecords
from spalloc_server.core.boards.self_tests import SelfTests
from spalloc_server.core.deadlines import Deadlines
from spalloc_server.core.job import Job
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, Outcome, Switch
from spalloc_server.core.placement import layout, occupancy, search as placement
from spalloc_server.core.placement.occupancy import Occupancy
from spalloc_server.core.quotas import Quotas
from spalloc_server.core.scheduling import backfill as policy_backfill, queue, scheduler as schedule, waiting
from spalloc_server.core.scheduling.backfill import Backfill
from spalloc_server.core.scheduling.fifo import FirstComeFirstServed
from spalloc_server.core.scheduling.prediction import Past
from spalloc_server.core.scheduling.queue import Queue
from spalloc_server.core.scheduling.scheduler import Scheduler
from tests.core.house import House
from tests.core.machines import a_machine

SEAMS: list[tuple[Any, str]] = [
    (owner, name)
    for owner in (
        *(Scheduler, Queue, Backfill, FirstComeFirstServed, Occupancy, Power, BoardRecords, SelfTests),
        *(Deadlines, Quotas, Past, Job),
    )
    for name, function in vars(owner).items()
    if callable(function) and name not in {"__init__", "__post_init__", "check"}
    if not name.startswith("__")
] + [
    *(
        (transitions, name)
        for name, function in vars(transitions).items()
        if getattr(function, "__module__", "") == transitions.__name__
    ),
    *((policy_backfill, name) for name in ("soonest", "releases", "all_free")),
    *((occupancy, name) for name in ("place",)),
    (placement, "_part"),
    *((power, name) for name in ("frame_work", "stopped_links")),
    (layout, "board_down_link"),
    (waiting.Running, "predicted_end"),
    (queue, "kind_of"),
]
"""Every method of the parts of the core, and the functions that they call at their seams."""


POLICIES: list[Literal["backfill", "fifo"]] = ["backfill", "fifo"]


class Boom(Exception):
    """What no code raises on purpose."""


@dataclass
class Saboteur:
    """Has one function raise, for one owner's jobs and while it is armed."""

    owner: Any
    name: str
    always: bool
    """Raise at every call while armed, whomever it is for; else only for calls that have to do with the victim."""
    armed: bool = False
    raised: int = 0
    victims: set[int] = field(default_factory=set)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        original = vars(self.owner)[self.name]

        def sabotaged(*args: Any, **kwargs: Any) -> Any:
            if self.armed and (self.always or any(map(self._concerns, (*args, *kwargs.values())))):
                self.raised += 1
                raise Boom(self.name)
            return original(*args, **kwargs)

        if isinstance(original, property):
            yield
            return
        setattr(self.owner, self.name, sabotaged)
        try:
            yield
        finally:
            setattr(self.owner, self.name, original)

    def _concerns(self, value: Any) -> bool:
        if type(value) is int:
            return value in self.victims
        request = getattr(value, "request", value)
        return getattr(value, "job_id", None) in self.victims or getattr(request, "owner", None) == "victim"


class Story:
    """All that happens to jobs, to those of the victim and to those of others."""

    def __init__(self, saboteur: Saboteur, policy: Literal["backfill", "fifo"]) -> None:
        self.house = House()
        self.house.controller.configure(
            Configuration(
                [a_machine("a", 3, 2)],
                scheduling=Scheduling(policy=policy),
                health=Health(quarantine_seconds=20.0),
            )
        )
        self._saboteur = saboteur
        self.others = [self._create(1, "other"), self._create(3, "other")]
        self.hardware()
        assert self.others_are_ready()

    def _create(self, *args: Any, **kwargs: Any) -> int:
        owner = args[-1]
        number = self.house.controller.next_id
        if owner == "victim":
            self._saboteur.victims.add(number)
        return self.house.controller.create_job(*args[:-1], owner=owner, **{"keepalive": None, **kwargs})

    def hardware(self, *, fail: str = "") -> None:
        """Let the hardware do what it was told, as a shell does; a board of the victim's fails where it is to."""
        for _ in range(20):
            self.house.controller.take_changes()
            switches = self.house.controller.take_switches()
            for switch in switches:
                self.house.controller.switched(Outcome(switch.operation, self._failures(switch, fail)))

    def _failures(self, switch: Switch, fail: str) -> tuple[BoardFailure, ...]:
        frame = switch.frames[0]
        bad = switch.on and fail and switch.job_id in self._saboteur.victims
        return (BoardFailure(frame.bmp, frame.boards[0], fail),) if bad else ()

    def time(self, seconds: float) -> None:
        self.house.clock.now += seconds
        self.house.controller.tick()
        self.hardware()

    def tell(self) -> None:
        """Let everything happen once to jobs of the victim; what it is told by an exception is its own affair."""
        core = self.house.controller
        mine: list[int] = []
        for kwargs in ({}, {"keepalive": 5}, {"max_runtime": 30}, {"keepalive": 1}):
            with suppress(Boom):
                mine.append(self._create(2, "victim", **kwargs))
        self.hardware()
        for command in (core.power_off_job_boards, core.power_on_job_boards, core.get_job_state):
            for job_id in mine:
                with suppress(Boom):
                    command(job_id)
        self.hardware()
        self.time(3.0)
        with suppress(Boom):
            mine.append(self._create(3, 2, "victim"))  # which waits
        with suppress(Boom):
            mine.append(self._create(1, "victim"))
        self.hardware(fail="broken")
        core.frame_changed("bmp-a-0", "silent")
        core.frame_changed("bmp-a-0", None)
        self.time(25.0)
        self.time(25.0)
        for job_id in mine:
            with suppress(Boom):
                core.destroy_job(job_id)
        self.hardware()
        self.time(40.0)

    def others_are_ready(self) -> bool:
        return all(self.house.state(job_id) == JobState.ready for job_id in self.others)

    def settles(self) -> None:
        """Once nothing raises any more, all is as it should be: nothing is lost."""
        core = self.house.controller
        for _ in range(4):
            self.time(engine.RECLAIM_SECONDS + 31.0)
        for job in core.list_jobs():
            if job.owner == "victim":
                core.destroy_job(job.job_id)
        for _ in range(3):
            self.time(engine.RECLAIM_SECONDS + 31.0)
        core.check()
        states = core.machine_views()[0].boards
        assert states.get("in use") == 4
        assert states.get("switching off", 0) == states.get("resting", 0) == states.get("on trial", 0) == 0, states
        for view in core.board_views("a"):
            if view.out_of_service:
                core.enable_board("a", (view.x, view.y, view.z))
        self.hardware()
        assert core.machine_views()[0].boards["free"] == 14
        more = self._create(6, "other")
        self.hardware()
        assert self.house.state(more) == JobState.ready


def named(seam: tuple[Any, str]) -> str:
    return f"{seam[0].__name__.rpartition('.')[2]}.{seam[1]}"


@pytest.mark.parametrize("seam", SEAMS, ids=named)
def test_what_raises_for_one_job_costs_nobody_else(seam: tuple[Any, str]) -> None:
    saboteur = Saboteur(*seam, always=False)
    with saboteur.at_work():
        for policy in POLICIES:
            story = Story(saboteur, policy)
            saboteur.armed = True
            story.tell()
            assert story.others_are_ready()
            saboteur.armed = False
            story.settles()
            saboteur.victims.clear()


ENTRIES: list[Callable[[Story], None]] = [
    lambda story: story.house.controller.tick(),
    lambda story: story.house.controller.switched(Outcome(10_000)),
    lambda story: story.house.controller.frame_changed("bmp-a-0", "silent"),
    lambda story: story.house.controller.frame_changed("bmp-a-0", None),
]
"""What the world tells without being asked."""


@pytest.mark.parametrize("seam", SEAMS, ids=named)
def test_nothing_that_the_world_tells_raises_whatever_is_broken(seam: tuple[Any, str]) -> None:
    saboteur = Saboteur(*seam, always=True)
    with saboteur.at_work():
        story = Story(saboteur, "backfill")
        waiting = story._create(3, 2, "victim")
        story._create(2, "victim", keepalive=1)
        saboteur.armed = True
        for seconds in (0.0, 1.0, 40.0):
            story.house.clock.now += seconds
            for entry in ENTRIES:
                entry(story)
        assert not saboteur.raised or story.house.controller.defects
        saboteur.armed = False
        assert waiting not in story.others
        for other in story.others:
            assert story.house.state(other) in {JobState.ready, JobState.destroyed}


def test_a_job_whose_placement_raises_is_cancelled_and_those_behind_it_start() -> None:
    saboteur = Saboteur(Backfill, "_find", always=False)
    with saboteur.at_work():
        story = Story(saboteur, "backfill")
        saboteur.armed = True
        bad, good = story._create(2, "victim"), story._create(2, "other")
        story.hardware()
        status = story.house.controller.get_job_state(bad)
        assert (status.state, status.reason) == (JobState.destroyed, engine.DEFECT)
        assert story.house.state(good) == JobState.ready
        (defect,) = story.house.controller.defects.take()
        assert (defect.job_id, defect.doing) == (bad, "the search for boards")
        assert isinstance(defect.error, Boom)


def test_the_end_of_a_job_that_was_given_up_is_told_to_the_log_of_jobs_and_to_those_who_watch_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(a_machine("a", 2, 2))
    core = house.controller
    job_id = house.create(3, keepalive=None)
    house.hardware()
    core.take()
    monkeypatch.setattr(transitions, "end", _raise)
    core.destroy_job(job_id)
    effects = core.take()
    assert [(event.job_id, event.event, event.reason) for event in effects.events] == [
        (job_id, "destroyed", engine.DEFECT)
    ]
    assert effects.jobs == {job_id}
    assert effects.machines == {"a"}, "its boards are switched off"


def test_more_jobs_than_one_pass_gives_up_are_given_up_in_the_next_ones() -> None:
    house = House(a_machine("a", 1, 1))
    core = house.controller
    filler = core.create_job(1, 1, owner="me", keepalive=None)
    bad = [core.create_job(1, owner="victim", keepalive=None) for _ in range(3 * schedule.MAX_FAILURES)]
    good = core.create_job(1, owner="me", keepalive=None)
    saboteur = Saboteur(Backfill, "_find", always=False)
    with saboteur.at_work():
        saboteur.armed = True
        core.destroy_job(filler)
        house.hardware()
        while core.wake_at() is not None and core.get_job_state(good).state == JobState.queued:
            house.after(31.0)
            house.hardware()
    assert {core.get_job_state(job_id).reason for job_id in bad} == {engine.DEFECT}
    assert house.state(good) == JobState.ready
    core.check()


def test_a_refused_request_leaves_nothing_behind_whatever_part_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(a_machine("a", 1, 1))
    core = house.controller
    core.take_changes()
    for part, name in (
        *((Scheduler, "refusal"), (Scheduler, "submit"), (Queue, "join"), (Queue, "_enqueue")),
        *((Quotas, "add"), (Deadlines, "add"), (transitions, "job_event"), (Past, "predict")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, _raise)
            with pytest.raises(Boom):
                core.create_job(1, owner="me")
        core.check()
        assert core.list_jobs() == []
        assert not core.take_changes().jobs
        assert core.next_id == 1


def _raise(*_: Any, **__: Any) -> None:
    raise Boom


def test_boards_whose_release_cannot_be_made_in_the_jobs_name_are_switched_off_all_the_same() -> None:
    saboteur = Saboteur(Power, "release", always=False)
    with saboteur.at_work():
        story = Story(saboteur, "backfill")
        job_id = story._create(3, "victim")
        story.hardware()
        saboteur.armed = True
        story.house.controller.destroy_job(job_id)
        (switch,) = story.house.controller.take_switches()
        assert (switch.on, switch.job_id, len(switch.frames[0].boards)) == (False, 0, 3)
        story.house.controller.check()


def test_boards_that_are_held_for_nobody_are_looked_for_soon_after_a_defect_but_not_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(a_machine("a", 2, 2), seconds_before_free=0)
    core = house.controller
    monkeypatch.setattr(BoardRecords, "frame_changed", _raise)

    def wakes(seconds: float) -> float | None:
        house.clock.now += seconds
        core.frame_changed("bmp-a-0", "silent")
        return core.wake_at()

    core.state.scheduler.hold("a", [(0, 0, 0)], 77)
    assert wakes(0) == 1000.0
    core.tick()
    ((release,),) = ([switch for switch in core.take_switches() if not switch.on],)
    assert (release.job_id, release.frames[0].boards) == (77, (0,))
    assert core.wake_at() is None
    assert wakes(3) == 1010.0
    core.tick()
    assert core.wake_at() == 1010.0, "it is not time yet"
    house.clock.now = 1010.0
    core.tick()
    assert core.wake_at() is None
    assert wakes(0.5) == 1020.0
    house.clock.now = 1030.0
    core.tick()
    assert wakes(20) == 1050.0, "the last look was long ago"


def test_giving_a_job_up_neither_puts_off_nor_replaces_the_look_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(a_machine("a", 2, 2), seconds_before_free=0)
    core = house.controller
    job_id = house.create(3, keepalive=None)
    house.hardware()
    monkeypatch.setattr(BoardRecords, "frame_changed", _raise)
    core.frame_changed("bmp-a-0", "silent")
    assert core.wake_at() == 1000.0
    monkeypatch.setattr(transitions, "end", _raise)
    core.destroy_job(job_id)
    assert core.wake_at() == 1000.0, "as before"
    (switch,) = core.take_switches()
    assert (switch.on, switch.job_id, len(switch.frames[0].boards)) == (False, job_id, 3), "in the job's own name"
    core.tick()
    core.frame_changed("bmp-a-0", "silent")
    assert core.wake_at() == 1010.0


def test_an_exception_that_nobody_fetches_is_not_kept_for_ever_nor_pickled() -> None:
    import pickle

    from spalloc_server.core.defects import MAX_DEFECTS, Defects

    defects = Defects()
    for number in range(MAX_DEFECTS + 1):
        defects.note("counting", Boom(number))
    assert not pickle.loads(pickle.dumps(defects))
    assert [defect.error.args for defect in defects.take()] == [(number,) for number in range(1, MAX_DEFECTS + 1)]
    assert not defects
