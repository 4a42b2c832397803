"""Stop, and go on in another process: the core's state as rows, and back.

Theory of operation. A snapshot is what a journal has stored of `take_changes`, or what `snapshot` gives. `restore`
brings back the machines as they were; the present configuration is applied afterwards, exactly as at a reload. Leases
start afresh, since clients could not renew them meanwhile. Power operations that were under way are started again.

A row that makes no sense (`row_checks`), or that contradicts others, costs only what it is about: it is set aside
(`set_aside`), and the rest goes on. A job whose row is set aside ends. Its boards, or those of a release, are switched
off before they are given to anybody; where the row does not tell which they are, so is everything that nobody has. No
board is ever given twice because of a bad row: the boards of jobs that live are claimed first, and who comes later for
one of them loses it. A machine whose fact cannot be read is taken from the configuration, so that its jobs live on; one
that was imported, from its other fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Set as AbstractSet
from copy import copy
from typing import Any, TypeAlias

import msgspec

from spalloc_server.config.machine import Machine
from spalloc_server.config.options import MAX_NUMBER
from spalloc_server.coordinates import Board
from spalloc_server.core import board_time, transitions
from spalloc_server.core.boards.records import address
from spalloc_server.core.closures import in_place_of
from spalloc_server.core.engine import Engine
from spalloc_server.core.job import Job
from spalloc_server.core.machine_facts import IMPORTED, machine_from_fact, machine_to_fact
from spalloc_server.core.model import (
    NO_JOB,
    BoardRow,
    JobRow,
    JobState,
    ReleaseRow,
    Request,
    SetAsideView,
    Snapshot,
    UnreadableRow,
)
from spalloc_server.core.moved_times import moved
from spalloc_server.core.placement.layout import as_told_before
from spalloc_server.core.row_checks import check_board, check_ended, check_job, check_number, check_release
from spalloc_server.core.set_aside import boards_of, ended_row, fact_name, held_back, to_fact
from spalloc_server.core.state import State

__all__ = ["restore", "snapshot"]

Claims: TypeAlias = dict[tuple[str, Board], int]
"""{(machine, board): the job that has it}."""


def snapshot(state: State) -> Snapshot:
    """Return everything that `restore` needs."""
    return Snapshot(
        jobs=[*state.retired.values(), *(job.row() for job in state.jobs.values())],
        boards=state.boards.rows(),
        releases=state.power.rows(),
        facts=dict(state.facts),
        results=list(state.results.values()),
    )


def restore(
    engine: Engine,
    snapshot: Snapshot,
    configured: Iterable[Machine] = (),
    *,
    highest_id: int = 0,
    moved_by: float = 0.0,
) -> list[SetAsideView]:
    """Go on where another left off. The snapshot is left as it is.

    The machines are those of the snapshot: `configure` applies the present configuration afterwards. Leases start
    afresh, and power operations that were under way are started again.

    Args:
        engine: a new one.
        snapshot: what was stored.
        configured: the machines of the present configuration, in place of those that cannot be read.
        highest_id: the highest number of a job that is known otherwise; no later job gets it, or a lower one.
        moved_by: seconds by which the clock is ahead of the one that the snapshot's times go on from.

    Returns:
        Rows that made no sense, and were set aside.

    Raises:
        RuntimeError: this controller is not new.
    """
    if engine.state.facts:
        raise RuntimeError("only a new controller can be restored: this one has had machines or jobs")
    if moved_by:
        snapshot = moved(snapshot, moved_by)
    set_aside = _Restoration(engine, snapshot.unreadable).run(snapshot, configured, highest_id)
    if moved_by:
        board_time.move(engine.state, moved_by)
        _store_all(engine.state)
    return set_aside


def _store_all(state: State) -> None:
    """Have everything that goes on stored anew, in one step: half of it moved would be worse than nothing."""
    state.outbox.jobs.update({job_id: job for job_id, job in state.jobs.items() if job_id not in state.outbox.jobs})
    for row in state.boards.rows():
        state.outbox.boards.setdefault((row.machine, row.x, row.y, row.z), row)
    for name, fact in state.facts.items():
        state.outbox.facts.setdefault(name, fact)


class _Restoration:
    """One restart.

    Args:
        engine: what is restored.
        unreadable: rows that make no sense; those that contradict others join them.
    """

    def __init__(self, engine: Engine, unreadable: Iterable[UnreadableRow]) -> None:
        self._engine = engine
        self._state = engine.state
        self._now = engine.state.clock()
        self._bad = list(unreadable)
        self._known: dict[str, Machine] = {}
        """The machines that were stored."""

    def run(self, snapshot: Snapshot, configured: Iterable[Machine], highest_id: int) -> list[SetAsideView]:
        """Take over all that makes sense; return the rest."""
        state = self._state
        self._restore_facts(snapshot.facts)
        state.results = {row.number: row for row in snapshot.results}
        ids = [state.facts.get("next_id", 1), 1 + highest_id, *(1 + row.job_id for row in snapshot.jobs)]
        state.next_id = max([state.next_id, *(number for number in ids if number <= MAX_NUMBER)])
        self._restore_machines({machine.name: machine for machine in configured})
        self._restore_boards(snapshot.boards)
        for machine in state.machines.values():
            state.boards.apply(machine)
        claims: Claims = {}
        jobs = self._judged_jobs(snapshot.jobs, claims)
        ready = {row.job_id for row, _ in jobs if row.state == JobState.ready}
        releases = self._judged_releases(snapshot.releases, claims, ready)
        state.power.skip_numbers(release.release_id for release in releases)
        for release in releases:
            with self._engine.contained("a release that is restored"):
                self._restore_release(copy(release))
        for row, request in jobs:
            self._restore_job(row, request)
        set_aside = [self._set_aside(row) for row in self._bad]
        transitions.forget_retired(state)
        transitions.close(state)
        return set_aside

    # ---------------------------------------------------------------- facts, machines and boards

    def _restore_facts(self, facts: dict[str, Any]) -> None:
        state = self._state
        for name, value in facts.items():
            if value is not None:
                try:
                    self._take_fact(name, value)
                except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this fact alone
                    self._bad.append(_unreadable("facts", (name,), error, {"name": name, "value": value}))
                else:
                    state.facts[name] = value
        for name in [str(row.key[0]) for row in self._bad if row.table == "facts"]:
            if (instead := in_place_of(name, self._now)) is not None:
                with self._engine.contained("what takes the place of a stored fact"):
                    self._take_fact(name, instead)
                    transitions.set_fact(state, name, instead)
        learnt = {name: fact for name, fact in state.facts.items() if name == "everybody" or name.startswith("owner/")}
        state.scheduler.restore_facts(learnt)
        transitions.learn_facts(state)

    def _take_fact(self, name: str, value: Any) -> None:
        """Take over what a stored fact says; raises where it makes no sense."""
        if name == "next_id":
            check_number(value, "the next job's number")
        elif name == "machines":
            msgspec.convert(value, list[str])
        elif name.startswith(("machine/", IMPORTED)):
            machine, kind = machine_from_fact(value), name.partition("/")[0]
            if name != f"{kind}/{machine.name}":
                raise ValueError(f"it describes the machine {machine.name!r}")
            (self._known if kind == "machine" else self._state.imported)[machine.name] = machine
        elif name.startswith("board/"):
            _, number, host = name.split("/", 2)
            check_board(record := msgspec.convert(value, BoardRow))
            self._state.boards.away[host, int(number)] = record
        elif name.startswith(board_time.FACT):
            board_time.take_fact(self._state, value)
        elif name == "everybody" or name.startswith("owner/"):
            self._state.scheduler.restore_facts({name: value})
        else:
            self._state.closures.take_fact(name, value)

    def _restore_machines(self, configured: dict[str, Machine]) -> None:
        state = self._state
        known = self._known
        for name in [str(row.key[0]) for row in self._bad if row.table == "facts"]:
            if name.startswith(IMPORTED) and (machine := known.get(name.removeprefix(IMPORTED))) is not None:
                state.imported[machine.name] = machine
                transitions.set_fact(state, name, machine_to_fact(machine))
        configured = state.imported | configured
        lost = {name.removeprefix("machine/") for name in state.facts if name.startswith("machine/")} - known.keys()
        names = dict.fromkeys([*state.facts.get("machines", configured), *known, *sorted(lost), *state.imported])
        state.imported = {name: state.imported[name] for name in names if name in state.imported}
        for name in names:
            if (machine := known.get(name) or configured.get(name)) is not None:
                state.machines[name] = machine
                if name not in known:
                    transitions.set_fact(state, f"machine/{name}", machine_to_fact(machine))
        state.scheduler.set_machines(state.machines)
        state.boards.set_machines(state.machines.values())

    def _restore_boards(self, records: Iterable[BoardRow]) -> None:
        for record in records:
            try:
                check_board(record)
                self._state.boards.keep(copy(record))
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this board alone
                key = record.machine, record.x, record.y, record.z
                self._bad.append(_unreadable("boards", key, error, msgspec.to_builtins(record)))

    # ---------------------------------------------------------------- jobs and releases

    def _judged_jobs(self, rows: Iterable[JobRow], claims: Claims) -> list[tuple[JobRow, Request]]:
        """The live jobs whose rows make sense, in order of their numbers; those that have ended are taken over."""
        state = self._state
        live = []
        for row in sorted(rows, key=lambda row: row.job_id):
            ended = row.ended_at is not None
            try:
                if ended:
                    check_ended(row)
                    state.retired[row.job_id] = row
                    continue
                request = check_job(row, state.machines)
                places = [(row.allocation.machine, board) for board in row.allocation.boards] if row.allocation else []
                if taken := [place for place in places if place in claims]:
                    raise ValueError(f"job {claims[taken[0]]} has its board {taken[0][1]}")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this job alone
                self._bad.append(
                    _unreadable("history" if ended else "jobs", (row.job_id,), error, msgspec.to_builtins(row))
                )
            else:
                claims.update(dict.fromkeys(places, row.job_id))
                live.append((row, request))
        for row, _ in live:
            state.retired.pop(row.job_id, None)
        return live

    def _judged_releases(self, rows: Iterable[ReleaseRow], claims: Claims, ready: AbstractSet[int]) -> list[ReleaseRow]:
        """The releases that make sense.

        None may switch off what a job has. Only where nobody has waited for it may its boards have been given to a
        job meanwhile, and that cannot be `ready` yet.
        """
        machines = self._state.machines
        addresses = {address(machines[name], board): job for (name, board), job in claims.items()}
        good = []
        for row in rows:
            try:
                check_release(row, machines)
                places = [(frame.bmp, number) for frame in row.frames for number in frame.boards]
                taken = [place for place in places if place in addresses]
                if taken and (row.boards or (row.rest_until is None and addresses[taken[0]] in ready)):
                    raise ValueError(f"job {addresses[taken[0]]} has board {taken[0][1]} of {taken[0][0]}")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this release alone
                self._bad.append(_unreadable("releases", (row.release_id,), error, msgspec.to_builtins(row)))
            else:
                good.append(row)
        return good

    def _restore_release(self, release: ReleaseRow) -> None:
        state, now = self._state, self._now
        if release.rest_until is not None:  # no longer than a rest, should the wall clock have been set back
            release.rest_until = min(release.rest_until, now + state.configuration.seconds_before_free)
        held = state.scheduler.holders(release.machine) if release.boards else {}
        release.boards = [board for board in release.boards if board not in held]  # which another release gives back
        if state.power.restore(release, now) and release.boards:
            transitions.wait_for(state, release, now)

    def _restore_job(self, row: JobRow, request: Request) -> None:
        state, now = self._state, self._now
        job = Job(**{**msgspec.structs.asdict(row), "request": request})
        state.jobs[job.job_id] = job
        state.quotas.add(job)
        job.operation = None
        transitions.begin_lease(state, job, now)
        with self._engine.contained("a job that is restored", job):
            transitions.bound_run_time(state, job, now)
            if job.allocation is None:
                if job.held is None:
                    state.scheduler.submit(job.job_id, request, job.created_at)
                return
            machine = state.machines[job.allocation.machine]
            if job.allocation.wraps is None or job.allocation.stopped is None:
                job.allocation = as_told_before(machine, job.allocation)
                state.outbox.jobs[job.job_id] = job
            state.scheduler.adopt(job.job_id, request, job.allocation, job.allocated_at or now)
            if job.state == JobState.power:
                state.power.switch(job, machine, on=bool(job.power))

    # ---------------------------------------------------------------- what makes no sense

    def _set_aside(self, row: UnreadableRow) -> SetAsideView:
        """Keep a row that makes no sense for the operator, out of everybody's way; see to what it was about."""
        state, now = self._state, self._now
        fact = to_fact(row, now)
        transitions.set_fact(state, fact_name(row, state.facts), fact)
        with self._engine.contained("what becomes of a stored row that makes no sense"):
            if row.table in {"jobs", "history"}:
                ended = ended_row(row, now)
                state.outbox.jobs[ended.job_id] = ended
                if ended.job_id not in state.jobs:
                    state.retired[ended.job_id] = ended
            elif (rows := getattr(state.outbox, row.table, None)) is not None:
                rows.setdefault(row.key[0] if len(row.key) == 1 else row.key, None)
            if row.table == "boards" and (record := held_back(row, now)) is not None:
                state.boards.keep(record)
                if record.machine in state.machines:
                    state.boards.apply(state.machines[record.machine])
            if row.table in {"jobs", "releases"}:
                self._make_safe(row)
        return msgspec.convert({name: value for name, value in fact.items() if name != "row"}, SetAsideView)

    def _make_safe(self, row: UnreadableRow) -> None:
        """Switch off the boards that a row was about, unless others have them; all idle ones where it does not tell."""
        state = self._state
        boards = boards_of(row, state.machines)
        for machine in state.machines.values():
            known = machine.board_locations if boards is None else boards.get(machine.name, ())
            idle = [board for board in known if state.scheduler.holder(machine.name, board) is None]
            if idle:
                state.scheduler.hold(machine.name, idle, NO_JOB)
                state.power.release(NO_JOB, machine, idle)
                state.outbox.changed_machines.add(machine.name)


def _unreadable(table: str, key: tuple[Any, ...], error: Exception, row: dict[str, Any]) -> UnreadableRow:
    return UnreadableRow(table=table, key=key, reason=str(error) or repr(error), row=row)
