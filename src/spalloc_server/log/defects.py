"""Defects of the server itself: logged with a traceback, counted, and contained where they happen.

Theory of operation. Wherever something may raise that never should, `DefectLog` is told (`note`), and what is around it
goes on: other jobs, other clients, other frames. A task that must run for as long as the server does is begun again
(`lasting`). What a callback of the event loop raises comes here too (`heard_by`).

No defect may flood the log, however often a client can cause it. So each *kind* of defect (the event, the class of the
exception, and the line of code that raised it) is logged once in `LOG_SECONDS`. Further ones are counted, and the
next line of this kind says how many there were (`unlogged`). `spalloc-admin status` shows the count of all.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from spalloc_server.controller import Contained, Defects
from spalloc_server.log.logger import get_logger

__all__ = ["DefectLog"]

LOG_SECONDS = 60.0
"""Between lines of the log about one kind of defect."""

MAX_KINDS = 100
"""Kinds of defects that are told apart; all further ones count as one kind."""

RESTART_SECONDS = 1.0
"""From the failure of a task to its new beginning."""

Kind: TypeAlias = tuple[str, str, str]
"""(event, class of the exception, file and line that raised it)."""


class TaskMaker(Protocol):
    """An event loop, or a group of tasks."""

    def create_task(self, coro: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Begin a task."""
        ...


log = get_logger(__name__)


class DefectLog:
    """Logs and counts defects.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        """Defects so far."""
        self.last: str | None = None
        """The last of them, in one line."""
        self._clock = clock
        self._logged: dict[Kind, float] = {}
        self._unlogged: dict[Kind, int] = {}

    def note(self, event: str, error: BaseException, **facts: object) -> None:
        """Log a defect and count it; only count it where one of its kind was logged lately."""
        self.count += 1
        self.last = f"{event}: {type(error).__name__}: {error}"[:200]
        kind = self._kind(event, error)
        now = self._clock()
        if now - self._logged.get(kind, float("-inf")) < LOG_SECONDS:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return
        self._logged[kind] = now
        if unlogged := self._unlogged.pop(kind, 0):
            facts["unlogged"] = unlogged
        log.error(event, exc_info=True if sys.exc_info()[1] is error else error, **facts)

    def take(self, defects: Defects) -> None:
        """Note what has gone wrong in a core."""
        for defect in defects.take():
            facts: dict[str, object] = {"doing": defect.doing, **({"job": defect.job_id} if defect.job_id else {})}
            self.note("a part of the core failed", defect.error, **facts)

    def contained(self, event: str, **facts: object) -> Contained[dict[str, object]]:
        """Note what is raised within, and go on behind."""
        return Contained(self._note, event, facts)

    def _note(self, event: str, error: Exception, facts: dict[str, object]) -> None:
        self.note(event, error, **facts)

    def begin(self, loop: TaskMaker, task: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin to do `work` in a task of `loop`, or of a task group; note what it raises."""

        async def do() -> None:
            with self.contained("a task failed", task=task):
                await work

        doing: asyncio.Task[None] = loop.create_task(do())
        doing.add_done_callback(lambda _: work.close())  # which has not begun, where it was cancelled before
        return doing

    async def lasting(self, task: str, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the work that `begin` gives; where it raises, begin it again after `RESTART_SECONDS`."""
        while True:
            try:
                await begin()
            except Exception as error:  # noqa: BLE001 - whatever it is, the server needs the task
                self.note("a task failed: it is begun again", error, task=task)
            else:
                return
            await asyncio.sleep(RESTART_SECONDS)

    @contextmanager
    def heard_by(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Within, note what callbacks of the event loop raise."""
        before = loop.get_exception_handler()
        loop.set_exception_handler(self._from_loop)
        try:
            yield
        finally:
            loop.set_exception_handler(before)

    def _from_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self.note("a callback failed", error, message=str(context.get("message")))
        else:
            loop.default_exception_handler(context)

    def _kind(self, event: str, error: BaseException) -> Kind:
        place, traceback = "", error.__traceback__
        while traceback is not None:
            place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
            traceback = traceback.tb_next
        kind = event, type(error).__name__, place
        return kind if kind in self._logged or len(self._logged) < MAX_KINDS else ("", "", "")
