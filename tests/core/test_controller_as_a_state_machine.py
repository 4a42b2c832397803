"""Whatever happens to the core, in whatever order, every invariant holds after every step."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from spalloc_server.config.options import Health
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, Outcome, Switch
from spalloc_server.core.model.replies import JobStatus
from spalloc_server.core.model.rows import Snapshot
from spalloc_server.core.placement.effort import STEP
from spalloc_server.core.scheduling import scheduler as schedule
from spalloc_server.core.views import describe
from spalloc_server.errors import RequestError
from spalloc_server.links import Links
from tests.core.machines import a_machine, renamed

MACHINES = [
    a_machine("a", 2, 1),
    a_machine("a", 2, 1, tags={"default", "x"}, dead_boards={(1, 0, 2)}),
    a_machine("a", 2, 2, dead_links={(0, 0, 0, Links.north), (0, 0, 2, Links.south)}),
    a_machine("b", 3, 2),
    a_machine("b", 3, 2, dead_boards={(0, 0, 0), (2, 1, 1)}),
    a_machine("c", 1, 1, tags={"x"}),
    renamed(a_machine("a", 2, 1), "d"),
    renamed(a_machine("a", 2, 2), "b"),
    renamed(a_machine("b", 3, 2), "a"),
]

configurations = st.builds(
    lambda machines, policy, rest: Configuration(
        machines,
        seconds_before_free=rest,
        max_retired_jobs=5,
        scheduling=msgspec.structs.replace(Configuration().scheduling, policy=policy),
        health=Health(quarantine_after=2, max_placements=3, quarantine_seconds=50, strikes=2),
    ),
    st.lists(
        st.sampled_from(MACHINES),
        unique_by=(lambda machine: machine.name, lambda machine: machine.bmp_ips[0, 0]),
        max_size=3,
    ),
    st.sampled_from(["fifo", "backfill"]),
    st.sampled_from([0, 30]),
)

sizes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 20)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)),
)

options = st.fixed_dictionaries(
    {"keepalive": st.sampled_from([None, 0, 20, 60])},
    optional={
        "min_ratio": st.sampled_from([0.3, 1.0]),
        "max_dead_boards": st.integers(0, 2),
        "max_dead_links": st.integers(0, 1),
        "require_torus": st.booleans(),
        "machine": st.sampled_from(["a", "b", "c"]),
        "max_runtime": st.sampled_from([10, 100]),
    },
)


class ControllerMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.controller = self.new_controller()
        self.waiting: list[Switch] = []
        self.said_of_states: dict[tuple[int, int | str], Any] = {}
        self.said: dict[tuple[int, int], Any] = {}
        """What clients hear of each revision of each job, by the present controller."""
        self.patch = pytest.MonkeyPatch()

    def teardown(self) -> None:
        """Nothing that is due at once is due for ever."""
        for _ in range(1000):
            wake_at = self.controller.wake_at()
            if wake_at is None or wake_at > self.now:
                break
            self.controller.tick()
            self.controller.check()
        else:
            pytest.fail("the core always has more to do")
        self.patch.undo()

    def new_controller(self) -> Controller:
        return Controller(clock=lambda: self.now)

    @initialize(configuration=configurations, step=st.sampled_from([1, 60, STEP]))
    def start(self, configuration: Configuration, step: int) -> None:
        """Passes are cut after a job, after some, or seldom."""
        self.patch.setattr(schedule, "STEP", step)
        self.configuration = configuration
        self.controller.configure(configuration)

    @rule(target=jobs, sizes=sizes, options=options)
    def create(self, sizes: tuple[int, ...], options: dict[str, Any]) -> Any:
        try:
            return self.controller.create_job(*sizes, owner="me", **options)
        except RequestError:
            return multiple()

    @rule(job_id=jobs, host=st.sampled_from([None, "10.0.0.1", "10.0.0.2"]))
    def keep_alive(self, job_id: int, host: str | None) -> None:
        self.controller.job_keepalive(job_id, host)
        before = self.controller.get_job_state(job_id)
        assert before == self.controller.get_job_state(job_id)

    @rule(job_id=jobs, on=st.booleans())
    def ask_power(self, job_id: int, on: bool) -> None:
        had_boards = self.controller.get_job_machine_info(job_id).boards is not None
        (self.controller.power_on_job_boards if on else self.controller.power_off_job_boards)(job_id)
        if had_boards:
            status = self.controller.get_job_state(job_id)
            assert (status.state, status.power) == (JobState.power, on)

    @rule(job_id=consumes(jobs))
    def destroy(self, job_id: int) -> None:
        self.controller.destroy_job(job_id, "enough")
        assert self.controller.get_job_state(job_id).state in {JobState.destroyed, JobState.unknown}

    @rule(which=st.integers(0, 100), fail=st.sets(st.integers(0, 5)))
    def hardware_answers(self, which: int, fail: set[int]) -> None:
        self.waiting += self.controller.take_switches()
        if not self.waiting:
            return
        switch = self.waiting.pop(which % len(self.waiting))
        boards = [(frame.bmp, number) for frame in switch.frames for number in frame.boards]
        failures = [BoardFailure(*boards[index % len(boards)], "broken") for index in fail]
        self.controller.switched(Outcome(switch.operation, tuple(failures)))

    @rule(frame=st.sampled_from(["bmp-a-0", "bmp-b-0"]), silent=st.booleans())
    def frame_changes(self, frame: str, silent: bool) -> None:
        self.controller.frame_changed(frame, "silent" if silent else None)

    @rule(name=st.sampled_from(["a", "b"]), board=st.sampled_from([(0, 0, 0), (1, 0, 1)]), what=st.integers(0, 4))
    def an_operator_changes_boards(self, name: str, board: tuple[int, int, int], what: int) -> None:
        controller = self.controller
        with suppress(RequestError):  # not on this machine, or not now
            if what == 0:
                assert controller.disable_board(name, board, reason="dirty", by="eve").out_of_service == "dirty"
            elif what == 1:
                controller.enable_board(name, board)
            elif what == 2:
                controller.disable_frame(name, (0, 0), reason="fans", by="eve")
            elif what == 3:
                controller.enable_frame(name, (0, 0))
            else:
                controller.power_cycle(name, board)

    @rule(name=st.sampled_from(["a", "b"]), what=st.integers(0, 5))
    def an_operator_closes_and_opens(self, name: str, what: int) -> None:
        controller = self.controller
        with suppress(RequestError):
            if what == 0:
                controller.drain(name, reason="moving", by="eve")
            elif what == 1:
                controller.undrain(name)
            elif what == 2:
                controller.emergency_stop(reason="smoke", by="eve")
            else:
                controller.resume()

    @rule(job_ids=st.lists(jobs, min_size=1, max_size=3), what=st.integers(0, 4), number=st.integers(-2, 20))
    def an_operator_changes_jobs(self, job_ids: list[int], what: int, number: int) -> None:
        controller = self.controller
        with suppress(RequestError):  # they have boards, or have ended
            if what == 0:
                assert controller.hold_jobs(job_ids, reason="night", by="eve") == [*dict.fromkeys(job_ids)]
                assert all(controller.job_view(job_id).held for job_id in job_ids)
            elif what == 1:
                controller.release_jobs(job_ids, by="eve")
            elif what == 2:
                controller.extend_jobs(job_ids, number, by="eve")
            elif what == 3:
                controller.set_priority(job_ids, -number, by="eve")
            elif number > 15:
                controller.kill_jobs(job_ids, reason="night", by="eve")

    @rule(number=st.integers(0, 5), reporter=st.sampled_from(["here", "there"]))
    def a_user_reports(self, number: int, reporter: str) -> None:
        self.controller.report_problem(f"spinn-a-{number // 3}-0-{number % 3}", "dead", reporter=reporter)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.controller.tick()

    @rule(configuration=configurations)
    def reload(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.controller.configure(configuration)

    @rule()
    def restart(self) -> None:
        """What is stored is all that another controller needs."""
        states = self.states()
        places = {job_id: self.controller.get_job_machine_info(job_id) for job_id in states}
        before = self.seen_by_operators()
        stored = msgspec.json.decode(msgspec.json.encode(self.controller.snapshot()), type=Snapshot)
        self.controller, self.waiting, self.said, self.said_of_states = self.new_controller(), [], {}, {}
        self.controller.restore(stored)
        self.controller.check()
        assert self.states() == states
        assert {job_id: self.controller.get_job_machine_info(job_id) for job_id in states} == places
        self.controller.configure(self.configuration)
        assert self.seen_by_operators() == before

    def states(self) -> dict[int, JobStatus]:
        """Of all jobs; a warning says how much time is left, which changes."""
        told = {job.job_id: self.controller.get_job_state(job.job_id) for job in self.controller.list_jobs()}
        return {
            job_id: msgspec.structs.replace(state, reason=state.reason and state.reason.partition(" in ")[0])
            for job_id, state in told.items()
        }

    def seen_by_operators(self) -> Any:
        """What a restart must not change: who closed what, and what is known of boards."""
        frames = [frame.disabled for view in self.controller.machine_views() for frame in view.frames]
        boards = [(row.out_of_service, row.by, row.strikes) for row in self.controller.snapshot().boards]
        drained = [view.drained for view in self.controller.machine_views()]
        return self.controller.stopped, [frame for frame in frames if frame], boards, drained

    @invariant()
    def everything_agrees(self) -> None:
        self.controller.check()

    @invariant()
    def nobody_shares_a_board(self) -> None:
        boards = [
            (job.allocated_machine_name, board) for job in self.controller.list_jobs() for board in job.boards or ()
        ]
        assert len(boards) == len(set(boards))

    @invariant()
    def what_clients_hear_of_a_job_changes_only_with_its_revision(self) -> None:
        for job in self.controller.state.jobs.values():
            said = describe(job)
            assert self.said.setdefault((job.job_id, job.revision), said) == said

    @invariant()
    def a_jobs_state_is_another_only_with_another_revision(self) -> None:
        for job_id in range(self.controller.next_id + 1):
            job = self.controller.state.jobs.get(job_id)
            ended = "ended" if job_id in self.controller.state.retired else "unknown"
            key = job_id, ended if job is None else job.revision
            state = self.controller.get_job_state(job_id)
            assert self.said_of_states.setdefault(key, state) == state


ControllerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestController = pytest.mark.slow(ControllerMachine.TestCase)
