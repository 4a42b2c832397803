"""Where a program's output may lead to: disks that are full, pipes that nobody reads, terminals that are gone."""

from __future__ import annotations

import fcntl
import os
import pty
from contextlib import suppress
from typing import Self

__all__ = ["KINDS", "Sink", "closing"]

KINDS = (
    "full disk",
    "closed",
    "no reader",
    "full pipe",
    "full pipe that never waits",
    "gone terminal",
    "full terminal",
)
"""Kinds of standard error, or output, that cannot be written."""


class Sink:
    """One of these kinds, or any other name for a small pipe that can be read.

    `number` is a descriptor for the program, None where it is to have none.
    """

    def __init__(self, kind: str) -> None:
        self.number: int | None = None
        self._other: int | None = None
        if kind == "full disk":
            self.number = os.open("/dev/full", os.O_WRONLY)
        elif "terminal" in kind:
            self._other, self.number = pty.openpty()
        elif kind != "closed":
            self._other, self.number = os.pipe()
            fcntl.fcntl(self.number, fcntl.F_SETPIPE_SZ, 4096)
            os.set_blocking(self._other, False)
        if kind in {"no reader", "gone terminal"}:
            self.let_go()
        elif kind.startswith("full ") and self.number is not None and kind != "full disk":
            self._fill(self.number)
            os.set_blocking(self.number, kind != "full pipe that never waits")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        if self.number is not None:
            os.close(self.number)
            self.number = None

    def read(self, size: int = 2**16) -> bytes:
        """Take what is there; raises `BlockingIOError` where there is nothing."""
        assert self._other is not None
        return os.read(self._other, size)

    def let_go(self) -> None:
        """Be there no more at the other end."""
        if self._other is not None:
            os.close(self._other)
            self._other = None

    def _fill(self, number: int) -> None:
        os.set_blocking(number, False)
        for size in (2**12, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(number, b"x" * size)


def closing(number: int, *command: str) -> list[str]:
    """A command that runs with this descriptor closed, as after `2>&-`."""
    return ["sh", "-c", f'exec "$@" {number}>&-', "sh", *command]
