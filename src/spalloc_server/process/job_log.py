"""A log of what happens to jobs: one JSON object a line (`JobEvent`), appended to a file that may be rotated.

Theory of operation. Lines are written in the background (see `background`), so that neither a full disk nor a pipe
that nobody reads holds up a job. Before each write the path is looked at: where another file is there, or none, as
after a rotation, it is opened anew. What a full disk took of a line is taken back; where that cannot be, the next line
begins with a newline.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from spalloc_server.core.model import JobEvent
from spalloc_server.log.background import POLL_SECONDS, Background, takes, torn
from spalloc_server.log.logger import get_logger

__all__ = ["JobLog"]

CLOSE_SECONDS = 0.5
"""The longest that the end of the server waits for the last events of the job log."""

COMPLAIN_SECONDS = 60.0
"""Between lines of the log about a job log that cannot be written."""

log = get_logger(__name__)


class JobLog:
    """Appends to the file at `path`; does nothing where that is None. Enter it before use."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._background = Background(_File(path).write, tell_lost=self._tell_lost, name="job log") if path else None

    async def __aenter__(self) -> Self:
        if self._background is not None:
            self._background.put(b"")  # so that a wrong path is reported at once
        return self

    async def __aexit__(self, *_raised: object) -> None:
        if self._background is not None:
            lost = await asyncio.to_thread(self._background.close, CLOSE_SECONDS)
            if lost:
                self._tell_lost(lost)

    def append(self, events: list[JobEvent]) -> None:
        """Have these events written. Never waits; the server's log tells what cannot be written."""
        if self._background is not None and events:
            with suppress(Exception):
                self._background.put(b"".join(msgspec.json.encode(event) + b"\n" for event in events))

    def _tell_lost(self, events: int) -> bytes:
        log.error("events of the job log were lost", file=str(self._path), events=events)
        return b""


class _File:
    """The file that is at a path now, for the background's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None
        self._complained = float("-inf")
        self._untold = True
        """Whether the last word in the server's log is not that it cannot be written."""

    def write(self, data: bytes) -> int:
        """Append, and return how many bytes were written. Raises `OSError`."""
        try:
            written = self._append(self._opened(), data)
        except OSError as exc:
            self._close()
            self._complain(exc)
            raise
        if not self._untold and written == len(data):
            self._untold = True
            log.warning("job log can be written again", file=str(self._path))
        return written

    def _opened(self) -> int:
        if self._number is not None and not self._is_there(self._number):
            self._close()
        if self._number is None:
            # A pipe without a reader is refused rather than waited for
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            number = os.open(self._path, flags, 0o666)
            self._number = number
            if torn(number):
                os.write(number, b"\n")
        return self._number

    def _is_there(self, number: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(self._path.stat(), os.fstat(number))
        return False

    def _append(self, number: int, data: bytes) -> int:
        before = os.fstat(number)
        try:
            written = os.write(number, data)
        except BlockingIOError:  # a pipe that is full
            takes(number, POLL_SECONDS)
            return 0
        if written < len(data) and stat.S_ISREG(before.st_mode):
            whole = data.rfind(b"\n", 0, written) + 1
            if os.fstat(number).st_size == before.st_size + written:  # else somebody else has written, too
                os.ftruncate(number, before.st_size + whole)
            self._close()  # opened anew, it is looked at whether the last line is torn
            if not whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole
        return written

    def _close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            with suppress(OSError):
                os.close(number)

    def _complain(self, exc: OSError) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_SECONDS:
            self._complained, self._untold = now, False
            error = "nobody reads from it" if exc.errno == errno.ENXIO else exc.strerror or str(exc)
            log.error("job log cannot be written", file=str(self._path), error=error)
