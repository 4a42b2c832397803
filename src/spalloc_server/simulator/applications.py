"""What runs on a core: its state, without any of its code.

Theory of operation. No instruction is executed. What a program would do next follows from the data that the host has
given it, so one state machine serves all programs of the published stack:

- *system* programs run from START until STOP, and answer at their SDP ports;
- *finishing* ones (expanders, compressors) are finished at START;
- *simulations* pause at START; a new run time makes them wait for a SYNC signal, SYNC0 and SYNC1 in turn; the signal
  makes them run for that time, and then they are ready for the next run.

A run's end is looked for whenever somebody asks for the state, so running cores cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

__all__ = ["Application", "ErrorCode", "Failure", "Incoming", "Role", "Signal", "State"]

MICROSECONDS: Final = 1_000_000
ENDLESS: Final = -1


class State(IntEnum):
    """Of a core, as SCAMP tells it."""

    DEAD = 0
    POWERED_DOWN = 1
    RUN_TIME_EXCEPTION = 2
    WATCHDOG = 3
    INITIALISING = 4
    READY = 5
    C_MAIN = 6
    RUNNING = 7
    SYNC0 = 8
    SYNC1 = 9
    PAUSED = 10
    FINISHED = 11
    IDLE = 15


class Signal(IntEnum):
    """Signals to all cores of an application."""

    STOP = 2
    START = 3
    SYNC0 = 4
    SYNC1 = 5
    PAUSE = 6
    CONTINUE = 7
    EXIT = 8


ErrorCode = IntEnum(
    "ErrorCode",
    "RESET UNDEF SVC PABT DABT IRQ FIQ VIC ABORT MALLOC DIVBY0 EVENT SWERR IOBUF ENABLE NULL PKT TIMER API VERSION",
)
"""Codes of run-time errors, from 1 (`RESET`) to 20 (`VERSION`)."""


class Role(IntEnum):
    """What a program is for, as far as a client can tell."""

    PLAIN = 0
    """No data was given to it: it runs."""
    GATHERER = 1
    MONITOR = 2
    FINISHING = 3
    SIMULATION = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A run-time error that is to come."""

    code: int
    text: str
    at: Signal
    """The signal at which the core fails: START, or SYNC0 for the beginning of any run."""


@dataclass(slots=True)
class Incoming:
    """Data that a gatherer is receiving."""

    transaction: int
    address: int
    chip: int
    """Number of the chip that it is for."""
    packets: int
    have: set[int] = field(default_factory=set)


class Application:
    """A program on one core. Times are seconds on the simulator's clock."""

    __slots__ = (
        "_began",
        "_ends",
        "_next_sync",
        "_until",
        "app",
        "error",
        "failure",
        "incoming",
        "logs",
        "role",
        "state",
        "step_us",
        "time",
    )

    def __init__(self, app: int, failure: Failure | None = None) -> None:
        self.app = app
        self.state = State.READY
        self.role = Role.PLAIN
        self.error = 0
        self.failure = failure
        self.incoming: Incoming | None = None
        """The data that it is receiving, if it is a gatherer."""
        self.logs = False
        """Whether it has written log text."""
        self.step_us = 1000
        self.time = 0
        """Steps simulated so far."""
        self._until = 0
        self._began = 0.0
        self._ends = math.inf
        self._next_sync = State.SYNC0

    def state_at(self, now: float) -> State:
        """Return the state, after the end of a run that is over."""
        if self.state == State.RUNNING and self._ends <= now:
            self.state, self._ends, self.time = State.READY, math.inf, self._until
        return self.state

    def start(self, role: Role, step_us: int = 1000) -> None:
        """Take START, in the role that its data gives it."""
        self.role, self.step_us = role, step_us
        if self._fails(Signal.START):
            return
        match role:
            case Role.FINISHING:
                self.state = State.FINISHED
            case Role.SIMULATION:
                self.state = State.PAUSED
            case _:
                self.state = State.RUNNING

    def new_runtime(self, until: int, *, endless: bool, current: int, now: float) -> None:
        """Wait for the signal that starts a run from step `current` until step `until`."""
        if self.state_at(now) not in {State.PAUSED, State.READY, State.SYNC0, State.SYNC1}:
            return
        self.time = current
        self._until = ENDLESS if endless else until
        if self.state not in {State.SYNC0, State.SYNC1}:
            self.state = self._next_sync
            self._next_sync = State.SYNC1 if self._next_sync == State.SYNC0 else State.SYNC0

    def signal(self, signal: int, now: float) -> None:
        """Take a signal other than START and STOP; one that has no meaning in its state changes nothing."""
        state = self.state_at(now)
        if (signal, state) in {(Signal.SYNC0, State.SYNC0), (Signal.SYNC1, State.SYNC1)}:
            if not self._fails(Signal.SYNC0):
                self._run(now)
        elif signal == Signal.PAUSE and state == State.RUNNING:
            self.pause(now)
        elif signal == Signal.CONTINUE and state == State.PAUSED and self.role == Role.SIMULATION and self._until:
            self._run(now)
        elif signal == Signal.EXIT and state not in {State.RUN_TIME_EXCEPTION, State.WATCHDOG}:
            self.state = State.FINISHED

    def pause(self, now: float) -> None:
        """Stop in the middle of a run."""
        if self.state_at(now) == State.RUNNING and self.role == Role.SIMULATION:
            self.time, self._ends = self.time_at(now), math.inf
            self.state = State.PAUSED

    def time_at(self, now: float) -> int:
        """Return the steps simulated so far."""
        if self.state_at(now) != State.RUNNING or self.role != Role.SIMULATION:
            return self.time
        steps = self.time + int((now - self._began) * MICROSECONDS / self.step_us)
        return steps if self._until == ENDLESS else min(steps, self._until)

    def exit(self) -> None:
        """End, after the provenance is written."""
        if self.state not in {State.RUN_TIME_EXCEPTION, State.WATCHDOG}:
            self.state = State.FINISHED

    def _run(self, now: float) -> None:
        steps = self._until - self.time
        self.state = State.RUNNING
        self._began = now
        self._ends = math.inf if self._until == ENDLESS else now + max(0, steps) * self.step_us / MICROSECONDS

    def _fails(self, signal: Signal) -> bool:
        if self.failure is None or self.failure.at != signal:
            return False
        self.state, self.error, self.logs = State.RUN_TIME_EXCEPTION, self.failure.code, bool(self.failure.text)
        return True
