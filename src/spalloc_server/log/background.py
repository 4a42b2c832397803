"""Writing, in a thread of its own, to what may fail or hang, so that nothing else ever waits for it.

Theory of operation. `put` appends a record to a buffer and returns. A daemon thread takes records from there, in
order, and hands them to `write`. Where that fails, the record stays and is tried again, at first soon and then once a
second; where it hangs, only the thread does. Meanwhile the buffer fills, and what does not fit is counted. The count
stands in the buffer in place of what was lost, so it is told in the right place once writing works again.

A process that ends does not wait for a daemon thread, so `flush` waits for it, for a bounded time. Once writing has
failed, it tries just once more. The thread starts with the first record: a process that writes nothing has none.

A `Descriptor` leads to a file, a pipe or a terminal. What was written in part, since a disk was full, leaves a torn
line; the next one must not be appended to it. A pipe takes 4096 bytes at once or none of them, whoever else writes to
it, so that lines stay whole.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Background", "Descriptor", "takes", "torn"]

BUFFER_BYTES = 2**20
"""Size of each buffer: for the log, standard output, the job log and systemd."""

RECORD_BYTES = 64
"""A record in it counts for its bytes and for these: a flood of empty lines is bounded, too."""

FIRST_RETRY_SECONDS = 0.05
"""From a write that failed to the next attempt; doubled after each."""

LAST_RETRY_SECONDS = 1.0
"""The longest time between two attempts."""

PIECE_BYTES = 4096
"""Records are written together up to this size: so much is never mixed with another process's output in a pipe."""


POLL_SECONDS = 1.0
"""The longest that a thread waits at once for a pipe or terminal that takes nothing."""


class Background:
    """A buffer, and the thread that empties it.

    Args:
        write: writes bytes, in the thread, and returns how many of them were written; where it raises, none were.
        tell_lost: called in the thread with the number of lines that were lost in this place; returns a record that
            says so, or nothing.
        name: of the thread.
        together: whether records may be joined for one call of `write`.
    """

    def __init__(
        self,
        write: Callable[[bytes], int],
        *,
        tell_lost: Callable[[int], bytes],
        name: str,
        together: bool = True,
    ) -> None:
        self.tell_lost = tell_lost
        self._write = write
        self._name = name
        self._together = together
        self._records: deque[bytes | int] = deque()
        """What waits: records, and numbers of lines that were lost in between."""
        self._bytes = 0
        """Of the records that wait."""
        self._piece: bytes | None = None
        """What is being written."""
        self._changed = threading.Condition()  # reentrant: a signal handler or `__del__` may print in here
        self._thread: threading.Thread | None = None
        self._attempts = 0
        self._failures = 0
        """Of the last attempts, in a row."""
        self._hurried = 0
        """How many wait in `flush`; then no pause is made."""
        self._closed = False

    def put(self, record: bytes) -> None:
        """Have a record written, or count it as lost. Never waits, never raises."""
        with self._changed:
            size = len(record) + RECORD_BYTES
            if self._bytes + size > BUFFER_BYTES or self._closed or not self._runs():
                self._lose(lines_of(record))
                return
            self._records.append(record)
            self._bytes += size
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether everything is written, or lost."""
        with self._changed:
            return self._piece is None and not self._records

    def flush(self, seconds: float) -> bool:
        """Wait until everything is written, but no longer than this, nor for what fails; whether it is written."""
        deadline = time.monotonic() + seconds
        with self._changed:
            enough = self._attempts + 2  # one may be under way that began before
            self._hurried += 1
            self._changed.notify_all()
            while not (self.idle() or self._closed) and self._runs() and (left := deadline - time.monotonic()) > 0:
                if self._failures and self._attempts >= enough:
                    break
                self._changed.wait(left)
            self._hurried -= 1
            return self.idle()

    def close(self, seconds: float) -> int:
        """Flush, write no more, and let the thread end; the number of lines that are lost by that."""
        self.flush(seconds)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            waiting = [self._piece or 0, *self._records]
            return sum(each if isinstance(each, int) else lines_of(each) for each in waiting)

    def join(self, seconds: float) -> bool:
        """Wait for the thread, which ends after `close` unless a write hangs; whether it has ended."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _lose(self, lines: int) -> None:
        if self._records and isinstance(last := self._records[-1], int):
            self._records[-1] = last + lines
        else:
            self._records.append(lines)

    def _runs(self) -> bool:
        """Have the thread run; False where the system gives none."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                self._thread.start()
            except Exception:  # noqa: BLE001 - RuntimeError or MemoryError: the code that logs goes on
                self._thread = None
        return self._thread is not None

    # ---------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while (piece := self._next()) is not None:
            try:
                written = self._write(piece)
                failed = False
            except Exception:  # noqa: BLE001 - whatever it is, it is tried again
                written, failed = 0, True
            with self._changed:
                self._attempts += 1
                self._failures = self._failures + 1 if failed else 0
                if not failed:
                    self._piece = piece[written:] or None
                self._changed.notify_all()
                if failed:
                    pause = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10))
                    self._changed.wait_for(lambda: self._hurried or self._closed, pause)

    def _next(self) -> bytes | None:
        """Wait until there is something to write; None where there will be nothing."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._piece is not None or self._records or self._closed)
                if self._closed or self._piece is not None:
                    return None if self._closed else self._piece
                first = self._records.popleft()
                self._piece = first if isinstance(first, bytes) else b""
                if isinstance(first, bytes):
                    self._bytes -= len(first) + RECORD_BYTES
                    self._join()
                    return self._piece
            try:
                told = self.tell_lost(first)
            except Exception:  # noqa: BLE001 - it is a line of the log, too
                told = b""
            with self._changed:
                self._piece = told or None
                self._changed.notify_all()

    def _join(self) -> None:
        """Add records to the piece, while it does not become too long by that."""
        assert self._piece is not None
        while self._together and self._records and isinstance(record := self._records[0], bytes):
            if len(self._piece) + len(record) > PIECE_BYTES:
                break
            self._piece += record
            self._bytes -= len(record) + RECORD_BYTES
            self._records.popleft()


def lines_of(record: bytes) -> int:
    """Lines in a record; one, where it is a part of a line."""
    return record.count(b"\n") or int(bool(record))


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
