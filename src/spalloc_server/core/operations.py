"""What operators do: machines imported and removed, hardware out of service and back, everything off in an emergency.

Theory of operation. Functions over an `Engine`. Each raises `RequestError` for what there is not, and one that raises
anything has changed nothing (`undo`). What is closed stays closed (`closures`). Nothing here takes a running job's
boards away, except the emergency stop and the removal of a machine, which end jobs whatever becomes of that: a job that
cannot be ended as it should be is given up (`Engine.finish`).

In an emergency everything is switched off, whether a job has it or not, and boards that are dead in the configuration
but have a place in a frame too. Jobs that were being used end with the reason;
jobs that were not ready yet go back to the queue, where they and all new ones wait for `resume`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from spalloc_server.config.machine import Frame, Machine
from spalloc_server.config.settings import Configuration
from spalloc_server.coordinates import Board
from spalloc_server.core import transitions, views
from spalloc_server.core.closures import STOPPED, drained_fact, frame_fact, note_to_fact
from spalloc_server.core.engine import Engine
from spalloc_server.core.model import NO_JOB, BoardView, MachineView, Note
from spalloc_server.core.state import State
from spalloc_server.core.undo import Undo
from spalloc_server.errors import ConfigurationError, RequestError

__all__ = [
    "emergency_stop",
    "import_machines",
    "power_cycle",
    "remove_machine",
    "resume",
    "set_board",
    "set_drained",
    "set_frame",
    "switch_off_unused",
]

# ---------------------------------------------------------------- boards and frames


def set_board(engine: Engine, machine: str, board: Board, note: Note | None) -> BoardView:
    """Take a board out of service; a job that has it keeps it. Without a note, return it to service instead.

    Then its failures, reports and strikes are forgotten; its frame may still be out of service.
    """
    state, now = engine.state, engine.state.clock()
    there = _machine_of_live(state, machine, board)
    with Undo() as undo:
        undo.call(state.boards.apply, there, [board])
        state.boards.note_before((machine, *board), undo)
        if note is None:
            state.boards.enable(there, board)
        else:
            state.boards.disable(there, board, note)
        view = views.board_view(state, machine, board)
        state.outbox.changed_machines.add(machine)
    engine.follow(now)
    return view


def set_frame(engine: Engine, machine: str, frame: Frame, note: Note | None) -> list[BoardView]:
    """Take all boards of a frame out of service; jobs that have some keep them. Without a note, return it to service.

    Then single boards of it may still be out of service.
    """
    state, now = engine.state, engine.state.clock()
    there = views.machine_named(state, machine)
    if frame not in there.frames:
        raise RequestError(f"{machine} has no cabinet {frame[0]}, frame {frame[1]}; it has {sorted(there.frames)}")
    boards = there.frames[frame]
    with Undo() as undo:
        undo.call(state.boards.apply, there, boards)
        _set_note(state, undo, state.closures.frames, (machine, frame), frame_fact(machine, frame), note)
        state.boards.apply(there, boards)
        after = [views.board_view(state, machine, board) for board in boards]
        state.outbox.changed_machines.add(machine)
    engine.follow(now)
    return after


def power_cycle(engine: Engine, machine: str, board: Board) -> BoardView:
    """Test a board that no job has: switch it on, verify it, switch it off. It is recorded like any self-test."""
    state, now = engine.state, engine.state.clock()
    there = _machine_of_live(state, machine, board)
    if state.closures.stopped is not None:
        raise RequestError("nothing is switched on until the emergency stop is over: `resume`")
    obstacle = state.self_tests.possible(there, board, now)
    if obstacle is not None:
        raise RequestError(f"board {board} of {machine} cannot be power-cycled now: {obstacle}")
    view = views.board_view(state, machine, board)
    view.state, view.last_trial, view.rests_until = views.ON_TRIAL, None, None
    state.self_tests.begin(there, board)
    state.outbox.changed_machines.add(machine)
    engine.follow(now)
    return view


# ---------------------------------------------------------------- machines, everything


def import_machines(engine: Engine, machines: Collection[Machine]) -> list[MachineView]:
    """Add machines behind those that there are; a configuration need not have them. All of them, or none."""
    state = engine.state
    for machine in machines:
        if machine.name in state.machines:
            whose = "imported" if machine.name in state.imported else "of the configuration"
            told = f"there is a machine {machine.name!r} already, which is {whose}"
            raise RequestError(f"{told}: remove that one, or give this one another name")
    try:
        Configuration([*state.machines.values(), *machines])
    except ConfigurationError as error:
        raise RequestError(str(error)) from error
    engine.apply(state.configuration, state.imported | {machine.name: machine for machine in machines})
    names = {machine.name for machine in machines}
    return [view for view in views.machine_views(state) if view.name in names]


def remove_machine(engine: Engine, machine: str) -> None:
    """Remove a machine that was imported; its jobs end, unless their boards are on another machine."""
    state = engine.state
    views.machine_named(state, machine)
    if machine not in state.imported:
        raise RequestError(f"machine {machine!r} is of the configuration: take it out there, and reload")
    engine.apply(state.configuration, {name: each for name, each in state.imported.items() if name != machine})


def set_drained(engine: Engine, machine: str, note: Note | None) -> Note | None:
    """Start no more jobs on a machine; those that run there go on, others may wait for it. Without a note, undo that.

    A machine that is drained need not be there. Return what drained it before.
    """
    before = engine.state.closures.drained.get(machine)
    if note is not None or before is None:
        views.machine_named(engine.state, machine)
    state, now = engine.state, engine.state.clock()
    with Undo() as undo:
        undo.call(transitions.close, state)
        _set_note(state, undo, state.closures.drained, machine, drained_fact(machine), note)
        transitions.close(state)
        state.outbox.changed_machines.add(machine)
    engine.follow(now)
    return before


def emergency_stop(engine: Engine, *, reason: str, by: str) -> Note | None:
    """Switch everything off, and nothing on, until `resume`. A defect of one job or machine affects no other.

    Return the emergency stop that held before.
    """
    state, now, before = engine.state, engine.state.clock(), engine.state.closures.stopped
    text = f"Emergency stop by {by}: {reason}"
    jobs = list(state.jobs.values())
    _set_stopped(state, Note(reason, by, now))
    with engine.contained("self-tests that are broken off"):
        state.self_tests.break_off()
    for job in jobs:
        with engine.contained("the emergency stop of a job", job):
            if job.ready_at is not None:
                transitions.end(state, job, text, now)
            elif job.allocation is not None:
                transitions.requeue(state, job, text, now)
                job.placements -= 1  # the hardware did not fail it
    for machine in state.machines.values():
        with engine.contained("the emergency stop of a machine"):
            _switch_off_idle(state, machine)
        state.outbox.changed_machines.add(machine.name)
    return before


def resume(engine: Engine) -> Note | None:
    """The emergency is over: jobs that wait may start. Return the emergency stop that held."""
    state, now, before = engine.state, engine.state.clock(), engine.state.closures.stopped
    _set_stopped(state, None)
    state.outbox.changed_machines.update(state.machines)
    engine.follow(now)
    return before


def switch_off_unused(engine: Engine) -> None:
    """Switch off what no job has, at a start without stored jobs: boards may have been left on.

    Work on these boards that is asked for later waits only until its frame has done this.
    """
    for machine in engine.state.machines.values():
        engine.state.power.release(NO_JOB, machine, _idle(engine.state, machine), held=False)


# ---------------------------------------------------------------- helpers


def _machine_of_live(state: State, machine: str, board: Board) -> Machine:
    """Return the machine of a board that is not dead in the configuration."""
    there = views.machine_with(state, machine, board)
    if board in there.dead_boards:
        raise RequestError(f"board {board} of {machine} is dead in the configuration; nothing else can be said of it")
    return there


def _set_stopped(state: State, note: Note | None) -> None:
    with Undo() as undo:
        undo.call(transitions.close, state)
        undo.entries(STOPPED, state.facts, state.outbox.facts)
        undo.attributes(state.closures)
        state.closures.stopped = note
        transitions.set_fact(state, STOPPED, note_to_fact(note))
        transitions.close(state)


def _set_note(state: State, undo: Undo, notes: dict[Any, Note], key: Any, fact: str, note: Note | None) -> None:
    """Close something, or open it (None), and keep that as a fact."""
    undo.entries(key, notes)
    undo.entries(fact, state.facts, state.outbox.facts)
    if note is None:
        notes.pop(key, None)
    else:
        notes[key] = note
    transitions.set_fact(state, fact, note_to_fact(note))


def _idle(state: State, machine: Machine) -> list[Board]:
    return [board for board in machine.board_locations if state.scheduler.holder(machine.name, board) is None]


def _switch_off_idle(state: State, machine: Machine) -> None:
    """Switch off the boards of a machine that no job has, and hold them until that is done."""
    if idle := _idle(state, machine):
        state.scheduler.hold(machine.name, idle, NO_JOB)
        state.power.release(NO_JOB, machine, idle)
