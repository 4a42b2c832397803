"""Bytes in, lines out.

Theory of operation. What a client sent and nobody has read yet stays in one buffer, and lines are taken from it one at
a time. So a connection that must wait (for its replies to be read, for a commit, for its turn) simply stops taking:
nothing is queued twice, and the buffer holds no more than one receive and one line, since nothing more is received
while lines wait. No I/O happens here.
"""

from __future__ import annotations

from spalloc_server.errors import SpallocServerError

__all__ = ["GarbageError", "LineReader", "shortened"]

_SHOWN_BYTES = 80
"""So much of a bad line goes into the log."""


class GarbageError(SpallocServerError):
    """A client sent what is no request. There is no answer to that: it is disconnected and the log says why."""

    def __init__(self, cause: str, line: bytes | bytearray) -> None:
        super().__init__(cause)
        self.line = shortened(line)


class LineReader:
    """Splits what arrives into lines.

    Args:
        limit: most bytes of a line, without its end. A security limit: without it, a client that never ends its line
            would fill the memory.
    """

    __slots__ = ("_buffer", "_limit", "_searched")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._searched = 0

    def __bool__(self) -> bool:
        """Whether anything has been received and not been taken yet."""
        return bool(self._buffer)

    @property
    def unread(self) -> bytes:
        """What has been received and not been taken yet."""
        return bytes(self._buffer)

    def receive(self, data: bytes) -> None:
        """Put `data` behind what has been received before."""
        self._buffer += data

    def next_line(self) -> bytearray | None:
        """Take the next line, without its end; None until a whole one has been received.

        Raises:
            GarbageError: the line is over the limit, whether or not its end has been received.
        """
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        length = len(buffer) if end < 0 else end
        if length > self._limit:
            raise GarbageError(f"a line of more than {self._limit} bytes", buffer[: _SHOWN_BYTES + 1])
        if end < 0:
            # A line that trickles in byte by byte is searched once, not once a byte.
            self._searched = length
            return None
        self._searched = 0
        line = buffer[:end]
        del buffer[: end + 1]
        return line


def shortened(line: bytes | bytearray) -> str:
    """`line` as it may be logged: printable, and never long."""
    shown = bytes(line[:_SHOWN_BYTES]).decode("utf-8", "backslashreplace")
    return ascii(shown)[1:-1] + ("..." if len(line) > _SHOWN_BYTES else "")
