"""What the programs of the published stack answer at their SDP ports.

Theory of operation. Datagrams to ports 1 to 7 of a core are for the program that runs on it. Simulations listen at port
3; monitors (one a chip) and gatherers (one a board) at 4 to 6, where a gatherer's port 6 and everybody's port 5 are the
fast transfers of `simulator.fast_data`. What no program listens for is dropped, as on a machine; but where an answer is
expected, the client gets an error at once.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from spalloc_server.hardware.scp import ResponseCode
from spalloc_server.simulator.applications import Application, Role, State
from spalloc_server.simulator.commands import OK, Answer, Request
from spalloc_server.simulator.fast_data import Outgoing, receive, send
from spalloc_server.simulator.flood import CHIPS_PER_BOARD

__all__ = ["deliver"]


class Port(IntEnum):
    """Where programs listen."""

    SIMULATION = 3
    REINJECTION = 4
    DATA_OUT = 5
    DATA_IN = 6


class _Simulation(IntEnum):
    NEW_RUNTIME = 7
    EXIT = 8
    CLEAR_LOG = 9
    PAUSE = 10
    TIME = 11


class _Reinjection(IntEnum):
    WAIT1 = 0
    WAIT2 = 1
    TYPES = 2
    STATUS = 3
    RESET_COUNTERS = 4
    EXIT = 5
    CLEAR_QUEUE = 6


class _Routes(IntEnum):
    SAVE = 6
    LOAD_APPLICATION = 7
    LOAD_SYSTEM = 8


def deliver(message: Request) -> tuple[Answer, list[Outgoing]]:
    """Hand a message to its program; return what that answers, if it is asked to, and what it sends."""
    app = message.chip.apps.get(message.core)
    now = message.system.now()
    if app is None or app.state_at(now) in {State.RUN_TIME_EXCEPTION, State.WATCHDOG, State.FINISHED}:
        return (ResponseCode.DEAD, b""), []
    if message.port == Port.SIMULATION and app.role == Role.SIMULATION:
        return _simulation(message, app, now), []
    if app.role in {Role.MONITOR, Role.GATHERER}:
        if message.port == Port.REINJECTION:
            return _reinjection(message), []
        if message.port == Port.DATA_OUT:
            return OK, send(message.system, message.chip, message.core, message.payload)
        if message.port == Port.DATA_IN and app.role == Role.GATHERER:
            return OK, receive(message.system, message.chip, message.core, app, message.payload)
        if message.port == Port.DATA_IN and message.command in _Routes.__members__.values():
            return OK, []
    return (ResponseCode.PORT, b""), []


def _simulation(message: Request, app: Application, now: float) -> Answer:
    match message.command:
        case _Simulation.NEW_RUNTIME:
            app.new_runtime(message.arg1, endless=bool(message.arg2), current=message.arg3, now=now)
        case _Simulation.EXIT:
            app.exit()
        case _Simulation.CLEAR_LOG:
            app.logs = False
        case _Simulation.PAUSE:
            app.pause(now)
        case _Simulation.TIME:
            return ResponseCode.OK, struct.pack("<I", app.time_at(now))
        case _:
            return ResponseCode.CMD, b""
    return OK


def _reinjection(message: Request) -> Answer:
    """Time limits and kinds of packets are the board's: a gatherer tells all of its monitors."""
    settings = message.system.reinjection[message.chip.number // CHIPS_PER_BOARD]
    match message.command:
        case _Reinjection.WAIT1 | _Reinjection.WAIT2:
            settings[message.command] = message.arg1 & 0xFF
        case _Reinjection.TYPES:
            nearest_neighbour = any(message.data[:1])
            settings[2] = (
                bool(message.arg1) | bool(message.arg2) << 1 | nearest_neighbour << 2 | bool(message.arg3) << 3
            )
        case _Reinjection.STATUS:
            return ResponseCode.OK, struct.pack("<10I", *settings[:2], *[0] * 6, settings[2], 0)
        case _Reinjection.RESET_COUNTERS | _Reinjection.CLEAR_QUEUE | _Reinjection.EXIT:
            pass
        case _:
            return ResponseCode.CMD, b""
    return OK
