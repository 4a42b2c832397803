"""What goes wrong in the core itself: put on record for a shell, which logs and counts it.

Theory of operation. The core may not log. Where it contains what a part of it has raised, it leaves a `Defect` here,
and a shell fetches those with `take`. The exception is kept as it is, so that the shell can write its traceback; so
only the latest `MAX_DEFECTS` are kept for a shell that does not fetch them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from spalloc_server.core.model import NO_JOB

__all__ = ["Contained", "Defect", "Defects"]

MAX_DEFECTS = 100
"""Defects that are kept for a shell that does not fetch them."""


class Defect(msgspec.Struct, frozen=True):
    """Something that raised although it never should."""

    doing: str
    """What was being done, in words."""
    error: Exception
    job_id: int = NO_JOB
    """The job that it concerned, and that was given up; `NO_JOB` where it was not about one job."""


T = TypeVar("T")


class Contained(Generic[T]):
    """Passes what is raised within to a function, and goes on after the block. Every command uses it, so it is light.

    Args:
        note: called with what was done, the exception, and the subject.
        doing: what is done within, in words.
        subject: whom it concerns.
    """

    __slots__ = ("_doing", "_note", "_subject")

    def __init__(self, note: Callable[[str, Exception, T], None], doing: str, subject: T) -> None:
        self._note, self._doing, self._subject = note, doing, subject

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._note(self._doing, error, self._subject)
        return True


class Defects:
    """What has gone wrong since it was last fetched."""

    def __init__(self) -> None:
        self._defects: deque[Defect] = deque(maxlen=MAX_DEFECTS)

    def __getstate__(self) -> dict[str, Any]:
        """Without exceptions, which cannot be pickled as they are."""
        return {"_defects": deque(maxlen=MAX_DEFECTS)}

    def __bool__(self) -> bool:
        return bool(self._defects)

    def note(self, doing: str, error: Exception, job_id: int = NO_JOB) -> None:
        """Put a defect on record."""
        self._defects.append(Defect(doing, error, job_id))

    def contained(self, doing: str, job_id: int = NO_JOB) -> Contained[int]:
        """Put on record what is raised within, and go on after the block."""
        return Contained(self.note, doing, job_id)

    def take(self) -> list[Defect]:
        """Return what has gone wrong since the last call, in order."""
        defects = list(self._defects)
        self._defects.clear()
        return defects
