"""A controller for tests, its clock, and hardware that answers when it is told to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.controller import Controller
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import BoardFailure, Outcome, Switch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """A controller, its clock, and hardware that does what it is told when it is told to go on."""

    def __init__(self, *machines: Machine, **settings: Any) -> None:
        self.clock = Clock()
        self.controller = Controller(clock=self.clock)
        self.bad: dict[tuple[str, int], str] = {}
        self.waiting: list[Switch] = []
        self.done: list[Switch] = []
        self.configure(*machines, **settings)

    def configure(self, *machines: Machine, **settings: Any) -> None:
        self.controller.configure(Configuration(list(machines), **settings))
        self.controller.check()

    def create(self, *args: Any, **kwargs: Any) -> int:
        job_id = self.controller.create_job(*args, **{"owner": "me", **kwargs})
        self.controller.check()
        return job_id

    def hardware(self) -> list[Switch]:
        """Let the hardware do all that it was told; what it did."""
        done = []
        while switches := self.waiting + self.asked():
            self.waiting = []
            for switch in switches:
                failures = self._failures(switch) if switch.on else []
                self.controller.switched(Outcome(switch.operation, tuple(failures)))
                self.controller.check()
                done.append(switch)
        return done

    def asked(self) -> list[Switch]:
        """What the hardware is to do, fetched as by a shell: only where something has changed."""
        changed = self.controller.changed
        switches = self.controller.take_switches()
        assert changed or not switches, "a shell would not look"
        return switches

    def _failures(self, switch: Switch) -> Iterable[BoardFailure]:
        for frame in switch.frames:
            for number in frame.boards:
                if (frame.bmp, number) in self.bad:
                    yield BoardFailure(frame.bmp, number, self.bad[frame.bmp, number])

    def frame_changed(self, bmp: str, reason: str | None) -> None:
        """A frame falls silent or answers again, in a shell that lets the core have its turn when that is due."""
        self.controller.frame_changed(bmp, reason)
        while (wake_at := self.controller.wake_at()) is not None and wake_at <= self.clock.now:
            self.controller.tick()
        self.controller.check()

    def after(self, seconds: float) -> None:
        """Let time pass, in a shell that has fetched all that had changed before."""
        self.controller.take_changes()
        self.changed_jobs()
        self.changed_machines()
        self.clock.now += seconds
        self.controller.tick()
        self.controller.check()

    def changed_jobs(self) -> set[int]:
        """Take the jobs that watchers are to be told of, and leave all else."""
        outbox = self.controller.state.outbox
        taken, outbox.changed_jobs = outbox.changed_jobs, set()
        return taken

    def changed_machines(self) -> set[str]:
        """Take the machines that watchers are to be told of, and leave all else."""
        outbox = self.controller.state.outbox
        taken, outbox.changed_machines = outbox.changed_machines, set()
        return taken

    def state(self, job_id: int) -> JobState:
        return JobState(self.controller.get_job_state(job_id).state)

    def boards(self, job_id: int) -> set[tuple[int, int, int]]:
        return set(self.controller.get_job_machine_info(job_id).boards or ())
