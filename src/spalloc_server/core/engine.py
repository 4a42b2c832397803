"""What happens to jobs, boards and machines: the machinery below the controller's commands.

Theory of operation. The world tells what has happened: a configuration (`configure`), hardware that has done its work
(`switched`) or fallen silent (`frame_changed`), and time that has passed (`tick`). Each is turned into transitions of
the jobs and boards that it concerns (`transitions`), and then whatever can start, starts.

A defect of this very code is contained to the job or the boards that it concerns, and never keeps others waiting. What
a transition raises is put on record (`defects`), and the job is given up: it is taken out of every part by force, ends
with `DEFECT` as its reason, and its boards are switched off and go back. Boards that are held for nobody, whatever
broke off on their way back, are found and switched off anew, at most once in `RECLAIM_SECONDS`.

`check` asserts every invariant.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board
from spalloc_server.core.defects import Contained
from spalloc_server.core.job import Job
from spalloc_server.core.machine_facts import machine_to_fact
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import NO_JOB, Outcome
from spalloc_server.core.transitions import Transitions

__all__ = ["DEFECT", "NO_MACHINES", "Engine"]

NO_MACHINES = "Cancelled: No suitable machines available."
"""How the reason of a job that no machine can take begins; published clients show it to users."""

DEFECT = "Cancelled: internal error of the server; its log tells more."
"""The reason of a job that was given up."""

RECLAIM_SECONDS = 10.0
"""After a defect: between looks for boards that are held for no job."""


class Engine(Transitions):
    """Jobs, machines, queue and leases, and what the world tells of them; constructed as `Transitions`."""

    # ---------------------------------------------------------------- configuration

    @property
    def machines(self) -> Mapping[str, Machine]:
        """Machines by name, highest priority first. Assign to it to change the machines as a reload does."""
        return MappingProxyType(self._machines)

    @machines.setter
    def machines(self, machines: Mapping[str, Machine]) -> None:
        now = self._clock()
        gone = [
            name
            for name, old in self._machines.items()
            if name not in machines or not old.same_hardware(machines[name])
        ]
        # Most reloads end no job: then the queue, which may be long, is not looked through
        for job in (
            [job for job in self._jobs.values() if job.allocation and job.allocation.machine in gone] if gone else ()
        ):
            self._finish(job, "Machine removed.", now)
        for name in gone:
            self._trials.break_off(name)
            self._power.machine_gone(name)
            self._set_fact(f"machine/{name}", None)
        kept = {name: machine for name, machine in self._machines.items() if name not in gone}
        if gone:
            self._scheduler.set_machines(kept)
        self._changed_machines.update(gone, (name for name in machines if kept.get(name) != machines[name]))
        for name, machine in machines.items():
            if kept.get(name) != machine:
                self._set_fact(f"machine/{name}", machine_to_fact(machine))
        self._set_fact("machines", list(machines))
        self._machines = dict(machines)
        self._scheduler.set_machines(self._machines)
        self._boards.set_machines(self._machines.values())
        for name, machine in machines.items():
            with self._contained("the boards of a machine that has come"):
                for release in () if name in kept else self._power.machine_came(machine):
                    self._wait_for(release, now)
                self._boards.apply(machine)
        self._schedule(now, go_on=True)

    def configure(self, configuration: Configuration) -> None:
        """Apply a configuration as one step; what is running on machines that stay is left alone."""
        self._configuration = configuration
        self._boards.health = configuration.health
        self._quotas.limits = configuration.limits
        self._scheduler.set_policy(configuration.scheduling, configuration.seconds_before_free)
        self.machines = {machine.name: machine for machine in configuration.machines}
        self._forget_retired()

    # ---------------------------------------------------------------- what the world tells

    def switched(self, outcome: Outcome) -> None:
        """A power operation is over."""
        now = self._clock()
        failures = {(failure.bmp, failure.board): failure for failure in outcome.failures}
        job = None
        with self._contained("the outcome of a power operation"):
            job = self._jobs.get(self._power.job_of(outcome.operation) or NO_JOB)
        with self._contained("the outcome of a power operation", job):
            if job is not None:
                self._job_switched(job, failures, now)
            elif machine := self._trials.ended(outcome.operation, failures, now):
                self._changed_machines.add(machine.name)
            else:
                self._boards_released(outcome.operation, failures, now)
        self._schedule(now)

    def frame_changed(self, bmp: str, reason: str | None) -> None:
        """A frame's BMP has fallen silent, for this reason, or answers again (None); jobs follow at the next `tick`."""
        with self._contained("a frame that fell silent, or answers again"):
            self._changed_machines.update(self._boards.frame_changed(bmp, reason))

    def tick(self, expire_before: float | None = None) -> None:
        """Time has passed: end rests and expired leases, and start what can start.

        A call is one step: where more than that is to be done, `wake_at` says that the next call is due at once.

        Args:
            expire_before: leases that ran out before this time have expired; by default, now. A shell passes the
                time at which it knows to have read every command that clients had sent.
        """
        now = self._clock()
        with self._contained("the search for leases that have run out"):
            for job in self._leases.passed(now if expire_before is None else expire_before):
                self._finish(job, "Job timed out.", now)
        with self._contained("the search for run times that are over"):
            for job in self._runtimes.passed(now):
                with self._contained("the end of a run time", job):
                    self._runtime_passed(job, now)
        with self._contained("the end of rests"):
            self._power.end_rests(now)
        if self._reclaim_at is not None and now >= self._reclaim_at:
            self._reclaim(now)
        self._schedule(now, go_on=True)

    def wake_at(self) -> float | None:
        """When `tick` should be called even if nothing else happens (leases apart); None for no such time."""
        if self._leases.behind:
            return self._clock()
        times = (self._scheduler.wake_at(), self._runtimes.first(), self._trials.first(), self._reclaim_at)
        return min((time for time in times if time is not None), default=None)

    def _schedule(self, now: float, *, go_on: bool = False) -> None:
        """Start what can start, and end what has become impossible, a step of it; `tick` goes on with what is left."""
        with self._contained("the search for jobs that have become impossible"):
            for job_id, reason in self._scheduler.impossible(go_on=go_on):
                self._finish(self._jobs[job_id], f"{NO_MACHINES} {reason}", now)
        with self._contained("the scheduler's pass"):
            for job_id, allocation in self._scheduler.run(now, go_on=go_on):
                with self._contained("the start of a job", self._jobs.get(job_id)):
                    self._start(self._jobs[job_id], allocation, now)
        with self._contained("what the scheduler's pass could not do"):
            for doing, error, culprit in self._scheduler.take_failures():
                with self._contained(doing, self._jobs.get(culprit)):
                    raise error
        with self._contained("trials of boards"):
            self._changed_machines.update(self._trials.begin_due(self._machines, now))

    def _finish(self, job: Job, reason: str | None, now: float) -> None:
        """End a job, whatever becomes of that."""
        with self._contained("the end of a job", job):
            self._end(job, reason, now)

    def _switch_off_idle(self, machine: Machine) -> None:
        """Switch off what nobody has of a machine, and give it to nobody before that is done."""
        idle = [board for board in machine.board_locations if self._scheduler.holder(machine.name, board) is None]
        if idle:
            self._scheduler.hold(machine.name, idle, NO_JOB)
            self._power.release(NO_JOB, machine, idle)

    # ---------------------------------------------------------------- defects

    def _contained(self, doing: str, job: Job | None = None) -> Contained[Job | None]:
        """Put on record what is raised within, give up the job that it concerned, and go on behind."""
        return Contained(self._raised, doing, job)

    def _raised(self, doing: str, error: Exception, job: Job | None) -> None:
        self.defects.note(doing, error, NO_JOB if job is None else job.job_id)
        if job is None:
            self._reclaim_at = max(self._clock(), self._reclaimed_at + RECLAIM_SECONDS)
        else:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        """End a job of which something has raised: take out what is left of it in any part, and its boards back."""
        now, job_id = self._clock(), job.job_id
        for part in (self._scheduler.forget, self._power.forget_job):
            with self.defects.contained("giving up a job", job_id):
                part(job_id)
        self._jobs.pop(job_id, None)
        self._quotas.recount(self._jobs.values())
        if job.ended_at is None:
            job.reason, job.ended_at = DEFECT, now
        job.state, job.power, job.operation = JobState.destroyed, None, None
        self._stale[job_id] = job
        self._changed_jobs.add(job_id)
        with self.defects.contained("giving up a job", job_id):
            self._retired[job_id] = job.row()
            self._forget_retired()
        with self.defects.contained("giving up a job", job_id):
            self._changed(job, "destroyed", now)
        self._reclaim(now, job_id)

    def _reclaim(self, now: float, job_id: int | None = None) -> None:
        """Switch off, and thereby give back, the boards that are held for nobody: all, or those of one job."""
        self._reclaim_at = self._reclaim_at if job_id is not None else None
        self._reclaimed_at = self._reclaimed_at if job_id is not None else now
        for machine in self._machines.values():
            for holder in {each for each in self._scheduler.holders(machine.name).values() if job_id in (None, each)}:
                with self.defects.contained("switching off boards that are held for nobody", holder):
                    self._power.release(holder, machine, self._held_for_nobody(machine, holder))
                with self._contained("switching off boards that are held for nobody"):
                    if boards := self._held_for_nobody(machine, holder):  # it cannot be done in the job's name
                        self._scheduler.hold_again(machine.name, boards, NO_JOB)
                        self._power.release(NO_JOB, machine, boards)
                self._changed_machines.add(machine.name)

    def _held_for_nobody(self, machine: Machine, holder: int) -> list[Board]:
        """Boards that are held for a job that does not have them, and that are not on their way back either."""
        held = {board for name, board, _ in (*self._power.held(), *self._trials.held()) if name == machine.name}
        for job in self._jobs.values():
            if job.allocation is not None and job.allocation.machine == machine.name:
                held.update(job.allocation.boards)
        return sorted(
            b for b, each in self._scheduler.holders(machine.name).items() if each == holder and b not in held
        )

    # ---------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert every invariant; for tests, after every step."""
        self._scheduler.check()
        self._quotas.check(list(self._jobs.values()))
        self._leases.check()
        self._runtimes.check()
        operations = self._power.operations()
        assert operations == {job.operation: job.job_id for job in self._jobs.values() if job.operation is not None}
        self._boards.check(self._machines.values())
        held = {(machine, board): job_id for machine, board, job_id in (*self._power.held(), *self._trials.held())}
        for job in self._jobs.values():
            assert job.state in {JobState.queued, JobState.power, JobState.ready}
            assert (job.state == JobState.queued) == (job.allocation is None), f"job {job.job_id} is queued with boards"
            assert (job.state == JobState.power) == (job.operation is not None), f"job {job.job_id} waits for nothing"
            for board in job.allocation.boards if job.allocation else ():
                assert held.setdefault((job.allocation.machine, board), job.job_id) == job.job_id  # type: ignore[union-attr]
        for machine in self._machines.values():
            for board in machine.live_boards:
                assert self._scheduler.holder(machine.name, board) == held.get((machine.name, board)), (
                    f"{board} is torn"
                )
        assert len(self._retired) <= self._configuration.max_retired_jobs
        assert self._retired.keys().isdisjoint(self._jobs)
