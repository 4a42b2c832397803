"""SCAMP's commands to boards, over UDP: eight in flight at each board, sent again until they are answered.

Theory of operation. A `Board` is the way to one board's port: a socket, sequence numbers, and the commands that are in
flight. Who wants something done hands over an iterator of `Command`s (`Board.perform`), from which the next is taken
when there is room; several are served in turn. No command has a task or a future of its own: a transfer of megabytes is
a loop around `recv` and `send`.

A command that is not answered is sent again, with its old sequence number, so that a late answer counts; reads and
writes of memory have the same effect however often they are done. One that is not answered after `TRIES` fails what it
belongs to, or all that waits for the board where that has said nothing meanwhile: it is off, or has not been booted.
Answers that were not waited for are dropped.

Sockets are opened when they are needed, and closed when they have not been for a while.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from spalloc_server.coordinates import Chip
from spalloc_server.errors import HardwareError
from spalloc_server.frontends.http.boards.channels import connected
from spalloc_server.hardware.scp import MAX_DATA, SCP_PORT, ResponseCode

__all__ = ["HERE", "Answered", "Board", "Boards", "Code", "Command"]

IN_FLIGHT = 8
"""Commands in flight at one board; more are lost by real ones."""

RESEND_SECONDS = 0.5
"""From sending a command to sending it again."""

TRIES = 10
"""Times that a command is sent before it, and what it belongs to, is given up: published clients wait 10 s."""

BUSY_SECONDS = 0.1
"""Before a command is sent again that the board had no room for."""

IDLE_SECONDS = 30.0
"""A socket to a board that has not been used for so long is closed."""

MAX_OPEN = 256
"""Sockets to boards above which those are closed that are not in use."""

BATCH = 64
"""Answers that are taken from one board before others are served."""

HERE: Final[Chip] = (255, 255)
"""The Ethernet chip of the board that gets the command."""

_TICK: Final = 0.05
_FLAGS: Final = 0x87
_NO_TAG: Final = 0xFF
_CLIENT: Final = 0xFF
_COMMAND: Final = struct.Struct("<2x8B2H3I")
_ANSWER: Final = struct.Struct("<2H")
_CODE_AT: Final = 10
_PAYLOAD_AT: Final = 14
_AGAIN: Final = frozenset(
    {
        ResponseCode.LEN,
        ResponseCode.TIMEOUT,
        ResponseCode.P2P_NOREPLY,
        ResponseCode.P2P_BUSY,
        ResponseCode.P2P_TIMEOUT,
    }
)
"""Refusals for the moment, as published clients have it."""

_taken = bytearray(_PAYLOAD_AT + 2 * MAX_DATA)


class Code(IntEnum):
    """Commands that are sent here."""

    READ = 2
    WRITE = 3
    IPTAG = 26
    ROUTER = 29


class Command(NamedTuple):
    """A command to a core of a chip, as the job counts chips."""

    chip: Chip
    code: Code
    arg1: int = 0
    arg2: int = 0
    arg3: int = 0
    data: bytes | memoryview = b""
    """At most 256 bytes."""
    core: int = 0

    def encode(self, sequence: int) -> bytes:
        """Return the datagram."""
        x, y = self.chip
        head = _COMMAND.pack(
            _FLAGS, _NO_TAG, self.core, _CLIENT, y, x, 0, 0, self.code, sequence, self.arg1, self.arg2, self.arg3
        )
        return head + self.data


Answered: TypeAlias = Callable[[Command, memoryview], None]
"""Called with each command that is done, and the payload of its answer, which is gone when it returns."""


class _Work:
    """What one caller of `Board.perform` wants done."""

    __slots__ = ("answered", "commands", "done", "in_flight")

    def __init__(self, commands: Iterator[Command], answered: Answered, done: asyncio.Future[None]) -> None:
        self.commands = commands
        self.answered = answered
        self.done = done
        self.in_flight = 0


class _Flight:
    """A command in flight."""

    __slots__ = ("command", "datagram", "due", "sent", "tries", "work")

    def __init__(self, command: Command, datagram: bytes, now: float, work: _Work) -> None:
        self.command, self.datagram, self.work = command, datagram, work
        self.sent = now
        """When it was sent first."""
        self.tries = 1
        self.due = now + RESEND_SECONDS
        """When it is to be sent again."""


class Board:
    """The way to one board.

    Args:
        address: of the board.
        on_idle: called when the socket has been closed; it is opened again by the next command.
        port: of the board.
    """

    def __init__(self, address: str, on_idle: Callable[[str], None] = lambda _: None, *, port: int = SCP_PORT) -> None:
        self._address, self._port, self._on_idle = address, port, on_idle
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._turns: deque[_Work] = deque()
        """Those that have commands left to send."""
        self._flights: dict[int, _Flight] = {}
        """By sequence number."""
        self._sequence = 0
        self._heard = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = False
        """Whether the timer is for what is in flight; else it waits for the socket to have been idle for long."""
        self._used = 0.0

    async def perform(self, commands: Iterator[Command], answered: Answered = lambda *_: None) -> None:
        """Have commands done, in any order; `answered` gets each answer.

        Raises:
            HardwareError: the board refuses one of them, or does not answer.
        """
        work = _Work(commands, answered, self._loop.create_future())
        try:
            if self._socket is None:
                self._open()
            self._turns.append(work)
            self._fill()
            await work.done
        except OSError as exc:
            raise HardwareError(f"the board at {self._address} cannot be reached: {exc.strerror}") from exc
        finally:
            self._forget(work)

    def close(self) -> None:
        """Close the socket, unless it is in use."""
        if self._flights or self._turns:
            return
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._on_idle(self._address)

    # ---------------------------------------------------------------- in and out

    def _open(self) -> None:
        self._socket = connected(self._address, self._port)
        self._loop.add_reader(self._socket, self._readable)

    def _fill(self) -> None:
        """Send commands until there are `IN_FLIGHT`."""
        turns, flights = self._turns, self._flights
        if not turns:
            return
        now = self._used = self._loop.time()
        while turns and len(flights) < IN_FLIGHT:
            work = turns[0]
            command = None if work.done.done() else next(work.commands, None)
            if command is None:
                turns.popleft()
                if not work.in_flight and not work.done.done():
                    work.done.set_result(None)
                continue
            turns.rotate(-1)
            sequence = self._sequence = (self._sequence + 1) & 0xFFFF
            flight = flights[sequence] = _Flight(command, command.encode(sequence), now, work)
            work.in_flight += 1
            self._send(flight.datagram)
        if not self._ticks and flights:
            self._ticks = True
            self._later(_TICK)

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._tick)

    def _send(self, datagram: bytes) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is lost, and sent again
                self._socket.send(datagram)

    def _readable(self) -> None:
        """Take answers, and send as many commands as there is room for then."""
        if self._socket is None:
            return
        receive, flights, whole = self._socket.recv_into, self._flights, memoryview(_taken)
        with suppress(OSError):  # there are no more, or the board refused a datagram: it is off
            for _ in range(BATCH):
                size = receive(_taken)
                if size < _PAYLOAD_AT:
                    continue
                code, sequence = _ANSWER.unpack_from(_taken, _CODE_AT)
                if (flight := flights.get(sequence)) is not None:
                    self._answered(flight, sequence, code, whole[_PAYLOAD_AT:size])
        self._fill()

    def _answered(self, flight: _Flight, sequence: int, code: int, payload: memoryview) -> None:
        self._heard = self._loop.time()
        work, command = flight.work, flight.command
        if code == ResponseCode.OK:
            if command.code is Code.READ and len(payload) != command.arg2:
                return  # none of this command's answers
            del self._flights[sequence]
            work.in_flight -= 1
            if not work.done.done():
                work.answered(command, payload)
                if not work.in_flight and work not in self._turns:
                    work.done.set_result(None)
        elif code in _AGAIN:
            flight.due = self._heard + BUSY_SECONDS
        else:
            self._fail(work, f"{_named(command)} at {self._address} is refused: {_shown(code)}")

    # ---------------------------------------------------------------- what goes wrong

    def _tick(self) -> None:
        """Send again what is due, give up what was sent often enough, and close what is idle."""
        self._timer = None
        self._readable()  # what has come is no loss, also where the loop was blocked for long
        now = self._loop.time()
        for flight in list(self._flights.values()):
            if now < flight.due or flight.work.done.done():
                continue
            if flight.tries < TRIES:
                flight.tries += 1
                flight.due = now + RESEND_SECONDS
                self._send(flight.datagram)
            elif self._heard > flight.sent:
                self._fail(flight.work, f"{_named(flight.command)} at {self._address} is not answered")
            else:
                text = f"the board at {self._address} does not answer: it is off, or has not been booted"
                for work in {*self._turns, *(each.work for each in self._flights.values())}:
                    self._fail(work, text)
        self._ticks = bool(self._flights)
        if self._ticks or self._turns or now - self._used < IDLE_SECONDS:
            self._later(_TICK if self._ticks else IDLE_SECONDS)
        else:
            self.close()

    def _fail(self, work: _Work, text: str) -> None:
        if not work.done.done():
            work.done.set_exception(HardwareError(text))

    def _forget(self, work: _Work) -> None:
        """Send nothing more of this; what is in flight of it may be answered or not."""
        with suppress(ValueError):
            self._turns.remove(work)
        if work.in_flight:
            for sequence in [number for number, flight in self._flights.items() if flight.work is work]:
                del self._flights[sequence]
            self._fill()


class Boards:
    """The ways to all boards that are in use, by address."""

    def __init__(self, *, port: int = SCP_PORT) -> None:
        self._boards: dict[str, Board] = {}
        self._port = port

    def at(self, address: str) -> Board:
        """Return the way to the board of this address."""
        board = self._boards.get(address)
        if board is None:
            if len(self._boards) >= MAX_OPEN:
                self.close()
            board = self._boards[address] = Board(address, self._forget, port=self._port)
        return board

    def close(self) -> None:
        """Close the sockets that are not in use."""
        for board in list(self._boards.values()):
            board.close()

    def __len__(self) -> int:
        """How many have been used lately."""
        return len(self._boards)

    def _forget(self, address: str) -> None:
        self._boards.pop(address, None)


def _named(command: Command) -> str:
    x, y = command.chip
    chip = "the Ethernet chip" if command.chip == HERE else f"chip ({x}, {y})"
    core = f", core {command.core}" if command.core else ""
    return f"{command.code.name} of {command.arg1:#010x} by {chip}{core}"


def _shown(code: int) -> str:
    try:
        return ResponseCode(code).name
    except ValueError:
        return f"{code:#x}"
