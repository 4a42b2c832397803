"""Bytes in, lines out.

Theory of operation. Whole lines that were received and not taken yet are in one queue, and are taken one at a
time; what has been received of the next is kept behind them. So a connection that must wait (for its replies to be
read, for a commit, for its turn) simply stops taking: nothing is queued twice, and no more is kept than one receive and
one line, since nothing more is received while lines wait. No I/O happens here.
"""

from __future__ import annotations

from collections import deque

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

    __slots__ = ("_begun", "_limit", "_lines")

    def __init__(self, limit: int) -> None:
        self._lines: deque[bytes] = deque()
        self._begun = bytearray()
        self._limit = limit

    def __bool__(self) -> bool:
        """Whether anything has been received and not been taken yet."""
        return bool(self._lines or self._begun)

    @property
    def unread(self) -> bytes:
        """What has been received and not been taken yet."""
        return b"".join([line + b"\n" for line in self._lines]) + self._begun

    def receive(self, data: bytes) -> None:
        """Put `data` behind what has been received before."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._begun:
            lines[0] = bytes(self._begun) + lines[0]
            self._begun.clear()
        if rest:
            self._begun += rest
        self._lines.extend(lines)

    def put_back(self, line: bytes) -> None:
        """Have a line that was taken be the next one again."""
        self._lines.appendleft(line)

    def next_line(self) -> bytes | None:
        """Take the next line, without its end; None until a whole one has been received.

        Raises:
            GarbageError: the line is over the limit, whether or not its end has been received.
        """
        if self._lines:
            line = self._lines.popleft()
            if len(line) <= self._limit:
                return line
        elif len(self._begun) <= self._limit:
            return None
        else:
            line = bytes(self._begun)
        raise GarbageError(f"a line of more than {self._limit} bytes", line[: _SHOWN_BYTES + 1])


def shortened(line: bytes | bytearray) -> str:
    """`line` as it may be logged: printable, and never long."""
    shown = bytes(line[:_SHOWN_BYTES]).decode("utf-8", "backslashreplace")
    return ascii(shown)[1:-1] + ("..." if len(line) > _SHOWN_BYTES else "")
