"""Standard output and error of a program that serves: nothing that is written there holds it up, or ends it.

Theory of operation. Text gets there by many ways: the log, `print`, warnings, tracebacks, a live display. A full disk
makes each of them raise, a pipe whose reader stands still, or a terminal that was stopped with ctrl+s, makes each of
them wait, and so the server with it. So `never_wait` puts a `Stream` in the place of `sys.stdout` and `sys.stderr`
each: it takes lines at once, and has them written in the background (see `background`). Two that lead to the same place
share one background, so that lines stay in order.

Where a descriptor is closed (`2>&-`), the next file or socket that is opened would get its number, and have the log
written into it. So /dev/null is opened there first.

When Python ends, what is left is written, for `FLUSH_SECONDS` at most: a traceback of a crash, too, since that is
written before.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from spalloc_server.log.background import PIECE_BYTES, Background, Descriptor, takes

__all__ = ["Stream", "never_wait"]

FLUSH_SECONDS = 0.5
"""The longest that the end of the process waits for the last lines to be written."""

JOIN_SECONDS = 0.1
"""The longest that the end of the process waits for the thread that writes; one that is held up there sleeps on."""


class Stream(io.TextIOBase):
    """Takes text a line at a time. No method waits or raises, but for what is not text."""

    errors = "backslashreplace"

    def __init__(
        self, number: int, descriptor: Descriptor, background: Background, encoding: str | None = None
    ) -> None:
        self._encoding = encoding or "utf-8"
        self._number = number
        self._descriptor = descriptor
        self.background = background
        self._line = ""
        self._lock = threading.RLock()
        self._ending = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What the terminal takes, or whatever else reads this; characters that it has not are escaped."""
        return self._encoding

    def write(self, text: str) -> int:
        """Take text; whole lines are written soon."""
        if not isinstance(text, str):
            raise TypeError(f"a str is needed, not {type(text).__name__}")
        with self._lock:
            lines, newline, self._line = (self._line + text).rpartition("\n")
            self._put(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Have what there is of the last line written soon, too."""
        with self._lock:
            line, self._line = self._line, ""
            self._put(line)

    def end(self, seconds: float) -> None:
        """Wait until everything is written, at most so long; what still comes is written if it need not wait."""
        self.flush()
        self.background.flush(seconds)
        self._ending = True

    def fileno(self) -> int:
        """The number of the descriptor."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """It is."""
        return True

    def _put(self, text: str) -> None:
        if not text:
            return
        data = text.encode(self.encoding, self.errors)
        if not self._ending:
            self.background.put(data)
        elif self.background.idle():  # no thread runs any more when Python takes itself apart
            with suppress(Exception):
                while data and takes(self._number, 0):
                    data = data[self._descriptor.write(data[:PIECE_BYTES]) :]


def never_wait() -> None:
    """Have nothing that is written to standard output or error hold this program up. Harmless when repeated.

    Where something else has taken their places, say a test that reads them, that is left alone.
    """
    _open_closed_ones()
    streams: list[Stream] = []
    for number, name in ((2, "stderr"), (1, "stdout")):
        there: Any = getattr(sys, name)
        if there is getattr(sys, f"__{name}__"):
            with suppress(Exception):
                there.flush()
            shared = streams and _same(1, 2)
            descriptor = Descriptor(number)
            background = streams[0].background if shared else _background(descriptor, name)
            stream = Stream(number, descriptor, background, getattr(there, "encoding", None))
            setattr(sys, name, stream)
            streams.append(stream)
    if streams:
        atexit.register(_end, streams)


def _background(descriptor: Descriptor, name: str) -> Background:
    return Background(
        descriptor.write, tell_lost=lambda lines: b"%d lines of output were lost\n" % lines, name=f"spalloc {name}"
    )


def _open_closed_ones() -> None:
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(number, True)
    os.close(number)


def _same(one: int, other: int) -> bool:
    with suppress(OSError):
        return os.path.sameopenfile(one, other)
    return False


def _end(streams: list[Stream]) -> None:
    deadline = time.monotonic() + FLUSH_SECONDS
    for stream in streams:
        stream.end(max(0.0, deadline - time.monotonic()))
    for stream in streams:  # Python crashes where a thread wakes up after Python's own end
        stream.background.close(0.0)
        stream.background.join(JOIN_SECONDS)
