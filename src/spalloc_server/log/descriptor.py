"""File descriptors that are written to, whatever they lead to: a file, a pipe, a terminal.

Theory of operation. What was written in part, since a disk was full, leaves a torn line; the next one must not be
appended to it. A pipe takes 4096 bytes at once or none of them, whoever else writes to it, so that lines stay whole.
"""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress

__all__ = ["Descriptor", "takes", "torn"]

POLL_SECONDS = 1.0
"""The longest that a thread waits at once for a pipe or terminal that takes nothing."""


class Descriptor:
    """Writes to a file descriptor, whatever that is."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = False

    def write(self, data: bytes) -> int:
        """Write, and return how many bytes were written; waits where it must. Raises `OSError`."""
        if not self._begun:
            if torn(self._number):
                os.write(self._number, b"\n")
            self._begun = True
        try:
            return os.write(self._number, data)
        except BlockingIOError:  # somebody who shares it has made it so
            takes(self._number, POLL_SECONDS)
            return 0


def takes(number: int, seconds: float) -> bool:
    """Whether a descriptor takes 4096 bytes without waiting, within so many seconds."""
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def torn(number: int) -> bool:
    """Whether a descriptor leads to a file whose last line is not whole."""
    with suppress(OSError):
        status = os.fstat(number)
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with open(f"/proc/self/fd/{number}", "rb") as file:  # noqa: PTH123 - it may be open for writing only
                return os.pread(file.fileno(), 1, status.st_size - 1) != b"\n"
    return False
