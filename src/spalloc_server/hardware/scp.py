"""SCP, the SpiNNaker command protocol, as board management processors (BMPs) speak it, sans I/O.

Theory of operation. A datagram is a request or a response: 2 bytes of padding, an 8-byte SDP header that
routes it to one board of the frame (its number stands where a chip has its core), a command or response code,
a sequence number that the response echoes, and then arguments and data. All fields are little-endian. Nothing
here does I/O. The encoders write exactly what the published drivers (rig, spinnman) and the BMP firmware
write; the decoders take whatever those take, and raise `BadPacket` on the rest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from spalloc_server.errors import HardwareError
from spalloc_server.links import Links

__all__ = [
    "FLAG_REGISTER",
    "HEADER_SIZE",
    "MAX_DATA",
    "REQUEST_SIZE",
    "SCP_PORT",
    "Adc",
    "BadPacket",
    "Command",
    "InfoType",
    "Request",
    "Response",
    "ResponseCode",
    "Version",
    "power_arguments",
    "stop_register",
]

SCP_PORT: Final = 17893
"""UDP port of every BMP."""

MAX_DATA: Final = 256
"""Most bytes of data in one packet."""

FLAG_REGISTER: Final = 0x40004
"""FPGA register whose two lowest bits are the FPGA's own number; else its bit file is wrong or missing."""

_FLAGS = 0x07
_REPLY_BIT = 0x80
"""In the flags: a reply is expected."""
_NO_TAG = 0xFF
_PORT_7_CORE_31 = 0xFF
_HEADER = struct.Struct("<2x8B2H")
_ARGUMENTS = struct.Struct("<3I")

HEADER_SIZE: Final = _HEADER.size
"""Bytes before arguments or payload; a response has at least these."""

REQUEST_SIZE: Final = _HEADER.size + _ARGUMENTS.size
"""Least bytes of a request: the three arguments are always there."""


class BadPacket(HardwareError):
    """A datagram is not one that a BMP, or its driver, sends."""


class Command(IntEnum):
    """Command codes that a BMP knows."""

    VERSION = 0
    RUN = 1
    READ = 2
    WRITE = 3
    FILL = 5
    FPGA_READ = 17
    FPGA_WRITE = 18
    LED = 25
    IPTAG = 26
    INFO = 48
    FLASH_COPY = 49
    FLASH_ERASE = 50
    FLASH_WRITE = 51
    SERIAL_FLASH = 53
    EEPROM = 54
    RESET = 55
    XILINX = 56
    POWER = 57
    I2C = 61
    PWM = 62
    TEST = 63
    TUBE = 64


class ResponseCode(IntEnum):
    """What a BMP answers."""

    OK = 0x80
    LEN = 0x81
    """Bad packet length."""
    SUM = 0x82
    """Bad checksum."""
    CMD = 0x83
    """Unknown command."""
    ARG = 0x84
    """Bad arguments."""
    PORT = 0x85
    """Bad port number."""
    TIMEOUT = 0x86
    ROUTE = 0x87
    """No such board in the frame."""
    CPU = 0x88
    DEAD = 0x89
    BUF = 0x8A
    """No free buffer."""
    P2P_NOREPLY = 0x8B
    """The other board's BMP did not answer the one with the network plug."""
    P2P_REJECT = 0x8C
    P2P_BUSY = 0x8D
    P2P_TIMEOUT = 0x8E
    PKT_TX = 0x8F


class InfoType(IntEnum):
    """First argument of `Command.INFO`."""

    SERIAL = 0
    EEPROM = 1
    CAN_STATUS = 2
    ADC = 3
    IP = 4


@dataclass(frozen=True, slots=True)
class Request:
    """A command to the BMP of one board (0-23) of a frame."""

    board: int
    command: int
    """Usually a `Command`; the codec takes any 16-bit code."""
    sequence: int
    """0-65535; the response echoes it."""
    arg1: int = 0
    arg2: int = 0
    arg3: int = 0
    data: bytes = b""
    """At most `MAX_DATA` bytes."""
    port: int = 0
    """SDP port on the board; a BMP serves port 0 only."""
    reply_expected: bool = True

    def encode(self) -> bytes:
        """The datagram."""
        flags = _FLAGS | (_REPLY_BIT if self.reply_expected else 0)
        to = self.port << 5 | self.board
        header = _HEADER.pack(flags, _NO_TAG, to, _PORT_7_CORE_31, 0, 0, 0, 0, self.command, self.sequence)
        return header + _ARGUMENTS.pack(self.arg1, self.arg2, self.arg3) + self.data

    @classmethod
    def decode(cls, datagram: bytes) -> Request:
        """The request in `datagram`; `BadPacket` where it is too short for three arguments, or too long."""
        if not REQUEST_SIZE <= len(datagram) <= REQUEST_SIZE + MAX_DATA:
            limits = f"{REQUEST_SIZE} to {REQUEST_SIZE + MAX_DATA}"
            raise BadPacket(f"an SCP request has {limits} bytes, this datagram has {len(datagram)}")
        flags, _, to, _, _, _, _, _, command, sequence = _HEADER.unpack_from(datagram)
        arg1, arg2, arg3 = _ARGUMENTS.unpack_from(datagram, HEADER_SIZE)
        data = bytes(datagram[REQUEST_SIZE:])
        return cls(to & 0x1F, command, sequence, arg1, arg2, arg3, data, to >> 5, bool(flags & _REPLY_BIT))


@dataclass(frozen=True, slots=True)
class Response:
    """A BMP's answer to the request of the same sequence number."""

    code: int
    """Usually a `ResponseCode`."""
    sequence: int
    payload: bytes = b""
    """All that follows the sequence number."""

    def encode(self, request: bytes) -> bytes:
        """The datagram that answers the datagram `request`, whose header it turns round as the firmware does."""
        flags, tag, to, source, to_y, to_x, source_y, source_x, _, _ = _HEADER.unpack_from(request)
        header = (flags & ~_REPLY_BIT, tag, source, to, source_y, source_x, to_y, to_x)
        return _HEADER.pack(*header, self.code, self.sequence) + self.payload

    @classmethod
    def decode(cls, datagram: bytes) -> Response:
        """The response in `datagram`; `BadPacket` where it is shorter than a header."""
        if len(datagram) < HEADER_SIZE:
            raise BadPacket(f"an SCP response has at least {HEADER_SIZE} bytes, this one has {len(datagram)}")
        *_, code, sequence = _HEADER.unpack_from(datagram)
        return cls(code, sequence, bytes(datagram[HEADER_SIZE:]))


_SEMANTIC = 0xFFFF
"""In the version field: the version is in the text instead, as major.minor.patch."""


@dataclass(frozen=True, slots=True)
class Version:
    """Payload of the response to `Command.VERSION` ("sver")."""

    name: str = "BC&MP"
    hardware: str = "Spin5-BMP"
    version: tuple[int, int, int] = (2, 1, 2)
    """(major, minor, patch); FPGA registers can be reached from major 2 on."""
    code_block: int = 0
    frame_id: int = 0
    can_id: int = 0
    board_id: int = 0
    build_date: int = 0
    """Seconds since the Unix epoch."""

    def encode(self) -> bytes:
        """The payload. Versions 1.x have the older form, of two numbers, that their firmware sends."""
        major, minor, patch = self.version
        where = self.code_block << 24 | self.frame_id << 16 | self.can_id << 8 | self.board_id
        field = _SEMANTIC if major >= 2 else major * 100 + minor
        text = f"{self.name}/{self.hardware}\0" + (f"{major}.{minor}.{patch}\0" if major >= 2 else "")
        return _ARGUMENTS.pack(where, field << 16 | MAX_DATA, self.build_date) + text.encode("ascii")

    @classmethod
    def decode(cls, payload: bytes) -> Version:
        """What the payload says; `BadPacket` where it says it in no known form."""
        try:
            where, field_and_size, build_date = _ARGUMENTS.unpack_from(payload)
            label, _, rest = payload[_ARGUMENTS.size :].decode("ascii").partition("\0")
            name, _, hardware = label.partition("/")
            field = field_and_size >> 16
            if field == _SEMANTIC:
                major, minor, patch = map(int, rest.rstrip("\0").split("-")[0].split("."))
            else:
                (major, minor), patch = divmod(field, 100), 0
        except (struct.error, ValueError) as exc:
            raise BadPacket(f"cannot read a version from {payload!r}: {exc}") from exc
        parts = (where >> 24, where >> 16 & 0xFF, where >> 8 & 0xFF, where & 0xFF)
        return cls(name, hardware, (major, minor, patch), *parts, build_date)


_ADC = struct.Struct("<8H4h4h4h2I")
_VOLTS = 2.5 / 4096
_VOLTS_3V3 = 3.75 / 4096
_VOLTS_12V = 15 / 4096
_DEGREE = 256
_NO_SENSOR = -0x8000
_NO_FAN = -1


@dataclass(frozen=True, slots=True)
class Adc:
    """Payload of the response to `Command.INFO` of `InfoType.ADC`: voltages, temperatures, fans."""

    volts_1v2: tuple[float, float, float] = (1.2, 1.2, 1.2)
    """The supplies a, b and c."""
    volts_1v8: float = 1.8
    volts_3v3: float = 3.3
    volts_supply: float = 12.0
    top: float = 30.0
    """Degrees Celsius at the top of the board."""
    bottom: float = 30.0
    external: tuple[float | None, float | None] = (None, None)
    """Degrees Celsius at the two sensors outside; None where there is none."""
    fans: tuple[int | None, int | None] = (None, None)
    """Revolutions per minute; None where there is no fan."""
    warning: int = 0
    shutdown: int = 0
    """Why the BMP cut the power by itself; bits 0-7 voltages, 8-11 board, 12-15 external, 16-19 fans."""

    def encode(self) -> bytes:
        """The payload of 48 bytes."""
        a, b, c = (round(volts / _VOLTS) for volts in self.volts_1v2)
        supplies = (round(self.volts_3v3 / _VOLTS_3V3), round(self.volts_supply / _VOLTS_12V))
        volts = (0, c, b, a, round(self.volts_1v8 / _VOLTS), 0, *supplies)
        internal = (round(self.top * _DEGREE), round(self.bottom * _DEGREE), 0, 0)
        external = [_NO_SENSOR if t is None else round(t * _DEGREE) for t in self.external]
        fans = [_NO_FAN if fan is None else fan for fan in self.fans]
        sensors = (*internal, *external, _NO_SENSOR, _NO_SENSOR, *fans, _NO_FAN, _NO_FAN)
        return _ADC.pack(*volts, *sensors, self.warning, self.shutdown)

    @classmethod
    def decode(cls, payload: bytes) -> Adc:
        """What the payload says; `BadPacket` where it is too short."""
        if len(payload) < _ADC.size:
            raise BadPacket(f"a BMP's ADC readings have {_ADC.size} bytes, these have {len(payload)}")
        items = _ADC.unpack_from(payload)
        _, c, b, a, v18, _, v33, supply, top, bottom = items[:10]
        first, second = (None if raw == _NO_SENSOR else raw / _DEGREE for raw in items[12:14])
        fan0, fan1 = (None if raw == _NO_FAN else raw for raw in items[16:18])
        return cls(
            volts_1v2=(a * _VOLTS, b * _VOLTS, c * _VOLTS),
            volts_1v8=v18 * _VOLTS,
            volts_3v3=v33 * _VOLTS_3V3,
            volts_supply=supply * _VOLTS_12V,
            top=top / _DEGREE,
            bottom=bottom / _DEGREE,
            external=(first, second),
            fans=(fan0, fan1),
            warning=items[20],
            shutdown=items[21],
        )


_STOP_REGISTERS = {
    Links.east: (0, 0x0005C),
    Links.north_east: (2, 0x1005C),
    Links.north: (2, 0x0005C),
    Links.west: (1, 0x1005C),
    Links.south_west: (1, 0x0005C),
    Links.south: (0, 0x1005C),
}


def stop_register(link: Links) -> tuple[int, int]:
    """(FPGA number, register address): 1 there stops a board's outgoing traffic on `link`, 0 lets it run."""
    return _STOP_REGISTERS[link]


def power_arguments(boards: tuple[int, ...], *, on: bool, delay_ms: int = 0) -> tuple[int, int]:
    """`arg1` and `arg2` of `Command.POWER` for the frame's boards of these numbers.

    Each board waits `delay_ms` times its own number, so that they do not draw their first current at once.
    The command itself always goes to board 0, which passes it on.
    """
    return delay_ms << 16 | on, sum(1 << board for board in set(boards))
