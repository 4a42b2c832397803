"""Stop, and go on in another process: the core's state as rows, and back.

Theory of operation. A snapshot is what a journal has stored of `take_changes`, or what `snapshot` gives. `restore`
brings back the machines as they were; the present configuration is applied afterwards, exactly as at a reload. Leases
start afresh, since clients could not renew them meanwhile. Power operations that were under way are started again.

A row that makes no sense (`row_checks`), or that contradicts others, costs only what it is about: it is set aside
(`set_aside`), and the rest goes on. A job whose row is set aside ends. Its boards, or those of a release, are switched
off before they are given to anybody; where the row does not tell which they are, so is everything that nobody has. No
board is ever given twice because of a bad row: the boards of jobs that live are claimed first, and who comes later for
one of them loses it. A machine whose fact cannot be read is taken from the configuration, so that its jobs live on.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from copy import copy
from typing import Any, TypeAlias

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board
from spalloc_server.core.boards.records import address
from spalloc_server.core.engine import Engine
from spalloc_server.core.job import Job
from spalloc_server.core.machine_facts import machine_from_fact, machine_to_fact
from spalloc_server.core.model.job_state import JobState
from spalloc_server.core.model.power import NO_JOB
from spalloc_server.core.model.request import Request
from spalloc_server.core.model.rows import BoardRow, JobRow, ReleaseRow, Snapshot, UnreadableRow
from spalloc_server.core.model.views import SetAsideView
from spalloc_server.core.placement.layout import as_told_before
from spalloc_server.core.row_checks import check_board, check_ended, check_job, check_number, check_release
from spalloc_server.core.set_aside import fact_name, to_fact
from spalloc_server.core.unreadable import boards_of, ended_row, held_back

__all__ = ["RecoverableEngine"]

Claims: TypeAlias = dict[tuple[str, Board], int]
"""{(machine, board): the job that has it}."""


class RecoverableEngine(Engine):
    """An engine that can be stored and brought back."""

    def snapshot(self) -> Snapshot:
        """Everything that `restore` needs."""
        self._learn_facts()
        return Snapshot(
            jobs=[*self._retired.values(), *(job.row() for job in self._jobs.values())],
            boards=self._boards.rows(),
            releases=self._power.rows(),
            facts=dict(self._facts),
        )

    def restore(
        self, snapshot: Snapshot, configured: Iterable[Machine] = (), *, highest_id: int = 0
    ) -> list[SetAsideView]:
        """Go on where another left off. The snapshot is left as it is.

        The machines are those of the snapshot: `configure` applies the present configuration afterwards. Leases start
        afresh, and power operations that were under way are started again.

        Args:
            snapshot: what was stored.
            configured: the machines of the present configuration, in place of those that cannot be read.
            highest_id: the highest number of a job that is known otherwise; no later job gets it, or a lower one.

        Returns:
            Rows that made no sense, and were set aside.

        Raises:
            RuntimeError: this controller is not new.
        """
        if self._facts:
            raise RuntimeError("only a new controller can be restored: this one has had machines or jobs")
        now = self._clock()
        bad = list(snapshot.unreadable)
        self._restore_facts(snapshot.facts, bad, now)
        ids = [self._facts.get("next_id", 1), 1 + highest_id, *(1 + row.job_id for row in snapshot.jobs)]
        self._next_id = max([self._next_id, *(number for number in ids if number <= MAX_NUMBER)])
        self._restore_machines({machine.name: machine for machine in configured})
        self._restore_boards(snapshot.boards, bad)
        for machine in self._machines.values():
            self._boards.apply(machine)
        claims: Claims = {}
        jobs = self._judged_jobs(snapshot.jobs, claims, bad)
        ready = {row.job_id for row, _ in jobs if row.state == JobState.ready}
        releases = self._judged_releases(snapshot.releases, claims, ready, bad)
        self._power.skip_numbers(release.release_id for release in releases)
        for release in releases:
            with self._contained("a release that is restored"):
                self._restore_release(copy(release), now)
        for row, request in jobs:
            self._restore_job(row, request, now)
        set_aside = [self._set_aside(row, now) for row in bad]
        self._forget_retired()
        return set_aside

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where a pickled controller left off; leases start afresh, as after `restore`."""
        self.__dict__.update(state)
        now = self._clock()
        for job in self._jobs.values():
            self._begin_lease(job, now)

    def _begin_lease(self, job: Job, now: float) -> None:
        if job.keepalive is not None:
            job.deadline = now + job.keepalive
        self._leases.add(job)

    # ---------------------------------------------------------------- facts, machines and boards

    def _restore_facts(self, facts: dict[str, Any], bad: list[UnreadableRow], now: float) -> None:
        self._known_machines: dict[str, Machine] = {}
        for name, value in facts.items():
            if value is not None:
                try:
                    self._take_fact(name, value, now)
                except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this fact alone
                    bad.append(_unreadable("facts", (name,), error, {"name": name, "value": value}))
                else:
                    self._facts[name] = value
        for name in [str(row.key[0]) for row in bad if row.table == "facts"]:
            if (instead := self._in_place_of_fact(name, now)) is not None:
                with self._contained("what takes the place of a stored fact"):
                    self._take_fact(name, instead, now)
                    self._set_fact(name, instead)
        learnt = {name: fact for name, fact in self._facts.items() if name == "everybody" or name.startswith("owner/")}
        self._scheduler.restore_facts(learnt)

    def _take_fact(self, name: str, value: Any, now: float) -> None:  # noqa: ARG002 - as others that override it
        """Take over what a stored fact says; raises where it makes no sense."""
        if name == "next_id":
            check_number(value, "the next job's number")
        elif name == "machines":
            msgspec.convert(value, list[str])
        elif name.startswith("machine/"):
            machine = machine_from_fact(value)
            if name != f"machine/{machine.name}":
                raise ValueError(f"it describes the machine {machine.name!r}")
            self._known_machines[machine.name] = machine
        elif name == "everybody" or name.startswith("owner/"):
            self._scheduler.restore_facts({name: value})

    def _in_place_of_fact(self, name: str, now: float) -> Any:  # noqa: ARG002 - as others that override it
        """What takes the place of a fact that makes no sense; None for nothing."""
        return None

    def _restore_machines(self, configured: dict[str, Machine]) -> None:
        known = self._known_machines
        lost = {name.removeprefix("machine/") for name in self._facts if name.startswith("machine/")} - known.keys()
        names = dict.fromkeys([*self._facts.get("machines", configured), *known, *sorted(lost)])
        for name in names:
            machine = known.get(name) or configured.get(name)
            if machine is not None:
                self._machines[name] = machine
                if name not in known:
                    self._set_fact(f"machine/{name}", machine_to_fact(machine))
        self._scheduler.set_machines(self._machines)
        self._boards.set_machines(self._machines.values())

    def _restore_boards(self, records: Iterable[BoardRow], bad: list[UnreadableRow]) -> None:
        for record in records:
            try:
                check_board(record)
                self._boards.restore(copy(record))
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this board alone
                key = record.machine, record.x, record.y, record.z
                bad.append(_unreadable("boards", key, error, msgspec.to_builtins(record)))

    # ---------------------------------------------------------------- jobs and releases

    def _judged_jobs(
        self, rows: Iterable[JobRow], claims: Claims, bad: list[UnreadableRow]
    ) -> list[tuple[JobRow, Request]]:
        """The live jobs whose rows make sense, in order of their numbers; those that have ended are taken over."""
        live = []
        for row in sorted(rows, key=lambda row: row.job_id):
            ended = row.ended_at is not None
            try:
                if ended:
                    check_ended(row)
                    self._retired[row.job_id] = row
                    continue
                request = check_job(row, self._machines)
                places = [(row.allocation.machine, board) for board in row.allocation.boards] if row.allocation else []
                if taken := [place for place in places if place in claims]:
                    raise ValueError(f"job {claims[taken[0]]} has its board {taken[0][1]}")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this job alone
                bad.append(_unreadable("history" if ended else "jobs", (row.job_id,), error, msgspec.to_builtins(row)))
            else:
                claims.update(dict.fromkeys(places, row.job_id))
                live.append((row, request))
        for row, _ in live:
            self._retired.pop(row.job_id, None)
        return live

    def _judged_releases(
        self, rows: Iterable[ReleaseRow], claims: Claims, ready: AbstractSet[int], bad: list[UnreadableRow]
    ) -> list[ReleaseRow]:
        """The releases that make sense.

        None may switch off what a job has. Only where nobody has waited for it may its boards have been given to a
        job meanwhile, and that cannot be `ready` yet.
        """
        addresses = {address(self._machines[name], board): job for (name, board), job in claims.items()}
        good = []
        for row in rows:
            try:
                check_release(row, self._machines)
                places = [(frame.bmp, number) for frame in row.frames for number in frame.boards]
                taken = [place for place in places if place in addresses]
                if taken and (row.boards or (row.rest_until is None and addresses[taken[0]] in ready)):
                    raise ValueError(f"job {addresses[taken[0]]} has board {taken[0][1]} of {taken[0][0]}")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this release alone
                bad.append(_unreadable("releases", (row.release_id,), error, msgspec.to_builtins(row)))
            else:
                good.append(row)
        return good

    def _restore_release(self, release: ReleaseRow, now: float) -> None:
        if release.rest_until is not None:  # no longer than a rest, should the wall clock have been set back
            release.rest_until = min(release.rest_until, now + self._rest)
        held = self._scheduler.holders(release.machine) if release.boards else {}
        release.boards = [board for board in release.boards if board not in held]  # which another release gives back
        if self._power.restore(release, now) and release.boards:
            self._wait_for(release, now)

    def _restore_job(self, row: JobRow, request: Request, now: float) -> None:
        job = Job(**{**msgspec.structs.asdict(row), "request": request})
        self._jobs[job.job_id] = job
        self._quotas.add(job)
        job.operation = None
        self._begin_lease(job, now)
        with self._contained("a job that is restored", job):
            self._bound_runtime(job, now)
            if job.allocation is None:
                job.due = self._scheduler.submit(job.job_id, request, job.created_at, job.due)
                return
            machine = self._machines[job.allocation.machine]
            if job.allocation.wraps is None or job.allocation.stopped is None:
                job.allocation = as_told_before(machine, job.allocation)
                self._stale[job.job_id] = job
            self._scheduler.adopt(job.job_id, request, job.allocation, job.allocated_at or now)
            if job.state == JobState.power:
                self._power.switch(job, machine, on=bool(job.power))

    # ---------------------------------------------------------------- what makes no sense

    def _set_aside(self, row: UnreadableRow, now: float) -> SetAsideView:
        """Keep a row that makes no sense for the operator, out of everybody's way; see to what it was about."""
        fact = to_fact(row, now)
        self._set_fact(fact_name(row, self._facts), fact)
        with self._contained("what becomes of a stored row that makes no sense"):
            if row.table in {"jobs", "history"}:
                ended = ended_row(row, now)
                self._stale[ended.job_id] = ended
                if ended.job_id not in self._jobs:
                    self._retired[ended.job_id] = ended
            else:
                self._dropped[row.table].add(row.key[0] if len(row.key) == 1 else row.key)
            if row.table == "boards" and (record := held_back(row, now)) is not None:
                self._boards.restore(record)
                if record.machine in self._machines:
                    self._boards.apply(self._machines[record.machine])
            if row.table in {"jobs", "releases"}:
                self._make_safe(row)
        return msgspec.convert({name: value for name, value in fact.items() if name != "row"}, SetAsideView)

    def _make_safe(self, row: UnreadableRow) -> None:
        """Switch off the boards that a row was about, unless others have them; all idle ones where it does not tell."""
        boards = boards_of(row, self._machines)
        for machine in self._machines.values():
            known = machine.board_locations if boards is None else boards.get(machine.name, ())
            idle = [board for board in known if self._scheduler.holder(machine.name, board) is None]
            if idle:
                self._scheduler.hold(machine.name, idle, NO_JOB)
                self._power.release(NO_JOB, machine, idle)
                self._changed_machines.add(machine.name)


def _unreadable(table: str, key: tuple[Any, ...], error: Exception, row: dict[str, Any]) -> UnreadableRow:
    return UnreadableRow(table=table, key=key, reason=str(error) or repr(error), row=row)
