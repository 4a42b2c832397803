"""A frame of up to 24 boards, and the BMPs that switch them, as far as a driver can tell: pure state, no I/O.

Theory of operation. `SimulatedFrame.handle` takes one datagram and the time, and gives the datagram that the BMP
answers with and when. It copies what the firmware (2.1.2) does, and what only its hardware teaches:

- only board 0 has a network plug; it relays to the others, and only it can pass a power command on;
- powering a board on that is on already is a power cycle; it clears all FPGA registers, so all links run again;
- board 0 answers a power-on of itself when its FPGAs are loaded. The others are acknowledged at once, and need
  their time all the same; until then, as when they are off, FPGA registers read as ones and writes are lost;
- a BMP does one thing at a time. A second command that comes while one is being handled is an *overlap*: real
  BMPs have crashed of it, so it is counted, and on request it crashes this one.

Faults of the hardware are scheduled by methods; they count down as they happen. Faults of the network are the
business of `simulator`, not of this module.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec

from spalloc_server.hardware.scp import (
    FLAG_REGISTER,
    HEADER_SIZE,
    MAX_DATA,
    REQUEST_SIZE,
    Adc,
    Command,
    InfoType,
    Request,
    Response,
    ResponseCode,
    Version,
    stop_register,
)
from spalloc_server.links import Links
from spalloc_server.simulator.flash import SimulatedFlash

__all__ = [
    "BOARDS_PER_FRAME",
    "REAL_TIMINGS",
    "Answer",
    "Counters",
    "SimulatedBoard",
    "SimulatedFrame",
    "SimulatedTimings",
]

BOARDS_PER_FRAME: Final = 24
FPGAS_PER_BOARD: Final = 3
UNREADABLE: Final = 0xFFFFFFFF
"""What an FPGA that is off, or has no bit file yet, reads as."""
SCRAMBLER_REGISTER, SCRAMBLER_DEFAULT = 0x40010, 0xF
REMEMBERED: Final = 1000
"""How many of the last commands a frame remembers."""


Seconds = Annotated[float, msgspec.Meta(ge=0)]


class SimulatedTimings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long things take, in seconds."""

    command: Seconds = 0.0
    """Handling of any command."""
    power_on: Seconds = 0.0
    """From a power-on until board 0 has loaded its FPGAs and answers."""
    power_on_others: Seconds = 0.0
    """The same of the other boards, whose power-on is acknowledged at once."""


REAL_TIMINGS = SimulatedTimings(command=0.0005, power_on=3.0, power_on_others=6.0)
"""About what a frame of SpiNN-5 boards takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A datagram, and the time at which it leaves the BMP."""

    at: float
    datagram: bytes


@dataclass(slots=True)
class Counters:
    """What a frame has seen since its start."""

    datagrams: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    """Commands handled, by the name in `Command`; with repeats of one command by its driver."""
    overlaps: int = 0
    """Commands that came while another was being handled."""
    repeats: int = 0
    """Commands that came again with the same sequence number from the same driver."""
    power_repeats: int = 0
    """Power commands that acted once more because the driver repeated them."""
    errors: int = 0
    """Answers other than OK."""
    lost_writes: int = 0
    """Writes to FPGA registers of boards that were off or not yet up."""

    def __add__(self, other: Counters) -> Counters:
        total = Counters(commands=self.commands + other.commands)
        for name in ("datagrams", "overlaps", "repeats", "power_repeats", "errors", "lost_writes"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


@dataclass(slots=True)
class SimulatedBoard:
    """One board: its power, its FPGAs' registers and the faults that wait for its next power-ons."""

    version: tuple[int, int, int] = (2, 1, 2)
    adc: Adc = field(default_factory=Adc)
    flash: SimulatedFlash = field(default_factory=SimulatedFlash)
    on: bool = False
    up_at: float = math.inf
    """When its FPGAs are (or were) loaded, on the frame's clock."""
    leds: int = 0
    """Bit n: LED n is on."""
    registers: dict[tuple[int, int], int] = field(default_factory=dict)
    """Written FPGA registers: value by (FPGA number, address)."""
    power_ons: int = 0
    power_offs: int = 0
    stuck: float = 0
    """So many power-ons to come leave the board off; `math.inf` for all."""
    wrong_fpgas: float = 0
    """So many power-ons to come leave its FPGAs without the right bit file; `math.inf` for all."""
    keeps_registers: bool = False
    """Its FPGAs keep what was written to their registers, whatever its power does."""
    misloaded: bool = False
    """The last power-on did."""

    def switch(self, on: bool, up_at: float) -> None:
        """Take a power command; where it switches on, FPGAs are loaded at `up_at`."""
        if not self.keeps_registers:
            self.registers.clear()
        self.on, self.up_at = on, up_at if on else math.inf
        if not on:
            self.power_offs += 1
            return
        self.power_ons += 1
        if self.stuck > 0:
            self.stuck -= 1
            self.on, self.up_at = False, math.inf
        self.misloaded = self.wrong_fpgas > 0
        self.wrong_fpgas -= self.misloaded

    def is_up(self, now: float) -> bool:
        """Whether it is on and its FPGAs are loaded."""
        return self.on and self.up_at <= now

    def read_register(self, fpga: int, address: int, now: float) -> int:
        """The word at `address` of an FPGA."""
        if not self.is_up(now):
            return UNREADABLE
        if address == FLAG_REGISTER:
            return FPGAS_PER_BOARD if self.misloaded else fpga
        default = SCRAMBLER_DEFAULT if address == SCRAMBLER_REGISTER else 0
        return self.registers.get((fpga, address), default)

    def stopped_links(self) -> set[Links]:
        """The links whose outgoing traffic is stopped."""
        return {link for link in Links if self.registers.get(stop_register(link), 0) & 1}


@dataclass(slots=True)
class _Misanswer:
    """A fault of the next `times` answers to the commands that it fits."""

    code: ResponseCode | None
    """Answer with this; None: lose the answer."""
    acts: bool
    """Do the command all the same."""
    command: Command | None
    board: int | None
    times: float

    def fits(self, request: Request) -> bool:
        fits_command = self.command is None or self.command == request.command
        return self.times > 0 and fits_command and self.board in (None, request.board)


class SimulatedFrame:
    """The BMPs of one frame, addressed by one host.

    `present` are the numbers of the boards that are fitted; board 0 always is, for it relays to the others.
    All boards start switched off. Times are seconds on any clock that never goes back.
    """

    def __init__(
        self, present: Iterable[int] = range(BOARDS_PER_FRAME), *, timings: SimulatedTimings | None = None
    ) -> None:
        self.boards = {number: SimulatedBoard() for number in sorted({0, *present})}
        self.timings = timings or SimulatedTimings()
        self.counters = Counters()
        self.commands: deque[tuple[float, Request]] = deque(maxlen=REMEMBERED)
        """The last commands handled, with their times."""
        self.on_switch: Callable[[int], None] | None = None
        """Called with the number of each board whose power was switched, either way."""
        self.crashes_on_overlap = False
        self.crashed = False
        self._silent_from, self._silent_until = math.inf, math.inf
        self._misanswers: list[_Misanswer] = []
        self._busy_until = -math.inf
        self._recent: deque[Hashable] = deque(maxlen=16)
        self._last_power: Hashable = None

    def handle(
        self, datagram: bytes, now: float, *, source: Hashable = None, waiting: bool = False, copy: bool = False
    ) -> Answer | None:
        """Do what `datagram`, from the driver at `source`, says; None where nothing is answered.

        `waiting` says that it came together with another one, so that both were in flight at once; `copy`, that
        the network, not the driver, made it. A copy of a power command is answered and does nothing: no driver
        could help it, and tests want to see the power commands that drivers repeat.
        """
        if not HEADER_SIZE <= len(datagram) <= REQUEST_SIZE + MAX_DATA:
            return None
        request = Request.decode(datagram.ljust(REQUEST_SIZE, b"\0"))
        self.counters.datagrams += 1
        if self.is_silent(now):
            return None
        key = (source, request.sequence, request.command)
        repeated = key in self._recent
        self._recent.append(key)
        if repeated:
            self.counters.repeats += not copy
        elif waiting or now < self._busy_until:
            self.counters.overlaps += 1
            self.crashed = self.crashes_on_overlap
            if self.crashed:
                return None
        begins = max(now, self._busy_until)
        self._busy_until = begins + self.timings.command
        fault = self._due_fault(request)
        code, payload = ResponseCode.OK, b""
        if len(datagram) < REQUEST_SIZE:
            code = ResponseCode.LEN
        elif fault is None or fault.acts:
            code, payload = self._do(request, begins, key, copy=copy)
        if fault is not None and fault.code is not None:
            code, payload = fault.code, b""
        self.counters.errors += code != ResponseCode.OK
        if not request.reply_expected or (fault is not None and fault.code is None):
            return None
        return Answer(self._busy_until, Response(code, request.sequence, payload).encode(datagram))

    def is_silent(self, now: float) -> bool:
        """Whether the BMP answers nothing now."""
        return self.crashed or self._silent_from <= now < self._silent_until

    def silence(self, start: float = -math.inf, end: float = math.inf) -> None:
        """Ignore all commands from `start` until `end`; this replaces a time that was given before."""
        self._silent_from, self._silent_until = start, end

    def recover(self) -> None:
        """Answer again, after silence or a crash, and without any fault that was still to come."""
        self.crashed = False
        self._silent_from = self._silent_until = math.inf
        self._misanswers.clear()
        for board in self.boards.values():
            board.stuck = board.wrong_fpgas = 0

    def refuse(
        self,
        code: ResponseCode,
        *,
        command: Command | None = None,
        board: int | None = None,
        times: float = math.inf,
        acts: bool = False,
    ) -> None:
        """Answer the next `times` commands (of this kind, to this board) with `code`.

        They do nothing, or, where it `acts`, what they say: so it is when the answer of another board's BMP is lost.
        """
        self._misanswers.append(_Misanswer(code, acts, command, board, times))

    def lose_answers(
        self, *, command: Command | None = None, board: int | None = None, times: float = math.inf
    ) -> None:
        """Do the next `times` commands (of this kind, to this board) without answering."""
        self._misanswers.append(_Misanswer(None, True, command, board, times))

    def boards_on(self) -> set[int]:
        """Numbers of the boards that are switched on."""
        return {number for number, board in self.boards.items() if board.on}

    def stopped_links(self) -> set[tuple[int, Links]]:
        """(board number, link) of the links whose outgoing traffic is stopped."""
        return {(number, link) for number, board in self.boards.items() for link in board.stopped_links()}

    def _due_fault(self, request: Request) -> _Misanswer | None:
        """The fault that hits this command, counted down."""
        fault = next((fault for fault in self._misanswers if fault.fits(request)), None)
        if fault is not None:
            fault.times -= 1
        return fault

    def _do(self, request: Request, now: float, key: Hashable, *, copy: bool) -> tuple[ResponseCode, bytes]:
        """Do the command; the code and payload that the board's BMP answers with."""
        board = self.boards.get(request.board)
        if board is None:
            return ResponseCode.ROUTE, b""
        if request.port != 0:
            return ResponseCode.PORT, b""
        code, payload = ResponseCode.OK, b""
        match request.command:
            case Command.VERSION:
                can_id = request.board // 6 * 8 + request.board % 6
                payload = Version(version=board.version, can_id=can_id, board_id=request.board).encode()
            case Command.POWER if copy:
                pass
            case Command.POWER:
                code = self._power(request, now)
                self.counters.power_repeats += key == self._last_power
                self._last_power = key
            case Command.FPGA_READ if board.version[0] >= 2:
                code, payload = self._fpga_read(request, board, now)
            case Command.FPGA_WRITE if board.version[0] >= 2:
                code = self._fpga_write(request, board, now)
            case Command.LED:
                self._set_leds(request)
            case Command.INFO:
                code, payload = self._info(request, board)
            case Command.READ | Command.WRITE | Command.FLASH_WRITE | Command.SERIAL_FLASH:
                code, payload = board.flash.do(request)
            case _:
                return ResponseCode.CMD, b""
        self.counters.commands[Command(request.command).name] += 1
        self.commands.append((now, request))
        return code, payload

    def _power(self, request: Request, now: float) -> ResponseCode:
        """Switch the boards of the mask; board 0, when it is in it, answers once its FPGAs are loaded."""
        delay, state = request.arg1 >> 16, request.arg1 & 0xFF
        if state > 1:
            return ResponseCode.ARG
        for number, board in self.boards.items():
            relayed = request.board in (0, number)
            if relayed and request.arg2 >> number & 1:
                loading = self.timings.power_on if number == 0 else self.timings.power_on_others
                up_at = now + delay / 1000 * number + loading
                board.switch(state == 1, up_at)
                if self.on_switch is not None:
                    self.on_switch(number)
                if number == 0 and state == 1:
                    self._busy_until = max(self._busy_until, up_at)
        return ResponseCode.OK

    def _fpga_read(self, request: Request, board: SimulatedBoard, now: float) -> tuple[ResponseCode, bytes]:
        address, length, fpga = request.arg1 & ~3, request.arg2, request.arg3
        if fpga >= FPGAS_PER_BOARD or length > MAX_DATA:
            return ResponseCode.ARG, b""
        words = (board.read_register(fpga, address + 4 * i, now) for i in range((length + 3) // 4))
        return ResponseCode.OK, b"".join(struct.pack("<I", word) for word in words)[:length]

    def _fpga_write(self, request: Request, board: SimulatedBoard, now: float) -> ResponseCode:
        address, length, fpga = request.arg1 & ~3, request.arg2, request.arg3
        if fpga >= FPGAS_PER_BOARD or length > MAX_DATA or length % 4 or length > len(request.data):
            return ResponseCode.ARG
        if not board.is_up(now):
            self.counters.lost_writes += 1
            return ResponseCode.OK
        for i, (word,) in enumerate(struct.iter_unpack("<I", request.data[:length])):
            board.registers[fpga, address + 4 * i] = word
        return ResponseCode.OK

    def _set_leds(self, request: Request) -> None:
        """Two bits a LED: 1 toggles, 2 switches off, 3 on; `arg2` is the mask of boards."""
        for number, board in self.boards.items():
            if not request.arg2 >> number & 1:
                continue
            for led in range(8):
                action, bit = request.arg1 >> 2 * led & 3, 1 << led
                if action == 1:
                    board.leds ^= bit
                elif action:
                    board.leds = board.leds & ~bit | (bit if action == 3 else 0)

    def _info(self, request: Request, board: SimulatedBoard) -> tuple[ResponseCode, bytes]:
        match request.arg1:
            case InfoType.ADC:
                off = replace(board.adc, volts_1v2=(0.0, 0.0, 0.0), volts_1v8=0.0, volts_3v3=0.0)
                return ResponseCode.OK, (board.adc if board.on else off).encode()
            case InfoType.SERIAL:
                return ResponseCode.OK, board.flash.information()
            case InfoType.CAN_STATUS:
                return ResponseCode.OK, bytes(number in self.boards for number in range(BOARDS_PER_FRAME))
        return ResponseCode.ARG, b""
