"""What operators have closed: machines that are drained, frames out of service, and everything in an emergency stop.

Theory of operation. What an operator closes stays closed until an operator opens it again: across restarts, reloads,
and machines that go and come back, also under another name, since a frame is its BMP. Each closure is a `Note` (the
reason, who, and when), and is stored as a fact. A stored one that cannot be read any more still closes what it closed.

This is what holds; the scheduler and the records of boards act on it (`Scheduler.close`, `BoardRecords.apply`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from spalloc_server.config.hosts import canonical
from spalloc_server.config.machine import Frame, Machine
from spalloc_server.core.model import SERVER, Note

__all__ = ["KEPT_FACTS", "STOPPED", "Closures", "drained_fact", "frame_fact", "in_place_of", "note_to_fact"]

STOPPED = "stopped"
"""The fact of an emergency stop."""

KEPT_FACTS = (
    *("next_id", "disabled", "drained", STOPPED, "machine", "machines", "imported", "board", "away"),
    *("next_account", "signing_keys"),
)
"""Facts that outlive a cold start, by the first part of their names: numbers of jobs are never used twice, imported
machines stay, and what operators have closed stays closed, wherever the configuration has that hardware by now. The
last ones are of `accounts`, which stay as well."""


class Closures:
    """What is closed now."""

    def __init__(self) -> None:
        self.stopped: Note | None = None
        """The emergency stop that holds, if any."""
        self.drained: dict[str, Note] = {}
        """Machines that start no more jobs; they need not be there."""
        self.frames: dict[tuple[str, Frame], Note] = {}
        """(machine, frame): frames out of service."""
        self.away: dict[str, Note] = {}
        """By BMP, frames out of service that no machine has at present."""

    def move(self, gone: Iterable[Machine], came: Iterable[Machine]) -> None:
        """Frames of machines that go are closed wherever their BMPs are; who has frames of a drained machine is it."""
        heirs: dict[str, set[str]] = {machine.name: set() for machine in gone}
        left = {
            canonical(machine.bmp_ips[frame]): (machine.name, frame) for machine in gone for frame in machine.frames
        }
        now = {canonical(machine.bmp_ips[frame]): (machine.name, frame) for machine in came for frame in machine.frames}
        self.away |= {bmp: self.frames.pop(frame) for bmp, frame in left.items() if frame in self.frames}
        for bmp in now.keys() & left.keys():
            heirs[left[bmp][0]].add(now[bmp][0])
        self.frames |= {frame: self.away.pop(bmp) for bmp, frame in now.items() if bmp in self.away}
        notes = {name: self.drained.pop(name) for name, there in heirs.items() if there and name in self.drained}
        self.drained |= {heir: note for name, note in notes.items() for heir in heirs[name]}

    def take_fact(self, name: str, value: Any) -> None:
        """Take over what a stored fact closes; other facts are left alone. Raise where it makes no sense."""
        kind, _, rest = name.partition("/")
        if kind == "disabled":
            cabinet, frame, machine = rest.split("/", 2)
            self.frames[machine, (int(cabinet), int(frame))] = msgspec.convert(value, Note)
        elif kind == "drained":
            self.drained[rest] = msgspec.convert(value, Note)
        elif kind == "away":
            self.away[rest] = msgspec.convert(value, Note)
        elif name == STOPPED:
            self.stopped = msgspec.convert(value, Note)

    def facts(self) -> dict[str, Any]:
        """Return all closures as facts."""
        notes = {drained_fact(machine): note for machine, note in self.drained.items()}
        notes |= {frame_fact(machine, frame): note for (machine, frame), note in self.frames.items()}
        notes |= {f"away/{bmp}": note for bmp, note in self.away.items()}
        notes |= {} if self.stopped is None else {STOPPED: self.stopped}
        return {name: note_to_fact(note) for name, note in notes.items()}


def in_place_of(name: str, now: float) -> Any:
    """Return what takes the place of a fact that cannot be read: what it closed stays closed. None for nothing."""
    if name.partition("/")[0] in {"disabled", "drained", "away", STOPPED}:
        return note_to_fact(Note("the stored reason cannot be read", SERVER, now))
    return None


def drained_fact(machine: str) -> str:
    """Return the name of the fact that a machine is drained."""
    return f"drained/{machine}"


def frame_fact(machine: str, frame: Frame) -> str:
    """Return the name of the fact that a frame is out of service."""
    return f"disabled/{frame[0]}/{frame[1]}/{machine}"


def note_to_fact(note: Note | None) -> dict[str, Any] | None:
    """Return a note as plain JSON; None for none."""
    return None if note is None else dict(msgspec.to_builtins(note))
