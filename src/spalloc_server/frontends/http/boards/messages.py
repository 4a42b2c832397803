"""The messages of the WebSocket proxy, as bytes: those of clients are decoded, those to clients are encoded.

Theory of operation. One binary frame is one message: little-endian words of 32 bits, the first of which says what it
is, and behind them the payload of a datagram without padding or length. Nothing here does I/O. What a client may not
send is a `BadMessage`, with the status that its WebSocket is closed with.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from spalloc_server.errors import SpallocServerError

__all__ = [
    "HEADER",
    "BadMessage",
    "Close",
    "CloseCode",
    "FromClient",
    "Message",
    "MessageTo",
    "Open",
    "OpenUnconnected",
    "Operation",
]
__all__ += ["closed", "decode", "error", "opened", "opened_unconnected"]

MAX_ERROR: Final = 1000
"""Bytes of the text of an error, as the protocol has it: a longer one is left out."""

HEADER: Final = struct.Struct("<2I")
"""Before the payload of a datagram, in both directions: `Operation.MESSAGE`, and the channel."""

_WORD: Final = struct.Struct("<I")
_OPEN: Final = struct.Struct("<5I")
_CLOSE: Final = struct.Struct("<3I")
_OPEN_UNCONNECTED: Final = struct.Struct("<2I")
_MESSAGE_TO: Final = struct.Struct("<5I")
_OPENED_UNCONNECTED: Final = struct.Struct("<3I4sI")


class Operation(IntEnum):
    """The first word of a message."""

    OPEN = 0
    CLOSE = 1
    MESSAGE = 2
    OPEN_UNCONNECTED = 3
    MESSAGE_TO = 4
    ERROR = 5


class CloseCode(IntEnum):
    """Status with which a WebSocket is closed."""

    OVER = 1000
    """The job has these boards no longer."""
    NOT_BINARY = 1003
    BAD_DATA = 1007
    NOT_PERMITTED = 1008
    """The account may not use the job any more."""
    FAILED = 1011
    """As the Java server has it also for operations that there are not."""


class BadMessage(SpallocServerError):
    """A client has sent what is no message; its WebSocket is closed with `status`."""

    code = "bad-request"

    def __init__(self, text: str, status: CloseCode = CloseCode.BAD_DATA) -> None:
        super().__init__(text)
        self.status = status


class Open(NamedTuple):
    """Open a channel to a port of the board whose Ethernet chip is (x, y), as the job counts chips."""

    correlation: int
    x: int
    y: int
    port: int


class Close(NamedTuple):
    """Close a channel."""

    correlation: int
    channel: int


class Message(NamedTuple):
    """Send a datagram over a channel to the board that it is open to."""

    channel: int
    payload: bytes


class OpenUnconnected(NamedTuple):
    """Open a channel that hears all boards of the job."""

    correlation: int


class MessageTo(NamedTuple):
    """Send a datagram over an unconnected channel."""

    channel: int
    x: int
    y: int
    port: int
    payload: bytes


FromClient: TypeAlias = Open | Close | Message | OpenUnconnected | MessageTo


def decode(frame: bytes) -> FromClient:
    """Return the message in a binary frame of a client.

    Raises:
        BadMessage: it is none.
    """
    size = len(frame)
    if size < _WORD.size:
        raise BadMessage(f"a message has at least {_WORD.size} bytes, this one has {size}")
    (operation,) = _WORD.unpack_from(frame)
    match operation:
        case Operation.MESSAGE:
            if size >= HEADER.size:
                return Message(HEADER.unpack_from(frame)[1], frame[HEADER.size :])
        case Operation.MESSAGE_TO:
            if size >= _MESSAGE_TO.size:
                _, channel, x, y, port = _MESSAGE_TO.unpack_from(frame)
                return MessageTo(channel, x, y, port, frame[_MESSAGE_TO.size :])
        case Operation.OPEN:
            if size == _OPEN.size:
                return Open(*_OPEN.unpack(frame)[1:])
        case Operation.CLOSE:
            if size == _CLOSE.size:
                return Close(*_CLOSE.unpack(frame)[1:])
        case Operation.OPEN_UNCONNECTED:
            if size == _OPEN_UNCONNECTED.size:
                return OpenUnconnected(*_OPEN_UNCONNECTED.unpack(frame)[1:])
        case Operation.ERROR:
            raise BadMessage("errors are sent by the server only")
        case _:
            raise BadMessage(f"there is no operation {operation}; there are 0 to 4", CloseCode.FAILED)
    raise BadMessage(f"a message of operation {operation} ({Operation(operation).name}) does not have {size} bytes")


# -------------------------------------------------------------------- what clients are sent


def opened(correlation: int, channel: int) -> bytes:
    """Return the answer to `Open`."""
    return _CLOSE.pack(Operation.OPEN, correlation, channel)


def closed(correlation: int, channel: int) -> bytes:
    """Return the answer to `Close`; `channel` is 0 where it was not open."""
    return _CLOSE.pack(Operation.CLOSE, correlation, channel)


def opened_unconnected(correlation: int, channel: int, address: bytes, port: int) -> bytes:
    """Return the answer to `OpenUnconnected`: where boards reach the channel, an IPv4 address as 4 bytes and a port."""
    return _OPENED_UNCONNECTED.pack(Operation.OPEN_UNCONNECTED, correlation, channel, address, port)


def error(correlation: int, text: str) -> bytes:
    """Return the answer to what did not work."""
    shown = text.encode("utf-8", "replace")
    return HEADER.pack(Operation.ERROR, correlation) + (shown if len(shown) <= MAX_ERROR else b"")
