"""Events from outside, and what follows from them.

Theory of operation. Shells report what has happened: a configuration (`configure`), hardware that has done its work
(`switched`) or fallen silent (`frame_changed`), and time that has passed (`tick`). Each is turned into transitions of
the jobs and boards that it concerns (`transitions`), and then whatever can start, starts.

A defect of this code is contained: it affects only the job or the boards that it concerns. What a transition raises is
put on record (`defects`), and the job is given up: it is taken out of every part by force, ends with `DEFECT` as its
reason, and its boards are switched off and go back. Boards that are held for no job, because a defect interrupted their
release, are found and switched off again, at most once in `RECLAIM_SECONDS`.

A command is not contained: one that raises has changed nothing (`undo`). What follows from it (`follow`) is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from spalloc_server.config.machine import Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board
from spalloc_server.core import transitions, views
from spalloc_server.core.defects import Contained
from spalloc_server.core.job import Job
from spalloc_server.core.machine_facts import IMPORTED, machine_to_fact
from spalloc_server.core.model import NO_JOB, JobState, Outcome, reasons
from spalloc_server.core.model.forecast import Forecast
from spalloc_server.core.reconfiguration import allocation_there, move_records, places_of, unopposed
from spalloc_server.core.state import State
from spalloc_server.core.undo import Undo

__all__ = ["DEFECT", "NO_MACHINES", "Engine"]

NO_MACHINES = "Cancelled: No suitable machines available."
"""How the reason of a job that no machine can take begins; published clients show it to users."""

DEFECT = f"{reasons.DEFECT}; its log tells more."
"""The reason of a job that was given up."""

RECLAIM_SECONDS = 10.0
"""Least seconds, after a defect, between two searches for boards that are held for no job."""


class Engine:
    """Turns events from outside into transitions.

    Args:
        state: what is changed; nothing else is kept here.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    # ---------------------------------------------------------------- configuration

    def configure(self, configuration: Configuration) -> None:
        """Apply a configuration as one step; what is running on machines that stay is left alone.

        Imported machines stay, behind those of the configuration, unless that has one of their names or addresses.
        """
        self.apply(configuration, unopposed(configuration.machines, self.state.imported))

    def apply(self, configuration: Configuration, imported: dict[str, Machine]) -> None:
        """Apply a configuration, and imported machines besides, as one step."""
        state, now, before = self.state, self.state.clock(), self.state.machines
        machines = {machine.name: machine for machine in configuration.machines} | imported
        kept = {name: old for name, old in before.items() if name in machines and old.same_hardware(machines[name])}
        gone = {name: machine for name, machine in before.items() if name not in kept}
        came = [machine for name, machine in machines.items() if name not in kept]
        # Most reloads concern no job: then the queue, which may be long, is not looked through
        concerned = [
            (job, allocation)
            for job in (state.jobs.values() if gone else ())
            if (allocation := job.allocation) is not None and allocation.machine in gone
        ]
        places = places_of(came)
        with Undo() as undo:
            for machine in before.values():
                undo.call(state.boards.apply, machine)
            undo.attributes(state, state.boards, state.quotas, *state.scheduler.settings())
            undo.contents(state.facts, state.outbox.facts, state.outbox.changed_machines)
            move_records(state, gone.values(), came, undo)
            self._take_over(configuration, machines, imported)
        for name in gone:
            with self.contained("what was under way on a machine that has gone"):
                state.self_tests.break_off(name)
            with self.contained("boards on their way back to a machine that has gone"):
                state.power.machine_gone(name)
        for job, allocation in concerned:
            with self.contained("a job whose machine has gone, or changed", job):
                if (there := allocation_there(gone[allocation.machine], allocation, places)) is None:
                    transitions.end(state, job, "Machine removed.", now, gone)
                else:
                    transitions.move(state, job, there)
        for machine in came:
            with self.contained("the boards of a machine that has come"):
                held = set(state.scheduler.holders(machine.name))
                for release in state.power.machine_came(machine, held):
                    with self.contained("a release of boards of a machine that has come"):
                        transitions.wait_for(state, release, now)
        with self.contained("jobs that have ended and are not remembered any longer"):
            transitions.forget_retired(state)
        self.follow(now, go_on=True)

    def _take_over(
        self, configuration: Configuration, machines: dict[str, Machine], imported: dict[str, Machine]
    ) -> None:
        """Change settings and machines; jobs are left as they are."""
        state, before = self.state, self.state.machines
        facts: dict[str, Any] = {f"machine/{name}": None for name in before if name not in machines}
        changed = [machine for name, machine in machines.items() if before.get(name) != machine]
        facts |= {f"machine/{machine.name}": machine_to_fact(machine) for machine in changed}
        facts |= {f"{IMPORTED}{name}": None for name in state.imported if name not in imported}
        facts |= {
            f"{IMPORTED}{name}": machine_to_fact(machine)
            for name, machine in imported.items()
            if name not in state.imported
        }
        for name, fact in (*facts.items(), ("machines", list(machines))):
            transitions.set_fact(state, name, fact)
        state.outbox.changed_machines.update(machine.name for machine in changed)
        state.outbox.changed_machines.update(before.keys() - machines.keys())
        state.configuration, state.machines, state.imported = configuration, machines, imported
        state.boards.health = configuration.health
        state.quotas.limits = configuration.limits
        state.scheduler.set_policy(configuration.scheduling, configuration.seconds_before_free)
        state.scheduler.set_machines(machines)
        state.boards.set_machines(machines.values())
        for machine in machines.values():
            state.boards.apply(machine)

    # ---------------------------------------------------------------- events from outside

    def switched(self, outcome: Outcome) -> None:
        """A power operation is over."""
        state, now = self.state, self.state.clock()
        failures = {(failure.bmp, failure.board): failure for failure in outcome.failures}
        job = None
        with self.contained("the outcome of a power operation"):
            job = state.jobs.get(state.power.job_of(outcome.operation) or NO_JOB)
        with self.contained("the outcome of a power operation", job):
            if job is not None:
                transitions.job_switched(state, job, failures, now)
            elif machine := state.self_tests.ended(outcome.operation, failures, now):
                state.outbox.changed_machines.add(machine.name)
            else:
                transitions.boards_released(state, outcome.operation, failures, now)
        self.follow(now)

    def frame_changed(self, bmp: str, reason: str | None) -> None:
        """A frame's BMP has fallen silent, for this reason, or answers again (None); jobs follow at the next `tick`."""
        with self.contained("a frame that fell silent, or answers again"):
            self.state.outbox.changed_machines.update(self.state.boards.frame_changed(bmp, reason))

    def tick(self, expire_before: float | None = None) -> None:
        """Time has passed: end rests and expired leases, and start what can start.

        A call is one step: where more than that is to be done, `wake_at` says that the next call is due at once.

        Args:
            expire_before: leases that ran out before this time have expired; by default, now. A shell passes the
                time at which it knows to have read every command that clients had sent.
        """
        state, now = self.state, self.state.clock()
        with self.contained("the search for leases that have run out"):
            for job in state.leases.passed(now if expire_before is None else expire_before):
                self.finish(job, "Job timed out.", now)
        with self.contained("the search for run times that are over"):
            for job in state.run_times.passed(now):
                with self.contained("the end of a run time", job):
                    transitions.run_time_passed(state, job, now)
        with self.contained("the end of rests"):
            state.power.end_rests(now)
        if state.reclaim_at is not None and now >= state.reclaim_at:
            self._reclaim(now)
        self.follow(now, go_on=True)
        with self.contained("the prediction of starts"):
            self._predict(now)

    def predict_starts(self, in_words: Callable[[Forecast], str]) -> None:
        """From now on predict when jobs that wait will start, and tell their users.

        It takes up to a tenth of the time while anything changes in the queue, in steps of a few milliseconds.

        Args:
            in_words: what users are told of a prediction.
        """
        self.state.in_words = in_words
        self.state.scheduler.predict_starts(partial(views.why_closed, self.state))

    def predict_at_once(self) -> None:
        """Predict when jobs that wait would start, whatever time it takes: of a core that stands still."""
        scheduler = self.state.scheduler
        scheduler.predict_starts(partial(views.why_closed, self.state))
        scheduler.forecast_at_once(self.state.clock())

    def _predict(self, now: float) -> None:
        """Go on with predicting, for a step, where it is time and nothing else is left to do."""
        state, due = self.state, self.state.scheduler.forecast_at()
        if state.in_words is None or due is None or due > now or state.scheduler.pending:
            return
        for job_id in state.scheduler.forecast(now):
            job, forecast = state.jobs.get(job_id), state.scheduler.predicted(job_id)
            if job is not None and forecast is not None:
                job.waits = state.in_words(forecast)
                job.revision += 1

    def wake_at(self) -> float | None:
        """Return when `tick` should be called even if nothing else happens (leases apart); None for no such time."""
        state = self.state
        if state.leases.behind:
            return state.clock()
        queue = state.scheduler.wake_at(), state.scheduler.forecast_at()
        times = (*queue, state.run_times.first(), state.self_tests.first, state.reclaim_at)
        return min((time for time in times if time is not None), default=None)

    # ---------------------------------------------------------------- what follows

    def follow(self, now: float, *, go_on: bool = False) -> None:
        """Start what can start, and end what has become impossible, a step of it; `tick` goes on with what is left.

        What raises here undoes nothing that was done before.
        """
        state = self.state
        with self.contained("the search for jobs that have become impossible"):
            for job_id, reason in state.scheduler.impossible(go_on=go_on):
                self.finish(state.jobs[job_id], f"{NO_MACHINES} {reason}", now)
        with self.contained("the scheduler's pass"):
            for job_id, allocation in state.scheduler.run(now, go_on=go_on):
                with self.contained("the start of a job", state.jobs.get(job_id)):
                    transitions.start(state, state.jobs[job_id], allocation, now)
        with self.contained("what the scheduler's pass could not do"):
            for doing, error, culprit in state.scheduler.take_failures():
                with self.contained(doing, state.jobs.get(culprit)):
                    raise error
        with self.contained("self-tests of boards"):
            state.outbox.changed_machines.update(state.self_tests.begin_due(state.machines, now))

    def finish(self, job: Job, reason: str | None, now: float) -> None:
        """End a job; where that raises, give it up."""
        with self.contained("the end of a job", job):
            transitions.end(self.state, job, reason, now)

    # ---------------------------------------------------------------- defects

    def contained(self, doing: str, job: Job | None = None) -> Contained[Job | None]:
        """Put on record what is raised within, give up the job that it concerned, and go on after the block."""
        return Contained(self._raised, doing, job)

    def _raised(self, doing: str, error: Exception, job: Job | None) -> None:
        state = self.state
        state.defects.note(doing, error, NO_JOB if job is None else job.job_id)
        if job is None:
            state.reclaim_at = max(state.clock(), state.reclaimed_at + RECLAIM_SECONDS)
        else:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        """End a job after a defect: remove it from every part, and take its boards back."""
        state, now, job_id = self.state, self.state.clock(), job.job_id
        for part in (state.scheduler.forget, state.power.forget_job):
            with state.defects.contained("giving up a job", job_id):
                part(job_id)
        state.jobs.pop(job_id, None)
        state.quotas.recount(state.jobs.values())
        if job.ended_at is None:
            job.reason, job.ended_at = DEFECT, now
        job.state, job.power, job.operation, job.held = JobState.destroyed, None, None, None
        state.outbox.jobs[job_id] = job
        state.outbox.changed_jobs.add(job_id)
        with state.defects.contained("giving up a job", job_id):
            state.retired[job_id] = job.row()
            transitions.forget_retired(state)
        with state.defects.contained("giving up a job", job_id):
            transitions.changed(state, job, "destroyed", now)
        self._reclaim(now, job_id)

    def _reclaim(self, now: float, job_id: int | None = None) -> None:
        """Switch off boards that are held for no live job, and so give them back: all, or those of one job."""
        state = self.state
        state.reclaim_at = state.reclaim_at if job_id is not None else None
        state.reclaimed_at = state.reclaimed_at if job_id is not None else now
        for machine in state.machines.values():
            for holder in {each for each in state.scheduler.holders(machine.name).values() if job_id in (None, each)}:
                with state.defects.contained("switching off boards that are held for nobody", holder):
                    state.power.release(holder, machine, self._held_for_nobody(machine, holder))
                with self.contained("switching off boards that are held for nobody"):
                    if boards := self._held_for_nobody(machine, holder):  # it cannot be done in the job's name
                        state.scheduler.hold_again(machine.name, boards, NO_JOB)
                        state.power.release(NO_JOB, machine, boards)
                state.outbox.changed_machines.add(machine.name)

    def _held_for_nobody(self, machine: Machine, holder: int) -> list[Board]:
        """Return boards that are held for a job that does not have them, and that are not being released either."""
        state = self.state
        held = {board for name, board, _ in (*state.power.held(), *state.self_tests.held()) if name == machine.name}
        for job in state.jobs.values():
            if job.allocation is not None and job.allocation.machine == machine.name:
                held.update(job.allocation.boards)
        return sorted(
            b for b, each in state.scheduler.holders(machine.name).items() if each == holder and b not in held
        )
