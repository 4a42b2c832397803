"""What the commands do alike: run in the best event loop, heed signals, fail in one clear line, and count."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from spalloc_server.errors import SpallocServerError

__all__ = ["count", "on_stop_signals", "one_line_errors", "run"]


def run(program: str, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, with uvloop where it is installed; errors as `one_line_errors`."""
    with one_line_errors(program), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        from uvloop import new_event_loop
    except ImportError:  # as on systems for which there is no uvloop
        return asyncio.new_event_loop
    return new_event_loop


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the process with one line and exit status 1 where something keeps it from doing its work."""
    problem: BaseException | None = None
    try:
        yield
    except* (SpallocServerError, BrokenPipeError) as group:
        problem = group
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
    if isinstance(problem, BrokenPipeError):
        raise problem  # nobody reads our output any more, as after `| head`: click ends quietly then
    if problem is not None:
        print(f"{program}: {' '.join(str(problem).split())}", file=sys.stderr)
        sys.exit(1)


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at each SIGINT (ctrl+c) and SIGTERM, from the running event loop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def count(number: int, what: str) -> str:
    """For example `1 board`, `24 boards`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
